"""Graphs to learn coloring from: random, geometric, with planted color classes, and boards of queens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from . import tabu
from .graph import Graph, random_graph

#: Moves after which a number of colors counts as out of reach while training graphs are made.
LABEL_MOVES = 3_000


def colored_graphs(
    generator: np.random.Generator, count: int, sizes: Sequence[tuple[int, int]], most_colors: int, held_out: bool
) -> Iterator[tuple[Graph, int, np.ndarray]]:
    """Graphs of one side of the split, each with the fewest colors that tabu search finds, and that coloring.

    Args:
        sizes: each (fewest, most) nodes, equally often.
        most_colors: graphs that need more are left out.
    """
    finished = 0
    while finished < count:
        fewest, most = sizes[finished % len(sizes)]
        graph = _KINDS[int(generator.integers(len(_KINDS)))](int(generator.integers(fewest, most + 1)), generator)
        if not fewest <= graph.nodes <= most or graph.held_out != held_out or not graph.edges:
            continue
        k, seed, colors = len(tabu.clique_of(graph)), int(generator.integers(2**62)), None
        while colors is None:
            colors = tabu.color(graph, k, LABEL_MOVES, seed)
            k += colors is None
        if k <= most_colors:
            finished += 1
            yield graph, k, colors


def _random(nodes: int, generator: np.random.Generator) -> Graph:
    return random_graph(nodes, generator.uniform(0.05, 0.95), generator)


def _geometric(nodes: int, generator: np.random.Generator) -> Graph:
    """Points in the unit square, joined where they are near."""
    points = generator.random((nodes, 2))
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    return Graph.of_adjacency(apart < generator.uniform(0.12, 0.5))


def _planted(nodes: int, generator: np.random.Generator) -> Graph:
    """Classes of nearly equal size, joined across at random: few colors are enough, but a greedy method needs more."""
    classes = generator.permutation(nodes) % int(generator.integers(3, max(4, nodes // 4)))
    across = classes[:, None] != classes
    return Graph.of_adjacency((generator.random((nodes, nodes)) < generator.uniform(0.2, 0.95)) & across)


def _queens(nodes: int, generator: np.random.Generator) -> Graph:
    """Squares of a board between which a queen moves; not of square boards, which are public test problems."""
    wide = int(generator.integers(3, 9))
    tall = nodes // wide
    tall += tall == wide
    row, column = np.divmod(np.arange(wide * tall), wide)
    same = [line[:, None] == line for line in (row, column, row + column, row - column)]
    return Graph.of_adjacency(np.logical_or.reduce(same))


_KINDS = (_random, _geometric, _planted, _queens)
