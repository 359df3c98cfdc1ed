"""Pictures of graphs: nodes apart, numbers legible, neighbours near, whatever the size and kind."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from constrained_dg.viz.pictures import figure, save
from tasks.graph import drawing
from tasks.graph.generate import make_graph
from tasks.graph.graph import Graph, random_graph
from tasks.graph.layout import layout

DRAWS = np.random.default_rng(0)
GRAPHS = {
    "one node": Graph.of(1, []),
    "lone nodes": Graph.of(30, []),
    "tree of 64": make_graph("tree", 64, DRAWS),
    "planar of 64": make_graph("planar", 64, DRAWS),
    "sparse of 100": random_graph(100, 0.02, DRAWS),
    "dense of 20": random_graph(20, 0.6, DRAWS),
    "dense of 60": random_graph(60, 0.5, DRAWS),
    "grid": Graph.of_any(nx.grid_2d_graph(6, 6)),
}


def crossings(graph: Graph, places: np.ndarray) -> int:
    def left(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) > 0

    count = 0
    for at, (a, b) in enumerate(graph.edges):
        for c, d in graph.edges[:at]:
            if len({a, b, c, d}) == 4:
                p, q, r, s = places[[a, b, c, d]]
                count += left(p, q, r) != left(p, q, s) and left(r, s, p) != left(r, s, q)
    return count


@pytest.mark.parametrize("name", GRAPHS)
def test_nodes_are_apart_within_the_square(name):
    graph, places = GRAPHS[name], layout(GRAPHS[name])
    assert np.array_equal(places, layout(graph)) and places.shape == (graph.nodes, 2)
    assert places.min() >= -1e-9 and places.max() <= 1 + 1e-9
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(graph.nodes)
    assert apart.min() > 0.1 / graph.nodes
    assert np.median(apart.min(1)) > 0.25 / graph.nodes**0.5


def test_trees_and_grids_are_drawn_without_crossings():
    for name in ("tree of 64", "grid"):
        assert crossings(GRAPHS[name], layout(GRAPHS[name])) == 0
    planar = GRAPHS["planar of 64"]
    one, other = np.array(planar.edges).T
    assert np.linalg.norm(layout(planar)[one] - layout(planar)[other], axis=1).mean() < 0.2


def test_every_node_is_named_and_the_figure_grows(tmp_path):
    drawn, axes = figure(len(GRAPHS), width=2.6)
    before = drawn.get_figwidth()
    for ax, graph in zip(axes, GRAPHS.values(), strict=True):
        drawing.plot_graph(ax, graph, [node % 5 for node in range(graph.nodes)], conflicts=graph.edges[:1])
        assert [text.get_text() for text in ax.texts] == [str(node + 1) for node in range(graph.nodes)]
        assert all(text.get_fontsize() >= 4 for text in ax.texts)
    assert before < drawn.get_figwidth() <= 36
    save(drawn, tmp_path / "some.png")
