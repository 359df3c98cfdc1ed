"""Graphs, fingerprints, cliques and tabu search compared with networkx and slow versions."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import complete
from tasks.graph import tabu
from tasks.graph.coloring import FIRST_COLOR, VOCAB_SIZE
from tasks.graph.coloring_rule import ProperColoring
from tasks.graph.graph import Graph
from tests.property.examples import many


@st.composite
def graphs(draw, most=9):
    nodes = draw(st.integers(1, most))
    pairs = list(itertools.combinations(range(nodes), 2))
    return Graph.of(nodes, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else [])


@many
@given(graphs(), st.randoms(use_true_random=False))
def test_a_fingerprint_does_not_depend_on_the_order_of_the_nodes(graph, random):
    order = list(range(graph.nodes))
    random.shuffle(order)
    moved = graph.permuted(np.array(order))
    assert moved.fingerprint == graph.fingerprint and moved.held_out == graph.held_out
    assert nx.is_isomorphic(moved.networkx, graph.networkx)


@many
@given(graphs(6), graphs(6))
def test_few_different_small_graphs_share_a_fingerprint(one, other):
    """Up to six nodes none does: what tells them apart is enough there."""
    same = nx.is_isomorphic(one.networkx, other.networkx)
    assert (one.fingerprint == other.fingerprint) == same


@many
@given(graphs(20))
def test_graph6_is_that_of_networkx(graph):
    assert Graph.from_graph6(graph.graph6) == graph
    assert nx.utils.graphs_equal(nx.from_graph6_bytes(graph.graph6.encode()), graph.networkx)
    assert graph.degrees.tolist() == [degree for _, degree in graph.networkx.degree]


@many
@given(graphs())
def test_a_grown_clique_is_one_and_cannot_grow(graph):
    clique = tabu.clique_of(graph)
    assert clique and all(graph.adjacency[a, b] for a, b in itertools.combinations(clique, 2))
    assert not any(graph.adjacency[clique, node].all() for node in range(graph.nodes) if node not in clique)


@many
@given(graphs(), st.integers(1, 5), st.integers(0, 2**32), st.integers(0, 60))
def test_tabu_search_counts_its_conflicts_and_keeps_what_is_pinned(graph, k, seed, moves):
    generator = np.random.default_rng(seed)
    may = generator.random((graph.nodes, k)) < 0.7
    colors = generator.integers(k, size=graph.nodes)
    may[np.arange(graph.nodes), colors] = True
    before = sum(colors[a] == colors[b] for a, b in graph.edges)
    conflicts, made = tabu.repair(graph.adjacency, may, colors, moves, np.array([seed], np.uint64))
    assert conflicts == sum(colors[a] == colors[b] for a, b in graph.edges)
    assert may[np.arange(graph.nodes), colors].all()
    assert made == 0 if before == 0 else made <= moves
    assert conflicts == 0 or made == moves


@many
@given(graphs(7), st.integers(1, 4), st.integers(0, 2**32))
def test_the_completer_agrees_with_the_chromatic_number(graph, k, seed):
    """With the repair and without it: a coloring where there is one, else a proof."""
    edges = torch.tensor(graph.edges, dtype=torch.int64).reshape(-1, 2)
    real = torch.ones(1, graph.nodes, dtype=torch.bool)
    rule = ProperColoring(edges, (FIRST_COLOR, FIRST_COLOR + k), graph.nodes, VOCAB_SIZE, real=real)
    draft = torch.from_numpy(np.random.default_rng(seed).integers(k, size=graph.nodes)) + FIRST_COLOR
    found = complete(rule, draft, torch.zeros(graph.nodes, dtype=torch.bool))
    exists = any(
        all(colors[a] != colors[b] for a, b in graph.edges)
        for colors in itertools.product(range(k), repeat=graph.nodes)
    )
    assert (found.answer is not None) == exists and found.exhausted != exists
    if exists:
        held = found.answer.tolist()
        assert all(held[a] != held[b] for a, b in graph.edges)
