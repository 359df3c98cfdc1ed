"""Proofs by prices against brute force, and against a linear program solved by GLOP."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from ortools.linear_solver import pywraplp

from constrained_dg.constraints import Automaton, RealSum, Sum, TokenClasses, Vocabulary, complete
from constrained_dg.constraints.counter import NO_BOUND, Counter
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.priced_proof import refuted
from constrained_dg.constraints.product import Product
from tests.property.examples import fewer, many

LENGTH, TOKENS = 4, 3
EVERY = torch.tensor(list(itertools.product(range(TOKENS), repeat=LENGTH)))
#: Tokens 0 and 1 change the state; only even numbers of changes are accepted, and token 2 never follows another 2.
STRICT = Automaton(torch.tensor([[1, 1, 2], [0, 0, 3], [1, 1, -1], [0, 0, -1]]), 0, [0, 2], LENGTH)
ANYTHING = Product(Machine.anything(LENGTH, TOKENS), [])
STRICTLY = Product(STRICT.machine, [])


@st.composite
def counters(draw: st.DrawFn) -> list[Counter]:
    scale = draw(st.sampled_from([1, 2**55]))
    made = []
    for _ in range(draw(st.integers(1, 4))):
        cells = st.lists(st.integers(-3, 3), min_size=LENGTH * TOKENS, max_size=LENGTH * TOKENS)
        weights = torch.tensor(draw(cells)).view(LENGTH, TOKENS) * scale
        low = draw(st.integers(-9, 9))
        high = low + draw(st.integers(0, 3))
        open_ = draw(st.sampled_from(["none", "low", "high"]))
        made.append(Counter(weights, -NO_BOUND if open_ == "low" else low * scale,
                            NO_BOUND if open_ == "high" else high * scale))  # fmt: skip
    return made


candidate_sets = st.lists(
    st.sampled_from([[1, 1, 1], [1, 1, 0], [0, 1, 1]]), min_size=LENGTH, max_size=LENGTH
).map(lambda rows: np.array(rows, bool))  # fmt: skip


def _possible(some: list[Counter], may: np.ndarray, accepted: torch.Tensor) -> bool:
    inside = torch.from_numpy(may)[torch.arange(LENGTH), EVERY].all(1) & accepted
    for each in some:
        totals = each.weights[torch.arange(LENGTH), EVERY].sum(1)
        inside &= (totals >= each.low) & (totals <= each.high)
    return bool(inside.any())


def _least_lack(some: list[Counter], may: np.ndarray) -> float:
    """The least by which a mixture of tokens at each position lacks one of the bounds, in the largest weight."""
    solver = pywraplp.Solver.CreateSolver("GLOP")
    shares = [[solver.NumVar(0, float(m), "") for m in row] for row in may]
    lack = solver.NumVar(0, solver.infinity(), "")
    for row in shares:
        solver.Add(solver.Sum(row) == 1)
    for each in some:
        scale = float(np.ptp(each.weights.numpy(), axis=1).max()) or 1.0
        pairs = zip(itertools.chain(*shares), (each.weights.double().flatten() / scale).tolist(), strict=True)
        total = solver.Sum([weight * share for share, weight in pairs])
        if each.low > -NO_BOUND:
            solver.Add(total + lack >= each.low / scale)
        if each.high < NO_BOUND:
            solver.Add(total - lack <= each.high / scale)
    solver.Minimize(lack)
    assert solver.Solve() == pywraplp.Solver.OPTIMAL
    return lack.solution_value()


@many
@given(counters(), candidate_sets)
def test_what_is_refuted_has_no_answer(some, may):
    assert not (refuted(ANYTHING, some, may, 50) and _possible(some, may, torch.ones(len(EVERY), dtype=torch.bool)))
    assert refuted(None, some, may, 50) == refuted(ANYTHING, some, may, 50)
    assert not (refuted(STRICTLY, some, may, 50) and _possible(some, may, STRICT.is_satisfied(EVERY)))


@fewer
@given(counters(), candidate_sets)
def test_what_no_mixture_of_tokens_meets_is_refuted(some, may):
    lack = _least_lack(some, may)
    if lack > 1e-3:
        assert refuted(ANYTHING, some, may, 200)
    elif lack < 1e-9:
        assert not refuted(ANYTHING, some, may, 200)


@fewer
@given(st.integers(0, 2**31), candidate_sets)
def test_the_highest_total_is_that_of_brute_force(seed, may):
    values = np.random.default_rng(seed).normal(size=(LENGTH, TOKENS))
    values = np.where(may, values, -np.inf)
    totals = values[np.arange(LENGTH), EVERY.numpy()].sum(1)
    for product, accepted in ((ANYTHING, np.ones(len(EVERY), bool)), (STRICTLY, STRICT.is_satisfied(EVERY).numpy())):
        best = totals[accepted].max()
        assert np.isclose(product.highest(values), best) or best == product.highest(values) == -np.inf


def test_three_sums_that_contradict_each_other_only_together():
    """200 tokens a, b, c: more than a third of each is too much, and each two are possible."""
    rules = [Sum(torch.eye(3, dtype=torch.int64)[k], 68, 200, 200) for k in range(3)]
    start = torch.zeros(200, dtype=torch.int64)
    for kept in itertools.combinations(rules, 2):
        assert complete(kept[0] & kept[1], start, start > 0).answer is not None
    rule = rules[0] & rules[1] & rules[2]
    assert rule.refuted(torch.ones(200, 3, dtype=torch.bool), False)
    found = complete(rule, start, start > 0)
    assert found.exhausted and found.work == 0
    real = [RealSum(torch.eye(3, dtype=torch.float64)[k] * 0.1, 6.75, 21.0, 200) for k in range(3)]
    assert complete(real[0] & real[1] & real[2], start, start > 0).exhausted
    # On a part of the answer, with other tokens beside.
    part = rule.on(torch.arange(200), TokenClasses.of(4, [[0], [1], [2]]), 201)
    may = torch.ones(201, 4, dtype=torch.bool)
    assert part.refuted(may, False)
    assert not (rules[0] & rules[1] & Vocabulary(torch.ones(1, 200, 3).bool())).refuted(may[:200, :3], True)
