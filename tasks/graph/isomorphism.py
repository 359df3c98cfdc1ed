"""Whether two graphs are isomorphic, exactly and within a bound: color refinement and individualisation.

Colors of nodes are refined by the colors of their neighbours until they are stable (1-dimensional Weisfeiler-Leman,
1968). Where nodes still share a color, one node of the first graph gets a new color, and each candidate in the second
is tried (McKay, 1981). Disconnected graphs and complements are compared component by component.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from constrained_dg.numba_jit import compiled

from .graph import Graph
from .walks import pieces

#: Refinements after which a comparison gives up: about a second at 64 nodes. EASY: enough for most comparisons.
BUDGET, EASY = 20_000, 500


@compiled
def _mixed(value):
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def refine(joined, colors):
    """(n) uint64, colors refined until their number stops growing, independent of the order of the nodes."""
    n, count = len(joined), 0
    while True:
        distinct = len(np.unique(colors))
        if distinct in (count, n):
            return colors
        count = distinct
        refined = np.empty_like(colors)
        for node in range(n):
            around = np.uint64(0)
            for other in range(n):
                if joined[node, other]:
                    around += _mixed(colors[other] ^ np.uint64(0x9E3779B97F4A7C15))
            refined[node] = _mixed(colors[node] * np.uint64(3) + _mixed(around))
        colors = refined


@compiled
def _pair_summaries(joined, colors):
    """(n) uint64, for each node a summary of the refined colors after it and any other node got new colors."""
    n = len(joined)
    summaries = np.empty(n, np.uint64)
    for node in range(n):
        marked = colors.copy()
        marked[node] = _mixed(marked[node] + np.uint64(1))
        marked = refine(joined, marked)
        summary = np.uint64(0)
        for other in range(n):
            both = marked.copy()
            both[other] = _mixed(both[other] + np.uint64(2))
            total = np.uint64(0)
            for color in refine(joined, both):
                total += _mixed(color)
            summary += _mixed(total)
        summaries[node] = summary
    return summaries


@lru_cache(maxsize=2**14)
def signature(graph: Graph) -> bytes:
    """Equal for isomorphic graphs, and different for most strongly regular ones that are not; n^2 refinements."""
    return np.sort(_pair_summaries(graph.adjacency, _start(graph.adjacency))).tobytes()


def isomorphic(one: Graph, other: Graph, budget: int = BUDGET) -> bool | None:
    """Whether two graphs are isomorphic; None if `budget` refinements do not decide it."""
    if one.nodes != other.nodes or len(one.edges) != len(other.edges):
        return False
    return _same(one.adjacency, other.adjacency, [budget])


def _start(joined: np.ndarray) -> np.ndarray:
    return refine(joined, np.ones(len(joined), np.uint64))


def _same(one: np.ndarray, other: np.ndarray, left: list[int]) -> bool | None:
    """`isomorphic` for adjacencies; `left` holds the remaining number of refinements."""
    for flipped in (False, True):
        both = [~joined & ~np.eye(len(joined), dtype=bool) if flipped else joined for joined in (one, other)]
        labels = [pieces(joined) for joined in both]
        counts = [sorted(np.bincount(label).tolist()) for label in labels]
        if counts[0] != counts[1]:
            return False
        if len(counts[0]) > 1:
            split = [
                [joined[np.ix_(label == piece, label == piece)] for piece in range(label.max() + 1)]
                for joined, label in zip(both, labels, strict=True)
            ]
            return _same_pieces(*split, left)
    return _match(one, other, _start(one), _start(other), left)


def _same_pieces(ones: list[np.ndarray], others: list[np.ndarray], left: list[int]) -> bool | None:
    """Whether the pieces can be paired; any isomorphic partner is right."""
    for one in ones:
        answers = []
        for at, other in enumerate(others):
            answers.append(_same(one, other, left) if len(one) == len(other) else False)
            if answers[-1]:
                del others[at]
                break
        else:
            return None if None in answers else False
    return True


def _match(
    one: np.ndarray, other: np.ndarray, colors: np.ndarray, candidates: np.ndarray, left: list[int]
) -> bool | None:
    """Whether an isomorphism keeps these refined colors."""
    names, counts = np.unique(colors, return_counts=True)
    if not np.array_equal(np.sort(colors), np.sort(candidates)):
        return False
    if counts.max() == 1:
        place, at = colors.argsort(), candidates.argsort()
        return bool((one[np.ix_(place, place)] == other[np.ix_(at, at)]).all())
    # The rarest color that several nodes share has the fewest candidates.
    shared = names[np.where(counts > 1, counts, len(one) + 1).argmin()]
    marked = _individualised(one, colors, int((colors == shared).argmax()))
    undecided = False
    for node in np.flatnonzero(candidates == shared):
        left[0] -= 1
        if left[0] < 0:
            return None
        answer = _match(one, other, marked, _individualised(other, candidates, int(node)), left)
        if answer:
            return True
        undecided |= answer is None
    return None if undecided else False


def _individualised(joined: np.ndarray, colors: np.ndarray, node: int) -> np.ndarray:
    marked = colors.copy()
    marked[node] ^= np.uint64(0xA5A5A5A5A5A5A5A5)
    return refine(joined, marked)


class Classes:
    """Graphs up to isomorphism. If a comparison gives up, the two graphs count as equal, so a new graph may be missed,
    but a known one is never called new."""

    def __init__(self, graphs: Iterable[Graph] = ()) -> None:
        self._known: dict[int, list[Graph]] = {}  # by fingerprint
        self._signed: dict[int, dict[bytes, list[Graph]]] = {}  # by fingerprint and signature, for slow comparisons
        for graph in graphs:
            self.add(graph)

    def __contains__(self, graph: Graph) -> bool:
        key = graph.fingerprint
        if key not in self._signed:
            answers = [isomorphic(graph, other, EASY) for other in self._known.get(key, ())]
            if None not in answers:
                return True in answers
            self._signed[key] = {}
            for other in self._known[key]:
                self._signed[key].setdefault(signature(other), []).append(other)
        alike = self._signed[key].get(signature(graph), ())
        return any(isomorphic(graph, other) is not False for other in alike)

    def add(self, graph: Graph) -> bool:
        """Whether it is isomorphic to none so far."""
        new = graph not in self
        if new:
            self._known.setdefault(graph.fingerprint, []).append(graph)
            if graph.fingerprint in self._signed:
                self._signed[graph.fingerprint].setdefault(signature(graph), []).append(graph)
        return new
