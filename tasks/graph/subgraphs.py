"""Subgraphs that a graph must have or must not have, Hamiltonian cycles among them, and opposites, as requirements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, permutations
from math import perm
from typing import ClassVar

import networkx as nx
import numpy as np
import torch

from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.running import check_time

from .graph import Graph
from .hamiltonian_rule import HamiltonianCycle
from .properties import CUTS, STATED, Property, decided, off_diagonal, shown, state_part
from .requirements import Fault, Requirement, chosen, every_pair


class _Matcher(nx.isomorphism.GraphMatcher):
    """Ends with the time limit around it: some patterns take longer than anybody waits."""

    def semantic_feasibility(self, one: int, other: int) -> bool:
        check_time()
        return True


@dataclass(frozen=True)
class Contains(Requirement):
    """Some nodes and edges form this graph; other edges between the nodes do not matter."""

    pattern: Graph
    strength: ClassVar[str] = Property.strength

    def _found(self, joined: np.ndarray) -> Iterator[dict[int, int]]:
        return _Matcher(shown(joined), self.pattern.networkx).subgraph_monomorphisms_iter()

    def faults(self, joined: np.ndarray) -> list[Fault]:
        has = next(self._found(joined), None) is not None
        return [] if has else [(f"no subgraph {self.pattern.graph6}", every_pair(len(joined)))]

    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        pass

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        state_part(self.pattern.networkx, edges, into)
        return True


class Avoids(Contains):
    """No nodes and edges form this graph, other edges between the nodes or not."""

    def faults(self, joined: np.ndarray) -> list[Fault]:
        found = next(self._found(joined), None)
        if found is None:
            return []
        nodes = ", ".join(str(node + 1) for node in sorted(found))
        return [(f"a subgraph {self.pattern.graph6} at nodes {nodes}", every_pair(len(joined)))]

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        if perm(len(edges), self.pattern.nodes) > STATED:
            return False
        self._exclude(map(list, permutations(range(len(edges)), self.pattern.nodes)), edges, into)
        return True

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        found = islice(self._found(joined), CUTS)
        self._exclude(([at for at, _ in sorted(each.items(), key=lambda pair: pair[1])] for each in found), edges, into)

    def _exclude(self, places: Iterator[list[int]], edges: np.ndarray, into: Lowering) -> None:
        parts = (tuple(sorted(edges[at[one], at[other]] for one, other in self.pattern.edges)) for at in places)
        for part in dict.fromkeys(parts):
            into.clause([~edge for edge in part])


class HasCycle(Contains):
    """A Hamiltonian cycle; `pattern` is the cycle of as many nodes."""

    def faults(self, joined: np.ndarray) -> list[Fault]:
        return [] if cycle(joined) is not None else [("no Hamiltonian cycle", every_pair(len(joined)))]

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        nodes = len(edges)
        arcs = [(one, other, into.new_literal()) for one, other in permutations(range(nodes), 2)]
        for one, other, literal in arcs:
            into.clause([~literal, edges[one, other]])
        into.circuit(arcs) if nodes > 2 else into.clause([])
        return True


@dataclass(frozen=True)
class Opposite(Requirement):
    """Not connected, not planar, or without a Hamiltonian cycle.

    Attributes:
        of: what must not hold.
        sentence: of a graph for which it does.
    """

    of: Requirement
    sentence: str
    strength: ClassVar[str] = Property.strength

    def faults(self, joined: np.ndarray) -> list[Fault]:
        return [(self.sentence, every_pair(len(joined)))] if self.of.holds(joined) else []

    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        pass

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        return False

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        if isinstance(self.of, HasCycle):
            order = cycle(joined)
            into.clause([] if order is None else [~edges[pair] for pair in enumerate(order)])
        elif self.of.holds(np.zeros_like(joined)):  # planar: with fewer edges it stays so
            into.clause(chosen(edges, off_diagonal(~joined)))
        else:  # connected: a tree of the edges is enough
            into.clause([~edges[pair] for pair in nx.bfs_edges(shown(joined), 0)])


def cycle(joined: np.ndarray) -> np.ndarray | None:
    """(n) the successor of each node on a Hamiltonian cycle; None if there is none. Raises as `coloring`."""
    return decided(HamiltonianCycle(torch.from_numpy(joined)[None], 0, len(joined)), "a Hamiltonian cycle")
