"""Judges of graph tasks agree with plain Python and networkx on any tokens."""

from __future__ import annotations

import functools
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.cli import load_sampler
from constrained_dg.constraints import complete
from constrained_dg.evaluation import solve
from constrained_dg.model import Backbone, preset
from constrained_dg.task import Batch, Task
from tasks.graph import Coloring, GenerateGraphs, Hamiltonian, coloring, coloring_rule, hamiltonian
from tasks.graph.coloring import ColoringProblem
from tasks.graph.families import Family
from tasks.graph.generate import GenerateProblem, make_graph
from tasks.graph.graph import Graph, random_graph
from tasks.graph.hamiltonian import HamiltonianProblem
from tasks.graph.tokens import FAMILIES, FIRST_PATTERN
from tests.property.examples import many

COLORING, HAMILTONIAN = Coloring(graphs=1), Hamiltonian({8: 1.0}, graphs=1)
GENERATE = {width: GenerateGraphs({"tree": {8: 1.0}}, graphs=1, width=width) for width in (1, 8)}


def is_coloring(problem: ColoringProblem, tokens: list[int]) -> bool:
    """Every node holds one of the first k colors, joined ones differ, and the pinned clique has its colors."""
    colors = [token - coloring.FIRST_COLOR for token in tokens]
    pinned = all(colors[node] == at for at, node in enumerate(problem.clique[: problem.k]))
    return (
        pinned and set(colors) <= set(range(problem.k)) and all(colors[a] != colors[b] for a, b in problem.graph.edges)
    )


def is_hamiltonian(problem: HamiltonianProblem, tokens: list[int]) -> bool:
    """The successors visit every node once, along edges, and lead back."""
    n, order = problem.graph.nodes, [0]
    while len(order) <= n:
        if not hamiltonian.FIRST_NODE <= tokens[order[-1]] < hamiltonian.FIRST_NODE + n:
            return False
        order.append(tokens[order[-1]] - hamiltonian.FIRST_NODE)
    along = all(problem.graph.networkx.has_edge(*step) for step in pairwise(order))
    return n >= 3 and sorted(order[:-1]) == list(range(n)) and order[-1] == 0 and along


def is_member(task: GenerateGraphs, problem: GenerateProblem, tokens: list[int]) -> bool:
    """Each token is a pattern of its pairs, and networkx finds the graph in the family."""
    family, graph = problem.family, nx.empty_graph(problem.family.nodes)
    for token, pairs in zip(tokens, task._coding(family.nodes).pairs, strict=True):
        if not FIRST_PATTERN <= token < FIRST_PATTERN + 2 ** len(pairs):
            return False
        graph.add_edges_from(pair for bit, pair in enumerate(pairs) if (token - FIRST_PATTERN) >> bit & 1)
    degrees = [degree for _, degree in graph.degree]
    if family.name in ("regular", "degrees"):
        return degrees == list(family.numbers if family.name == "degrees" else [family.numbers[1]] * family.nodes)
    if not nx.is_connected(graph):
        return False
    if family.name == "bipartite":
        return nx.is_bipartite(graph) and sorted(map(len, nx.bipartite.sets(graph))) == sorted(family.numbers)
    if family.name == "connected":
        return graph.number_of_edges() == family.numbers[1]
    return nx.is_tree(graph) if family.name == "tree" else nx.check_planarity(graph)[0]


JUDGES = [
    (COLORING, is_coloring),
    (HAMILTONIAN, is_hamiltonian),
    *((task, functools.partial(is_member, task)) for task in GENERATE.values()),
]


def problem_of(task: Task, nodes: int, density: float, draws: np.random.Generator):
    graph = random_graph(nodes, density, draws)
    if task is COLORING:
        return ColoringProblem.of(graph, int(draws.integers(1, 5)))
    if task is HAMILTONIAN:
        return HamiltonianProblem.of(graph)
    name = FAMILIES[draws.integers(len(FAMILIES))]
    return GenerateProblem.of(Family.like(name, make_graph(name, max(4, nodes), draws)))


def answers_near(task: Task, problem, batch: Batch, draws: np.random.Generator) -> torch.Tensor:
    """Answers that keep the rules or nearly: found by search, with a few tokens changed to any token at all."""
    found = complete(task.constraint([problem]), batch.answer[0], batch.pinned[0], budget=1).answer
    rows = (batch.answer[0] if found is None else found).repeat(12, 1)
    for row in rows[1:]:
        at = draws.integers(len(row), size=draws.integers(1, 3))
        kind = draws.integers(3)  # any token at all; one of this task's noise; one that stands elsewhere in the answer
        row[at] = torch.tensor(
            draws.integers(task.vocab_size, size=len(at))
            if kind == 0
            else draws.integers(*batch.noise, size=len(at))
            if kind == 1
            else row[draws.integers(len(row), size=len(at))].numpy()
        )
    return rows


@pytest.fixture(scope="module", autouse=True)
def _short_repair():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coloring_rule.ProperColoring, "MOVES", 1000)
        yield


@many
@given(st.sampled_from(JUDGES), st.integers(1, 9), st.floats(0, 0.9), st.integers(0, 2**32))
def test_the_judge_says_what_the_statement_says(judge, nodes, density, seed):
    task, is_right = judge
    draws = np.random.default_rng(seed)
    problem = problem_of(task, nodes, density, draws)
    batch = task.encode([problem])
    anything = torch.from_numpy(draws.integers(task.vocab_size, size=(4, batch.answer.shape[1])))
    answers = torch.cat([answers_near(task, problem, batch, draws), anything])
    expected = [is_right(problem, tokens) for tokens in answers.tolist()]
    for rule in (task.constraint([problem]), task.rules(batch)):
        assert rule.is_satisfied(answers).tolist() == expected
        assert (~rule.violations(answers).any(-1)).tolist() == expected
        assert [not sentences for sentences in rule.explain(answers)] == expected


@pytest.mark.parametrize("name", ["plain", "restarts", "cold", "symmetry", "guaranteed", "search"])
def test_what_a_sampler_calls_solved_is_solved(name):
    """An untrained model on sparse graphs, most with nodes that have no edge."""
    shape = {"vocab_size": COLORING.vocab_size, "num_relations": COLORING.num_relations, "canvas_length": 16}
    model = Backbone(preset("tiny", **shape)).init_weights(torch.Generator().manual_seed(0)).eval()
    draws = np.random.default_rng(0)
    problems = [ColoringProblem.of(random_graph(8, density, draws), 3) for density in (0, 0.1, 0.2) for _ in range(4)]
    assert any((problem.graph.degrees == 0).any() for problem in problems)
    solved = [
        outcome
        for outcome in solve(model, COLORING, load_sampler(name), problems, batch_size=12, seed=0, max_passes=8)
        if outcome.solved
    ]
    assert solved and all(is_coloring(outcome.problem, outcome.tokens.tolist()) for outcome in solved)


def test_a_node_without_edges_holds_a_color():
    problem = COLORING.parse("1:C?")
    rule = COLORING.constraint([problem])
    first = coloring.FIRST_COLOR
    assert rule.is_satisfied(torch.tensor([[first] * 4])).tolist() == [True]
    for other in (coloring.PAD, coloring.EOS, coloring.FIRST_NODE, first + 1):
        answer = torch.tensor([[first, first, first, other]])
        assert rule.is_satisfied(answer).tolist() == [False]
        assert rule.violations(answer).tolist() == [[False, False, False, True]]
    known = torch.zeros(1, 4, dtype=torch.bool)
    may = rule.allowed(torch.full((1, 4), first), known, slice(0, 4))
    assert [each.nonzero().flatten().tolist() for each in may[0]] == [[first]] * 4
    assert Graph.from_graph6("C?").edges == ()
