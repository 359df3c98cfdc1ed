"""The requirements of families of graphs: faults, the pairs to blame, and the pairs still possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import networkx as nx
import numpy as np

from constrained_dg.constraints.lowering import FALSE, Lowering

from .graph import Graph
from .planarity import is_planar, keeps_planar, kuratowski
from .walks import bridges, pieces, sides

#: A fault of a graph: a sentence, and the pairs to blame, (n, n) bool, at least one.
Fault = tuple[str, np.ndarray]
#: Nodes up to which `Planar` rules out edges. Beyond, the tests would cost more than a pass of the model. Also, all
#: edges that may cause a crossing must be blamed (else knowing more would allow more): at 64 nodes, samplers that
#: re-noise violations would then lose nearly every edge.
_TESTED = 24


class Requirement(ABC):
    """Something that must hold of a graph.

    `tighten` works on two symmetric (n, n) bool matrices, `one` (the pair may be an edge) and `zero` (it may be absent;
    the diagonal is True). It is sound and monotone. In a contradiction both become False at the pairs to blame.
    """

    strength: str

    @abstractmethod
    def faults(self, joined: np.ndarray) -> list[Fault]:
        """The faults of a graph, (n, n) bool; empty if and only if the requirement holds."""

    def holds(self, joined: np.ndarray) -> bool:
        """Whether there is no fault; some requirements have a faster test."""
        return not self.faults(joined)

    @abstractmethod
    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        """Remove, in place, what no graph within the sets can have."""

    @abstractmethod
    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        """State what every graph that keeps the requirement fulfils; whether that is all of it, or `cut` is needed.

        Args:
            edges: (n, n) int64, symmetric, the literal of each pair; FALSE on the diagonal.
        """

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        """Exclude a graph that breaks the requirement, and none that keeps it. Default: this graph alone."""
        into.clause([*~chosen(edges, joined), *chosen(edges, ~joined)])


def chosen(edges: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The literals of these pairs (n, n) bool, each once."""
    return edges[np.triu(pairs, 1)]


def count_edges(edges: np.ndarray, pairs: np.ndarray, low: int, high: int, into: Lowering) -> None:
    """State that so many of these pairs (n, n) bool are edges, both bounds included."""
    some = chosen(edges, pairs)
    into.linear(np.ones_like(some), some, low, high)


def every_pair(nodes: int) -> np.ndarray:
    """(n, n) True but on the diagonal."""
    return ~np.eye(nodes, dtype=bool)


@dataclass(frozen=True)
class Connected(Requirement):
    """Every node can be reached from every other."""

    strength: ClassVar[str] = "the last pair that can join two components is an edge"

    def faults(self, joined: np.ndarray) -> list[Fault]:
        label = pieces(joined)
        if label.max() == 0:
            return []
        nodes = np.flatnonzero(label == 0)
        first = f"node{'s' * (len(nodes) > 1)} {_listed(nodes)}"
        return [(f"{label.max() + 1} pieces that nothing joins: {first} and the rest", label[:, None] != label)]

    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        label = pieces(one)
        zero[(label[:, None] != label) | bridges(one)] = False

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        nodes = len(edges)
        count_edges(edges, every_pair(nodes), nodes - 1, nodes**2, into)
        for around in edges if nodes > 1 else ():
            into.clause(around)
        return nodes < 4  # a clause for each part that nothing joins to the rest would be too many

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        label = pieces(joined)
        for piece in range(label.max() + 1):
            into.clause(edges[label == piece][:, label != piece].ravel())


@dataclass(frozen=True)
class Acyclic(Requirement):
    """No cycle."""

    strength: ClassVar[str] = "no edge between nodes that known edges already connect"

    def faults(self, joined: np.ndarray) -> list[Fault]:
        on_cycles = joined & ~bridges(joined)
        label = pieces(on_cycles)
        return [
            (f"a cycle among nodes {_listed(nodes)}", _within(on_cycles, nodes))
            for piece in range(label.max() + 1)
            if len(nodes := np.flatnonzero(label == piece)) > 1
        ]

    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        sure = ~zero
        label = pieces(sure)
        one[(label[:, None] == label) & ~bridges(sure)] = False

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        count_edges(edges, every_pair(len(edges)), 0, len(edges) - 1, into)
        return len(edges) < 3

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        on_cycles = joined & ~bridges(joined)
        label = pieces(on_cycles)
        for piece in range(label.max() + 1):
            nodes = np.flatnonzero(label == piece)
            if len(nodes) > 1:  # a forest among k nodes has k - 1 edges at most
                count_edges(edges, _within(every_pair(len(edges)), nodes), 0, len(nodes) - 1, into)


@dataclass(frozen=True)
class Planar(Requirement):
    """The graph can be drawn without crossings. The judge is networkx; the rest uses the test of `planarity`."""

    strength: ClassVar[str] = f"no edge that must cross known ones, up to {_TESTED} nodes; nothing beyond"

    def holds(self, joined: np.ndarray) -> bool:
        return nx.check_planarity(Graph.of_adjacency(joined).networkx)[0]

    def faults(self, joined: np.ndarray) -> list[Fault]:
        if self.holds(joined):
            return []
        part = kuratowski(joined)
        degrees = part.sum(0)
        hubs = np.flatnonzero(degrees > 2)
        kind = "K5" if len(hubs) == 5 else "K3,3"
        return [(f"edges that must cross: nodes {_listed(hubs)} are joined by paths as in {kind}", part)]

    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        if len(one) > _TESTED:
            return
        sure = ~zero
        if is_planar(sure):
            one &= keeps_planar(sure)
            return
        # With more known edges these parts grow and do not become planar.
        on_cycles = sure & ~bridges(sure)
        label = pieces(on_cycles)
        for piece in range(label.max() + 1):
            part = _within(on_cycles, np.flatnonzero(label == piece))
            if not is_planar(part):
                one[part] = False

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        if len(edges) > 2:
            count_edges(edges, every_pair(len(edges)), 0, 3 * len(edges) - 6, into)
        return len(edges) < 5

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        left = joined.copy()
        while not is_planar(left):
            part = kuratowski(left)
            into.clause(~chosen(edges, part))
            left &= ~part


@dataclass(frozen=True)
class Degrees(Requirement):
    """Each node has its number of neighbours."""

    degrees: tuple[int, ...]
    strength: ClassVar[str] = "a full node gets no more neighbours, a node that needs all remaining ones gets them"

    def faults(self, joined: np.ndarray) -> list[Fault]:
        faults = []
        for node, (has, wants) in enumerate(zip(joined.sum(0).tolist(), self.degrees, strict=True)):
            if has != wants:
                pairs = np.zeros_like(joined)
                pairs[node] = pairs[:, node] = True
                np.fill_diagonal(pairs, False)
                sentence = f"node {node + 1} has {has} neighbour{'s' * (has != 1)} instead of {wants}"
                faults.append((sentence, pairs & (joined if has > wants else ~joined)))
        return faults

    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        wants = np.array(self.degrees)
        while True:
            before = one.sum() + zero.sum()
            sure, maybe = (~zero).sum(0), one.sum(0)
            full, over, scarce, short = sure >= wants, sure > wants, maybe <= wants, maybe < wants
            one &= ~zero | ~(full[:, None] | full)
            one &= ~(over[:, None] | over)
            zero &= ~one | ~(scarce[:, None] | scarce)
            zero &= ~(short[:, None] | short)
            np.fill_diagonal(zero, True)
            if one.sum() + zero.sum() == before:
                return

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        if sum(self.degrees) % 2:
            into.clause([])  # every edge counts twice
        for around, wants in zip(edges, self.degrees, strict=True):
            into.linear(np.ones_like(around), around, wants, wants)
        return True


@dataclass(frozen=True)
class EdgeCount(Requirement):
    """A number of edges."""

    edges: int
    strength: ClassVar[str] = "no edge beyond the number, and all remaining pairs once they are all needed"

    def faults(self, joined: np.ndarray) -> list[Fault]:
        has = int(joined.sum()) // 2
        if has == self.edges:
            return []
        blamed = joined if has > self.edges else ~joined & ~np.eye(len(joined), dtype=bool)
        return [(f"{has} edges instead of {self.edges}", blamed)]

    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        sure, maybe = (~zero).sum() // 2, one.sum() // 2
        if sure >= self.edges:
            one &= ~zero if sure == self.edges else False
        if maybe <= self.edges:
            zero &= ~one if maybe == self.edges else False
            np.fill_diagonal(zero, True)

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        count_edges(edges, every_pair(len(edges)), self.edges, self.edges, into)
        return True


@dataclass(frozen=True)
class TwoSided(Requirement):
    """Edges join two sides of given sizes; used with `Connected`, which makes the sides unique."""

    sizes: tuple[int, int]
    strength: ClassVar[str] = "no edge between nodes that known edges put on one side"

    def faults(self, joined: np.ndarray) -> list[Fault]:
        color, proper = sides(joined)
        if not proper:
            odd = joined & (color[:, None] == color)
            one, other = np.argwhere(odd)[0]
            cycle = nx.shortest_path(Graph.of_adjacency(joined & ~odd).networkx, one, other)
            on_cycle = np.zeros_like(joined)
            ends = [*cycle[1:], cycle[0]]
            on_cycle[cycle, ends] = on_cycle[ends, cycle] = True
            return [(f"a cycle of odd length through nodes {_listed(cycle)}", on_cycle)]
        second = int(color.sum())
        if pieces(joined).max() > 0 or second in self.sizes:
            return []
        sentence = f"sides of {len(joined) - second} and {second} nodes instead of {self.sizes[0]} and {self.sizes[1]}"
        return [(sentence, ~np.eye(len(joined), dtype=bool))]

    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        sure = ~zero
        color, proper = sides(sure)
        label = pieces(sure)
        same = label[:, None] == label
        one[same & (color[:, None] == color)] = False
        if not proper:
            for piece in range(label.max() + 1):
                nodes = np.flatnonzero(label == piece)
                if (sure[np.ix_(nodes, nodes)] & (color[nodes, None] == color[nodes])).any():
                    one[np.ix_(nodes, nodes)] = False

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        side = two_sides(edges, into)
        first = into.new_literal()  # the side of node 1 has the first of the two sizes
        for holds, others in ((first, self.sizes[1]), (~first, self.sizes[0])):
            into.given(holds).linear([1] * len(side), side, others, others)
        return True


def two_sides(edges: np.ndarray, into: Lowering) -> list[int]:
    """State that edges join two sides; a literal for each node, true where it is not on the side of node 1."""
    side = [FALSE, *(into.new_literal() for _ in range(len(edges) - 1))]
    for one, other in zip(*np.triu_indices(len(edges), 1), strict=True):
        into.clause([~edges[one, other], side[one], side[other]])
        into.clause([~edges[one, other], ~side[one], ~side[other]])
    return side


def _listed(nodes: Sequence[int]) -> str:
    names = [str(int(node) + 1) for node in nodes]
    names = names if len(names) <= 12 else [*names[:12], "..."]
    return ", ".join(names)


def _within(joined: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(joined), bool)
    inside[nodes] = True
    return joined & inside[:, None] & inside
