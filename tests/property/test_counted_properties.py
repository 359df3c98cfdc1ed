"""Automata and sums swept together, on exact and on coarse grids, against brute force over every answer."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from constrained_dg.constraints import (
    All,
    Automaton,
    ByRow,
    Count,
    Predicate,
    RealSum,
    Sum,
    check_constraint,
    complete,
    sweep_plan,
)
from constrained_dg.constraints.counter import NO_BOUND, Counter, Gridded, boxes
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.product import Product
from constrained_dg.errors import InputError
from tests.property.examples import many

LENGTH, ALPHABET = 4, 3
few = settings(max_examples=12)  # each makes products anew, and there are two ways to make them
EVERY = np.array(list(itertools.product(range(ALPHABET), repeat=LENGTH)))
AT = np.arange(LENGTH)


@st.composite
def machines(draw) -> Machine:
    states = draw(st.integers(1, 4))
    cell = st.integers(-1, states - 1)
    table = draw(st.lists(st.lists(cell, min_size=ALPHABET, max_size=ALPHABET), min_size=states, max_size=states))
    accepting = draw(st.lists(st.booleans(), min_size=states, max_size=states))
    kind = torch.zeros(LENGTH, dtype=torch.int64)
    return Machine.of(torch.tensor([table]), kind, draw(st.integers(0, states - 1)), torch.tensor(accepting))


@st.composite
def counters(draw, most: int) -> Counter:
    row = st.lists(st.integers(-most, most), min_size=ALPHABET, max_size=ALPHABET)
    rows = draw(st.one_of(row.map(lambda r: [r] * LENGTH), st.lists(row, min_size=LENGTH, max_size=LENGTH)))
    low = draw(st.integers(-2 * most, 2 * most))
    high = low + draw(st.integers(0, most))
    if draw(st.integers(0, 4)) == 0:
        low, high = draw(st.sampled_from([(low, NO_BOUND), (-NO_BOUND, high)]))
    return Counter(torch.tensor(rows), low, high)


exact = st.lists(counters(3), min_size=1, max_size=3).map(lambda many: [Gridded.of(each, 1) for each in many])
grained = st.tuples(counters(100), st.sampled_from([3, 25, 70]))
coarse = st.lists(grained, min_size=1, max_size=3).map(lambda many: [Gridded.of(*each) for each in many])
candidates = st.lists(st.booleans(), min_size=12, max_size=12).map(lambda c: np.array(c).reshape(LENGTH, ALPHABET))
scores = st.integers(0, 2**32).map(
    lambda seed: np.random.default_rng(seed).normal(size=(LENGTH, ALPHABET)).astype(np.float32)
)


def accepted(machine: Machine, sums: list[Gridded], may: np.ndarray) -> np.ndarray:
    """(N, T) every answer within the sets that the machine accepts and whose true sums lie within their bounds."""
    fine = machine.accepts(torch.from_numpy(EVERY)).numpy() & may[AT, EVERY].all(1)
    for each in sums:
        total = each.counter.weights.numpy()[AT, EVERY].sum(1)
        fine &= (total >= each.counter.low) & (total <= each.counter.high)
    return EVERY[fine]


def union(answers: np.ndarray) -> np.ndarray:
    return (answers[..., None] == np.arange(ALPHABET)).any(0)


@many
@given(machines(), exact, candidates)
def test_whole_weights_are_swept_exactly(machine, sums, may):
    left = Product(machine, sums).shrink(torch.from_numpy(may)[None])[0].numpy()
    assert (left == union(accepted(machine, sums, may))).all()


@many
@given(machines(), coarse, candidates)
def test_a_grid_forbids_nothing_that_an_answer_holds(machine, sums, may):
    left = Product(machine, sums).shrink(torch.from_numpy(may)[None])[0].numpy()
    assert (left >= union(accepted(machine, sums, may))).all() and (left <= may).all()


@many
@given(machines(), exact | coarse, candidates, scores)
def test_the_best_answer_in_the_narrowed_windows_satisfies_and_nothing_beats_it(machine, sums, may, scores):
    product, scores = Product(machine, sums), np.where(may, scores, -np.inf).astype(np.float32)
    found, exists = product.best(scores)
    fine = accepted(machine, sums, may)
    steps = [each.steps[AT, EVERY].sum(1) for each in sums]
    inside = np.logical_and.reduce(
        [(s >= each.narrowed[0]) & (s <= each.narrowed[1]) for s, each in zip(steps, sums, strict=True)]
    )
    narrow = np.array([row for row in EVERY[inside] if (row == fine).all(1).any()]).reshape(-1, LENGTH)
    assert exists == (len(narrow) > 0)
    if product.exact:
        assert len(narrow) == len(fine)
    if exists:
        assert (found == narrow).all(1).any()
        assert scores[AT, found].sum() == pytest.approx(scores[AT, narrow].sum(1).max(), abs=1e-5)


@many
@given(machines(), coarse)
def test_an_answer_in_the_narrowed_windows_satisfies(machine, sums):
    for each in sums:
        steps, total = each.steps[AT, EVERY].sum(1), each.counter.weights.numpy()[AT, EVERY].sum(1)
        (low, high), (wide_low, wide_high) = each.narrowed, each.widened
        within = (total >= each.counter.low) & (total <= each.counter.high)
        assert within[(steps >= low) & (steps <= high)].all()
        assert ((steps >= wide_low) & (steps <= wide_high))[within].all()


@many
@given(machines(), exact)
def test_no_answer_has_a_partial_sum_outside_its_box(machine, sums):
    fine = accepted(machine, sums, np.ones((LENGTH, ALPHABET), bool))
    for each in sums:
        first, size = boxes(each.steps, *each.widened)
        partial = np.concatenate([np.zeros((len(fine), 1), int), each.steps[AT, fine].cumsum(1)], 1)
        assert ((partial >= first) & (partial < first + size)).all()


@st.composite
def joined(draw) -> All:
    """An automaton with a count, a whole and a real sum, each with a third of a chance to be there."""
    table = draw(st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=3, max_size=3))
    weights = torch.tensor(draw(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3)), dtype=torch.float64)
    low = draw(st.floats(-3, 3))
    builders = [
        lambda: Automaton(torch.tensor(table), 0, [0, 2], LENGTH),
        lambda: Count([draw(st.integers(0, 2))], draw(st.integers(0, 3)), None, LENGTH, ALPHABET),
        lambda: Sum(torch.tensor([0, 1, 3]), draw(st.integers(0, 6)), 9, LENGTH),
        lambda: RealSum(weights, low, low + draw(st.floats(0, 3)), LENGTH),
    ]
    chosen = draw(st.lists(st.sampled_from(range(4)), min_size=1, max_size=3, unique=True))
    try:
        return All([builders[k]() for k in chosen])
    except InputError:
        assume(False)


@pytest.fixture(params=[0, sweep_plan.DENSE], ids=["every sum beside the automaton", "small sums in its table"])
def dense(request, monkeypatch):
    monkeypatch.setattr(sweep_plan, "DENSE", request.param)


@pytest.mark.usefixtures("dense")
class TestAll:
    @few
    @given(joined())
    def test_every_invariant_of_a_rule_holds(self, rule):
        check_constraint(rule, examples=3)

    @few
    @given(joined(), scores)
    def test_the_completer_finds_an_answer_exactly_where_there_is_one(self, rule, scores):
        fine = EVERY[rule.is_satisfied(torch.from_numpy(EVERY)).numpy()]
        draft, known = torch.zeros(LENGTH, dtype=torch.int64), torch.zeros(LENGTH, dtype=torch.bool)
        made = complete(rule, draft, known, log_probs=torch.from_numpy(scores))
        assert (made.answer is not None) == (len(fine) > 0)
        assert made.exhausted == (len(fine) == 0)
        if rule.has_most_likely and len(fine):
            kept = (fine[:, ~rule.bound.numpy()] == 0).all(1)  # what no rule binds stays as it was
            best = scores[AT, fine[kept]].sum(1).max()
            assert scores[AT, made.answer.numpy()].sum() == pytest.approx(best, abs=1e-5)

    @few
    @given(joined(), joined())
    def test_rows_of_their_own_say_what_each_says_alone(self, one, other):
        rule, answer = ByRow([one, other]), torch.from_numpy(EVERY[[5, 50]])
        known = torch.tensor([[True, False, False, True], [False, True, False, False]])
        for method, given_ in (("is_satisfied", ()), ("violations", ()), ("allowed", (known, slice(0, LENGTH)))):
            alone = [
                getattr(each, method)(answer[row, None], *(x[row, None] if torch.is_tensor(x) else x for x in given_))
                for row, each in enumerate((one, other))
            ]
            assert torch.equal(getattr(rule, method)(answer, *given_), torch.cat(alone))
        assert rule.explain(answer) == one.explain(answer[:1]) + other.explain(answer[1:])
        assert rule.select(torch.tensor([1])).is_satisfied(answer[1:]).equal(other.is_satisfied(answer[1:]))


def test_narrow_windows_beside_a_pattern_are_met_by_prices_and_moves():
    """Three sums of real weights, each window a few percent of its range, at a length where no grid is fine enough."""
    draws, length = np.random.default_rng(0), 60
    table = torch.tensor([[0, 1, 0, 0], [0, 1, 2, 0], [2, 2, 2, 2]])  # somewhere 1, then 2
    weights = [torch.from_numpy(draws.normal(size=4)) for _ in range(3)]
    hidden = torch.from_numpy(draws.integers(4, size=length))
    hidden[20:22] = torch.tensor([1, 2])
    sums = [RealSum(w, float(w[hidden].sum()) - 0.05, float(w[hidden].sum()) + 0.05, length) for w in weights]
    rule = All([Automaton(table, 0, [2], length), *sums])
    made = complete(rule, torch.zeros(length, dtype=torch.int64), torch.zeros(length, dtype=torch.bool), budget=0)
    assert made.answer is not None and bool(rule.is_satisfied(made.answer[None]))


def test_small_moves_keep_counts_that_are_part_of_the_table():
    """A count in the automaton's own table, and a sum that prices alone miss: moves may not break the count."""
    draws, length = np.random.default_rng(3), 40
    weights = torch.from_numpy(draws.normal(size=4))
    hidden = torch.from_numpy(draws.integers(4, size=length))
    total, held = float(weights[hidden].sum()), int((hidden == 2).sum())
    rule = All([Count([2], held, held, length, 4), RealSum(weights, total - 0.02, total + 0.02, length)])
    assert len(rule._plan.others) == 1
    made = complete(rule, torch.zeros(length, dtype=torch.int64), torch.zeros(length, dtype=torch.bool), budget=0)
    assert made.answer is not None and int((made.answer == 2).sum()) == held


def test_a_rule_that_is_there_already_is_not_made_anew():
    rule = All([Predicate(lambda answer: True, 4, 3), Count([1], 1, 2, 4, 3)])
    assert rule.to("cpu") is rule and ByRow([rule]).is_on("cpu") and not rule.is_on("meta")
