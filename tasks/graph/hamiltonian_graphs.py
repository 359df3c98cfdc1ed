"""Training graphs for Hamiltonian cycles: random ones near the density where half have one, and their cycles."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log

import numpy as np

from .graph import Graph
from .hamiltonian_search import best_cycles, shrink


def threshold(nodes: int) -> float:
    """Number of edges where random graphs become Hamiltonian: n (ln n + ln ln n) / 2 (Komlós and Szemerédi, 1983).

    For fewer than 3 nodes, the value for 3."""
    nodes = max(3, nodes)
    return nodes * (log(nodes) + log(log(nodes))) / 2


def of_short_steps(joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Hamiltonian cycle of each graph with the smallest sum of squared steps.

    The step from node i to node j is (j - i) mod n long, so the two directions of a cycle differ.

    Args:
        joined: (B, n, n) bool, n up to `EXACT`.

    Returns:
        (B, n) int64 successors, nodes from 0, and (B) bool, False where there is no cycle.
    """
    nodes = np.arange(joined.shape[1])
    steps = (nodes - nodes[:, None]) % len(nodes)
    cycles = np.zeros(joined.shape[:2], np.int64)
    exists = best_cycles(np.where(joined, -(steps.astype(float) ** 2), -np.inf), cycles)
    return cycles, exists


@dataclass(frozen=True)
class GraphPool:
    """Generated graphs of one size.

    Attributes:
        joined: (M, n, n) bool.
        fingerprints: (M) int64.
    """

    joined: np.ndarray
    fingerprints: np.ndarray


def generate_graphs(
    nodes: int, count: int, most: float, hamiltonian: bool, held_out: bool, generator: np.random.Generator
) -> GraphPool:
    """Random graphs G(n, m) (Erdős and Rényi 1959) that are Hamiltonian or not, on one side of the split.

    The number of edges is uniform from the threshold to `most` times that; graphs of that number are drawn until one
    fits. Planting a cycle would favour graphs with many cycles.
    """
    one, other = np.triu_indices(nodes, 1)
    low = ceil(threshold(nodes))
    edges = generator.integers(low, int(most * threshold(nodes)) + 1, count)
    pool = GraphPool(np.zeros((count, nodes, nodes), bool), np.zeros(count, np.int64))
    wanted = np.arange(count)
    while len(wanted):
        keys = generator.random((len(wanted), len(one)))
        joined = np.zeros((len(wanted), nodes, nodes), bool)
        joined[:, one, other] = joined[:, other, one] = keys.argsort(1).argsort(1) < edges[wanted, None]
        # Propagation, a hundred times as fast, excludes most graphs without a cycle.
        left = joined.copy()
        shrink(left)
        has_cycle = left.any((1, 2))
        has_cycle[has_cycle] = of_short_steps(joined[has_cycle])[1]
        fits = (has_cycle == hamiltonian).nonzero()[0]
        graphs = [Graph.of_adjacency(each) for each in joined[fits]]
        side = np.array([graph.held_out == held_out for graph in graphs], bool)
        pool.joined[wanted[fits[side]]] = joined[fits[side]]
        pool.fingerprints[wanted[fits[side]]] = np.array([graph.fingerprint for graph in graphs], np.int64)[side]
        wanted = np.delete(wanted, fits[side])
    return pool
