"""The two ends of every edge hold different tokens: colorings of graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.candidates import candidates_of
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor, tensor_of


def _number(node: int) -> str:
    return str(node + 1)


@dataclass(frozen=True, eq=False, repr=False)
class DifferentAcross(Constraint):
    """The two ends of each edge hold different tokens, both permitted. Each row may have its own graph.

    Nodes are positions; those without an edge are not bound. Strength of `propagate`: elimination to a fixed point,
    which is arc consistency. Memory: (B, T, T) floats, as for graphs of a few thousand nodes.

    Args:
        edges: (1 or B, E, 2) int64, the ends of each edge in any order; rows of -1 at the end fill up rows with fewer
            edges. (E, 2) stands for one row.
        tokens: (low, high), the half-open range of permitted tokens.
        length: T.
        num_classes: A.
        show: a token as people write it.
        where: a node as people write it.

    Raises:
        InputError: wrong shape or type, a node outside [0, T), an edge from a node to itself, a wrong range, or
            an edge and one token only.
    """

    edges: IntTensor
    tokens: tuple[int, int]
    length: int
    num_classes: int
    show: Callable[[int], str] = str
    where: Callable[[int], str] = _number
    blame_is_reason = True
    strength = "one step of elimination: no token of a known neighbour, and only permitted tokens"
    per_row = ("edges",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tensor_of("edges", self.edges, torch.int64))
        edges, (low, high) = self.edges, self.tokens
        edges = edges[None] if edges.dim() == 2 else edges
        check(
            edges.dim() == 3 and edges.shape[-1] == 2 and edges.dtype == torch.int64,
            f"edges have shape {tuple(self.edges.shape)} and type {edges.dtype}",
            "give (rows, edges, 2) of torch.int64",
        )
        object.__setattr__(self, "edges", edges)
        real = ~(edges == -1).all(-1)
        outside = edges[((edges < 0) | (edges >= self.length)).any(-1) & real].tolist()
        check(
            not outside,
            f"edges {outside[:5]} name nodes out of range",
            f"nodes run from 0 to {self.length - 1}; fill up with (-1, -1)",
        )
        loops = edges[(edges[..., 0] == edges[..., 1]) & real].tolist()
        check(not loops, f"edges {loops[:5]} join a node to itself", "no node differs from itself: leave them out")
        check(
            0 <= low < high <= self.num_classes,
            f"permitted tokens [{low}, {high}) do not fit the alphabet of {self.num_classes}",
            f"give 0 <= low < high <= {self.num_classes}",
        )

        self._check_possible()

    def _check_possible(self) -> None:
        """Refuse graphs that one token provably cannot color."""
        low, high = self.tokens
        joined = (self.edges >= 0).all(-1).any(-1)
        check(
            high - low > 1 or not joined.any(),
            f"one token, {self.show(low)}, for the two ends of an edge in row {int(joined.int().argmax()) + 1}",
            "permit two tokens or more",
        )

    @property
    def rows(self) -> int:
        return len(self.edges)

    @cached_property
    def _ends(self) -> tuple[IntTensor, BoolTensor]:
        """(B, E, 2) with 0 in padding, and where edges are real (B, E)."""
        return self.edges.clamp(min=0), self.edges[..., 0] >= 0

    @cached_property
    def _joined(self) -> FloatTensor:
        """(B, T, T), 1 where two nodes are joined: float, since elimination is a matrix product."""
        ends, real = self._ends
        joined = torch.zeros(self.rows, self.length**2, device=ends.device)
        for one, other in (ends.unbind(-1), ends.flip(-1).unbind(-1)):
            joined.scatter_add_(1, one * self.length + other, real.to(joined.dtype))
        return joined.clamp_(max=1).view(-1, self.length, self.length)

    @cached_property
    def _restricted(self) -> BoolTensor:
        """(B, T) the nodes that must hold a permitted token: here those with an edge."""
        return self._joined.any(-1)

    @property
    def bound(self) -> BoolTensor:
        return self._restricted.any(0)

    @cached_property
    def _permitted(self) -> BoolTensor:
        """(B, T, A) what the range permits at each node."""
        ids = torch.arange(self.num_classes, device=self.edges.device)
        return ((ids >= self.tokens[0]) & (ids < self.tokens[1])) | ~self._restricted[..., None]

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return ~self.violations(answer).any(-1)

    def _clashes(self, answer: IntTensor) -> BoolTensor:
        """(B, E) True where both ends hold one token."""
        self.check_answer(answer)
        ends, real = self._ends
        tokens = answer.gather(1, ends.flatten(1).expand(len(answer), -1)).view(len(answer), -1, 2)
        return (tokens[..., 0] == tokens[..., 1]) & real

    def _foreign(self, answer: IntTensor) -> BoolTensor:
        """(B, T) True where a restricted node holds a token that is not permitted."""
        return ((answer < self.tokens[0]) | (answer >= self.tokens[1])) & self._restricted

    def violations(self, answer: IntTensor) -> BoolTensor:
        clashes = self._clashes(answer).long().repeat_interleave(2, dim=1)
        ends = self._ends[0].flatten(1).expand(len(answer), -1)
        return (torch.zeros_like(answer).scatter_add_(1, ends, clashes) > 0) | self._foreign(answer)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        clashes, foreign = self._clashes(answer), self._foreign(answer)
        sentences = []
        for row, tokens in enumerate(answer.tolist()):
            broken = self.edges[row % self.rows][clashes[row]].tolist()
            pairs = sorted({(min(pair), max(pair)) for pair in broken})
            bad = [node for node, is_foreign in enumerate(foreign[row].tolist()) if is_foreign]
            sentences.append(
                [
                    f"nodes {self.where(one)} and {self.where(other)} are joined and both hold {self.show(tokens[one])}"
                    for one, other in pairs
                ]
                + [f"node {self.where(at)} holds {self.show(tokens[at])}, which is not permitted" for at in bad]
            )
        return sentences

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        self.check_answer(answer)
        low, high = self.tokens
        ids = torch.arange(low, high, device=answer.device)
        decided = ((answer[..., None] == ids) & known[..., None]).to(self._joined.dtype)
        may = candidates_of(answer[:, span], known[:, span], self.num_classes) & self._permitted[:, span]
        may[..., low:high] &= self._joined[:, span] @ decided == 0
        return may

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        low, high = self.tokens
        candidates = candidates & self._permitted
        sets = candidates[..., low:high]
        done = torch.zeros_like(sets[..., :1])
        # Only nodes without an edge have tokens outside the permitted range; they eliminate nothing.
        while bool((new := (sets.sum(-1, keepdim=True) == 1) & ~done).any()):
            done = done | new
            at = new.any(0)[:, 0].nonzero().flatten()  # nodes just decided, in some row
            decided = (sets & new)[:, at].to(self._joined.dtype)
            sets = sets & (self._joined[:, :, at] @ decided == 0)
        return torch.cat([candidates[..., :low], sets, candidates[..., high:]], -1)

    def lower(self, into: Lowering) -> None:
        into.all_of(~into.literals[~self._permitted[0].numpy()])
        for one, other in self._edges_once():
            for token in range(*self.tokens):
                into.at_most_one(into.literals[[one, other], token])

    def lower_opposite(self, into: Lowering) -> None:
        alike = into.literals[~self._permitted[0].numpy()].tolist()
        for one, other in self._edges_once():
            for token in range(*self.tokens):
                alike.append(both := into.new_literal())
                into.given(both).all_of(into.literals[[one, other], token])
        into.clause(alike)

    def _edges_once(self) -> list[tuple[int, int]]:
        """The edges of the first row, each once."""
        return sorted({(min(pair), max(pair)) for pair in self.edges[0].tolist() if min(pair) >= 0})

    def renamed(self, positions: Sequence[int]) -> DifferentAcross:
        return self._changed({"where": lambda at: _number(positions[at])}) if self.where is _number else self

    @classmethod
    def stack(cls, constraints: Sequence[DifferentAcross]) -> DifferentAcross:
        most = max(each.edges.shape[1] for each in constraints)
        padded = [
            torch.nn.functional.pad(each.edges, (0, 0, 0, most - each.edges.shape[1]), value=-1) for each in constraints
        ]
        return super().stack([c._changed({"edges": e}) for c, e in zip(constraints, padded, strict=True)])
