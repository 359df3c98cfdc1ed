"""Isomorphism against networkx on small graphs, and on pairs that are hard to tell apart."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.graph.graph import Graph, random_graph
from tasks.graph.isomorphism import Classes, isomorphic, signature
from tests.property.examples import many


def shuffled(graph: Graph, seed: int = 1) -> Graph:
    return graph.permuted(np.random.default_rng(seed).permutation(graph.nodes))


def latin(table: np.ndarray) -> Graph:
    """Cells are joined in the same row, in the same column, or with the same symbol: strongly regular."""
    row, column = np.divmod(np.arange(table.size), len(table))
    same = [line[:, None] == line for line in (row, column, table.ravel())]
    return Graph.of_adjacency(np.logical_or.reduce(same))


def of_group(orders: tuple[int, ...]) -> np.ndarray:
    elements = list(itertools.product(*map(range, orders)))
    sums = [[tuple((np.add(a, b) % orders).tolist()) for b in elements] for a in elements]
    return np.array([[elements.index(each) for each in row] for row in sums])


def switched(order: int, seed: int) -> np.ndarray:
    """A Latin square far from its group: cycles of two rows changed places."""
    draws, table = np.random.default_rng(seed), of_group((order,))
    for _ in range(200):
        one, other = draws.choice(order, 2, replace=False)
        cycle = [int(draws.integers(order))]
        while (after := int(np.flatnonzero(table[one] == table[other, cycle[-1]])[0])) != cycle[0]:
            cycle.append(after)
        table[np.ix_([one, other], cycle)] = table[np.ix_([other, one], cycle)]
    return table


def cai_furer_immerman(base: nx.Graph, twisted: bool) -> Graph:
    """Two graphs for a base that color refinement, also of tuples up to a size, does not tell apart (1992)."""
    graph = nx.Graph()
    for node in base:
        edges = [frozenset((node, other)) for other in base[node]]
        for size in range(0, len(edges) + 1, 2):
            for chosen in itertools.combinations(edges, size):
                graph.add_edges_from(((node, chosen), (node, edge, edge in chosen)) for edge in edges)
    for at, (one, other) in enumerate(base.edges):
        edge = frozenset((one, other))
        graph.add_edges_from(((one, edge, bit), (other, edge, bit ^ (twisted and at == 0))) for bit in (False, True))
    return Graph.of_any(nx.convert_node_labels_to_integers(graph))


def cycles(*lengths: int) -> Graph:
    return Graph.of_any(nx.disjoint_union_all([nx.cycle_graph(length) for length in lengths]))


STEPS = ((1, 0), (0, 1), (1, 1))
SHRIKHANDE = Graph.of_any(
    [(4 * x + y, 4 * ((x + a) % 4) + (y + b) % 4) for x in range(4) for y in range(4) for a, b in STEPS]
)
HARD = {
    "rook and Shrikhande": (Graph.of_any(nx.line_graph(nx.complete_bipartite_graph(4, 4)).edges), SHRIKHANDE),
    "Z8 and Z2 x Z4": (latin(of_group((8,))), latin(of_group((2, 4)))),
    "Z2 x Z4 and Z2^3": (latin(of_group((2, 4))), latin(of_group((2, 2, 2)))),
    "Latin squares of 6": (latin(switched(6, 0)), latin(switched(6, 1))),
    "Latin squares of 8": (latin(switched(8, 0)), latin(switched(8, 1))),
    "twisted K4": tuple(cai_furer_immerman(nx.complete_graph(4), twisted) for twisted in (False, True)),
    "twisted K3,3": tuple(cai_furer_immerman(nx.complete_bipartite_graph(3, 3), twisted) for twisted in (False, True)),
    "cycles": (cycles(9, 7, 9, 7, 9, 7, 9, 7), cycles(*[8] * 8)),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_pairs_are_told_apart(name):
    one, other = HARD[name]
    assert sorted(one.degrees) == sorted(other.degrees) and isomorphic(one, other) is False
    for graph in (one, other):
        again = shuffled(graph)
        assert isomorphic(graph, again) is True and signature(graph) == signature(again)
        complement = [Graph.of_adjacency(~each.adjacency & ~np.eye(each.nodes, dtype=bool)) for each in (graph, again)]
        assert isomorphic(*complement) is True
    # The same many times over, and in one set.
    assert isomorphic(
        Graph.of_any(nx.disjoint_union_all([one.networkx] * 3)),
        Graph.of_any(nx.disjoint_union_all([shuffled(one, seed).networkx for seed in range(3)])),
    )
    classes = Classes([one])
    assert shuffled(one, 2) in classes and classes.add(other) and not classes.add(shuffled(other, 2))


def test_many_strongly_regular_graphs_are_counted():
    """Each is met twice, in another order: as many classes as there are."""
    graphs = [latin(switched(6, seed)) for seed in range(5)]
    classes = Classes()
    new = [graph for graph in graphs if classes.add(graph)]
    assert all(not isomorphic(*pair) for pair in itertools.combinations(new, 2))
    assert not any(classes.add(shuffled(graph, 3)) for graph in graphs)


def test_what_is_given_up_counts_as_known(monkeypatch):
    one, other = HARD["Latin squares of 8"]
    assert isomorphic(one, other, 3) is None
    monkeypatch.setattr("tasks.graph.isomorphism.isomorphic", lambda *_: None)
    monkeypatch.setattr("tasks.graph.isomorphism.signature", lambda graph: b"")
    assert other in Classes([one]) and not Classes([one]).add(other)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5])
def test_all_small_graphs_fall_into_as_many_classes_as_there_are(nodes):
    """The number of graphs up to isomorphism: OEIS A000088."""
    pairs = list(itertools.combinations(range(nodes), 2))
    classes = Classes()
    chosen = [edges for size in range(len(pairs) + 1) for edges in itertools.combinations(pairs, size)]
    found = sum(classes.add(Graph(nodes, edges)) for edges in chosen)
    assert found == [1, 2, 4, 11, 34][nodes - 1]


@many
@given(st.integers(1, 8), st.floats(0, 1), st.integers(0, 2**32), st.integers(0, 3))
def test_it_is_networkx(nodes, density, seed, changes):
    draws = np.random.default_rng(seed)
    one = random_graph(nodes, density, draws)
    joined = shuffled(one, seed).adjacency.copy()
    for _ in range(changes if nodes > 1 else 0):  # pairs of edges change places, or a pair changes
        a, b = draws.choice(nodes, 2, replace=False)
        joined[a, b] = joined[b, a] = not joined[a, b]
    other = Graph.of_adjacency(joined)
    assert isomorphic(one, other) is nx.is_isomorphic(one.networkx, other.networkx)
