"""Walks over a graph: components, depth-first search, bridges, two sides, breadth-first orders.

Adjacencies are symmetric (n, n) bool with a False diagonal.
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled


@compiled
def pieces(joined):
    """(n) int64: the number of each node's connected component, from 0 by their first nodes."""
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
    low, on_no_cycle = height.copy(), np.zeros((n, n), np.bool_)
    for node in order[::-1]:
        for other in range(n):
            if not joined[node, other]:
                continue
            if parent[other] == node:
                low[node] = min(low[node], low[other])
            elif other != parent[node]:
                low[node] = min(low[node], height[other])
        if parent[node] >= 0 and low[node] == height[node]:
            on_no_cycle[node, parent[node]] = on_no_cycle[parent[node], node] = True
    return on_no_cycle


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
def breadth_first(turns, start, first):
    """(n) an order of the nodes, breadth first; other components start at their first node.

    Args:
        turns: (n, d) int64, the neighbours of each node in cyclic order, then -1; visits begin after the node that led
            there.
        start: the first node.
        first: index of the first visited neighbour of the start.
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
