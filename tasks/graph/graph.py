"""Simple undirected graphs: nodes 0 .. n-1, edges, graph6, and what tells them apart up to isomorphism."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np

from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, IntTensor

#: One graph class in this many is kept for held-out problems.
RESERVED = 16


@dataclass(frozen=True)
class Graph:
    """A simple undirected graph. Make one with `of`, which checks.

    Attributes:
        nodes: n; they are called 0 .. n-1 here and 1 .. n in sentences and DIMACS files.
        edges: pairs (i, j) with i < j, sorted, each once.
    """

    nodes: int
    edges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, nodes: int, edges: Iterable[tuple[int, int]]) -> Graph:
        """A graph from edges in any order, repeated or not.

        Raises:
            InputError: an edge from a node to itself, or a node outside the range.
        """
        pairs = [(int(one), int(other)) for one, other in edges]
        check(nodes >= 1, f"a graph of {nodes} nodes", "give one node or more")
        for one, other in pairs:
            check(one != other, f"edge ({one}, {other}) joins a node to itself", "leave self-loops out")
            inside = min(one, other) >= 0 and max(one, other) < nodes
            check(inside, f"edge ({one}, {other}) names a node that is none", f"nodes run from 0 to {nodes - 1}")
        return cls(nodes, tuple(sorted({(min(pair), max(pair)) for pair in pairs})))

    @classmethod
    def of_adjacency(cls, joined: np.ndarray) -> Graph:
        """From a symmetric (n, n) matrix; its diagonal is not read."""
        one, other = np.triu(joined, 1).nonzero()
        return cls(len(joined), tuple(zip(one.tolist(), other.tolist(), strict=True)))

    @classmethod
    def from_graph6(cls, text: str) -> Graph:
        """One graph in graph6 (McKay), with or without the ">>graph6<<" header.

        Raises:
            InputError: what is no graph6.
        """
        hint = "graph6 is one line of the characters ? to ~, such as DQc"
        text = text.strip().removeprefix(">>graph6<<")
        # networkx would take signs below ? for numbers.
        check(bool(text) and all("?" <= sign <= "~" for sign in text), f"{text[:40]!r} is no graph6", hint)
        try:
            graph = nx.from_graph6_bytes(text.encode())
        except (nx.NetworkXError, ValueError, IndexError) as error:
            raise InputError(f"{text[:40]!r} is no graph6 ({error})", hint) from None
        check(len(graph) >= 1, f"{text[:40]!r} is a graph without nodes", hint)
        return cls.of(len(graph), graph.edges)

    @cached_property
    def graph6(self) -> str:
        """As one line of graph6 without a header."""
        return nx.to_graph6_bytes(self.networkx, header=False).decode().strip()

    @cached_property
    def networkx(self) -> nx.Graph:
        """The same as networkx has it, nodes in order."""
        graph = nx.empty_graph(self.nodes)
        graph.add_edges_from(self.edges)
        return graph

    @cached_property
    def adjacency(self) -> np.ndarray:
        """(n, n) bool."""
        joined = np.zeros((self.nodes, self.nodes), bool)
        if self.edges:
            one, other = np.array(self.edges).T
            joined[one, other] = joined[other, one] = True
        return joined

    @property
    def degrees(self) -> np.ndarray:
        """(n) int64."""
        return self.adjacency.sum(1)

    def permuted(self, order: np.ndarray) -> Graph:
        """The graph whose node i is the node order[i] of this one."""
        return Graph.of_adjacency(self.adjacency[np.ix_(order, order)])

    @cached_property
    def fingerprint(self) -> int:
        """Equal for isomorphic graphs: of each node the walks of 1 to 3 steps and the closed walks of 3 to 6, sorted.

        Different graphs may share one (all strongly regular ones of equal numbers do), so that a split by it keeps
        isomorphic graphs on one side, and who asks for equality compares those that share it.
        """
        one = self.adjacency.astype(np.float64)
        two = one @ one
        three = two @ one
        # Whole numbers below 2^53 up to 256 nodes, so floats hold them exactly and their order cannot matter.
        counted = [power.sum(1) for power in (one, two, three)]
        counted += [(left * right).sum(1) for left, right in ((two, one), (two, two), (two, three), (three, three))]
        rows = np.stack(counted, 1).astype(np.int64)
        data = rows[np.lexsort(rows.T)].astype("<i8").tobytes()
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1

    @property
    def held_out(self) -> bool:
        """Whether this graph's class belongs to held-out problems and never trains."""
        return self.fingerprint % RESERVED == 0


def reordered(relations: BoolTensor, places: IntTensor) -> BoolTensor:
    """Relations (B, R, N, N) whose position k is the position places[:, k] (B, N) of the ones given."""
    relations = relations.gather(2, places[:, None, :, None].expand_as(relations))
    return relations.gather(3, places[:, None, None].expand_as(relations))


def random_graph(nodes: int, density: float, generator: np.random.Generator) -> Graph:
    """Each pair joined with a probability of its own: G(n, p), Gilbert 1959."""
    return Graph.of_adjacency(generator.random((nodes, nodes)) < density)
