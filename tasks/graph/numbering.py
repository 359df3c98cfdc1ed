"""A numbering of the nodes that every graph has, where the requirements name no node: it breaks symmetry."""

from __future__ import annotations

from math import inf

import numpy as np

from constrained_dg.constraints.lowering import FALSE, TRUE, Lowering

from .properties import Girth

#: Nodes up to which every two are compared; beyond, each with the next.
MOST_COMPARED = 24


def state_numbering(degree: int | None, girth: int, edges: np.ndarray, into: Lowering) -> None:
    """State a numbering of a graph of this girth, at least, in which all nodes have this degree (None: any).

    Around one node, or around one edge where the girth is even, all nodes up to half the girth are different, so that
    they form a tree (the bound of Moore, by Hoffman and Singleton, 1960); it has the first numbers, breadth first.
    Where degrees differ, the rows of the table of neighbours fall from node to node, without the two nodes that are
    compared: so do those of the numbering whose table, read row by row, comes last (Codish and others, 2013).

    Args:
        edges: (n, n) int64 literals.
    """
    if degree is None or degree < 2:
        _state_order(edges, into)
        return
    # 1. The tree: its nodes level by level, each after its parent.
    level, tree, nodes = ([0], [], 1) if girth % 2 else ([0, 1], [(0, 1)], 2)
    inner = list(level)
    for depth in range((girth - 1) // 2):
        below = []
        for parent in level:
            children = degree - (girth % 2 == 0 or depth > 0)
            below += (added := range(nodes, nodes + children))
            tree += [(parent, child) for child in added]
            nodes += children
            if nodes > len(edges):  # asked at once: each level is many times as large as the one before
                into.clause([])
                return
        inner += below
        level = below
    if nodes > len(edges):
        into.clause([])
        return
    # 2. All nodes but the leaves have all their neighbours.
    fixed = edges.copy()
    for parent in inner[: len(inner) - len(level)]:
        fixed[parent] = fixed[:, parent] = FALSE
    for pair in tree:
        fixed[pair] = fixed[pair[::-1]] = TRUE
    into.all_of(edges[(fixed == TRUE) & (edges != TRUE)])
    into.all_of(~edges[(fixed == FALSE) & (edges != FALSE)])
    # 3. What is left is small, so that more of the short cycles can be stated.
    Girth(girth, inf).lower(fixed, into)


def _state_order(edges: np.ndarray, into: Lowering) -> None:
    nodes = len(edges)
    for one in range(nodes):
        for other in range(one + 1, nodes if nodes <= MOST_COMPARED else min(one + 2, nodes)):
            equal = TRUE  # a literal that is true where the rows are equal so far
            for at in range(nodes):
                if at not in (one, other):
                    left, right = edges[one, at], edges[other, at]
                    into.clause([~equal, left, ~right])
                    still = into.new_literal()
                    into.clause([~equal, left, still])
                    into.clause([~equal, ~right, still])
                    # Both ways: else the solver gives one graph many times, with other values of this literal.
                    into.clause([~still, equal])
                    into.clause([~still, ~left, right])
                    equal = still
