"""Search for Hamiltonian cycles: the best one by dynamic programming, any one by rotations, and propagation.

Dynamic programming over sets of visited nodes (Held and Karp, 1962; Bellman, 1962) is exact; its memory and time double
with each node.
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled, next_random

from .walks import walk

#: Nodes up to which `best_cycles` is used: 4 MB and milliseconds a graph.
EXACT = 16


@compiled
def best_cycles(scores, cycles):
    """The Hamiltonian cycle of the highest sum of scores in each row; ties depend on the row alone.

    A graph of 14 nodes and 30 edges takes 0.9 ms, the complete graph of 16 nodes 40 ms (one AMD EPYC core, busy).

    Args:
        scores: (B, n, n) float64, of a step from node i to node j; -inf where it is not allowed. 3 <= n <= EXACT.
        cycles: (B, n) int64, receives the successor of each node; unchanged where there is no cycle.

    Returns:
        (B) bool, whether there is a cycle.
    """
    rows, n, _ = scores.shape
    others = n - 1
    all_nodes = (1 << others) - 1
    best = np.empty((all_nodes + 1, others))
    before = np.empty((all_nodes + 1, others), np.int8)
    exists = np.zeros(rows, np.bool_)
    for row in range(rows):
        best[:] = -np.inf
        for node in range(others):
            best[1 << node, node] = scores[row, others, node]
        for visited in range(1, all_nodes + 1):
            for node in range(others):
                score = best[visited, node]
                if score == -np.inf:
                    continue
                for other in range(others):
                    if visited >> other & 1 == 0:
                        longer = score + scores[row, node, other]
                        if longer > best[visited | 1 << other, other]:
                            best[visited | 1 << other, other] = longer
                            before[visited | 1 << other, other] = node
        highest, last = -np.inf, -1
        for node in range(others):
            if best[all_nodes, node] + scores[row, node, others] > highest:
                highest, last = best[all_nodes, node] + scores[row, node, others], node
        if last < 0:
            continue
        exists[row] = True
        cycles[row, last] = others
        visited = all_nodes
        while visited != 1 << last:
            previous = before[visited, last]
            cycles[row, previous] = last
            visited ^= 1 << last
            last = previous
        cycles[row, others] = last
    return exists


@compiled
def shrink(may):
    """Remove successors that no Hamiltonian cycle can use, in place; a row without any cycle becomes False throughout.

    On (B, n, n) bool with n >= 3, to a fixed point: a decided successor belongs to one node; so does a decided
    predecessor; if a node has two edges left, in either direction, both are used; if two edges are used, no other is;
    used edges close no cycle before it has all nodes. Then all nodes need different successors (a matching), and the
    remaining edges must connect all nodes, also without any single one.
    """
    for sets in may:
        alive, changed = True, True
        while alive and changed:
            alive, changed = _sweep(sets)
        if not (alive and _assignable(sets) and _stays_connected(sets)):
            sets[:] = False


@compiled
def _sweep(may):
    """Each rule of `shrink` once, on (n, n) bool -> (a cycle is still possible, changed)."""
    n = len(may)
    before = may.sum()
    used = np.zeros((n, n), np.bool_)
    for node in range(n):
        may[node, node] = False
        if may[node].sum() == 1:
            after = may[node].argmax()
            may[:, after] = False
            may[node, after] = True
            may[after, node] = False
            used[node, after] = used[after, node] = True
        if may[:, node].sum() == 1:
            previous = may[:, node].argmax()
            may[previous] = False
            may[previous, node] = True
            may[node, previous] = False
            used[node, previous] = used[previous, node] = True
        if not (may[node].any() and may[:, node].any()):
            return False, True
    for node in range(n):
        edges = may[node] | may[:, node]
        if edges.sum() < 2:
            return False, True
        if edges.sum() == 2:
            for other in range(n):
                if edges[other]:
                    used[node, other] = used[other, node] = True
    for node in range(n):
        ends = used[node].sum()
        if ends > 2:
            return False, True
        if ends == 2:
            for other in range(n):
                if not used[node, other]:
                    may[node, other] = may[other, node] = False
    ends_at = used.sum(1)
    seen = np.zeros(n, np.bool_)
    for turn in range(2):  # paths, which have ends; then what is left is closed
        for start in range(n):
            if seen[start] or ends_at[start] != turn + 1:
                continue
            end, nodes, closed = _along(used, start, seen)
            if closed and nodes < n:
                return False, True
            if 2 < nodes < n:
                may[start, end] = may[end, start] = False
    return True, may.sum() != before


@compiled
def _along(used, start, seen):
    """Follow used edges, at most two at each node -> (last node, number of nodes, whether the path is closed)."""
    previous, at, nodes = -1, start, 1
    seen[start] = True
    while True:
        after = -1
        for other in range(len(used)):
            if used[at, other] and other != previous:
                after = other
        if after < 0 or after == start:
            return at, nodes, after == start
        previous, at, nodes = at, after, nodes + 1
        seen[at] = True


@compiled
def _assignable(may):
    """Whether all nodes can have different successors among (n, n), by augmenting paths (Kuhn, 1955)."""
    n = len(may)
    holder = np.full(n, -1)  # whose successor a node is
    successor = np.full(n, -1)
    queue = np.empty(n, np.int64)
    for node in range(n):
        reached_from = np.full(n, -1)
        queue[0], done, waiting, free = node, 0, 1, -1
        while done < waiting and free < 0:
            at = queue[done]
            done += 1
            for other in range(n):
                if may[at, other] and reached_from[other] < 0:
                    reached_from[other] = at
                    if holder[other] < 0:
                        free = other
                        break
                    queue[waiting] = holder[other]
                    waiting += 1
        if free < 0:
            return False
        while free >= 0:  # each node on the path takes the next one and releases its old one
            at = reached_from[free]
            holder[free] = at
            free, successor[at] = successor[at], free
    return True


@compiled
def _stays_connected(may):
    """Whether the edges left (n, n), in either direction, connect all nodes, also without any single one of them.

    No part below a child in a depth-first search may be joined to the rest through its parent alone (Tarjan, 1972).
    """
    edges = may | may.T
    order, height, parent, end = walk(edges)
    n = len(may)
    if end[order[0]] < n:
        return False
    low = height.copy()
    for node in order[::-1]:
        for other in range(n):
            if edges[node, other]:
                low[node] = min(low[node], low[other] if parent[other] == node else height[other])
    for at in range(1, n):
        node = order[at]
        above = parent[node]
        if height[above] > 0 and low[node] >= height[above]:
            return False
        if height[above] == 0 and end[node] < n:  # the root has another child
            return False
    return True


@compiled
def rotate(edges, most_moves, state):
    """A Hamiltonian cycle by extensions and rotations of a path (Posa, 1976); it proves nothing where it fails.

    The path goes on to the neighbour outside it that has the fewest other neighbours outside. Without any, an edge from
    its end to a random node of it turns the part behind that node around; now and then the whole path turns around.

    Args:
        edges: (n, n) bool, symmetric.
        most_moves: largest number of extensions and rotations; one takes time up to n.
        state: (1) uint64 of `next_random`.

    Returns:
        (n) int64 nodes in the order of visits, or none of them (0), and the number of moves.
    """
    n = len(edges)
    degree = edges.sum(1)
    around, path, place = np.zeros((n, n), np.int64), np.zeros(n, np.int64), np.full(n, -1)
    if degree.min() < 2:
        return path[:0], 0
    for node in range(n):
        around[node, : degree[node]] = np.flatnonzero(edges[node])
    place[0], size = 0, 1
    for move in range(most_moves):
        end = path[size - 1]
        best, ties, fewest = -1, 0, n
        for other in around[end, : degree[end]]:
            if place[other] < 0:
                free = 0
                for beyond in around[other, : degree[other]]:
                    free += place[beyond] < 0
                if free < fewest:
                    ties, fewest = 0, free
                if free == fewest:
                    ties += 1
                    if next_random(state) % ties == 0:
                        best = other
        if best >= 0:
            path[size], place[best] = best, size
            size += 1
            continue
        if size == n and edges[end, path[0]]:
            return path, move
        start = place[around[end, next_random(state) % degree[end]]] + 1
        if next_random(state) % 64 == 0:
            start = 0
        path[start:size] = path[start:size][::-1].copy()
        for at in range(start, size):
            place[path[at]] = at
    return path[:0], most_moves
