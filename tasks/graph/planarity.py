"""Planarity, whether a graph can be drawn without crossings: a test, a subgraph that fails it, and edges that keep it.

Adjacencies are symmetric (n, n) bool with a False diagonal.
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled

from .walks import pieces, walk


@compiled
def _root(above, parity, item):
    """The root of an item in a forest of equal and different, and whether the two differ."""
    differs = 0
    while above[item] != item:
        differs ^= parity[item]
        item = above[item]
    return item, differs


@compiled
def _bind(above, parity, one, other, differ):
    """State that two items are equal (0) or differ (1); False if that contradicts earlier statements."""
    first, of_first = _root(above, parity, one)
    second, of_second = _root(above, parity, other)
    if first == second:
        return of_first ^ of_second == differ
    above[second], parity[second] = first, of_first ^ of_second ^ differ
    return True


@compiled
def is_planar(joined):
    """Whether a graph can be drawn without crossings: the left-right criterion (de Fraysseix and Rosenstiehl 1982).

    A depth-first search leaves back edges. For two edges out of one node, the back edges from the first that return
    above the lowest return of the second are on one side, and the reverse on the other side. The graph is planar if and
    only if all back edges can be given sides in this way (Brandes, "The Left-Right Planarity Test", 2009, theorem 2).
    Quadratic, for the thousands of tests of a projection; networkx judges answers.
    """
    n = len(joined)
    edges = joined.sum() // 2
    if n < 5 or edges < 9:
        return True
    if edges > 3 * n - 6:
        return False
    order, height, parent, end = walk(joined)
    place, low = np.empty(n, np.int64), height.copy()
    place[order] = np.arange(n)
    # Back edges in the order of their sources, so that those from below a node are consecutive.
    to, first = np.empty(edges, np.int64), np.empty(n + 1, np.int64)
    count = 0
    for at in range(n):
        node, first[at] = order[at], count
        for other in range(n):
            if joined[node, other] and height[other] < height[node] and other != parent[node]:
                to[count] = height[other]
                count += 1
    first[n] = count
    for node in order[::-1]:
        for back in range(first[place[node]], first[place[node] + 1]):
            low[node] = min(low[node], to[back])
        if parent[node] >= 0:
            low[parent[node]] = min(low[parent[node]], low[node])
    above, parity = np.arange(count), np.zeros(count, np.int64)
    start, stop, lowest = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for node in order:
        out = 0
        for other in range(n):
            if joined[node, other] and parent[other] == node and low[other] < height[node]:
                start[out], stop[out], lowest[out] = first[place[other]], first[end[other]], low[other]
                out += 1
        for back in range(first[place[node]], first[place[node] + 1]):
            start[out], stop[out], lowest[out] = back, back + 1, to[back]
            out += 1
        for one in range(out):
            for two in range(one):
                left = right = -1
                for back in range(start[one], stop[one]):
                    if lowest[two] < to[back] < height[node]:
                        if left >= 0 and not _bind(above, parity, left, back, 0):
                            return False
                        left = back
                for back in range(start[two], stop[two]):
                    if lowest[one] < to[back] < height[node]:
                        if right >= 0 and not _bind(above, parity, right, back, 0):
                            return False
                        right = back
                if left >= 0 and right >= 0 and not _bind(above, parity, left, right, 1):
                    return False
    return True


@compiled
def kuratowski(joined):
    """A minimal subgraph that is not planar, of a graph that is not: a subdivision of K5 or K3,3."""
    left = joined.copy()
    n = len(joined)
    for one in range(n):
        for other in range(one):
            if left[one, other]:
                left[one, other] = left[other, one] = False
                if is_planar(left):
                    left[one, other] = left[other, one] = True
    return left


@compiled
def keeps_planar(joined):
    """(n, n) bool: the edges of a planar graph, and the pairs that can be added one at a time."""
    n = len(joined)
    may, tried = np.ones((n, n), np.bool_), joined.copy()
    label = pieces(joined)
    # A graph with fewer than three independent cycles stays planar: K3,3 has four, K5 six.
    if joined.sum() // 2 - n + label.max() + 1 < 3:
        return may
    for one in range(n):
        for other in range(one):
            if not joined[one, other] and label[one] == label[other]:
                tried[one, other] = tried[other, one] = True
                may[one, other] = may[other, one] = is_planar(tried)
                tried[one, other] = tried[other, one] = False
    return may
