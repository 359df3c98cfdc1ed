"""Rules written for a constraint solver, against brute force: the likeliest answer, proofs, and other answers."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_dg.constraints import (
    AllDifferent,
    Automaton,
    Constraint,
    Count,
    DifferentAcross,
    Forbidden,
    Lowering,
    Permutation,
    Pinned,
    Predicate,
    RealSum,
    Regex,
    Required,
    Sum,
    TokenClasses,
    Vocabulary,
    check_constraint,
    complete,
    count_answers,
    lowering,
    rounding_loss,
)
from constrained_dg.constraints.lowering import Model
from constrained_dg.errors import InputError

LENGTH, TOKENS = 5, 3
EVERY = torch.tensor(list(itertools.product(range(TOKENS), repeat=LENGTH)))
EVEN = torch.tensor([[0, 1, 0], [1, 0, 1]])


def _rules() -> dict[str, Constraint]:
    weights = torch.tensor([1, -2, 4])
    small = TokenClasses.of(TOKENS, [[1], [2]])
    return {
        "different": AllDifferent(torch.tensor([[0, 1], [1, 3]]), ["a", "b"], (1, 3), LENGTH, TOKENS),
        "full groups": AllDifferent(torch.tensor([[0, 1, 2], [2, 3, 4]]), ["a", "b"], (0, 3), LENGTH, TOKENS),
        "permutation": Permutation(LENGTH, (0, 3), TOKENS, torch.tensor([4, 1, 0])),
        "automaton": Automaton(EVEN, 0, [0], LENGTH),
        "forbidden": Forbidden([[0, 1], [2]], LENGTH, TOKENS),
        "required": Required([[0, 1], [1, 2]], LENGTH, TOKENS),
        "regex": Regex("(ab?|c)*b", "abc", LENGTH),
        "count": Count([0, 2], 2, 3, LENGTH, TOKENS, positions=[0, 1, 3, 4]),
        "sum": Sum(weights, 3, 5, LENGTH),
        "sum somewhere": Sum(weights, 0, 2, LENGTH, positions=[1, 4]),
        "real sum": RealSum(torch.tensor([0.1, 0.25, 0.7], dtype=torch.float64), 1.0, 1.2, LENGTH),
        "exact real sum": RealSum(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), 0.9, 0.9, LENGTH),
        "pinned": Pinned(torch.tensor([[1, 0, 2, 0, 0]]), torch.tensor([[True, False, True, False, False]]), TOKENS),
        "vocabulary": Vocabulary(torch.tensor([[[1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 0, 0], [1, 0, 1]]]).bool()),
        "edges": DifferentAcross(torch.tensor([[0, 1], [1, 2], [2, 0], [3, 4]]), (0, 3), LENGTH, TOKENS),
        "on": Sum(torch.tensor([0, 1]), 1, 1, 2).on(torch.tensor([3, 1]), small, LENGTH),
        "on, every token": Count([0], 1, 1, 2, 3).on(torch.tensor([0, 2]), small, LENGTH),
        "judge": Predicate(lambda answer: sum(answer) in (2, 7), LENGTH, TOKENS),
    }


NAMES = sorted(_rules())


@st.composite
def rules(draw: st.DrawFn, depth: int = 2) -> Constraint:
    kind = draw(st.sampled_from(["leaf", "and", "or", "not"] if depth else ["leaf"]))
    if kind == "leaf":
        return _rules()[draw(st.sampled_from(NAMES))]
    one = draw(rules(depth=depth - 1))
    if kind == "not":
        try:
            return ~one
        except ValueError:  # every answer satisfies it, or its judge may fail
            return one
    other = draw(rules(depth=depth - 1))
    return {"and": one.__and__, "or": one.__or__}[kind](other)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_rule_writes_agrees_with_its_judge(name: str) -> None:
    check_constraint(_rules()[name], examples=20)


def _best(rule: Constraint, log_probs: torch.Tensor, known: torch.Tensor, draft: torch.Tensor) -> float | None:
    """The highest sum of log-probabilities by classes over open positions, by brute force."""
    stays = known | ~rule.bound
    fits = rule.is_satisfied(EVERY) & ((draft == EVERY) | ~stays).all(-1)
    sums = log_probs.gather(-1, rule.class_of(EVERY).T).T.double().masked_fill(stays, 0).sum(-1)
    return float(sums[fits].max()) if fits.any() else None


@given(rules(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_the_likeliest_answer(rule: Constraint, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(LENGTH, rule.num_classes, generator=draws).log_softmax(-1)
    draft = torch.randint(TOKENS, (LENGTH,), generator=draws)
    known = torch.rand(LENGTH, generator=draws) < 0.2
    best = _best(rule, log_probs, known, draft)
    ended = complete(rule, draft, known, log_probs=log_probs, budget=100, improve=True)
    assert ended.exhausted == (best is None)
    if best is not None:
        assert ended.answer is not None and ended.proved
        assert bool(rule.is_satisfied(ended.answer[None])) and torch.equal(ended.answer[known], draft[known])
        assert best - rounding_loss(LENGTH) <= ended.score <= best + 1e-9 * abs(best)
        assert best - 1e-9 * abs(best) <= ended.bound <= ended.score + rounding_loss(LENGTH)


@given(rules(), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_how_many_answers_there_are(rule: Constraint, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    draft = torch.randint(TOKENS, (LENGTH,), generator=draws)
    known = torch.rand(LENGTH, generator=draws) < 0.7
    fits = rule.is_satisfied(EVERY) & ((draft == EVERY) | ~(known | ~rule.bound)).all(-1)
    expected = len(rule.class_of(EVERY[fits])[:, rule.bound].unique(dim=0))
    counted = count_answers(rule, draft, known, most=4)
    assert len(counted.answers) == min(expected, 4) and counted.every == (expected < 4)
    assert counted.only_one == (expected == 1)
    assert bool(rule.is_satisfied(counted.answers).all())


@given(st.integers(0, 2**32), st.floats(0, 200))
@settings(max_examples=20, deadline=None)
def test_an_exact_sweep_and_the_solver_agree(seed: int, spread: float) -> None:
    draws = torch.Generator().manual_seed(seed)
    log_probs = (spread * torch.randn(LENGTH, TOKENS, generator=draws)).log_softmax(-1)
    rule = Regex("(ab?|c)*b", "abc", LENGTH) & Count([0], 1, 2, LENGTH, TOKENS)
    assert rule.has_most_likely
    draft, free = torch.zeros(LENGTH, dtype=torch.int64), torch.zeros(LENGTH, dtype=torch.bool)
    swept = complete(rule, draft, free, log_probs=log_probs)
    solved = complete(rule & Predicate(lambda answer: True, LENGTH, TOKENS), draft, free, log_probs=log_probs)
    assert swept.proved and solved.proved and swept.work == 0 and solved.nodes >= 0
    assert abs(swept.score - solved.score) <= rounding_loss(LENGTH)


def test_an_exact_sweep_stays_exact_beside_classes_that_the_model_rules_out() -> None:
    """They count -1e6 each, where float32 tells no differences below 0.06."""
    length = 300
    log_probs = torch.randn(length, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    for rule in (
        Regex("(ab?|c)*b", "abcd", length),
        Sum(torch.arange(4), 300, 600, length),
        Count([0], 100, 120, length, 4) & Forbidden([[1, 1]], length, 4),
    ):
        draft = torch.zeros(length, dtype=torch.int64)
        plain, odd = log_probs.clone(), log_probs.clone()
        plain[-3:], odd[-3:] = 0, -torch.inf
        answers = [complete(rule, draft, draft > 0, log_probs=each).answer for each in (plain, odd)]
        best, found = (float(plain.double().gather(-1, each[:, None]).sum()) for each in answers if each is not None)
        assert abs(best - found) <= rounding_loss(length)


def test_what_the_model_rules_out_is_no_proof() -> None:
    rule = Permutation(3, (0, 3), 3)
    draft, free = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
    log_probs = torch.full((3, 3), -torch.inf)
    log_probs[:, 0] = 0
    ended = complete(rule, draft, free, log_probs=log_probs)
    assert ended.answer is not None and not ended.exhausted and ended.score == -torch.inf


class Careless(AllDifferent):
    """Writes a statement, and then fails."""

    def lower(self, into: Lowering) -> None:
        into.clause([])
        raise RuntimeError("no")


def test_a_lowering_that_raises_leaves_the_judge(caplog: pytest.LogCaptureFixture) -> None:
    rule = Careless(torch.tensor([[0, 1, 2]]), ["a"], (0, 3), LENGTH, TOKENS) & Count([0], 1, 1, LENGTH, TOKENS)
    draft, free = torch.zeros(LENGTH, dtype=torch.int64), torch.zeros(LENGTH, dtype=torch.bool)
    ended = complete(rule, draft, free)
    assert ended.answer is not None and bool(rule.is_satisfied(ended.answer[None]))
    assert "Careless.lower raised RuntimeError: no" in caplog.text


class Halves(AllDifferent):
    """Writes numbers that are not whole, which must not be cut off: 0.5 and 1.5 would forbid every answer."""

    def lower(self, into: Lowering) -> None:
        into.linear([0.5] * 3, into.literals[:3, 0], 0, 2)
        into.linear([1] * 3, into.literals[:3, 0], 3.5, 4)


class Beyond(AllDifferent):
    """Names a variable that there is not."""

    def lower(self, into: Lowering) -> None:
        into.clause([10**6])


class Vague(AllDifferent):
    """An integer that the solver cannot be given."""

    def lower(self, into: Lowering) -> None:
        into.new_integer(0, 2**70)


class Halfway(AllDifferent):
    def lower(self, into: Lowering) -> None:
        into.circuit([(0.5, 1, int(into.literals[0, 0]))])  # type: ignore[list-item]  # wrong on purpose


class Below(AllDifferent):
    def lower(self, into: Lowering) -> None:
        into.circuit([(-1, 1, int(into.literals[0, 0])), (1, -1, int(into.literals[1, 0]))])


class Nameless(AllDifferent):
    def lower(self, into: Lowering) -> None:
        into.defer(self)

    def normal_form(self, into: Lowering) -> None:
        into.clause([])
        raise KeyError("numbering")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Halves, "Halves.lower raised TypeError"),
        (Beyond, "Beyond.lower raised InputError: literals from 1000000 to 1000000; there are"),
        (Vague, f"Vague.lower raised InputError: an integer from 0 to {2**70}"),
        (Halfway, "Halfway.lower raised TypeError"),
        (Below, "Below.lower raised InputError: a node of a circuit is below 0"),
        (Nameless, "Nameless.normal_form raised KeyError"),
    ],
)
def test_what_a_rule_writes_wrongly_is_left_out(
    kind: type[AllDifferent], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    rule = kind(torch.tensor([[0, 1, 2], [2, 3, 4]]), ["a", "b"], (0, 3), LENGTH, TOKENS)
    draft, free = torch.zeros(LENGTH, dtype=torch.int64), torch.zeros(LENGTH, dtype=torch.bool)
    ended = complete(rule, draft, free)
    assert ended.answer is not None and bool(rule.is_satisfied(ended.answer[None])) and words in caplog.text


class Vast(AllDifferent):
    """A model that is too large."""

    def lower(self, into: Lowering) -> None:
        while True:
            into.clause([into.new_literal() for _ in range(99)])


def test_a_model_that_is_too_large_says_its_size(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowering, "MOST_ENTRIES", 1000)
    rule = Vast(torch.tensor([[0, 1, 2]]), ["a"], (0, 3), LENGTH, TOKENS)
    draft, free = torch.zeros(LENGTH, dtype=torch.int64), torch.zeros(LENGTH, dtype=torch.bool)
    ended = complete(rule, draft, free)
    assert ended.answer is None and not ended.exhausted
    assert "variables and over 1000 literals is too large" in caplog.text


def test_sums_that_overflow_are_left_to_the_judge() -> None:
    model = Model()
    root = model.root(torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="can reach"):
        root.linear([2**61, 2**61, 2**61], [1, 2, root.new_literal()], 1, 5)


def test_weights_near_the_largest_are_counted_right() -> None:
    weights = torch.tensor([0, 2**59 - 1, -(2**59) + 3])
    wanted = int(weights[torch.tensor([1, 2, 1])].sum())
    rule = Sum(weights, wanted, wanted, 3) & Predicate(lambda answer: answer[0] == 2, 3, 3)
    ended = complete(rule, torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool))
    assert ended.answer is not None and ended.answer.tolist() == [2, 1, 1]


class Path(Constraint):
    """Successors of the nodes form one cycle."""

    length, num_classes = 4, 4

    def is_satisfied(self, answer: torch.Tensor) -> torch.Tensor:
        at, seen = torch.zeros(len(answer), dtype=torch.int64), torch.zeros(len(answer), 4)
        for _ in range(4):
            at = answer.gather(1, at[:, None])[:, 0]
            seen[torch.arange(len(answer)), at] = 1
        return (at == 0) & (seen.sum(-1) == 4)

    def lower(self, into: Lowering) -> None:
        into.circuit((tail, head, int(into.literals[tail, head])) for tail in range(4) for head in range(4))
        into.all_of(~into.literals.diagonal())


def test_a_circuit_alone_and_under_a_condition() -> None:
    check_constraint(Path(), examples=10)
    check_constraint(Path() | Count([0], 4, 4, 4, 4), examples=10)


class Unconnected(Constraint):
    """Writes nothing but what a refused answer teaches: some neighbor differs."""

    length, num_classes = 4, 2

    def is_satisfied(self, answer: torch.Tensor) -> torch.Tensor:
        return (answer[:, 1:] != answer[:, :-1]).all(-1)

    def cut(self, answer: torch.Tensor, into: Lowering) -> None:
        for at in (answer[1:] == answer[:-1]).nonzero().flatten().tolist():
            into.forbid([(at, int(answer[at])), (at + 1, int(answer[at]))])


@pytest.mark.parametrize("wrap", [lambda rule: rule, lambda rule: rule | Count([0], 4, 4, 4, 2)])
def test_cuts_are_learned_where_they_hold(wrap: Callable[[Constraint], Constraint]) -> None:
    rule = wrap(Unconnected())
    counted = count_answers(rule, torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.bool), most=9)
    every = torch.tensor(list(itertools.product(range(2), repeat=4)))
    assert counted.every and len(counted.answers) == int(rule.is_satisfied(every).sum())


def _latin(size: int) -> tuple[Constraint, torch.Tensor, torch.Tensor]:
    """A square whose likeliest filling takes minutes to prove, a draft and log-probabilities."""
    groups = torch.arange(size * size).view(size, size)
    rule = AllDifferent(torch.cat([groups, groups.T]), ["x"] * 2 * size, (0, size), size * size, size)
    log_probs = torch.randn(size * size, size, generator=torch.Generator().manual_seed(1))
    return rule, torch.zeros(size * size, dtype=torch.int64), log_probs


@pytest.mark.parametrize(("size", "limit"), [(40, 0.3), (60, 0.4), (60, 0.6), (60, 0.8)])
def test_seconds_hold_for_building_and_solving(size: int, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    small, draft, log_probs = _latin(4)
    complete(small, draft, draft > 0, log_probs=log_probs)  # imports the solver
    rule, draft, log_probs = _latin(size)
    # Seconds of the processor, so that other work on the machine does not count. To free a model takes some as well.
    monkeypatch.setattr(time, "monotonic", time.thread_time)
    began = time.thread_time()
    ended = complete(rule, draft, draft > 0, log_probs=log_probs, time_limit=limit, budget=1000)
    assert not ended.proved and not ended.exhausted
    assert time.thread_time() - began < limit + 0.25


def test_ctrl_c_ends_a_search() -> None:
    small, draft, log_probs = _latin(4)
    complete(small, draft, draft > 0, log_probs=log_probs)  # imports and compiled loops take longer than the timer
    rule, draft, log_probs = _latin(14)
    # A shell that starts the tests in the background lets them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            complete(rule, draft, draft > 0, log_probs=log_probs, time_limit=60, budget=1e6)
    finally:
        signal.signal(signal.SIGINT, before)
    timer.join()
