"""Rules written for a constraint solver, against brute force: the likeliest answer, proofs, and other answers."""

from __future__ import annotations

import itertools

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
)
from constrained_dg.constraints.search import rounding_loss

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
    ended = complete(rule, draft, known, log_probs=log_probs, budget=100)
    assert ended.exhausted == (best is None)
    if best is not None:
        assert ended.answer is not None and ended.proved
        assert bool(rule.is_satisfied(ended.answer[None])) and torch.equal(ended.answer[known], draft[known])
        assert best - rounding_loss(LENGTH) <= ended.score <= best + 1e-4
        assert ended.bound >= best - 1e-4
