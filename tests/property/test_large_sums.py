"""Sums of weights from 1 to 1e16 against exact rational arithmetic: judge, allowed tokens, proofs, batches."""

from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import All, Automaton, Count, Pinned, RealSum, Sum, complete, contradictory
from constrained_dg.errors import InputError
from tests.property.examples import fewer

LENGTH, TOKENS = 4, 3
EVERY = torch.tensor(list(product(range(TOKENS), repeat=LENGTH)))
FREE = torch.zeros(1, LENGTH, dtype=torch.bool)
which = st.integers(0, 2)  # of three ways to join it with other rules
scales = st.integers(0, 16).map(lambda power: 10.0**power)


def exact_sums(weights: torch.Tensor) -> list[Fraction]:
    rows = [[Fraction(weight) for weight in row] for row in weights.expand(LENGTH, -1).tolist()]
    return [sum((rows[at][token] for at, token in enumerate(answer)), Fraction(0)) for answer in EVERY.tolist()]


def agrees_with_its_judge(rule, satisfied: torch.Tensor, which: int) -> None:
    """Alone, in a batch, joined: one verdict; nothing that satisfies is ruled out; a proof only where none does."""
    one_by_one = torch.cat([rule.is_satisfied(answer[None]) for answer in EVERY])
    assert torch.equal(one_by_one, satisfied) and torch.equal(rule.is_satisfied(EVERY.flip(0)).flip(0), satisfied)
    good = EVERY[satisfied]
    everything = torch.ones(1, LENGTH, TOKENS, dtype=torch.bool)
    pins = Pinned(EVERY[:2], FREE.expand(2, -1), TOKENS)
    automaton = Automaton(torch.tensor([[0, 1, 0], [0, 1, 0]]), 0, [0, 1], LENGTH)
    joined = [All([rule, automaton]), All([rule, Count([0], 0, None, LENGTH, TOKENS), automaton]), All([rule, pins])]
    for each in (rule, joined[which]):
        may = each.propagate(everything.expand(each.rows, -1, -1))[0]
        assert may.expand(len(good), -1, -1).gather(-1, good[..., None]).all()
        for answer in EVERY[::31]:
            known = torch.tensor([True, False, True, False])
            row = each.select(torch.tensor([0])) if each.rows > 1 else each
            some = bool((good[:, known] == answer[known]).all(-1).any())
            assert not (contradictory(row, answer[None], known[None])[0] and some)
            found = complete(row, answer, known)
            assert (found.answer is not None) == some and found.exhausted != some


@fewer
@given(
    st.lists(st.floats(-1, 1), min_size=TOKENS, max_size=TOKENS),
    scales,
    st.sampled_from([None, 0, 2]),
    st.integers(0, len(EVERY) - 1),
    st.sampled_from([0.0, 0.0, 1e-12, 1e-3]),
    which,
)
def test_real_sums(values, scale, decimals, aim, width, which):
    weights = [value * scale if decimals is None else round(value * scale, decimals) for value in values]
    weights = torch.tensor(weights, dtype=torch.float64)
    near = float(weights[EVERY[aim]].sum())  # as a user adds up: rounded in every step
    low, high = near - width * scale, near + width * scale
    rule = RealSum(weights, low, high, LENGTH)
    sums, size = exact_sums(weights), max(abs(Fraction(weight)) for weight in weights.tolist()) * LENGTH
    slack = max(Fraction(1e-9), size * (LENGTH + 1) / 2**53)
    least = Fraction(1, 2**50) * slack
    satisfied = rule.is_satisfied(EVERY)
    assert satisfied[aim]
    for verdict, total in zip(satisfied.tolist(), sums, strict=True):
        outside = max(Fraction(low) - total, total - Fraction(high))
        if abs(outside - slack) > least + size / 2**58:  # at the very edge of what is allowed either will do
            assert verdict == (outside <= slack)
    agrees_with_its_judge(rule, satisfied, which)


@fewer
@given(
    st.lists(st.integers(-(10**16), 10**16), min_size=TOKENS, max_size=TOKENS),
    st.sampled_from([1, 2, 10**4, 10**12]),
    st.integers(0, len(EVERY) - 1),
    st.integers(0, 3),
    which,
)
def test_whole_sums(values, divided, aim, width, which):
    weights = torch.tensor([value // divided for value in values])
    near = int(weights[EVERY[aim]].sum())
    rule = Sum(weights, near - width, near + width, LENGTH)
    satisfied = torch.tensor([near - width <= total <= near + width for total in exact_sums(weights)])
    assert torch.equal(rule.is_satisfied(EVERY), satisfied)
    agrees_with_its_judge(rule, satisfied, which)


def test_sums_that_64_bits_do_not_hold_are_refused():
    with pytest.raises(InputError, match=r"more than 2\*\*61"):
        Sum(torch.tensor([0, 2**60]), 0, 10, LENGTH)
    with pytest.raises(InputError, match="more than float64 holds"):
        RealSum(torch.tensor([0, 1e308], dtype=torch.float64), 0, 1, LENGTH)


def test_gaps_between_sums_are_found_when_a_rule_is_made():
    with pytest.raises(InputError, match="the weights leave gaps there"):
        RealSum(torch.tensor([0.0, 2.5], dtype=torch.float64), 3.0, 4.5, LENGTH)
    with pytest.raises(InputError, match="the weights leave gaps there"):
        Sum(torch.tensor([0, 10**9]), 1, 10**9 - 1, LENGTH)
    assert RealSum(torch.tensor([0.0, 2.5], dtype=torch.float64), 3.0, 5.0, LENGTH).is_satisfied(EVERY[:2]).tolist()


@pytest.mark.parametrize("end", [float("inf"), -float("inf")])
def test_bounds_that_no_finite_sum_meets_are_refused(end):
    for weights, rule in ((torch.tensor([0.0, 2.5], dtype=torch.float64), RealSum), (torch.tensor([0, 2]), Sum)):
        with pytest.raises(InputError, match="no sum lies between"):
            rule(weights, end, end, LENGTH)
