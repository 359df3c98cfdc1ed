"""The completer: the likeliest answer that keeps every rule, a proof that none exists, or neither."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.candidates import candidates_of
from constrained_dg.constraints.guarded import judged, propagated
from constrained_dg.constraints.lowering import ModelError
from constrained_dg.constraints.proposals import LOWEST, SCALE, Proposals
from constrained_dg.constraints.running import TimeIsUpError, check_time, listening, report_fault
from constrained_dg.constraints.running import time_limit as within
from constrained_dg.errors import InputError, check, is_count, is_number
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

log = logging.getLogger(__name__)
#: Deterministic time of the solver for one row, by default.
BUDGET = 10.0
#: Moves of a `repair` that is worth trying from other drafts, and the share of the budget for the solver before.
_LONG, _FIRST = 100_000, 0.3
#: Deterministic time that one move of `repair` counts.
_MOVE = 1e-6


@dataclass(frozen=True)
class Completion:
    """How a search ended.

    Attributes:
        answer: (T) int64, the tokens that the judge accepts, or None.
        exhausted: no answer exists (or no other than those excluded): a proof. Never if a judge raised during the
            search, since its verdict is unknown.
        work: deterministic time of the solver, and of repairs of random drafts; 0 where neither was needed.
        score: sum of the log-probabilities of the answer's classes at the positions that were open; -inf without one.
        bound: no satisfying answer has a higher sum; inf where none was sought.
        proved: no satisfying answer has a higher sum than this one, but for the rounding: `rounding_loss`. Without
            log-probabilities every answer has the same.
        nodes: branches that the solver opened, and moves of `repair`.
    """

    answer: IntTensor | None
    exhausted: bool = False
    work: float = 0.0
    score: float = -torch.inf
    bound: float = torch.inf
    proved: bool = False
    nodes: int = 0


def rounding_loss(positions: int) -> float:
    """By how much the sum of log-probabilities of the likeliest answer can exceed that of one proved the likeliest.

    The solver counts in integers: each log-probability is rounded to the nearest multiple of 1 / `SCALE`, which errs by
    half of that at most, once for the one answer and once for the other.

    Args:
        positions: that are open.
    """
    return positions / SCALE


def complete(
    constraint: Constraint,
    answer: IntTensor,
    known: BoolTensor,
    *,
    log_probs: FloatTensor | None = None,
    tokens: IntTensor | None = None,
    budget: float = BUDGET,
    time_limit: float | None = None,
    improve: bool = False,
    other_than: IntTensor | None = None,
) -> Completion:
    """Find the satisfying answer that keeps the known tokens and has the highest sum of log-probabilities.

    Positions that the rule does not bind keep their tokens too. The search uses classes. Without log-probabilities it
    is a plain solver: the first answer ends it, and a token whose class does not change stays.

    A rule with an exact `most_likely` needs no solver: for automata and sums its sweeps are far faster. For others
    `propagate` thins the candidates once, `refuted` may prove that nothing is left, and `repair` is tried on the draft;
    an answer that it finds is returned, unless a likelier one is wanted. Then the rules write themselves into a model
    (`Constraint.lower`) for CP-SAT, with the draft, or what `repair` made of it, as a hint. A tenth of the budget goes
    to the likeliest answer; only if there is no answer by then, the rest goes to any. The judge checks every answer;
    what it refuses is excluded, and the solver goes on. Where `repair` made a long search in vain (100,000 moves or
    more), the solver gets three tenths of the budget, and the rest goes to `repair` of random drafts: a move counts a
    millionth.

    Args:
        constraint: of one row, on the CPU.
        answer: (T) int64, the draft: all of it must be tokens of the vocabulary.
        known: (T) bool, positions to keep.
        log_probs: (T, A) of the model; None means all equal. -inf counts as very unlikely: only rules can prove that no
            answer exists.
        tokens: (T, A) int64, the token to write for each class; None means that of the draft, and the first of other
            classes. `Constraint.likeliest` computes both from the model's (T, V).
        budget: deterministic time of the solver; 0: without it.
        time_limit: seconds, building the model included, or None. With a limit the outcome depends on the machine. The
            first solve of a process also imports the solver, about a second, and may compile loops.
        improve: whether a likelier answer is sought than the draft, if that satisfies, or than one that `repair` found.
        other_than: (N, T) int64 answers that are not sought: one that differs in the class of a bound position is.

    Raises:
        InputError: shapes or tokens do not fit, log-probabilities beyond +-1e6 but for -inf, or a negative budget or
            time.
    """
    length, num_classes = constraint.length, constraint.num_classes
    check(constraint.rows == 1, f"search got a constraint of {constraint.rows} rows", "select one row")
    check(budget == 0 or is_number(budget, above=0), f"budget is {budget!r}", "give a number of 0 or more")
    constraint.check_answer(answer[None])
    _check_tokens("answer", answer, constraint)
    what = f"known has shape {tuple(known.shape)} and type {known.dtype}"
    check(known.shape == answer.shape and known.dtype == torch.bool, what, f"give ({length}) of torch.bool")
    other_than = torch.empty(0, length, dtype=torch.int64) if other_than is None else other_than
    what = f"other_than has shape {tuple(other_than.shape)}"
    check(other_than.dim() == 2 and other_than.shape[1] == length, what, f"give (N, {length})")
    likely = log_probs is not None and bool((log_probs != log_probs[:, :1]).any())
    log_probs = torch.zeros(length, num_classes) if log_probs is None else log_probs.float()
    of_class = torch.arange(num_classes)
    if tokens is None:
        tokens = constraint.tokens_of(of_class).repeat(length, 1)
        tokens.scatter_(1, constraint.class_of(answer)[:, None], answer[:, None])
    for name, values in (("log_probs", log_probs), ("tokens", tokens)):
        got = tuple(values.shape)
        check(got == (length, num_classes), f"{name} have shape {got}", f"give ({length}, {num_classes})")
    odd = (~(log_probs.abs() <= -LOWEST) & (log_probs != -torch.inf)).nonzero().tolist()
    what = f"log_probs hold {log_probs[tuple(odd[0])] if odd else 0} at {odd[:1]}"
    check(not odd, what, f"give -inf, or numbers from {LOWEST:g} to {-LOWEST:g}")
    seconds = time_limit is None or time_limit == 0 or is_number(time_limit, above=0)
    check(seconds, f"time_limit is {time_limit!r}", "give seconds, or None")
    _check_tokens("tokens", tokens, constraint)
    _check_tokens("other_than", other_than, constraint)
    wrong = (constraint.class_of(tokens) != of_class).nonzero().tolist()
    what = f"tokens hold {int(tokens[tuple(wrong[0])]) if wrong else 0} at {wrong[:1]}, a token of another class"
    check(not wrong, what, "give each class one of its tokens")
    draft = Draft(answer, known | ~constraint.bound, constraint.class_of(answer), log_probs, tokens, likely)
    with within(time_limit), listening() as faults:
        try:
            found = _sought(constraint, draft, budget, improve, constraint.class_of(other_than))
        except TimeIsUpError:
            found = Completion(None)
        except ModelError as error:
            log.warning("the search ends without an answer: %s", error)
            found = Completion(None)
    return replace(found, exhausted=found.exhausted and not faults)


def _check_tokens(name: str, values: IntTensor, constraint: Constraint) -> None:
    size = constraint.vocab_size
    good = values.dtype == torch.int64 and bool(((values >= 0) & (values < size)).all())
    what = f"{name} hold {values.min() if len(values) else 0} to {values.max() if len(values) else 0}"
    check(good, f"{what}, of {values.dtype}", f"give tokens from 0 to {size - 1}, of torch.int64")


@dataclass(frozen=True)
class Draft:
    """What a search starts from: see `complete`.

    Attributes:
        answer: (T) int64.
        fixed: (T) bool, positions that keep their tokens.
        classes: (T) int64, of the answer.
        log_probs: (T, A).
        tokens: (T, A) int64.
        likely: whether the log-probabilities are a model's.
    """

    answer: IntTensor
    fixed: BoolTensor
    classes: IntTensor
    log_probs: FloatTensor
    tokens: IntTensor
    likely: bool

    def written(self, classes: IntTensor) -> IntTensor:
        """(T) tokens of (T) classes: the likeliest of each class, and without a model the draft's where it fits."""
        stays = self.fixed if self.likely else classes == self.classes
        return torch.where(stays, self.answer, self.tokens.gather(-1, classes[:, None])[:, 0])

    @property
    def open_log_probs(self) -> FloatTensor:
        """(T, A), 0 where nothing is open."""
        return self.log_probs.masked_fill(self.fixed[:, None], 0)

    def score(self, classes: IntTensor) -> float:
        return float(self.open_log_probs.gather(-1, classes[:, None]).double().sum())


def _sought(constraint: Constraint, draft: Draft, budget: float, improve: bool, excluded: IntTensor) -> Completion:
    # 1. What propagation alone leaves.
    candidates = candidates_of(draft.classes[None], draft.fixed[None], constraint.num_classes)
    candidates = propagated(constraint, candidates)[0]
    sizes = candidates.sum(-1)
    if int(sizes.min()) == 0:
        return Completion(None, exhausted=True)
    plain = len(excluded) == 0
    if int(sizes.max()) == 1 and plain:
        found = _accepted(constraint, draft, candidates.to(torch.uint8).argmax(-1), proved=True)
        return found or Completion(None, exhausted=True)
    # 2. The best answer, where the rule can say which that is.
    if constraint.has_most_likely and plain:
        scores = draft.log_probs.double().clamp(min=LOWEST).masked_fill(~candidates, -torch.inf)
        best = tried(constraint, "most_likely", scores[None])
        if best is not None and not bool(best[1].all()):
            return Completion(None, exhausted=True)
        found = None if best is None else _accepted(constraint, draft, best[0][0], proved=True)
        if found is not None:
            return found
    # 3. The rule's own proof that there is none, and its own repair of the draft.
    if tried(constraint, "refuted", candidates, False):
        return Completion(None, exhausted=True)
    hint, repaired, moves = draft.classes, None, 0
    likelier = improve and draft.likely
    if plain and likelier and bool(candidates.gather(-1, hint[:, None]).all()):
        repaired = _accepted(constraint, draft, hint, proved=False)
    if plain and repaired is None:
        classes, moves = tried(constraint, "repair", draft.classes, candidates, draft.log_probs) or (None, 0)
        if classes is not None and bool(candidates.gather(-1, classes[:, None]).all()):
            repaired = _accepted(constraint, draft, classes, proved=not draft.likely)
            hint = hint if repaired is None else classes
        if repaired is not None and not likelier:
            return replace(repaired, nodes=moves)
    if budget == 0:
        return replace(repaired or Completion(None), nodes=moves)
    if repaired is None and tried(constraint, "refuted", candidates, True):
        return Completion(None, exhausted=True, nodes=moves)
    # 4. The solver; and where it is at a loss after a long repair, repairs of other drafts.
    again = plain and moves >= _LONG
    try:
        proposals = Proposals(
            constraint, candidates, draft.open_log_probs, hint, draft.written, plain and not bool(draft.fixed.any())
        )
        for each in excluded:
            proposals.exclude(each)
        ended = proposals.search(budget * _FIRST if again else budget)
        work, found = ended.work, None
        if again and repaired is None and ended.classes is None and not ended.proved:
            found, more = _repaired_again(constraint, draft, candidates, budget - work)
            work, moves = work + more * _MOVE, moves + more
    except (TimeIsUpError, ModelError) as error:
        if repaired is None:
            raise
        if isinstance(error, ModelError):
            log.warning("no likelier answer is sought: %s", error)
        return replace(repaired, nodes=moves)
    if ended.classes is not None:
        found = _accepted(constraint, draft, ended.classes, proved=ended.proved)
    if found is None:
        found = repaired or Completion(None, exhausted=ended.classes is None and ended.proved)
    elif repaired is not None and repaired.score > found.score:
        # Within the rounding what is proved holds for it too.
        found = replace(repaired, proved=found.proved)
    bound = -torch.inf if found.exhausted else found.bound if ended.bound is None else ended.bound
    return replace(found, work=work, nodes=ended.branches + moves, bound=bound)


def _repaired_again(
    constraint: Constraint, draft: Draft, candidates: BoolTensor, budget: float
) -> tuple[Completion | None, int]:
    """`repair` of random drafts, until one is accepted or the moves have used the budget; and the moves, of which a
    call counts at least `_LONG`."""
    generator = torch.Generator().manual_seed(0)
    total = 0
    while total * _MOVE < budget:
        check_time()
        drawn = torch.multinomial(candidates.float(), 1, generator=generator)[:, 0]
        classes, moves = tried(constraint, "repair", drawn, candidates, draft.log_probs) or (None, 0)
        total += max(moves, _LONG)
        if classes is not None and bool(candidates.gather(-1, classes[:, None]).all()):
            found = _accepted(constraint, draft, classes, proved=not draft.likely)
            if found is not None:
                return found, total
    return None, total


def _accepted(constraint: Constraint, draft: Draft, classes: IntTensor, proved: bool) -> Completion | None:
    """The completion with this answer, if the judge accepts it."""
    answer = draft.written(classes)
    if not judged(constraint, answer[None]):
        return None
    score = draft.score(classes)
    return Completion(answer, score=score, bound=score if proved else torch.inf, proved=proved)


def tried(constraint: Constraint, method: str, *arguments: Any) -> Any:
    """The method's result; None and a warning where it raises: the search goes on without it."""
    try:
        return getattr(constraint, method)(*arguments)
    except (InputError, TimeIsUpError):
        raise
    except Exception as error:  # a user's code: anything
        what = f"{type(constraint).__name__}.{method} raised {type(error).__name__}: {error}"
        report_fault(what)
        log.warning("%s; the search goes on without it", what)
        return None


@dataclass(frozen=True)
class AnswerCount:
    """How many answers keep the rules.

    Attributes:
        answers: (N, T) int64, those found; they differ in the class of some bound position.
        every: whether these are proved to be all.
    """

    answers: IntTensor
    every: bool

    @property
    def only_one(self) -> bool:
        """Whether it is proved that there is exactly one."""
        return self.every and len(self.answers) == 1


def count_answers(
    constraint: Constraint,
    answer: IntTensor,
    known: BoolTensor,
    *,
    most: int = 2,
    budget: float = BUDGET,
    time_limit: float | None = None,
) -> AnswerCount:
    """Find up to `most` answers that keep the known tokens: 2 tell whether there is only one.

    Args:
        constraint, answer, known, time_limit: as for `complete`; the seconds are for all answers together.
        budget: deterministic time of the solver for each answer.
    """
    check(is_count(most, 1), f"most is {most!r}", "give an integer of at least 1")
    answers = torch.empty(0, len(answer), dtype=torch.int64)
    with within(time_limit):
        while len(answers) < most:
            found = complete(constraint, answer, known, budget=budget, other_than=answers)
            if found.answer is None:
                return AnswerCount(answers, found.exhausted)
            answers = torch.cat([answers, found.answer[None]])
    return AnswerCount(answers, False)
