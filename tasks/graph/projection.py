"""Projections: from scores of pairs to a graph of a family with a high sum of scores.

Adjacencies are symmetric (n, n) bool with a False diagonal. Scores are symmetric (n, n) float64, -inf where no edge is
allowed.
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled

from .planarity import is_planar
from .walks import sides

#: Most rounds of degree-preserving switches.
_ROUNDS = 1000


@compiled
def spanning_tree(scores):
    """The spanning tree of the highest sum, or a forest where the allowed edges are not connected (Prim 1957)."""
    n = len(scores)
    joined, inside = np.zeros((n, n), np.bool_), np.zeros(n, np.bool_)
    best, source = np.full(n, -np.inf), np.full(n, -1)
    for _ in range(n):
        node = -1
        for other in range(n):
            if not inside[other] and (node < 0 or best[other] > best[node]):
                node = other
        inside[node] = True
        if best[node] > -np.inf:
            joined[node, source[node]] = joined[source[node], node] = True
        for other in range(n):
            if not inside[other] and scores[node, other] > best[other]:
                best[other], source[other] = scores[node, other], node
    return joined


@compiled
def _fill(joined, scores, order, wanted, planar):
    n, count = len(joined), joined.sum() // 2
    for flat in order:
        one, other = flat // n, flat % n
        if count >= wanted or scores[one, other] == -np.inf:
            break
        if one < other and not joined[one, other]:
            joined[one, other] = joined[other, one] = True
            if planar and not is_planar(joined):
                joined[one, other] = joined[other, one] = False
            else:
                count += 1


def fill(joined: np.ndarray, scores: np.ndarray, wanted: int, planar: bool) -> np.ndarray:
    """Add the edges of the highest scores until there are `wanted`; where `planar`, refuse those that cross."""
    joined = joined.copy()
    _fill(joined, scores, np.argsort(-scores, axis=None, kind="stable"), wanted, planar)
    return joined


@compiled
def is_graphical(degrees):
    """Whether some graph has these degrees, in any order (Erdos and Gallai 1960)."""
    n, total = len(degrees), 0
    count = np.zeros(n, np.int64)  # how many nodes have each degree
    for degree in degrees:
        if degree < 0 or degree >= n:
            return False
        count[degree] += 1
        total += degree
    if total % 2:
        return False
    for low in range(n):  # k nodes have a degree of at least `low`; it is enough to test these k
        k = first = others = 0
        for degree in range(n):
            if degree >= low:
                k, first = k + count[degree], first + degree * count[degree]
        for degree in range(low):
            others += min(degree, k) * count[degree]
        if first > k * (k - 1) + others:
            return False
    return True


@compiled
def of_degrees(degrees, scores):
    """A graph of these graphical degrees with a high sum of scores.

    The node with the fewest missing edges takes its best partner that keeps the rest graphical, until no edge is
    missing; this always succeeds (Blitzstein and Diaconis 2011). Then pairs of edges ab, cd become ac, bd as long as
    that raises the sum.
    """
    n = len(degrees)
    left, joined = degrees.copy(), np.zeros((n, n), np.bool_)
    while left.max() > 0:
        node = -1
        for other in range(n):
            if left[other] > 0 and (node < 0 or left[other] < left[node]):
                node = other
        while left[node] > 0:
            partner = -1
            for other in range(n):
                if other == node or joined[node, other] or left[other] == 0:
                    continue
                if partner >= 0 and scores[node, other] <= scores[node, partner]:
                    continue
                left[node] -= 1
                left[other] -= 1
                if is_graphical(left):
                    partner = other
                left[node] += 1
                left[other] += 1
            joined[node, partner] = joined[partner, node] = True
            left[node] -= 1
            left[partner] -= 1
    finite = np.maximum(scores, -1e9)
    for _ in range(_ROUNDS):
        if not _switch(joined, finite):
            break
    return joined


@compiled
def _switch(joined, scores):
    """One round of switches that raise the sum, in place; True if there was any."""
    n = len(joined)
    changed = False
    for a in range(n):
        for b in range(n):
            for c in range(n):
                if not joined[a, b] or joined[a, c] or a == c:
                    continue
                best, at = 1e-9, -1
                for d in range(n):
                    if joined[c, d] and d != a and d != b and c != b and not joined[b, d]:
                        gain = scores[a, c] + scores[b, d] - scores[a, b] - scores[c, d]
                        if gain > best:
                            best, at = gain, d
                if at >= 0:
                    joined[a, b] = joined[b, a] = joined[c, at] = joined[at, c] = False
                    joined[a, c] = joined[c, a] = joined[b, at] = joined[at, b] = True
                    changed = True
    return changed


@compiled
def two_sides(scores, size):
    """Colors (n) with `size` nodes of color 1, so that pairs of positive score join different colors.

    Starts from the two sides of the best spanning tree; the cheapest node changes sides until the sizes fit, then nodes
    swap sides as long as that helps.
    """
    n = len(scores)
    weight = np.maximum(np.minimum(scores, 1e9), 0.0)
    color, _ = sides(spanning_tree(scores))
    if abs(color.sum() - size) > abs(n - color.sum() - size):
        color = 1 - color
    while color.sum() != size:
        surplus = 1 if color.sum() > size else 0
        best, at = -np.inf, -1
        for node in range(n):
            if color[node] == surplus:
                gain = _gain(weight, color, node)
                if gain > best:
                    best, at = gain, node
        color[at] = 1 - surplus
    improved = True
    while improved:
        improved = False
        for one in range(n):
            for other in range(one):
                if color[one] != color[other]:
                    gain = _gain(weight, color, one) + _gain(weight, color, other) + 2 * weight[one, other]
                    if gain > 1e-9:
                        color[one], color[other] = color[other], color[one]
                        improved = True
    return color


@compiled
def _gain(weight, color, node):
    """Weight gained between the sides when a node changes sides."""
    gain = 0.0
    for other in range(len(weight)):
        gain += weight[node, other] if color[other] == color[node] else -weight[node, other]
    return gain
