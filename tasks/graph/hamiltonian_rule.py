"""The rule of Hamiltonian cycles: an answer names the successor of each node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from constrained_dg.constraints import Constraint, candidates_of, listing
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

from .hamiltonian_search import EXACT, best_cycles, rotate, shrink


@dataclass(frozen=True, eq=False)
class HamiltonianCycle(Constraint):
    """Each position holds the successor of its node on one cycle through all nodes along edges; one graph for each row.

    Either direction is right. For the strength of `propagate` see `shrink`; `most_likely` is exact up to `EXACT` nodes.

    Args:
        joined: (1 or B, n, n) bool, symmetric, which nodes an edge joins; n = T. With fewer than 3 nodes no
            answer satisfies the rule.
        first: the token of node 1; the others follow it.
        num_classes: A.

    Raises:
        InputError: wrong shape or type, or more tokens than classes.
    """

    joined: BoolTensor
    first: int
    num_classes: int
    strength = (
        "edges that propagation leaves, no node named twice, no known path closed before it visits all nodes; "
        f"most_likely is exact up to {EXACT} nodes"
    )
    per_row = ("joined",)

    MOVES: ClassVar[int] = 100_000

    def __post_init__(self) -> None:
        joined = self.joined
        fits = joined.dim() == 3 and joined.shape[1] == joined.shape[2] and joined.dtype == torch.bool
        what = f"joined has shape {tuple(joined.shape)} and type {joined.dtype}"
        check(fits, what, "give (rows, nodes, nodes) of torch.bool")
        simple = torch.equal(joined, joined.mT) and not joined.diagonal(dim1=1, dim2=2).any()
        check(simple, "joined is not the matrix of a simple graph", "make it symmetric, with a diagonal of False")
        check(self.length >= 1, "a graph of no nodes", "give one node or more")
        what = f"tokens {self.first} .. {self.first + self.length - 1} do not fit {self.num_classes} classes"
        check(0 <= self.first <= self.num_classes - self.length, what, "use more classes")

    @property
    def length(self) -> int:
        return self.joined.shape[-1]

    @property
    def rows(self) -> int:
        return len(self.joined)

    @cached_property
    def _possible(self) -> BoolTensor:
        """(B, n, n) the successors that propagation leaves before any token is known."""
        may = self.joined.cpu().numpy().copy()
        shrink(may)
        return torch.from_numpy(may).to(self.joined.device)

    def _next(self, answer: IntTensor) -> IntTensor:
        """(B, T) -> (B, T + 1) the successor of each node; n where the token is not a node, and for n itself."""
        self.check_answer(answer)
        after, n = answer - self.first, self.length
        return torch.nn.functional.pad(after.where((after >= 0) & (after < n), n), (0, 1), value=n)

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return ~self.violations(answer).any(-1)

    def _strays(self, after: IntTensor) -> BoolTensor:
        """(B, T + 1) -> (B, T) True where a node is not joined to its successor."""
        inside = torch.nn.functional.pad(self.joined, (0, 1)).expand(len(after), -1, -1)
        return ~inside.gather(2, after[:, :-1, None])[..., 0]

    @staticmethod
    def _shared(after: IntTensor) -> BoolTensor:
        """(B, T + 1) -> (B, T) True where another node has the same successor."""
        times = torch.zeros_like(after).scatter_add_(1, after[:, :-1], torch.ones_like(after[:, :-1]))
        times[:, -1] = 0
        return times.gather(1, after[:, :-1]) > 1

    def _short_cycles(self, after: IntTensor) -> tuple[BoolTensor, IntTensor]:
        """All cycles except the longest one; of equally long ones, except that of the smallest node.

        Args:
            after: (B, T + 1) of `_next`.

        Returns:
            (B, T) True at nodes on one of them, and (B, T) the smallest node of the cycle.
        """
        n = self.length
        smallest = torch.arange(n + 1, device=after.device).expand_as(after)
        far = after
        for _ in range(n.bit_length()):  # 1, 2, 4, ... steps, until every path has reached its cycle
            smallest = torch.minimum(smallest, smallest.gather(1, far))
            far = far.gather(1, far)
        on = torch.zeros_like(after, dtype=torch.bool).scatter_(1, far, True)[:, :-1]
        smallest = smallest[:, :-1]
        nodes = torch.zeros_like(smallest).scatter_add_(1, smallest, on.long())
        # The first of the longest ones.
        longest = nodes.argmax(1, keepdim=True)
        return on & (smallest != longest), smallest

    def violations(self, answer: IntTensor) -> BoolTensor:
        after = self._next(answer)
        return self._strays(after) | self._shared(after) | self._short_cycles(after)[0] | (self.length < 3)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        after = self._next(answer)
        on, smallest = self._short_cycles(after)
        columns = (after[:, :-1], self._strays(after), self._shared(after), on, smallest)
        rows = []
        for ahead, strays, shared, apart, label in zip(*(column.tolist() for column in columns), strict=True):
            sentences = [] if self.length >= 3 else ["a cycle needs three nodes or more"]
            sentences += [_stray(node, ahead[node], self.length) for node, stray in enumerate(strays) if stray]
            for node in sorted({ahead[i] for i, twice in enumerate(shared) if twice}):
                named = [i + 1 for i, other in enumerate(ahead) if other == node]
                both = "both" if len(named) == 2 else "all"
                sentences.append(f"{listing('node', named)} {both} go to node {node + 1}")
            for cycle in sorted({label[i] for i, alone in enumerate(apart) if alone}):
                nodes = [i + 1 for i, alone in enumerate(apart) if alone and label[i] == cycle]
                if len(nodes) > 1:
                    sentences.append(f"{listing('node', nodes)} form a separate cycle")
            rows.append(sentences)
        return rows

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        n, nodes = self.length, slice(self.first, self.first + self.length)
        after = self._next(answer)
        after = torch.where(torch.nn.functional.pad(known, (0, 1)), after, n)
        may = torch.zeros(len(answer), n, self.num_classes, dtype=torch.bool, device=answer.device)
        may[..., nodes] = self._possible
        may &= candidates_of(answer, known, self.num_classes)
        times = torch.zeros_like(after).scatter_add_(1, after, torch.ones_like(after))
        named_by_another = times[:, None, :-1] > (after[:, :-1, None] == torch.arange(n, device=answer.device)).long()
        # The start of a known path is not the successor of its end, unless the path visits all nodes.
        closing = torch.zeros(len(answer), n + 1, n, dtype=torch.bool, device=answer.device)
        at = after
        for _ in range(n - 2):
            closing.scatter_(1, at[:, None, :-1], True)
            at = after.gather(1, at)
        may[..., nodes] &= ~(named_by_another | closing[:, :-1])
        return may[:, span]

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        nodes = slice(self.first, self.first + self.length)
        may = (candidates[..., nodes] & self._possible).cpu().numpy()
        shrink(may)
        left = torch.zeros_like(candidates)
        left[..., nodes] = torch.from_numpy(may).to(left.device)
        return left

    def lower(self, into: Lowering) -> None:
        """One literal for each arc, and the statement that arcs form one cycle."""
        nodes = slice(self.first, self.first + self.length)
        barred = torch.ones(self.length, self.num_classes, dtype=torch.bool)
        barred[:, nodes] = ~self.joined[0].cpu() if self.length >= 3 else True
        into.all_of(~into.literals[barred.numpy()])
        arcs = into.literals[:, nodes]
        if self.length >= 3:
            into.circuit([(tail, head, int(arcs[tail, head])) for tail, head in self.joined[0].nonzero().tolist()])

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        """A cycle by rotations of a path, where no model says which are likely; at most `MOVES` moves."""
        may = candidates[:, self.first : self.first + self.length]
        if self.length < 3 or bool((log_probs != log_probs[0, 0]).any()):
            return None, 0
        order, moves = rotate((may | may.mT).numpy(), self.MOVES, np.zeros(1, np.uint64))
        for way in (order, order[::-1]) if len(order) else ():
            after = torch.empty(self.length, dtype=torch.int64)
            after[torch.from_numpy(way.copy())] = torch.from_numpy(np.roll(way, -1))
            if bool(may.gather(1, after[:, None]).all()):
                return after + self.first, moves
        return None, moves

    @property
    def has_most_likely(self) -> bool:
        return self.length <= EXACT

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        if not self.has_most_likely:
            return super().most_likely(log_probs)
        barred = ~self.joined if self.length >= 3 else torch.ones_like(self.joined)
        scores = log_probs[..., self.first : self.first + self.length].double().masked_fill(barred, -torch.inf)
        cycles = np.zeros(scores.shape[:2], np.int64)
        exists = best_cycles(scores.cpu().numpy(), cycles)
        device = log_probs.device
        return torch.from_numpy(cycles).to(device) + self.first, torch.from_numpy(exists).to(device)


def _stray(node: int, after: int, nodes: int) -> str:
    if after == nodes:
        return f"node {node + 1} goes to no node"
    if after == node:
        return f"node {node + 1} goes to itself"
    return f"node {node + 1} goes to node {after + 1}, but they are not joined"


def visited(successors: Sequence[int]) -> list[int]:
    """The nodes of a Hamiltonian cycle in the order of visits, from node 0 towards its smaller neighbour."""
    order = [0]
    while (node := successors[order[-1]]) != 0:
        order.append(node)
    return order if order[1] < order[-1] else [0, *order[:0:-1]]
