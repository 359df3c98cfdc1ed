"""The nearest graph of a family: compiled walks, a planarity test, and projectors from scores of pairs to graphs.

Adjacencies are symmetric (n, n) bool with a False diagonal; scores are symmetric (n, n) float64, -inf where no edge may
stand, and a projector looks for a graph of its family with the highest sum of scores.
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled

#: Rounds of degree-preserving switches after which a realisation is left as it is.
_ROUNDS = 1000


@compiled
def pieces(joined):
    """(n) int64: the number of each node's connected component, from 0 in the order of their first nodes."""
    n = len(joined)
    label, stack, count = np.full(n, -1), np.empty(n, np.int64), 0
    for start in range(n):
        if label[start] >= 0:
            continue
        label[start], stack[0], top = count, start, 1
        while top:
            top -= 1
            node = stack[top]
            for other in range(n):
                if joined[node, other] and label[other] < 0:
                    label[other], stack[top] = count, other
                    top += 1
        count += 1
    return label


@compiled
def walk(joined):
    """Depth-first search from every node in turn: order (n), and for each node height, parent (-1), end (n).

    The nodes below v, itself included, are order[place of v : end of v]; `end` counts places in `order`.
    """
    n = len(joined)
    order, height, parent, end = np.empty(n, np.int64), np.full(n, -1), np.full(n, -1), np.empty(n, np.int64)
    following, stack, seen = np.zeros(n, np.int64), np.empty(n, np.int64), 0
    for start in range(n):
        if height[start] >= 0:
            continue
        height[start], stack[0], top = 0, start, 1
        order[seen] = start
        seen += 1
        while top:
            node = stack[top - 1]
            other = following[node]
            while other < n and (not joined[node, other] or height[other] >= 0):
                other += 1
            following[node] = other
            if other == n:
                end[node] = seen
                top -= 1
                continue
            height[other], parent[other], order[seen], stack[top] = height[node] + 1, node, other, other
            seen += 1
            top += 1
    return order, height, parent, end


@compiled
def bridges(joined):
    """(n, n) bool, edges that lie on no cycle (Tarjan 1974)."""
    n = len(joined)
    order, height, parent, _ = walk(joined)
    low, found = height.copy(), np.zeros((n, n), np.bool_)
    for node in order[::-1]:
        for other in range(n):
            if not joined[node, other]:
                continue
            if parent[other] == node:
                low[node] = min(low[node], low[other])
            elif other != parent[node]:
                low[node] = min(low[node], height[other])
        if parent[node] >= 0 and low[node] == height[node]:
            found[node, parent[node]] = found[parent[node], node] = True
    return found


@compiled
def sides(joined):
    """Two-coloring of each component: colors (n) 0 or 1, the first node of each has 0; and whether it is proper."""
    order, _, parent, _ = walk(joined)
    color, proper = np.zeros(len(joined), np.int64), True
    for node in order:
        if parent[node] >= 0:
            color[node] = 1 - color[parent[node]]
    for node in order:
        for other in range(len(joined)):
            proper &= not (joined[node, other] and color[other] == color[node])
    return color, proper


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
    """State that two items are equal (0) or differ (1); whether that contradicts nothing said before."""
    first, of_first = _root(above, parity, one)
    second, of_second = _root(above, parity, other)
    if first == second:
        return of_first ^ of_second == differ
    above[second], parity[second] = first, of_first ^ of_second ^ differ
    return True


@compiled
def is_planar(joined):
    """Whether a graph can be drawn without crossings: the left-right criterion (de Fraysseix and Rosenstiehl 1982).

    A depth-first search leaves back edges. Of two edges out of one node, all that returns from the first above the
    lowest return of the second lies on one side, and the reverse on the other. The graph is planar exactly where the
    sides of all back edges can be chosen so (Brandes, "The Left-Right Planarity Test", 2009, theorem 2). Here they are
    bound pair by pair in a forest of equal and different: quadratic, and short. networkx judges answers; this one is
    for the thousands of tests of a projection.
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
    # Back edges in the order of their sources, so that those from below a node stand together.
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
    """Of a graph that is not planar, a part that is planar without any of its edges: a subdivision of K5 or K3,3."""
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
    """(n, n) bool: the pairs whose edge can be added, one alone, to a planar graph; its own edges too."""
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


@compiled
def spanning_tree(scores):
    """The spanning tree of the highest sum, or a forest where what may stand is not connected (Prim 1957)."""
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
    for low in range(n):  # of the k nodes whose degree is at least `low`; other k never fail alone
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
    """A graph of these graphical degrees, found from its scores and bettered by switches.

    The node with the fewest edges left to get takes its best partner with whom the rest stays graphical, until all have
    their edges; this never gets stuck (Blitzstein and Diaconis 2011). Then pairs of edges ab, cd become ac, bd where
    that raises the sum, until none does.
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
    """One round of switches that raise the sum, in place; whether there was any."""
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

    From the two sides of the best spanning tree, or the reverse; the cheapest node changes sides until the sizes fit,
    then nodes swap sides while that gains.
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
    """What the weight between the sides gains where a node changes its own."""
    gain = 0.0
    for other in range(len(weight)):
        gain += weight[node, other] if color[other] == color[node] else -weight[node, other]
    return gain


@compiled
def breadth_first(turns, start, first):
    """(n) an order of the nodes, breadth first; a further component starts at its first node.

    Args:
        turns: (n, d) int64, the neighbours of each node in the order in which they are visited, turning from the node
            that led there; -1 fills up.
        start: the first node.
        first: which of its neighbours comes first.
    """
    n = len(turns)
    order, seen, count = np.empty(n, np.int64), np.zeros(n, np.bool_), 0
    came = np.full(n, -1)
    came[start] = turns[start, first]
    for head in range(n):
        if head == count:
            while head and seen[start]:
                start = (start + 1) % n
            order[count], seen[start] = start, True
            count += 1
        node = order[head]
        degree = (turns[node] >= 0).sum()
        at = 0
        while at < degree and turns[node, at] != came[node]:
            at += 1
        for step in range(degree):
            other = turns[node, (at + step) % degree]
            if not seen[other]:
                seen[other], came[other], order[count] = True, node, other
                count += 1
    return order
