"""Tests of a constraint: a quick one before a run, and every invariant of one that a user wrote."""

from __future__ import annotations

from itertools import product

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.candidates import candidates_of, one_hot
from constrained_dg.constraints.checked_calls import allowed_by, blamed_by, called, judged, propagated, shaped
from constrained_dg.constraints.checked_lowering import check_lowering
from constrained_dg.constraints.predicate import strict
from constrained_dg.constraints.search import complete
from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, IntTensor

#: Answers up to which all of them are tried.
_ALL = 4096
#: Entries of one set of allowed tokens for all examples.
_ENTRIES = 2**23
#: Rows that are also judged alone.
_ALONE = 32
#: Rows of the constraint that are tested.
_ROWS = 4


def probe(constraint: Constraint, answer: IntTensor) -> None:
    """Try judge, blame and allowed tokens on one or two rows, so that a faulty rule is refused before a run starts.

    Args:
        answer: (B, T) int64, the canvas the run starts from.

    Raises:
        InputError: a method (or the function of a `Predicate`) raises, or returns another shape or type than it should,
            or blame disagrees with the judge.
    """
    few = torch.arange(min(len(answer), 2), device=answer.device)
    answer, constraint = answer[few], constraint if constraint.rows == 1 else called(constraint, "select", few)
    token = strict.set(True)
    try:
        _check_blame(constraint, answer, judged(constraint, answer))
        span = slice(0, min(constraint.length, 4))
        allowed_by(constraint, answer, torch.zeros_like(answer, dtype=torch.bool), span)
    finally:
        strict.reset(token)


def check_constraint(
    constraint: Constraint, *, answers: IntTensor | None = None, examples: int = 200, seed: int = 0
) -> None:
    """Test every invariant of a constraint, and report the first that is broken.

    With at most 4096 answers the test is brute force over all of them, so try a small instance of your rule. Else it
    uses random answers, the given ones, and satisfying ones found by search, some with one token changed. Tests the
    first four rows. Messages count positions from 0, as tensors do.

    Args:
        answers: (N, T) int64, more answers to try; needed where the search finds none that satisfies.
        examples: number of known sets, candidate sets and windows to try.
        seed: of the random answers.

    Raises:
        InputError: an invariant is broken; the message gives the answer.
    """
    check(examples > 0, f"examples is {examples}", "give 1 or more")
    shape = None if answers is None else (tuple(answers.shape), answers.dtype)
    check(
        shape is None or (len(shape[0]) == 2 and shape[0][1] == constraint.length and shape[1] == torch.int64),
        f"answers have shape and type {shape}",
        f"give (N, {constraint.length}) of torch.int64",
    )
    _check_attributes(constraint)
    draws = torch.Generator().manual_seed(seed)
    for row in range(min(constraint.rows, _ROWS)):
        rule = constraint if constraint.rows == 1 else called(constraint, "select", torch.tensor([row]))
        check(rule.rows == 1, f"select of one row gives {rule.rows} rows", "return as many rows as requested")
        pool, every = _pool(rule, answers, examples, draws)
        verdict = judged(rule, pool)
        _check_alone(rule, pool, verdict, draws)
        _check_blame(rule, pool, verdict)
        _check_words(rule, pool, verdict)
        _check_unbound(rule, pool, verdict)
        good = pool[verdict]
        check(
            every or len(good) > 0,
            "no answer that satisfies was found, so that allowed cannot be tested",
            "give some as answers, or test a smaller rule",
        )
        _check_allowed(rule, pool, good, examples, draws)
        _check_propagate(rule, pool, good, examples, draws)
        if rule.has_most_likely:
            _check_most_likely(rule, good, every, examples, draws)
        check_lowering(rule, good, pool[~verdict], every, examples, draws)
    _check_rows(constraint, pool, draws)


def _first(flags: BoolTensor) -> tuple[int, ...]:
    """Where the first True is."""
    return tuple(flags.nonzero()[0].tolist())


def _when(answer: IntTensor, known: BoolTensor) -> str:
    at = known.nonzero().flatten().tolist()
    return f"when {at} are known of {answer.tolist()}" if at else "when nothing is known"


def _check_attributes(rule: Constraint) -> None:
    for name in ("length", "num_classes", "rows"):
        value = getattr(rule, name, None)
        check(isinstance(value, int) and value > 0, f"{name} is {value!r}", "give a whole number of 1 or more")
    check(isinstance(rule.strength, str) and rule.strength != "", f"strength is {rule.strength!r}", "give one sentence")
    shaped("bound", rule.bound, (rule.length,), "(T)")


def _pool(rule: Constraint, answers: IntTensor | None, examples: int, draws: torch.Generator) -> tuple[IntTensor, bool]:
    """Answers to try (N, T), and whether these are all answers."""
    length, vocab = rule.length, rule.vocab_size
    if vocab**length <= _ALL:
        return torch.tensor(list(product(range(vocab), repeat=length))), True
    pool = torch.randint(vocab, (examples, length), generator=draws)
    satisfying = [] if answers is None else [answers]
    for draft in pool[:8]:
        scores = torch.rand(length, rule.num_classes, generator=draws)
        nothing = torch.zeros(length, dtype=torch.bool)
        answer = complete(rule, draft, nothing, log_probs=scores, budget=0.05, time_limit=2).answer
        satisfying += [] if answer is None else [answer[None]]
    if satisfying:  # and answers that are nearly right
        near = torch.cat(satisfying)
        near = near[torch.randint(len(near), (examples,), generator=draws)]
        at = torch.randint(length, (examples, 1), generator=draws)
        pool = torch.cat([*satisfying, near.scatter(1, at, torch.randint(vocab, at.shape, generator=draws)), pool])
    return pool, False


def _check_alone(rule: Constraint, pool: IntTensor, verdict: BoolTensor, draws: torch.Generator) -> None:
    """Verdict and blame do not depend on the batch and can be repeated."""
    order = torch.randperm(len(pool), generator=draws)
    blame, again = blamed_by(rule, pool), judged(rule, pool[order])
    differs = again != verdict[order]
    for at in (order[differs] if differs.any() else order)[:_ALONE].tolist():
        answer = pool[at : at + 1]
        for name, alone, among in (("is_satisfied", judged, verdict), ("violations", blamed_by, blame)):
            single = alone(rule, answer)[0].tolist()
            check(
                single == among[at].tolist(),
                f"rows see each other: {name} of {answer[0].tolist()} is {single} alone, "
                f"{among[at].tolist()} in a batch",
                "judge each row by itself",
            )
    check(
        not differs.any(),
        f"is_satisfied gives different verdicts on {pool[order[differs]][:1].tolist()}",
        "use no random numbers",
    )


def _check_blame(rule: Constraint, pool: IntTensor, verdict: BoolTensor) -> None:
    blame = blamed_by(rule, pool)
    wrong = blame.any(-1) == verdict
    if wrong.any():
        (at,) = _first(wrong)
        blamed = blame[at].nonzero().flatten().tolist()
        raise InputError(
            f"violations disagree with the judge: {pool[at].tolist()} "
            + ("satisfies" if verdict[at] else "does not satisfy")
            + f", and positions {blamed} are blamed",
            "blame a position exactly where the judge is not satisfied",
        )
    unbound = blame & ~rule.bound.to(pool.device)
    if unbound.any():
        at, position = _first(unbound)
        raise InputError(
            f"violations blame position {position} of {pool[at].tolist()}, which is not bound", "see `bound`"
        )


def _check_words(rule: Constraint, pool: IntTensor, verdict: BoolTensor) -> None:
    explained = called(rule, "explain", pool)
    lists = isinstance(explained, list) and all(isinstance(row, list) for row in explained)
    check(
        lists
        and len(explained) == len(pool)
        and all(isinstance(sentence, str) and sentence for row in explained for sentence in row),
        "explain does not give a list of sentences for each row",
        "give list[list[str]], an empty list for a row that satisfies",
    )
    for answer, sentences, satisfied in zip(pool.tolist(), explained, verdict.tolist(), strict=True):
        state = "satisfies" if satisfied else "does not satisfy"
        check(
            bool(sentences) != satisfied,
            f"explain disagrees with the judge: {answer} {state}, and explain says {sentences}",
            "give a sentence exactly where the judge is not satisfied",
        )


def _check_unbound(rule: Constraint, pool: IntTensor, verdict: BoolTensor) -> None:
    """Positions that are not bound, and tokens of one class, change no verdict."""
    twins = called(rule, "tokens_of", rule.class_of(pool))
    for what, other in (
        ("a position that is not bound", torch.where(rule.bound, pool, pool.flip(0))),
        ("another token of the class", twins),
    ):
        wrong = judged(rule, other) != verdict
        if wrong.any():
            (at,) = _first(wrong)
            raise InputError(
                f"{what} changes the verdict: {pool[at].tolist()} and {other[at].tolist()} are judged differently",
                "see `bound` and `classes`",
            )


def _check_allowed(rule: Constraint, pool: IntTensor, good: IntTensor, examples: int, draws: torch.Generator) -> None:
    length, everywhere = rule.length, slice(0, rule.length)
    count = max(4, min(examples, _ENTRIES // (length * rule.num_classes)))
    answer = _some(pool, count, draws)
    if len(good):  # half of them satisfy: else most known sets agree with no answer
        answer[::2] = _some(good, len(answer[::2]), draws)
    known, more = (torch.rand(count, length, generator=draws) < torch.rand(count, 1, generator=draws) for _ in range(2))
    may = allowed_by(rule, answer, known, everywhere)

    for at in range(count):
        agreeing = good[((good == answer[at]) | ~known[at]).all(-1)]
        missing = ~may[at].expand(len(agreeing), -1, -1).gather(-1, rule.class_of(agreeing)[..., None])[..., 0]
        if missing.any():
            which, position = _first(missing)
            raise InputError(
                f"allowed is unsound: {agreeing[which].tolist()} satisfies, yet position {position} may not hold "
                f"{int(agreeing[which, position])} {_when(answer[at], known[at])}",
                "allow every token that some satisfying answer holds",
            )

    grown = allowed_by(rule, answer, known | more, everywhere) & ~may
    if grown.any():
        at, position, token = _first(grown)
        raise InputError(
            f"allowed grows with knowledge: position {position} may not hold {token} "
            f"{_when(answer[at], known[at])}, but may once {more[at].nonzero().flatten().tolist()} are known too",
            "knowing more may only rule out more",
        )

    mixed = torch.where(known, answer, _some(pool, count, draws))
    differs = allowed_by(rule, mixed, known, everywhere) != may
    if differs.any():
        at, position, _ = _first(differs)
        raise InputError(
            f"allowed reads unknown positions: {answer[at].tolist()} and {mixed[at].tolist()} differ at position "
            f"{position} {_when(answer[at], known[at])}",
            "read the answer only where it is known",
        )

    for at in range(min(count, _ALONE)):
        one = slice(at, at + 1)
        start, stop = sorted(torch.randint(length + 1, (2,), generator=draws).tolist())
        check(
            torch.equal(allowed_by(rule, answer[one], known[one], everywhere), may[one]),
            f"rows see each other: allowed of {answer[at].tolist()} alone is not what it is in a batch",
            "work on each row by itself",
        )
        check(
            torch.equal(allowed_by(rule, answer, known, slice(start, stop)), may[:, start:stop]),
            f"allowed of the span {start}:{stop} differs from that part of the full result",
            "slice the result for the full answer",
        )


def _check_propagate(rule: Constraint, pool: IntTensor, good: IntTensor, examples: int, draws: torch.Generator) -> None:
    length, num_classes = rule.length, rule.num_classes
    count = max(4, min(examples, _ENTRIES // (length * num_classes)))
    density = torch.rand(count, 1, 1, generator=draws)
    candidates = torch.rand(count, length, num_classes, generator=draws) < density
    if len(good):  # half of them hold a satisfying answer, some with positions decided as search decides them
        inside = rule.class_of(_some(good, len(candidates[::2]), draws))
        candidates[::2] |= one_hot(inside, num_classes)
        known = torch.rand(inside.shape, generator=draws) < torch.rand(len(inside), 1, generator=draws)
        candidates[::4] = candidates_of(inside, known, num_classes)[::2]
    left = propagated(rule, candidates)
    grown = left & ~candidates
    if grown.any():
        at, position, token = _first(grown)
        raise InputError(f"propagate grows: position {position} gains {token}", "give a part of the candidates")
    sets = one_hot(rule.class_of(good), num_classes)
    for at in range(count):
        within = sets[~(sets & ~candidates[at]).flatten(1).any(-1)]
        lost = (within & ~left[at]).any(-1)
        if lost.any():
            which, position = _first(lost)
            classes = within[which].to(torch.uint8).argmax(-1).tolist()
            raise InputError(
                f"propagate is unsound: {classes} satisfies and lies within the candidates, yet position {position} "
                f"may no longer hold {classes[position]}",
                "keep every token that some satisfying answer holds",
            )
    for at in range(min(count, _ALONE)):
        alone = propagated(rule, candidates[at : at + 1])[0]
        check(
            torch.equal(alone, left[at]), "rows see each other: propagate differs alone", "work on each row by itself"
        )


def _check_most_likely(rule: Constraint, good: IntTensor, every: bool, examples: int, draws: torch.Generator) -> None:
    count = max(4, min(examples, _ENTRIES // (rule.length * rule.num_classes)))
    log_probs = torch.randn(count, rule.length, rule.num_classes, generator=draws).log_softmax(-1)
    log_probs[::2] = log_probs[::2].masked_fill(torch.rand(log_probs[::2].shape, generator=draws) < 0.2, -torch.inf)
    classes, exists = called(rule, "most_likely", log_probs)
    shaped("found of most_likely", exists, (count,), "(B)")
    good_classes = rule.class_of(good)
    check(
        isinstance(classes, torch.Tensor) and classes.shape == (count, rule.length) and classes.dtype == torch.int64,
        "most_likely gives classes of a wrong shape or type",
        f"give (B, T) = {(count, rule.length)} of torch.int64",
    )
    satisfied = judged(rule, rule.tokens_of(classes.where(exists[:, None], good_classes[:1] if len(good) else 0)))
    for at in range(count):
        scores = log_probs[at].gather(-1, good_classes.T).sum(0)
        best = float(scores.max()) if len(good) else -torch.inf
        if not exists[at]:
            check(best == -torch.inf, "most_likely finds nothing though an answer satisfies", "see `most_likely`")
            continue
        score, proposed = float(log_probs[at].gather(-1, classes[at, :, None]).sum()), classes[at].tolist()
        check(bool(satisfied[at]), f"most_likely gives {proposed}, which does not satisfy", "see `most_likely`")
        check(score > -torch.inf, f"most_likely gives {proposed} of log-probability -inf", "return False there")
        check(
            score >= best - 1e-4 * max(1, abs(best)) and not (every and score > best + 1e-3),
            f"most_likely is not the best: {proposed} has log-probability {score:.4f}, "
            f"{good_classes[int(scores.argmax())].tolist() if len(good) else 'nothing'} has {best:.4f}",
            "give the best of all satisfying answers",
        )


def _check_rows(constraint: Constraint, pool: IntTensor, draws: torch.Generator) -> None:
    """`select`, `repeat`, `stack` and `to` follow the rows."""
    rows = torch.arange(constraint.rows)
    one_by_one = [constraint.select(row[None]) for row in rows] if len(rows) > 1 else [constraint, constraint]
    stacked = type(constraint).stack(one_by_one)
    for name, other, of in (
        ("select", constraint.select(rows.flip(0)), rows.flip(0)),
        ("repeat", constraint.repeat(2), rows.repeat_interleave(2)),
        ("stack", stacked, rows if len(rows) > 1 else torch.zeros(stacked.rows, dtype=torch.int64)),
        ("to", constraint.to("cpu"), rows),
    ):
        check(other.rows in (1, len(of)), f"{name} gives {other.rows} rows instead of {len(of)}", "see `rows`")
        answer = _some(pool, len(of), draws)
        alone = [
            blamed_by(constraint if len(rows) == 1 else one_by_one[int(row)], answer[at : at + 1])
            for at, row in enumerate(of)
        ]
        same = torch.equal(blamed_by(other, answer), torch.cat(alone))
        check(same, f"{name} changes the rule of some row", "name the tensors that have rows in per_row")


def _some(pool: IntTensor, count: int, draws: torch.Generator) -> IntTensor:
    """(count, T) drawn from the pool."""
    return pool[torch.randint(len(pool), (count,), generator=draws)]
