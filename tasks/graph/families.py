"""Families of graphs as rules on their canvas: faults and blame, pairs still possible, and the nearest graph.

A family is a conjunction of `requirements`, which speak of pairs of nodes; `FamilyRule` turns pairs into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from constrained_dg.constraints import Constraint, candidates_of
from constrained_dg.constraints.lowering import FALSE, Lowering
from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

from .graph import Graph
from .graph_files import whole_number
from .projection import fill, is_graphical, of_degrees, spanning_tree, two_sides
from .requirements import Acyclic, Connected, Degrees, EdgeCount, Fault, Planar, Requirement, TwoSided
from .tokens import FAMILIES, MOST_NODES, Coding
from .walks import sides

if TYPE_CHECKING:
    from .specification import Specification

#: Log-odds added to each edge of the draft: it is one joint answer, which independent probabilities are not.
_KEPT = 8.0
#: The score of an edge that is required, above all others.
_MUST = 1e6


@dataclass(frozen=True)
class Family:
    """A family of graphs with its numbers. Make one with `parse` or `of_graph`, which check.

    | text | graphs |
    |---|---|
    | planar:N | connected, can be drawn without crossings |
    | tree:N | connected, no cycle |
    | regular:N,D | every node has D neighbours; connected or not |
    | degrees:D1,D2,... | node i has Di neighbours; connected or not |
    | bipartite:A,B | connected, two sides of A and B nodes (in any order), edges between them alone |
    | connected:N,M | connected, N nodes and M edges |

    Attributes:
        name: one of FAMILIES.
        nodes: n.
        numbers: as in the text.
    """

    name: str
    nodes: int
    numbers: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Family:
        """From text such as "regular:16,3".

        Raises:
            InputError: an unknown family, bad numbers, or numbers that no graph has.
        """
        name, _, rest = str(text).strip().partition(":")
        what = f"no family {name[:40]!r} in {str(text)[:40]!r}"
        check(name in FAMILIES, what, f"give NAME:NUMBERS, of {', '.join(FAMILIES)}")
        try:
            numbers = tuple(whole_number(word.strip()) for word in rest.split(","))
        except InputError as error:
            raise InputError(f"{str(text)[:40]!r}: {error}; such as {_EXAMPLES[name]}") from None
        return cls.of(name, numbers)

    @classmethod
    def of(cls, name: str, numbers: tuple[int, ...]) -> Family:
        """From a name and its numbers. Raises InputError as `parse`."""
        count = {"planar": 1, "tree": 1, "degrees": len(numbers)}.get(name, 2)
        what = f"{name}:{','.join(map(str, numbers))[:60]}"
        check(len(numbers) == count, f"{what} has {len(numbers)} numbers", f"give {count}, such as {_EXAMPLES[name]}")
        nodes = {"degrees": len(numbers), "bipartite": sum(numbers)}.get(name, numbers[0])
        check(2 <= nodes <= MOST_NODES, f"{what} has {nodes} nodes", f"a canvas holds graphs of 2 to {MOST_NODES}")
        if name in ("regular", "degrees"):
            degrees = numbers if name == "degrees" else (numbers[1],) * nodes
            low, high = min(degrees), max(degrees)
            large = f"{what}: a node of {high} neighbours among {nodes}"
            check(low >= 0 and high < nodes, large, f"use at most {nodes - 1}")
            odd = f"{what}: degrees add up to {sum(degrees)}, an odd number"
            check(sum(degrees) % 2 == 0, odd, "every edge counts twice: change one degree by one")
            impossible = f"{what}: no simple graph has these degrees"
            check(is_graphical(np.array(degrees)), impossible, "lower the largest ones")
        if name == "bipartite":
            check(min(numbers) >= 1, f"{what} has a side without nodes", "a connected graph has nodes on both")
        if name == "connected":
            edges, most = numbers[1], nodes * (nodes - 1) // 2
            check(edges >= nodes - 1, f"{what}: {edges} edges cannot connect {nodes} nodes", f"use {nodes - 1} or more")
            check(edges <= most, f"{what}: {nodes} nodes cannot have {edges} edges", f"use at most {most}")
        return cls(name, nodes, tuple(numbers))

    @classmethod
    def like(cls, name: str, graph: Graph) -> Family:
        """The family of this name with the numbers of a graph, whether or not the graph belongs to it.

        Raises:
            InputError: no graph has these numbers, or it is too large.
        """
        degrees, nodes = graph.degrees, graph.nodes
        second = int(sides(graph.adjacency)[0].sum())
        numbers = {
            "regular": (nodes, int(degrees[0])),
            "degrees": tuple(degrees.tolist()),
            "bipartite": (nodes - second, second),
            "connected": (nodes, len(graph.edges)),
        }
        return cls.of(name, numbers.get(name, (nodes,)))

    @classmethod
    def of_graph(cls, name: str, graph: Graph) -> Family:
        """The family of this name that a graph belongs to. Raises InputError as `like`, and if it does not belong."""
        family = cls.like(name, graph)
        faults = family.faults(graph.adjacency)
        check(not faults, f"a graph that is not of {family.text}: {faults[0][0] if faults else ''}", "name its family")
        return family

    @property
    def text(self) -> str:
        """As `parse` reads it."""
        return f"{self.name}:{','.join(map(str, self.numbers))}"

    @cached_property
    def requirements(self) -> tuple[Requirement, ...]:
        """What must hold, the quickest to judge first."""
        if self.name in ("regular", "degrees"):
            return (Degrees(self.numbers if self.name == "degrees" else (self.numbers[1],) * self.nodes),)
        second = {"planar": Planar(), "tree": Acyclic()}
        if self.name == "connected":
            return (EdgeCount(self.numbers[1]), Connected())
        return (Connected(), second[self.name] if self.name in second else TwoSided(self.numbers))

    def holds(self, joined: np.ndarray) -> bool:
        """Whether a graph (n, n) bool is of the family."""
        return all(requirement.holds(joined) for requirement in self.requirements)

    def faults(self, joined: np.ndarray) -> list[Fault]:
        """What is wrong with a graph (n, n) bool."""
        return [fault for requirement in self.requirements for fault in requirement.faults(joined)]

    def normal_form(self, edges: np.ndarray, into: Lowering) -> None:
        """Nothing: some families name nodes, and their projections find graphs of the others."""

    @property
    def nearest(self) -> Family:
        """The family that the prompt names: itself."""
        return self

    def project(self, scores: np.ndarray) -> np.ndarray:
        """A graph of the family with a high sum of scores, (n, n) bool.

        Exact for trees (a maximum spanning tree) and connected graphs (that tree and the highest other edges: connected
        graphs of m edges are the bases of a matroid, for which a greedy choice is exact). Planar: that tree, then edges
        by falling score unless they cross, until as many as have a score above 0. Degrees: `of_degrees`. Bipartite:
        `two_sides`, then as planar among the pairs that join the sides.

        Args:
            scores: symmetric (n, n) float64, -inf where no edge is allowed; then the result can be outside the family.
        """
        if self.name in ("regular", "degrees"):
            return of_degrees(np.array(self.requirements[0].degrees), scores)
        if self.name == "bipartite":
            color = two_sides(scores, self.numbers[1])
            scores = np.where(color[:, None] == color, -np.inf, scores)
        tree = spanning_tree(scores)
        if self.name == "tree":
            return tree
        wanted = self.numbers[1] if self.name == "connected" else int((scores > 0).sum()) // 2
        return fill(tree, scores, wanted, self.name == "planar")


_EXAMPLES = {
    "planar": "planar:64",
    "tree": "tree:64",
    "regular": "regular:16,3 (nodes, neighbours of each)",
    "degrees": "degrees:3,3,2,2,2",
    "bipartite": "bipartite:8,8 (nodes of each side)",
    "connected": "connected:10,15 (nodes, edges)",
}


@dataclass(frozen=True, eq=False)
class FamilyRule(Constraint):
    """The graph on the canvas belongs to the family of its row. All rows have the same number of nodes.

    The candidate sets say of each pair whether it may be an edge and whether it may be absent. The requirements of the
    family narrow both, and a pattern is allowed where all its pairs allow it.

    Args:
        families: one for each row; a line of requirements (`Specification`) has the same methods.
        coding: of graphs with their number of nodes.
        num_classes: A, each token is a class.
    """

    families: tuple[Family | Specification, ...]
    coding: Coding
    num_classes: int
    reads_every_pass: ClassVar[bool] = True

    def __post_init__(self) -> None:
        sizes = {family.nodes for family in self.families}
        assert sizes == {self.coding.nodes}, "a batch has one number of nodes"

    @property
    def length(self) -> int:
        return self.coding.length

    @property
    def rows(self) -> int:
        return len(self.families)

    @property
    def strength(self) -> str:
        sentences = dict.fromkeys(r.strength for family in self.families for r in family.requirements)
        return "; ".join(sentences)

    def _read(self, answer: IntTensor) -> tuple[list[tuple[Family | Specification, np.ndarray]], np.ndarray]:
        """Each row's family and graph, and which tokens are not patterns (B, T)."""
        self.check_answer(answer)
        joined, foreign = self.coding.from_tokens(answer.cpu().numpy())
        return [(self.families[row % self.rows], one) for row, one in enumerate(joined)], foreign

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        rows, foreign = self._read(answer)
        satisfied = [
            not bad.any() and family.holds(joined) for (family, joined), bad in zip(rows, foreign, strict=True)
        ]
        return torch.tensor(satisfied, device=answer.device)

    def violations(self, answer: IntTensor) -> BoolTensor:
        rows, foreign = self._read(answer)
        pairs = np.zeros((len(rows), self.coding.nodes, self.coding.nodes), bool)
        for row, (family, joined) in enumerate(rows):
            for _, blamed in family.faults(joined):
                pairs[row] |= blamed
        return torch.from_numpy(self.coding.bits_of(pairs).any(-1) | foreign).to(answer.device)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        rows, foreign = self._read(answer)
        return [
            [sentence for sentence, _ in family.faults(joined)]
            + [f"position {at + 1} holds token {tokens[at]}, not a pattern there" for at in np.flatnonzero(bad)]
            for (family, joined), bad, tokens in zip(rows, foreign, answer.tolist(), strict=True)
        ]

    @cached_property
    def _patterns(self) -> tuple[FloatTensor, BoolTensor]:
        """Bits of each pattern (2^w, w) as floats, and which patterns a position may hold (T, A)."""
        patterns, permitted = torch.from_numpy(self.coding.patterns), torch.from_numpy(self.coding.permitted)
        possible = torch.zeros(self.length, self.num_classes, dtype=torch.bool)
        possible[:, self._window] = permitted
        return patterns.float(), possible

    @property
    def _window(self) -> slice:
        """The tokens that are patterns."""
        return slice(self.coding.first, self.coding.first + 2**self.coding.width)

    def _pairs(self, candidates: BoolTensor) -> tuple[np.ndarray, np.ndarray]:
        """(B, T, A) -> which pairs may be edges, and which may be absent: (B, n, n) bool twice."""
        bits, _ = self._patterns
        sets = candidates[..., self._window].float()
        one, zero = (self.coding.matrix_of((sets @ values > 0).numpy()) for values in (bits, 1 - bits))
        return one, zero | np.eye(self.coding.nodes, dtype=bool)

    def _tightened(self, candidates: BoolTensor) -> BoolTensor:
        """One round: sets to pairs, requirements to a fixed point, pairs to sets."""
        device, (bits, permitted) = candidates.device, self._patterns
        candidates = candidates.cpu() & permitted.cpu()
        one, zero = self._pairs(candidates)
        for row in range(len(candidates)):
            size = None
            while (new := int(one[row].sum() + zero[row].sum())) != size:
                size = new
                for requirement in self.families[row % self.rows].requirements:
                    requirement.tighten(one[row], zero[row])
        barred = [torch.from_numpy(self.coding.bits_of(~pairs)).float() for pairs in (one, zero)]
        wrong = barred[0] @ bits.T + barred[1] @ (1 - bits).T > 0
        candidates[..., self._window] &= ~wrong
        return candidates.to(device)

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        self.check_answer(answer)
        return self._tightened(candidates_of(answer, known, self.num_classes))[:, span]

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        while not torch.equal(smaller := self._tightened(candidates), candidates):
            candidates = smaller
        return candidates

    def _edges(self, into: Lowering) -> np.ndarray:
        """(n, n) int64, the literal of each pair: one of the patterns that have it; FALSE on the diagonal."""
        edges = np.full((self.coding.nodes, self.coding.nodes), FALSE, np.int64)
        patterns = into.literals[:, self._window]
        for at, pairs in enumerate(self.coding.pairs):
            for bit, (row, column) in enumerate(pairs):
                edges[row, column] = edges[column, row] = into.union(patterns[at, self.coding.patterns[:, bit]])
        return edges

    def lower(self, into: Lowering) -> None:
        """A literal for each pair, what the requirements state of them, and cuts for the rest."""
        into.all_of(~into.literals[~self._patterns[1].cpu().numpy()])
        edges = self._edges(into)
        if not all([requirement.lower(edges, into) for requirement in self.families[0].requirements]):
            into.defer(self)

    def cut(self, answer: IntTensor, into: Lowering) -> None:
        [(family, joined)], _ = self._read(answer[None])
        edges = self._edges(into)
        for requirement in family.requirements:
            if not requirement.holds(joined):
                requirement.cut(joined, edges, into)

    def normal_form(self, into: Lowering) -> None:
        """See `Specification.normal_form`."""
        self.families[0].normal_form(self._edges(into), into)

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        """The family's projection of a graph drawn from the model.

        The score of a pair is the log-odds of its bit, plus `_KEPT` where the draft has the edge, plus logistic noise
        with a seed from the draft: without rules, the pairs of positive score would be an independent sample. The mode
        would not do: for sparse graphs it is empty.

        Returns:
            As `Constraint.repair`; moves are the pairs in which the result differs from the draft.
        """
        bits, permitted = self._patterns
        scores = log_probs[:, self._window].masked_fill(~permitted[:, self._window], -torch.inf)[..., None]
        odds = [scores.masked_fill(bits == no, -torch.inf).logsumexp(1) for no in (0, 1)]
        odds = self.coding.matrix_of((odds[0] - odds[1]).double().clamp(-30, 30).nan_to_num(0).numpy()[None])[0]
        [drafted], _ = self.coding.from_tokens(draft.numpy()[None])
        nodes = self.coding.nodes
        drawn = np.random.default_rng(draft.tolist()).logistic(size=(nodes, nodes))
        odds = odds + _KEPT * drafted + np.tril(drawn, -1) + np.tril(drawn, -1).T
        one, zero = self._pairs(candidates[None])
        odds = np.where(one[0], np.where(zero[0], odds, _MUST + odds), -np.inf)
        joined = self.families[0].project(odds)
        tokens = torch.from_numpy(self.coding.to_tokens(joined[None])[0])
        moves = int((joined != drafted).sum()) // 2
        return (tokens if bool(candidates.gather(1, tokens[:, None]).all()) else None), moves

    def select(self, rows: IntTensor) -> FamilyRule:
        return self._changed({"families": tuple(self.families[row] for row in rows.tolist())})

    @classmethod
    def stack(cls, constraints: Sequence[FamilyRule]) -> FamilyRule:
        first = constraints[0]
        alike = {(rule.coding, rule.num_classes) for rule in constraints}
        check(len(alike) == 1, "cannot stack rules of different codings", "stack graphs of one number of nodes")
        return first._changed({"families": tuple(family for rule in constraints for family in rule.families)})
