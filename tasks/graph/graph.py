"""Simple undirected graphs: nodes 0 .. n-1, edges, graph6, and a number that isomorphic graphs share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
import torch

from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, IntTensor

from . import graph6

#: Nodes that a graph from text may have by default: its matrix takes a megabyte.
MOST_NODES = 1024
#: One graph class in this many is kept for held-out problems.
RESERVED = 16


@dataclass(frozen=True)
class Graph:
    """A simple undirected graph. Make one with `of`, which checks.

    Attributes:
        nodes: n; numbered 0 .. n-1 here and 1 .. n in sentences and DIMACS files.
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
            check(inside, f"edge ({one}, {other}) is out of range", f"nodes run from 0 to {nodes - 1}")
        return cls(nodes, tuple(sorted({(min(pair), max(pair)) for pair in pairs})))

    @classmethod
    def of_adjacency(cls, joined: np.ndarray) -> Graph:
        """From a symmetric (n, n) matrix; its diagonal is not read."""
        one, other = np.triu(joined, 1).nonzero()
        return cls(len(joined), tuple(zip(one.tolist(), other.tolist(), strict=True)))

    @classmethod
    def from_graph6(cls, text: str, most: int = MOST_NODES) -> Graph:
        """One graph in graph6, sparse6 or digraph6, see `graph6.decode`.

        Raises:
            InputError: another text, a graph of more than `most` nodes, a directed one, or one with self-loops.
        """
        return cls.of(*graph6.decode(text, most))

    @classmethod
    def of_any(cls, value: object) -> Graph:
        """A graph from what Python users have: a Graph, a networkx graph, graph6, an adjacency matrix, or edges.

        Nodes are numbered from 0 in the order of their numbers, or of appearance where they are not numbers.

        Raises:
            InputError: another value, a directed graph, or one with self-loops.
        """
        if isinstance(value, Graph):
            return value
        if isinstance(value, str):
            return cls.from_graph6(value)
        if not isinstance(value, nx.Graph):
            try:
                array = isinstance(value, np.ndarray | torch.Tensor)
                if array and value.shape[0] == value.shape[1] != 2:
                    value = nx.from_numpy_array(np.asarray(value) != 0, create_using=nx.DiGraph)
                else:
                    value = nx.Graph(value.tolist() if array else list(value))
            except (TypeError, ValueError, IndexError, nx.NetworkXException):
                hint = "give a networkx graph, graph6, a square matrix, or a list of edges"
                raise InputError(f"{str(value)[:40]!r} cannot be read as a graph", hint) from None
        nodes = sorted(value) if all(isinstance(node, int | np.integer) for node in value) else list(value)
        one_way = value.is_directed() and any(not value.has_edge(b, a) for a, b in value.edges())
        check(not one_way, "a directed graph", "give every arc in both directions, or use to_undirected()")
        place = {node: at for at, node in enumerate(nodes)}
        return cls.of(len(nodes), [(place[one], place[other]) for one, other in value.edges()])

    @cached_property
    def graph6(self) -> str:
        """As one line of graph6 without a header."""
        return nx.to_graph6_bytes(self.networkx, header=False).decode().strip()

    @cached_property
    def networkx(self) -> nx.Graph:
        """As a networkx graph, nodes in order."""
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

        Different graphs may share one (all strongly regular ones of equal parameters do): use it to split graphs, and
        `isomorphism` to compare them.
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
    """Relations (B, R, N, N) whose position k is position places[:, k] (B, N) of the given ones."""
    relations = relations.gather(2, places[:, None, :, None].expand_as(relations))
    return relations.gather(3, places[:, None, None].expand_as(relations))


def random_graph(nodes: int, density: float, generator: np.random.Generator) -> Graph:
    """Each pair joined with this probability, independently: G(n, p), Gilbert 1959."""
    return Graph.of_adjacency(generator.random((nodes, nodes)) < density)
