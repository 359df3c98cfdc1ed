"""The requirements of a graph as a line of text, words with blanks between them.

    nodes=14 degree=3 girth>=6 bipartite connected diameter<=3 independence<=6 chromatic=2 triangles=0 contains=C8

A number may be 3, 2..4, >=2 or <=4. `planar=no` and the like ask for the opposite.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from math import inf

import networkx as nx
import numpy as np

from constrained_dg.constraints.lowering import Lowering
from constrained_dg.errors import InputError, check

from .families import Family
from .graph import Graph
from .numbering import state_numbering
from .properties import (
    Chromatic,
    Clique,
    DegreeRange,
    Diameter,
    EdgeRange,
    Girth,
    Independence,
    Property,
    Triangles,
)
from .requirements import Connected, Degrees, EdgeCount, Fault, Planar, Requirement
from .subgraphs import Avoids, Contains, HasCycle, Opposite
from .tokens import MOST_NODES

#: Word -> the requirement of its bounds, and the least value that a graph can have; the quickest to judge first.
NUMBERS: dict[str, tuple[type[Property], int]] = {
    "degree": (DegreeRange, 0),
    "edges": (EdgeRange, 0),
    "triangles": (Triangles, 0),
    "girth": (Girth, 3),
    "diameter": (Diameter, 1),
    "clique": (Clique, 1),
    "independence": (Independence, 1),
    "chromatic": (Chromatic, 1),
}
FLAGS = ("connected", "bipartite", "planar", "hamiltonian")
PATTERNS: dict[str, Callable[..., nx.Graph]] = {
    "K": lambda *sizes: nx.complete_multipartite_graph(*sizes) if len(sizes) > 1 else nx.complete_graph(*sizes),
    "C": nx.cycle_graph,
    "P": nx.path_graph,
}
_EXAMPLE = "nodes=14 degree=3 girth>=6 edges=21..30 connected planar=no contains=K3,3 avoids=C4"


@dataclass(frozen=True)
class Specification:
    """The requirements of a graph. Make one with `parse`, which checks.

    Attributes:
        nodes: n, from 2.
        bounds: (word of NUMBERS, low, high); high may be infinite.
        flags: (word of FLAGS, whether it must hold).
        contains, avoids: subgraphs, by name or in graph6.
    """

    nodes: int
    bounds: tuple[tuple[str, int, float], ...] = ()
    flags: tuple[tuple[str, bool], ...] = ()
    contains: tuple[str, ...] = ()
    avoids: tuple[str, ...] = ()
    name = "requirements"

    @classmethod
    def parse(cls, text: str) -> Specification:
        """From a line such as "nodes=10 degree=3 girth>=5".

        Raises:
            InputError: naming the word that is not a requirement, or that no graph of so many nodes meets.
        """
        # 1. Words, by their names.
        bounds: dict[str, tuple[int, float]] = {}
        flags: dict[str, bool] = {}
        parts: dict[str, list[str]] = {"contains": [], "avoids": []}
        for word in str(text).split():
            match = re.fullmatch(r"([a-z]+)(?:(=|>=|<=)(.+))?", word)
            name, sign, value = match.groups() if match is not None else ("", None, None)
            if (name == "nodes" or name in NUMBERS) and sign:
                low, high = _bounds(word, sign, value)
                before = bounds.get(name, (0, inf))
                bounds[name] = max(low, before[0]), min(high, before[1])
            elif name in FLAGS and (sign is None or (sign == "=" and value in ("yes", "no"))):
                check(flags.get(name, value != "no") == (value != "no"), f"{name} and {name}=no", "give one of them")
                flags[name] = value != "no"
            elif name in parts and sign == "=":
                parts[name].append(value)
            else:
                known = f"known: nodes, {', '.join([*NUMBERS, *FLAGS, *parts])}, as in {_EXAMPLE}"
                raise InputError(f"requirement {word[:60]!r}", known)
        # 2. The number of nodes.
        low, most = bounds.pop("nodes", (0, inf))
        check(low > 0, f"no number of nodes in {str(text)[:60]!r}", "begin with such as nodes=14")
        nodes = int(low)
        check(2 <= nodes == most <= MOST_NODES, f"nodes={_range(low, most)}", f"give one number from 2 to {MOST_NODES}")
        # 3. What no graph meets.
        for name, (least, high) in bounds.items():
            smallest = NUMBERS[name][1]
            what = f"{name}={_range(least, high)}"
            check(least <= high and high >= smallest, what, f"give the smaller number first, the larger >= {smallest}")
        made = cls(
            nodes,
            tuple((name, *bounds[name]) for name in NUMBERS if name in bounds),
            tuple((name, flags[name]) for name in FLAGS if name in flags),
            *(tuple(parts[name]) for name in parts),
        )
        least, high = bounds.get("degree", (0, inf))
        check(least < nodes, f"degree={_range(least, high)} with nodes={nodes}", f"use at most {nodes - 1}")
        odd = least == high and nodes * least % 2 == 1
        check(not odd, f"nodes={nodes} of degree={least}: degrees add up to an odd number", "change one of them by one")
        for part in (*made.contains, *made.avoids):
            size = pattern(part).nodes
            check(size <= nodes or part in made.avoids, f"contains={part} has {size} nodes", f"there are {nodes}")
        return made

    @property
    def text(self) -> str:
        """As `parse` reads it."""
        words = [f"nodes={self.nodes}"]
        words += [f"{name}={_range(low, high)}" for name, low, high in self.bounds]
        words += [name if holds else f"{name}=no" for name, holds in self.flags]
        words += [f"contains={part}" for part in self.contains] + [f"avoids={part}" for part in self.avoids]
        return " ".join(words)

    @cached_property
    def _by_name(self) -> dict[str, tuple[int, float]]:
        return {name: (low, high) for name, low, high in self.bounds}

    @cached_property
    def requirements(self) -> tuple[Requirement, ...]:
        """What must hold, the quickest to judge first."""
        some: list[Requirement] = []
        bounds = dict(self._by_name)
        if "clique" in bounds or "independence" in bounds:
            bounds["degree"] = self._degrees_of_ramsey()
        flags = dict(self.flags)
        if "bipartite" in flags:
            low, high = bounds.get("chromatic", (1, inf))
            bounds["chromatic"] = (low, min(high, 2)) if flags["bipartite"] else (max(low, 3), high)
        for name in (name for name in NUMBERS if name in bounds):
            low, high = bounds[name]
            exact = {"degree": Degrees((low,) * self.nodes), "edges": EdgeCount(low)} if low == high else {}
            some.append(exact.get(name, NUMBERS[name][0](low, high)))
        ring = HasCycle(Graph.of_any(nx.cycle_graph(max(3, self.nodes))))
        kinds = {"connected": Connected(), "planar": Planar(), "hamiltonian": ring}
        for name, kind in kinds.items():
            if name in flags:
                some.append(kind if flags[name] else Opposite(kind, f"the graph is {name}"))
        some += [Contains(pattern(part)) for part in self.contains] + [Avoids(pattern(part)) for part in self.avoids]
        return tuple(some)

    def _degrees_of_ramsey(self) -> tuple[int, float]:
        """Bounds of the degree that follow from those of cliques and independent sets.

        The neighbours of a node have no clique as large as the graph's largest, and the other nodes no independent set
        as large (Greenwood and Gleason, 1955).
        """
        low, high = self._by_name.get("degree", (0, inf))
        clique, independent = (int(min(self._by_name.get(name, (1, inf))[1], self.nodes)) for name in _RAMSEY)
        most = ramsey(clique, independent + 1) - 1
        least = self.nodes - ramsey(clique + 1, independent)
        return max(low, least, 0), min(high, most)

    def normal_form(self, edges: np.ndarray, into: Lowering) -> None:
        """State a numbering of the nodes that every graph has, see `state_numbering`."""
        state_numbering(self.regular, self.girth, edges, into)

    @property
    def regular(self) -> int | None:
        """The degree of all nodes, where there is only one."""
        degrees = next((each.degrees for each in self.requirements if isinstance(each, Degrees)), None)
        return None if degrees is None else degrees[0]

    @property
    def girth(self) -> int:
        """The shortest cycle that is permitted."""
        low = max(3, self._by_name.get("girth", (3, inf))[0])
        return max(low, 4) if self._by_name.get("triangles", (0, inf))[1] == 0 else low

    def holds(self, joined: np.ndarray) -> bool:
        """Whether a graph (n, n) bool meets all requirements."""
        return all(requirement.holds(joined) for requirement in self.requirements)

    def faults(self, joined: np.ndarray) -> list[Fault]:
        """What is wrong with a graph (n, n) bool."""
        return [fault for requirement in self.requirements for fault in requirement.faults(joined)]

    @cached_property
    def nearest(self) -> Family:
        """A family that most resembles the requirements: the prompt of a model that knows families alone."""
        degree, most = self.regular, self.nodes * (self.nodes - 1) // 2
        if degree is not None and degree < self.nodes and degree * self.nodes % 2 == 0:
            return Family.of("regular", (self.nodes, degree))
        if ("planar", True) in self.flags and "edges" not in self._by_name:
            return Family.of("planar", (self.nodes,))
        edges = self._by_name.get("edges", (2 * self.nodes, inf))[0]
        return Family.of("connected", (self.nodes, min(max(edges, self.nodes - 1), most)))

    def project(self, scores: np.ndarray) -> np.ndarray:
        """A graph of the nearest family; the judge says whether it meets the requirements."""
        return self.nearest.project(scores)


_RAMSEY = ("clique", "independence")


@cache
def ramsey(clique: int, independent: int) -> int:
    """A bound: every graph of so many nodes has a clique or an independent set of these sizes (Greenwood and Gleason,
    1955)."""
    if min(clique, independent) < 2:
        return 1
    if min(clique, independent) == 2:
        return max(clique, independent)
    one, other = ramsey(clique - 1, independent), ramsey(clique, independent - 1)
    return one + other - (one % 2 == other % 2 == 0)


def pattern(text: str) -> Graph:
    """A graph by name (K4, K3,3, C5, P4) or in graph6.

    Raises:
        InputError: neither.
    """
    named = re.fullmatch(r"([KCP])([0-9]{1,2}(?:,[0-9]{1,2})*)", text)
    try:
        if named is None:
            return Graph.from_graph6(text, MOST_NODES)
        return Graph.of_any(PATTERNS[named[1]](*map(int, named[2].split(","))))
    except (InputError, TypeError, ValueError, nx.NetworkXException):
        raise InputError(f"no graph {text[:40]!r}", "give K4, K3,3, C5, P4 or a graph in graph6") from None


def _bounds(word: str, sign: str, value: str) -> tuple[int, float]:
    match = re.fullmatch(r"([0-9]{1,9})?(\.\.)?([0-9]{1,9})?", value)
    low, dots, high = match.groups() if match is not None else (None, None, None)
    fine = bool(low or high) and (bool(dots) or high is None) and (sign == "=" or not dots)
    check(fine, f"requirement {word[:60]!r}", "give such as degree=3, degree=2..4, girth>=5 or diameter<=3")
    if sign == "=" and not dots:
        return int(low), int(low)
    if sign != "=":
        return (int(low), inf) if sign == ">=" else (0, int(low))
    return int(low or 0), int(high) if high else inf


def _range(low: float, high: float) -> str:
    return str(low) if low == high else f"{low or ''}..{'' if high == inf else high}"
