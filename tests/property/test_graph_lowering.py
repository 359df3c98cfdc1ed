"""Graph rules written for a constraint solver, against brute force: the likeliest answer, or the proof of none."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import Constraint, complete, cpsat, rounding_loss
from constrained_dg.constraints.lowering import Model
from constrained_dg.constraints.search import Completion
from tasks.graph.coloring_rule import ProperColoring
from tasks.graph.families import Family, FamilyRule
from tasks.graph.hamiltonian_rule import HamiltonianCycle
from tasks.graph.tokens import Coding
from tests.property.examples import fewer
from tests.property.test_families_properties import families, random_joined, seeds


class Alone:
    """Without its exact sweep and its repair, so that only the solver answers."""

    has_most_likely = False

    def repair(self, draft, candidates, log_probs):
        return None, 0

    def propagate(self, candidates):
        return candidates


class AloneCycle(Alone, HamiltonianCycle):
    pass


class AloneFamily(Alone, FamilyRule):
    pass


class AloneColoring(Alone, ProperColoring):
    pass


def likeliest(rule: Constraint, every: torch.Tensor, seed: int) -> tuple[float, Completion]:
    """The highest sum of random log-probabilities of an answer that the judge accepts, and what the solver says."""
    draws = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(rule.length, rule.num_classes, generator=draws).log_softmax(-1)
    free = torch.zeros(rule.length, dtype=torch.bool)
    good = every[rule.is_satisfied(every)]
    best = log_probs.gather(-1, good.T).sum(0).max() if len(good) else -torch.inf
    return float(best), complete(rule, every[0], free, log_probs=log_probs, budget=100)


def agrees(rule: Constraint, every: torch.Tensor, seed: int) -> None:
    best, ended = likeliest(rule, every, seed)
    assert ended.exhausted == (best == -torch.inf)
    if not ended.exhausted:
        assert ended.proved and bool(rule.is_satisfied(ended.answer[None]))
        assert abs(ended.score - best) <= rounding_loss(rule.length) + 1e-4


@fewer
@given(st.integers(1, 5), st.floats(0.4, 1), seeds)
def test_cycles(nodes: int, density: float, seed: int) -> None:
    joined = torch.from_numpy(random_joined(nodes, density, seed))
    every = torch.tensor(list(itertools.product(range(nodes + 1), repeat=nodes)))
    agrees(AloneCycle(joined[None], 1, nodes + 1), every, seed)


@fewer
@given(st.integers(1, 5), st.integers(1, 3), st.floats(0, 1), seeds)
def test_colorings(nodes: int, colors: int, density: float, seed: int) -> None:
    edges = np.argwhere(np.triu(random_joined(nodes, density, seed)))
    every = torch.tensor(list(itertools.product(range(colors + 1), repeat=nodes)))
    edges = torch.from_numpy(edges if len(edges) else np.full((1, 2), -1))[None]
    rule = AloneColoring(edges, (1, colors + 1), nodes, colors + 1, real=torch.ones(1, nodes, dtype=torch.bool))
    agrees(rule, every, seed)


@fewer
@given(families(3, 5), st.integers(1, 2), seeds)
def test_families(family: Family, width: int, seed: int) -> None:
    coding = Coding(family.nodes, width, 0)
    patterns = itertools.product(*(range(2 ** len(pairs)) for pairs in coding.pairs))
    agrees(AloneFamily((family,), coding, 2**width), torch.tensor(list(patterns)), seed)


@fewer
@given(families(6, 7), st.floats(0.2, 0.9), seeds)
def test_cuts_exclude_what_the_judge_refuses_and_no_graph_of_the_family(family: Family, density: float, seed: int):
    """A graph that breaks the family, with two pairs changed at a time: those that keep it are not excluded."""
    rule = FamilyRule((family,), Coding(family.nodes, 1, 0), 2)
    answer = torch.from_numpy(rule.coding.to_tokens(random_joined(family.nodes, density, seed)[None]))
    model = Model()
    root = model.root(torch.ones(rule.length, 2, dtype=torch.bool))
    if bool(rule.is_satisfied(answer)):
        return
    rule.lower(root)
    rule.cut(answer[0], root)

    def possible(tokens: torch.Tensor) -> bool:
        mark = model.mark()
        root.all_of(root.literals[range(rule.length), tokens.numpy()])
        found = cpsat.solve(model, {}, {}, budget=10).values is not None
        model.reset(mark)
        return found

    assert not possible(answer[0])
    near = answer.repeat(rule.length**2, 1)
    for row, (one, other) in zip(near, itertools.product(range(rule.length), repeat=2), strict=True):
        row[[one, other]] ^= 1
    good = near[rule.is_satisfied(near)][:3]
    assert all(possible(tokens) for tokens in good)


def test_planar_graphs_by_the_solver_alone() -> None:
    """The likeliest graph of 6 nodes under a model that wants every edge is a triangulation."""
    rule = AloneFamily((Family.parse("planar:6"),), Coding(6, 1, 0), 2)
    log_probs = torch.tensor([-2.0, -0.1]).expand(rule.length, 2)
    start, free = torch.zeros(rule.length, dtype=torch.int64), torch.zeros(rule.length, dtype=torch.bool)
    ended = complete(rule, start, free, log_probs=log_probs, budget=100)
    graph = nx.from_numpy_array(rule.coding.from_tokens(ended.answer.numpy()[None])[0][0])
    assert graph.number_of_edges() == 12 and nx.is_planar(graph)


@fewer
@given(st.integers(3, 9), st.floats(0.3, 1), seeds)
def test_what_rotations_find_is_a_cycle_and_keeps_what_is_known(nodes: int, density: float, seed: int) -> None:
    joined = random_joined(nodes, density, seed)
    rule = HamiltonianCycle(torch.from_numpy(joined)[None], 0, nodes)
    start, even = torch.zeros(nodes, dtype=torch.int64), torch.zeros(nodes, nodes)
    best = rule.most_likely(torch.randn(1, nodes, nodes, generator=torch.Generator().manual_seed(seed)))
    for known in (0, 2):
        candidates = torch.from_numpy(joined).clone()
        candidates[:known] &= torch.nn.functional.one_hot(best[0][0], nodes)[:known] > 0
        found, moves = rule.repair(start, candidates, even)
        assert found is None or (
            bool(rule.is_satisfied(found[None])) and bool(candidates.gather(1, found[:, None]).all())
        )
        assert known or ((found is not None) == bool(best[1]) and moves <= rule.MOVES)


def test_cycles_of_large_graphs_take_no_solver() -> None:
    graph = nx.random_regular_graph(3, 512, seed=0)
    rule = HamiltonianCycle(torch.from_numpy(nx.to_numpy_array(graph) > 0)[None], 0, 512)
    ended = complete(rule, torch.zeros(512, dtype=torch.int64), torch.zeros(512, dtype=torch.bool))
    assert ended.work == 0 and bool(rule.is_satisfied(ended.answer[None]))
