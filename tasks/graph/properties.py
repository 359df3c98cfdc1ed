"""Numbers of a graph that a mathematician bounds, as requirements: girth, diameter, chromatic number and others.

networkx judges them (Hagberg, Schult and Swart, 2008), but the solver decides whether a graph can be colored. What is
too large to state at once is learned from graphs that the judge refuses: see `Requirement.cut`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice, permutations
from math import comb, inf
from typing import Any, ClassVar

import networkx as nx
import numpy as np
import torch

from constrained_dg.constraints import Constraint, DifferentAcross, complete
from constrained_dg.constraints.lowering import FALSE, TRUE, Lowering
from constrained_dg.constraints.running import check_time

from .graph import Graph
from .requirements import Fault, Requirement, chosen, count_edges, every_pair

#: Clauses of a requirement that are stated before any graph is judged; beyond, cuts state what is needed.
STATED = 40_000
#: Cuts after one refused graph.
CUTS = 100


@dataclass(frozen=True)
class Property(Requirement):
    """A number of a graph that lies between bounds, both included; `high` may be infinite.

    Attributes:
        low, high: whole numbers.
    """

    low: float
    high: float
    name: ClassVar[str]
    strength: ClassVar[str] = "nothing before the whole graph is known"

    def value(self, joined: np.ndarray) -> float:
        """The number, of a graph (n, n) bool."""
        raise NotImplementedError

    def faults(self, joined: np.ndarray) -> list[Fault]:
        value = self.value(joined)
        if self.low <= value <= self.high:
            return []
        bound = f"at least {self.low}" if value < self.low else f"at most {self.high}"
        return [(f"{self.name} is {value} instead of {bound}", every_pair(len(joined)))]

    def tighten(self, one: np.ndarray, zero: np.ndarray) -> None:
        pass


class DegreeRange(Property):
    """The neighbours of each node."""

    name = "the number of neighbours"

    def faults(self, joined: np.ndarray) -> list[Fault]:
        odd = [at for at, degree in enumerate(joined.sum(0)) if not self.low <= degree <= self.high]
        pairs = np.zeros_like(joined)
        pairs[odd] = pairs[:, odd] = True
        words = [f"node {at + 1} has {joined[at].sum()} neighbours, not {self.low} to {self.high}" for at in odd[:1]]
        return [(sentence, off_diagonal(pairs)) for sentence in words]

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        if self.low > self.high:
            into.clause([])
        for around in edges:
            into.linear(np.ones_like(around), around, int(self.low), int(min(self.high, len(edges))))
        return True


class EdgeRange(Property):
    name = "the number of edges"

    def value(self, joined: np.ndarray) -> float:
        return int(joined.sum()) // 2

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        count_edges(edges, every_pair(len(edges)), int(self.low), int(min(self.high, edges.size)), into)
        return True


class Triangles(Property):
    name = "the number of triangles"

    def value(self, joined: np.ndarray) -> float:
        return int(np.trace(np.linalg.matrix_power(joined.astype(np.int64), 3))) // 6

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        found = []
        for one, two, three in combinations(range(len(edges)), 3):
            sides = [edges[one, two], edges[two, three], edges[one, three]]
            if self.high > 0:
                found.append(all_three := into.new_literal())
                for side in sides:
                    into.clause([~all_three, side])
                into.clause([all_three, *(~side for side in sides)])
            else:
                into.clause([~side for side in sides])
        into.linear([1] * len(found), found, int(self.low), int(min(self.high, len(found))))
        return True


class Girth(Property):
    """The length of the shortest cycle; infinite without one."""

    name = "the girth"

    def value(self, joined: np.ndarray) -> float:
        girth = nx.girth(shown(joined))
        return girth if girth == inf else int(girth)

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        if self.high < inf:
            some = [into.new_literal() for _ in range(max(3, int(self.low)), int(min(self.high, len(edges))) + 1)]
            into.clause(some)
            for holds, length in zip(some, range(max(3, int(self.low)), len(edges) + 1), strict=False):
                state_part(nx.cycle_graph(length), edges, into.given(holds))
        short = list(islice(_cycles(edges, int(min(self.low, len(edges) + 1)) - 1), STATED))
        for cycle in short:
            into.clause([~edges[pair] for pair in cycle])
        return len(short) < STATED

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        bound = int(min(self.low, len(joined) + 1)) - 1
        for nodes in islice(nx.simple_cycles(shown(joined), length_bound=bound), CUTS):
            into.clause([~edges[pair] for pair in zip(nodes, [*nodes[1:], nodes[0]], strict=True)])


class Diameter(Property):
    """The largest distance of two nodes; infinite where some are not connected."""

    name = "the diameter"

    def value(self, joined: np.ndarray) -> float:
        return nx.diameter(shown(joined)) if nx.is_connected(shown(joined)) else inf

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        nodes = len(edges)
        if self.high == inf:
            return False
        if self.high < 1 or nodes**3 * (self.high - 1) > 10 * STATED:
            return False
        near = edges.copy()  # a literal that implies a path of at most this many steps
        np.fill_diagonal(near, TRUE)
        for steps in range(2, int(self.high) + 1):
            nearer, near = near, np.full_like(near, TRUE)
            for one, other in zip(*np.triu_indices(nodes, 1), strict=True):
                ways = [_both(nearer[one, via], edges[via, other], into) for via in range(nodes)]
                ways.append(nearer[one, other])
                if TRUE not in ways and steps < self.high:
                    near[one, other] = near[other, one] = reached = into.new_literal()
                    into.clause([~reached, *ways])
                elif steps == self.high:
                    into.clause(ways)
        if self.high == 1:
            into.all_of(chosen(edges, every_pair(nodes)))
        return self.low <= 1 and nodes > 1

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        if self.value(joined) < self.low:  # more edges bring nodes nearer: one of these has to go
            into.clause(~chosen(edges, joined))
            return
        for node in range(len(joined)):
            # A path of at most `high` steps to a node beyond takes a step that skips a distance: a new edge.
            steps = nx.single_source_shortest_path_length(shown(joined), node)
            far = np.array([min(steps.get(at, inf), self.high + 1) for at in range(len(joined))])
            if far.max() > self.high:
                into.clause(chosen(edges, abs(far[:, None] - far) >= 2))


class _CliqueSearch(nx.algorithms.clique.MaxWeightClique):
    """Ends with the time limit around it: rings of five nodes, for one, take longer than anybody waits."""

    def expand(self, *state: Any) -> None:
        check_time()
        super().expand(*state)


class Clique(Property):
    """The most nodes of which all pairs are joined."""

    name = "the largest clique"

    def _edges(self, edges: np.ndarray) -> np.ndarray:
        return edges

    def _nodes(self, joined: np.ndarray) -> list[int]:
        search = _CliqueSearch(shown(joined), None)
        search.find_max_weight_clique()
        return search.incumbent_nodes

    def value(self, joined: np.ndarray) -> float:
        return len(self._nodes(joined))

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        edges, nodes = self._edges(edges), len(edges)
        if self.low > 1:
            inside = [into.new_literal() for _ in range(nodes)]
            into.linear([1] * nodes, inside, int(self.low), nodes)
            for one, other in combinations(range(nodes), 2):
                into.clause([~inside[one], ~inside[other], edges[one, other]])
        if self.high >= nodes:
            return True
        if comb(nodes, int(self.high) + 1) > STATED:
            return False
        for some in combinations(range(nodes), int(self.high) + 1):
            into.clause([~edges[pair] for pair in combinations(some, 2)])
        return True

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        for some in islice(combinations(sorted(self._nodes(joined)), int(self.high) + 1), CUTS):
            into.clause([~self._edges(edges)[pair] for pair in combinations(some, 2)])


class Independence(Clique):
    """The most nodes of which no pair is joined: a clique of the complement."""

    name = "the largest independent set"

    def _edges(self, edges: np.ndarray) -> np.ndarray:
        return ~edges

    def _nodes(self, joined: np.ndarray) -> list[int]:
        return super()._nodes(off_diagonal(~joined))


class Chromatic(Property):
    """The fewest colors so that joined nodes differ."""

    name = "the chromatic number"

    def faults(self, joined: np.ndarray) -> list[Fault]:
        """The number itself would take many colorings more, some of them long."""
        if self.holds(joined):
            return []
        few = self.low < 2 or coloring(joined, int(self.low) - 1) is None
        bound = f"more than {self.high}" if few else f"less than {self.low}"
        return [(f"{self.name} is {bound}", every_pair(len(joined)))]

    def holds(self, joined: np.ndarray) -> bool:
        low, high, nodes = int(self.low), int(min(self.high, len(joined))), len(joined)
        fits = high >= nodes or coloring(joined, high) is not None
        return fits and (low < 2 or (low <= nodes and coloring(joined, low - 1) is None))

    def lower(self, edges: np.ndarray, into: Lowering) -> bool:
        nodes = len(edges)
        if self.high < nodes:
            has = [[into.new_literal() for _ in range(int(self.high))] for _ in range(nodes)]
            for colors in has:
                into.exactly_one(colors)
            for one, other in combinations(range(nodes), 2):
                for color in range(int(self.high)):
                    into.clause([~edges[one, other], ~has[one][color], ~has[other][color]])
        if self.low < 2:
            return True
        if self.low > nodes:
            into.clause([])
            return True
        fewer = int(self.low) - 1
        if _partitions(nodes, fewer) > STATED:
            return False
        for colors in _colorings(nodes, fewer):
            self._refuse(np.array(colors), edges, into)
        return True

    def cut(self, joined: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        colors = coloring(joined, int(self.low) - 1)
        if colors is None:
            return
        # No coloring may fit, so that neither may one of the same sizes with other nodes.
        draws = np.random.default_rng(np.packbits(joined).tolist())
        for renumbered in [colors, *(draws.permutation(colors) for _ in range(CUTS - 1))]:
            self._refuse(renumbered, edges, into)

    def _refuse(self, colors: np.ndarray, edges: np.ndarray, into: Lowering) -> None:
        """State that an edge joins nodes of one color."""
        into.clause(chosen(edges, colors[:, None] == colors))


def _partitions(nodes: int, parts: int) -> int:
    """Ways to split nodes into so many parts, none of them empty (Stirling's numbers of the second kind)."""
    row = [1]
    for count in range(1, nodes + 1):
        row = [0, *(k * (row[k] if k < count else 0) + row[k - 1] for k in range(1, count + 1))]
    return row[parts]


def _colorings(nodes: int, colors: int) -> Iterator[list[int]]:
    """Each way to use all of these colors once up to their names: a new color is always the next one."""

    def extended(start: list[int], used: int) -> Iterator[list[int]]:
        if len(start) == nodes:
            yield start
            return
        for color in range(min(used + 1, colors)):
            after = max(used, color + 1)
            if colors - after < nodes - len(start):
                yield from extended([*start, color], after)

    return extended([], 0)


def state_part(pattern: nx.Graph, edges: np.ndarray, into: Lowering) -> None:
    """State that some nodes and edges form this graph (nodes 0, 1, ...); other edges between them do not matter."""
    nodes = len(edges)
    if len(pattern) > nodes:
        into.clause([])
        return
    place = [[into.new_literal() for _ in range(nodes)] for _ in pattern]
    for row in place:
        into.exactly_one(row)
    for column in zip(*place, strict=True):
        into.at_most_one(column)
    for one, other in pattern.edges:
        for here, there in permutations(range(nodes), 2):
            into.clause([~place[one][here], ~place[other][there], edges[here, there]])


def coloring(joined: np.ndarray, k: int) -> np.ndarray | None:
    """(n) colors below k so that joined nodes differ, or None where k are too few.

    Raises:
        RuntimeError: the budget of the solver was not enough.
    """
    nodes = len(joined)
    drawn = nx.greedy_color(shown(joined), "DSATUR")
    if max(drawn.values()) < k:
        return np.array([drawn[node] for node in range(nodes)])
    if k < 2 or (k == 2 and not nx.is_bipartite(shown(joined))):
        return None
    rule = DifferentAcross(torch.from_numpy(np.argwhere(np.triu(joined))), (0, k), nodes, k)
    return decided(rule, f"coloring with {k} colors")


def decided(rule: Constraint, what: str) -> np.ndarray | None:
    start = torch.zeros(rule.length, dtype=torch.int64)
    ended = complete(rule, start, torch.zeros(rule.length, dtype=torch.bool))
    if ended.answer is None and not ended.exhausted:
        check_time()  # the time was too short, not the budget
        raise RuntimeError(f"{what} is undecided")
    return None if ended.answer is None else ended.answer.numpy()


def _cycles(edges: np.ndarray, longest: int) -> Iterator[list[tuple[int, int]]]:
    """Cycles of up to so many pairs that may be edges, the shortest first, each once, as pairs."""
    possible = edges != FALSE
    around = [np.flatnonzero(row).tolist() for row in possible]

    def extended(path: list[int], length: int) -> Iterator[list[int]]:
        check_time()
        if len(path) == length:
            if possible[path[-1], path[0]] and path[1] < path[-1]:
                yield path
            return
        for node in around[path[-1]]:
            if node > path[0] and node not in path:
                yield from extended([*path, node], length)

    for length in range(3, longest + 1):
        for start in range(len(edges)):
            for path in extended([start], length):
                yield list(zip(path, [*path[1:], path[0]], strict=True))


def _both(one: int, other: int, into: Lowering) -> int:
    """A literal that implies two others."""
    if FALSE in (one, other) or TRUE in (one, other) or one == other:
        return FALSE if FALSE in (one, other) else int(other if one == TRUE else one)
    into.clause([~(both := into.new_literal()), one])
    into.clause([~both, other])
    return both


def off_diagonal(pairs: np.ndarray) -> np.ndarray:
    return pairs & every_pair(len(pairs))


def shown(joined: np.ndarray) -> nx.Graph:
    return Graph.of_adjacency(joined).networkx
