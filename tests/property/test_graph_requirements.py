"""Lines of requirements against definitions and brute force: judges, statements, cuts, numberings, proofs."""

from __future__ import annotations

import itertools
import time
from math import inf

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_dg.constraints import complete, cpsat
from constrained_dg.constraints.lowering import Model
from constrained_dg.constraints.running import TimeIsUpError, time_limit
from constrained_dg.constraints.search import Completion
from constrained_dg.errors import InputError
from tasks.graph.families import FamilyRule
from tasks.graph.properties import coloring
from tasks.graph.specification import Specification, pattern, ramsey
from tasks.graph.subgraphs import cycle
from tasks.graph.tokens import Coding
from tests.property.examples import fewer
from tests.property.test_families_properties import every_graph, random_joined, seeds

WORDS = [
    *(
        f"{name}{bound}"
        for name in ("degree", "edges", "triangles", "clique")
        for bound in (">=1", "<=2", "=2", "=1..3")
    ),
    *(f"{name}{bound}" for name in ("independence", "chromatic", "diameter") for bound in (">=3", "<=2", "=2")),
    *("girth>=4", "girth=3", "girth>=5", "girth<=4", "girth=4", "triangles=0", "edges=4..6"),
    *(f"{flag}{no}" for flag in ("connected", "bipartite", "planar", "hamiltonian") for no in ("", "=no")),
    *("contains=K3", "contains=P4", "contains=C4", "avoids=C4", "avoids=K1,3", "avoids=P3", "contains=DQc"),
]


@st.composite
def lines(draw: st.DrawFn, nodes: int) -> Specification:
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True))
    try:
        return Specification.parse(f"nodes={nodes} {' '.join(words)}")
    except InputError:  # words that contradict each other at once
        return Specification.parse(f"nodes={nodes} {words[0] if '=no' not in words[0] else 'edges=2'}")


def rule_of(wanted: Specification) -> FamilyRule:
    return FamilyRule((wanted,), Coding(wanted.nodes, 1, 0), 2)


class Solver:
    """The model of a rule; asks whether a graph is possible in it."""

    def __init__(self, rule: FamilyRule) -> None:
        self.rule, self.model = rule, Model()
        self.root = self.model.root(torch.ones(rule.length, 2, dtype=torch.bool))
        rule.lower(self.root)

    def may(self, joined: np.ndarray) -> bool:
        mark = self.model.mark()
        tokens = self.rule.coding.to_tokens(joined[None])[0]
        self.root.all_of(self.root.literals[range(self.rule.length), tokens])
        found = cpsat.solve(self.model, {}, {}, budget=10).values is not None
        self.model.reset(mark)
        return found


@fewer
@given(lines(5), seeds)
def test_statements_and_cuts_exclude_exactly_what_the_judge_refuses(wanted: Specification, seed: int) -> None:
    solver = Solver(rule_of(wanted))
    graphs = every_graph(5)[np.random.default_rng(seed).permutation(1024)[:24]]
    good = [wanted.holds(joined) for joined in graphs]
    for joined, holds in zip(graphs, good, strict=True):
        if not holds and solver.may(joined):
            assert solver.model.deferred
            tokens = torch.from_numpy(solver.rule.coding.to_tokens(joined[None])[0])
            solver.rule.cut(tokens, solver.root)
    assert [solver.may(joined) for joined in graphs] == good


@fewer
@given(lines(5))
def test_search_finds_a_graph_or_proves_that_there_is_none(wanted: Specification) -> None:
    rule = rule_of(wanted)
    ended = complete(rule, torch.zeros(rule.length, dtype=torch.int64), torch.zeros(rule.length, dtype=torch.bool))
    assert ended.exhausted == (not any(wanted.holds(joined) for joined in every_graph(5)))
    assert (ended.answer is None) == ended.exhausted


@fewer
@given(st.integers(2, 7), st.floats(0.1, 0.9), seeds)
def test_judges_agree_with_definitions(nodes: int, density: float, seed: int) -> None:
    joined = random_joined(nodes, density, seed)
    graph = nx.from_numpy_array(joined)
    sizes = range(1, nodes + 1)
    cliques = [
        max(
            k
            for k in sizes
            if any(
                all(each[a, b] for a, b in itertools.combinations(some, 2))
                for some in itertools.combinations(range(nodes), k)
            )
        )
        for each in (joined, ~joined)
    ]
    steps = np.linalg.matrix_power(joined.astype(int) + np.eye(nodes, dtype=int), nodes)
    numbers = {
        "edges": graph.number_of_edges(),
        "triangles": sum(nx.triangles(graph).values()) // 3,
        "clique": cliques[0],
        "independence": cliques[1],
        "chromatic": next(k for k in sizes if any(all(colors[a] != colors[b] for a, b in graph.edges)
                          for colors in itertools.product(range(k), repeat=nodes))),
        "diameter": next((d for d in range(1, nodes) if np.linalg.matrix_power(joined + np.eye(nodes), d).all()), inf),
    }  # fmt: skip
    for name, value in numbers.items():
        for low, high in ((value, value), (1, value - 1), (value + 1, inf)):
            if low <= high and high >= 1 and value < inf:
                text = f"nodes={nodes} {name}={low}..{'' if high == inf else high}"
                assert Specification.parse(text).holds(joined) == (low == high == value), text
    assert Specification.parse(f"nodes={nodes} connected").holds(joined) == bool((steps > 0).all())
    around = [order for order in itertools.permutations(range(nodes)) if order[0] == 0 and nodes > 2]
    has = any(all(joined[pair] for pair in zip(order, [*order[1:], 0], strict=True)) for order in around)
    assert Specification.parse(f"nodes={nodes} hamiltonian").holds(joined) == has == (cycle(joined) is not None)


@pytest.mark.parametrize(
    ("line", "isomorphic"),
    [
        ("nodes=10 degree=3 girth>=5", nx.petersen_graph()),
        ("nodes=14 degree=3 girth>=6 bipartite connected diameter<=3", nx.heawood_graph()),
        ("nodes=5 clique<=2 independence<=2", nx.cycle_graph(5)),
        ("nodes=8 degree=3 bipartite diameter=3 girth=4 connected avoids=K2,3 planar", nx.cubical_graph()),
        ("nodes=6 edges=9 triangles=0 degree=3", nx.complete_bipartite_graph(3, 3)),
        ("nodes=11 triangles=0 chromatic=4", nx.mycielski_graph(4)),  # Grötzsch's graph
    ],
)
def test_graphs_with_names_are_found(line: str, isomorphic: nx.Graph) -> None:
    wanted = Specification.parse(line)
    rule = rule_of(wanted)
    ended = complete(rule, torch.zeros(rule.length, dtype=torch.int64), torch.zeros(rule.length, dtype=torch.bool))
    [joined], _ = rule.coding.from_tokens(ended.answer.numpy()[None])
    assert nx.is_isomorphic(nx.from_numpy_array(joined), isomorphic)


@pytest.mark.parametrize(
    "line",
    [
        "nodes=9 degree=4 girth>=5",
        "nodes=6 clique<=2 independence<=2",
        "nodes=9 clique<=3 independence<=2",
        "nodes=18 clique<=3 independence<=3",
        "nodes=8 planar edges>=19",
        "nodes=5 edges=5 bipartite hamiltonian",
        "nodes=10 triangles=0 chromatic>=4",  # Chvátal, 1974
        "nodes=5 clique<=3 chromatic>=4",
    ],
)
def test_what_does_not_exist_is_proved(line: str) -> None:
    rule = rule_of(Specification.parse(line))
    start, free = torch.zeros(rule.length, dtype=torch.int64), torch.zeros(rule.length, dtype=torch.bool)
    assert complete(rule, start, free).exhausted


def test_every_graph_has_the_order_that_breaks_symmetry() -> None:
    """Of the 64 graphs of 4 nodes, some numbering of each; and not many more than the 11 that differ."""
    solver = Solver(rule_of(Specification.parse("nodes=4 edges>=0")))
    solver.rule.normal_form(solver.root)
    ordered = [nx.from_numpy_array(joined) for joined in every_graph(4) if solver.may(joined)]
    assert 11 <= len(ordered) <= 14
    kinds = [nx.from_numpy_array(joined) for joined in every_graph(4)]
    assert all(any(nx.is_isomorphic(kind, each) for each in ordered) for kind in kinds)


@pytest.mark.parametrize("words", ["degree=3 girth>=99", "degree=9 girth>=9999", "degree=2 girth>=9999"])
def test_a_girth_for_which_there_are_never_enough_nodes_is_refuted_at_once(words: str) -> None:
    """The tree around a node has 3 times 2^48 nodes."""
    rule = rule_of(Specification.parse(f"nodes=10 {words}"))
    nothing = torch.zeros(rule.length, dtype=torch.bool)
    assert complete(rule, torch.zeros(rule.length, dtype=torch.int64), nothing, time_limit=60).exhausted


@pytest.mark.parametrize("words", ["contains=K30", "avoids=C64", "independence=24 degree=2"])
def test_a_judge_ends_with_the_time_limit(words: str) -> None:
    rings = nx.disjoint_union_all([nx.cycle_graph(5)] * 12) if "degree" in words else nx.random_regular_graph(31, 64, 0)
    wanted = Specification.parse(f"nodes={len(rings)} {words}")
    begun = time.monotonic()
    with pytest.raises(TimeIsUpError), time_limit(0.3):
        wanted.faults(nx.to_numpy_array(rings, dtype=bool))
    assert time.monotonic() - begun < 5


def test_known_pairs_are_kept_without_a_numbering() -> None:
    """Node 1 is joined to the last nodes, which no numbering of `normal_form` allows."""
    rule = rule_of(Specification.parse("nodes=10 degree=3 girth>=5"))
    pairs = [pair for [pair] in rule.coding.pairs]
    known = torch.tensor([column == 0 for _, column in pairs])
    answer = torch.tensor([int(column == 0 and row > 6) for row, column in pairs])
    ended = complete(rule, answer, known)
    assert ended.answer is not None and torch.equal(ended.answer[known], answer[known])


@given(lines(6))
@settings(fewer, max_examples=100)
def test_a_line_is_read_as_it_is_written(wanted: Specification) -> None:
    assert Specification.parse(wanted.text) == wanted and wanted.nearest.nodes == 6


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("degree=3", "no number of nodes in 'degree=3'"),
        ("nodes=1", "nodes=1; give one number from 2 to 64"),
        ("nodes=5..6", r"nodes=5\.\.6; give one number"),
        ("nodes=65", "nodes=65; give one number"),
        ("nodes=9 degree=3", "nodes=9 of degree=3: degrees add up to an odd number"),
        ("nodes=4 degree>=4", r"degree=4\.\. with nodes=4; use at most 3"),
        ("nodes=9 girth=five", "requirement 'girth=five'; give such as degree=3"),
        ("nodes=9 girth>=2..4", "requirement 'girth>=2..4'"),
        ("nodes=9 girth<=2", r"girth=\.\.2; give the smaller number first, the larger >= 3"),
        ("nodes=9 edges=5..3", r"edges=5\.\.3; give the smaller"),
        ("nodes=9 regular", "requirement 'regular'; known: nodes, degree, edges"),
        ("nodes=9 planar planar=no", "planar and planar=no; give one of them"),
        ("nodes=9 planar=maybe", "requirement 'planar=maybe'"),
        ("nodes=4 contains=K5", "contains=K5 has 5 nodes; there are 4"),
        ("nodes=4 contains=??!", r"no graph '\?\?!'; give K4"),
        ("nodes=4 avoids=C2,3", "no graph 'C2,3'"),
        ("nodes=4 avoids=", "requirement 'avoids='"),
    ],
)
def test_a_bad_line_is_refused_in_words(line: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        Specification.parse(line)
    assert "\n" not in str(raised.value)


def test_small_numbers_of_ramsey_and_names_of_graphs() -> None:
    assert [ramsey(3, k) for k in (2, 3, 4, 5)] == [3, 6, 9, 14] and ramsey(4, 4) == 18
    assert len(pattern("K3,3").edges) == 9 and nx.is_bipartite(pattern("K3,3").networkx)
    assert pattern("K4").graph6 == "C~" and pattern("C~") == pattern("K4") and len(pattern("P4").edges) == 3


def test_an_undecided_judge_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.graph.properties.complete", lambda *_: Completion(None))
    with pytest.raises(RuntimeError, match="coloring with 3 colors is undecided"):
        coloring(nx.to_numpy_array(nx.mycielski_graph(4)) > 0, 3)
