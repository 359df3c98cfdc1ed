"""The rule of Hamiltonian cycles and its exact search against plain Python, brute force and networkx."""

from itertools import permutations, product

import networkx as nx
import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from constrained_dg.constraints import Constraint, complete
from tasks.graph.hamiltonian_rule import HamiltonianCycle, visited
from tasks.graph.hamiltonian_search import best_cycles, shrink
from tests.property.examples import many

#: Tokens before node 1 and after the last node, so that some tokens name no node.
FIRST, AFTER = 1, 1


class Branching(HamiltonianCycle):
    """The same rule as graphs too large for the dynamic program have it."""

    has_most_likely = False


@st.composite
def matrices(draw, low: int, high: int) -> np.ndarray:
    """(n, n) bool of a simple graph."""
    n = draw(st.integers(low, high))
    one, other = np.triu_indices(n, 1)
    joined = np.zeros((n, n), bool)
    joined[one, other] = draw(st.lists(st.booleans(), min_size=len(one), max_size=len(one)))
    return joined | joined.T


def rule_of(joined: np.ndarray, kind: type[HamiltonianCycle] = HamiltonianCycle) -> HamiltonianCycle:
    return kind(torch.from_numpy(joined)[None], FIRST, FIRST + len(joined) + AFTER)


def every_cycle(joined: np.ndarray) -> list[list[int]]:
    """The successors of all Hamiltonian cycles, both directions, by trying every order."""
    n = len(joined)
    found = []
    for rest in permutations(range(1, n)):
        order = (0, *rest)
        steps = {node: order[(at + 1) % n] for at, node in enumerate(order)}
        if all(joined[node, after] for node, after in steps.items()):
            found.append([steps[node] for node in range(n)])
    return found


def every_answer(rule: HamiltonianCycle) -> torch.Tensor:
    return torch.tensor(list(product(range(rule.num_classes), repeat=rule.length)))


def slow_blame(joined: np.ndarray, answer: list[int]) -> list[bool]:
    n = len(joined)
    after = [token - FIRST if FIRST <= token < FIRST + n else None for token in answer]
    steps = nx.DiGraph([(node, other) for node, other in enumerate(after) if other is not None])
    cycles = sorted(nx.simple_cycles(steps), key=lambda cycle: (-len(cycle), min(cycle)))
    alone = {node for cycle in cycles[1:] for node in cycle}
    return [
        other is None or not joined[node, other] or after.count(other) > 1 or node in alone
        for node, other in enumerate(after)
    ]


def slow_allowed(joined: np.ndarray, answer: list[int], known: list[bool]) -> list[list[bool]]:
    n = len(joined)
    possible = joined[None].copy()
    shrink(possible)
    after = {node: token - FIRST for node, token in enumerate(answer) if known[node] and 0 <= token - FIRST < n}

    def may(node: int, token: int) -> bool:
        other = token - FIRST
        if not 0 <= other < n or not possible[0, node, other] or (known[node] and token != answer[node]):
            return False
        if any(step == other for one, step in after.items() if one != node):
            return False
        at, nodes = other, 1  # along what is known, until it ends or leads to the node
        while at != node and at in after and nodes < n:
            at, nodes = after[at], nodes + 1
        return at != node or nodes >= n

    return [[may(node, token) for token in range(FIRST + n + AFTER)] for node in range(n)]


@many
@given(matrices(3, 4), st.data())
def test_judge_and_blame_in_plain_words(joined, data):
    rule = rule_of(joined)
    every = every_answer(rule)
    cycles = {tuple(node + FIRST for node in cycle) for cycle in every_cycle(joined)}
    right = rule.is_satisfied(every).tolist()
    assert {tuple(answer) for answer, good in zip(every.tolist(), right, strict=True) if good} == cycles
    some = every[data.draw(st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=20))]
    # Answers of nodes alone come closer to a cycle.
    some = torch.cat([some, some.clamp(FIRST, FIRST + rule.length - 1)])
    assert rule.violations(some).tolist() == [slow_blame(joined, answer) for answer in some.tolist()]
    assert [sentences == [] for sentences in rule.explain(some)] == rule.is_satisfied(some).tolist()


@many
@given(st.integers(4, 9).flatmap(lambda n: st.permutations(range(n))), st.integers(0, 2**32))
def test_blame_of_permutations(order, seed):
    """Permutations fall apart into cycles of every length, which random answers rarely do."""
    joined = np.random.default_rng(seed).random((len(order),) * 2) < 0.9
    joined = np.triu(joined, 1) | np.triu(joined, 1).T
    answer = [node + FIRST for node in order]
    assert rule_of(joined).violations(torch.tensor([answer])).tolist() == [slow_blame(joined, answer)]


@many
@given(matrices(3, 7), st.data())
def test_allowed_in_plain_words(joined, data):
    rule = rule_of(joined)
    n = rule.length
    # Joined nodes mostly, so that known successors make paths.
    token = st.integers(0, rule.num_classes - 1)
    near = [[FIRST + int(other) for other in joined[node].nonzero()[0]] for node in range(n)]
    answer = [data.draw(st.sampled_from(near[node]) | token if near[node] else token) for node in range(n)]
    known = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    got = rule.allowed(torch.tensor([answer]), torch.tensor([known]), slice(0, n))
    assert got[0].tolist() == slow_allowed(joined, answer, known)


@many
@given(matrices(3, 7), st.integers(0, 2**32), st.floats(0.3, 1))
def test_propagation_keeps_every_cycle_and_finds_what_known_successors_say(joined, seed, density):
    rule, n = rule_of(joined), len(joined)
    cycles = np.array(every_cycle(joined), int).reshape(-1, n)
    generator = np.random.default_rng(seed)
    candidates = generator.random((n, rule.num_classes)) < density
    if len(cycles):  # nodes of one cycle decided, others open
        held = cycles[generator.integers(len(cycles))] + FIRST
        candidates[range(n), held] = True
        decided = generator.random(n) < 0.5
        candidates[decided] = np.arange(rule.num_classes) == held[decided, None]
    left = rule.propagate(torch.from_numpy(candidates)[None])[0].numpy()
    for cycle in cycles + FIRST:
        if candidates[range(n), cycle].all():
            assert left[range(n), cycle].all()
    assert not (left & ~Constraint.propagate(rule, torch.from_numpy(candidates)[None])[0].numpy()).any()
    again = left[None, :, FIRST : FIRST + n].copy()
    shrink(again)
    assert np.array_equal(again[0], left[:, FIRST : FIRST + n])


@many
@given(matrices(3, 7), st.integers(0, 2**32), st.booleans())
def test_the_best_cycle_is_the_best_of_all(joined, seed, ties):
    generator = np.random.default_rng(seed)
    scores = (
        generator.integers(-2, 1, joined.shape).astype(float) if ties else -generator.exponential(size=joined.shape)
    )
    cycles = every_cycle(joined)
    found = np.zeros((1, len(joined)), np.int64)
    (exists,) = best_cycles(np.where(joined, scores, -np.inf)[None], found)
    assert exists == bool(cycles)
    if exists:
        of = [sum(scores[node, after] for node, after in enumerate(cycle)) for cycle in cycles]
        assert found[0].tolist() in cycles
        assert np.isclose(of[cycles.index(found[0].tolist())], max(of))


@many
@given(matrices(3, 7), st.data())
def test_search_with_branches_agrees_with_brute_force(joined, data):
    rule, n = rule_of(joined, Branching), len(joined)
    cycles = every_cycle(joined)
    held = data.draw(st.sampled_from(cycles)) if cycles and data.draw(st.booleans()) else list(range(n))
    known = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    agreeing = [cycle for cycle in cycles if all(cycle[at] == held[at] for at in range(n) if known[at])]
    for kind in (rule, rule_of(joined)):
        found = complete(kind, torch.tensor(held) + FIRST, known)
        assert found.exhausted == (not agreeing)
        assert found.answer is None if not agreeing else (found.answer - FIRST).tolist() in agreeing


@many
@given(st.integers(3, 12).flatmap(lambda n: st.permutations(range(n))), st.booleans())
def test_a_cycle_is_written_the_same_whatever_its_direction(order, turned):
    order = order[::-1] if turned else order
    steps = dict(zip(order, [*order[1:], order[0]], strict=True))
    visits = visited([steps[node] for node in range(len(order))])
    assert visits[0] == 0 and visits[1] < visits[-1]
    pairs = {frozenset(pair) for pair in zip(visits, [*visits[1:], visits[0]], strict=True)}
    assert pairs == {frozenset(pair) for pair in steps.items()}


@settings(many, max_examples=max(1, many.max_examples // 4))
@given(st.lists(matrices(4, 4), min_size=2, max_size=4), st.integers(0, 2**32))
def test_each_row_has_its_own_graph(graphs, seed):
    rule = HamiltonianCycle(torch.from_numpy(np.stack(graphs)), FIRST, 6)
    draws = torch.Generator().manual_seed(seed)
    answer = torch.randint(6, (len(graphs), 4), generator=draws)
    known = torch.rand(answer.shape, generator=draws) < 0.5
    log_probs = torch.randn(len(graphs), 4, 6, generator=draws)
    assume(bool(known.any()))
    best, found = rule.most_likely(log_probs)
    for row, joined in enumerate(graphs):
        alone, one = rule_of(joined), slice(row, row + 1)
        assert torch.equal(rule.violations(answer)[one], alone.violations(answer[one]))
        assert rule.explain(answer)[row] == alone.explain(answer[one])[0]
        whole = slice(0, 4)
        assert torch.equal(rule.allowed(answer, known, whole)[one], alone.allowed(answer[one], known[one], whole))
        candidates = log_probs > -1
        assert torch.equal(rule.propagate(candidates)[one], alone.propagate(candidates[one]))
        assert found[row] == alone.most_likely(log_probs[one])[1]
        assert not found[row] or torch.equal(best[one], alone.most_likely(log_probs[one])[0])
