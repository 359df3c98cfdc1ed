"""Coloring by local search, and cliques: the repair of the completer, and colorings for training."""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled, next_random

from .graph import Graph

#: Moves that a color stays tabu: 0 to TENURE - 1 at random, plus a share of the conflicts (Galinier and Hao, 1999).
TENURE, SHARE = 10, 0.6
#: Nodes of highest degree from which a greedy clique is grown.
STARTS = 64


@compiled
def repair(joined, may, colors, most_moves, state):
    """Move conflicting nodes to other colors until none conflict: tabu search (Hertz and de Werra, 1987).

    Each move takes the node and color that leave the fewest conflicts, among nodes in conflict and allowed colors that
    are not tabu; ties are broken at random.

    Args:
        joined: (n, n) bool.
        may: (n, k) bool, the colors of each node.
        colors: (n) int64 in [0, k), allowed ones; changed in place.
        most_moves: largest number of moves.
        state: (1) uint64 of `next_random`.

    Returns:
        conflicting edges left, and the number of moves.
    """
    nodes, k = may.shape
    around = np.zeros((nodes, k), np.int64)  # neighbours of each color
    for one in range(nodes):
        for other in range(nodes):
            if joined[one, other]:
                around[one, colors[other]] += 1
    conflicts = 0
    for node in range(nodes):
        conflicts += around[node, colors[node]]
    conflicts //= 2
    fewest = conflicts
    free_again = np.zeros((nodes, k), np.int64)
    for move in range(most_moves):
        if conflicts == 0:
            return 0, move
        best, ties, at, to = nodes * nodes, 0, -1, -1
        for node in range(nodes):
            present = around[node, colors[node]]
            if present == 0:
                continue
            for color in range(k):
                if color == colors[node] or not may[node, color]:
                    continue
                change = around[node, color] - present
                if free_again[node, color] > move and conflicts + change >= fewest:
                    continue
                if change < best:
                    best, ties = change, 0
                if change == best:
                    ties += 1
                    if next_random(state) % ties == 0:
                        at, to = node, color
        if at < 0:  # everything is tabu: wait
            continue
        left = colors[at]
        for other in range(nodes):
            if joined[at, other]:
                around[other, left] -= 1
                around[other, to] += 1
        colors[at] = to
        conflicts += best
        fewest = min(fewest, conflicts)
        free_again[at, left] = move + int(SHARE * conflicts) + next_random(state) % TENURE
    return conflicts, most_moves


@compiled
def grow_clique(joined, starts):
    """(n) bool, the largest clique grown from the starts, always by the candidate with most neighbours among them."""
    nodes = len(joined)
    largest = np.zeros(nodes, np.bool_)
    size = 0
    for start in starts:
        left = joined[start].copy()
        clique = np.zeros(nodes, np.bool_)
        clique[start] = True
        count = 1
        while True:
            best, most = -1, -1
            for node in range(nodes):
                if left[node]:
                    shared = 0
                    for other in range(nodes):
                        if left[other] and joined[node, other]:
                            shared += 1
                    if shared > most:
                        best, most = node, shared
            if best < 0:
                break
            clique[best] = True
            count += 1
            left &= joined[best]
        if count > size:
            largest, size = clique, count
    return largest


def clique_of(graph: Graph) -> list[int]:
    """The nodes of a large clique, found greedily; in order."""
    starts = np.argsort(-graph.degrees, kind="stable")[:STARTS]
    return grow_clique(graph.adjacency, starts).nonzero()[0].tolist()


def color(graph: Graph, k: int, most_moves: int, seed: int) -> np.ndarray | None:
    """A coloring (n) int64 in [0, k) from random colors, or None if the moves were not enough."""
    state = np.array([seed], np.uint64)
    colors = np.array([next_random(state) % k for _ in range(graph.nodes)])
    conflicts, _ = repair(graph.adjacency, np.ones((graph.nodes, k), bool), colors, most_moves, state)
    return None if conflicts else colors
