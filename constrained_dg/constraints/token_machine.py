"""Machines with many states and many classes, as edges instead of tables: those of rules on text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from constrained_dg.constraints import token_loops
from constrained_dg.constraints.candidates import without_dead_rows
from constrained_dg.constraints.machine import TABLE, Machine
from constrained_dg.constraints.product import Product
from constrained_dg.constraints.running import once
from constrained_dg.errors import InputError
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


@dataclass(frozen=True, eq=False)
class Edges:
    """The moves of a machine, the same at every position.

    Attributes:
        begin: (Q + 1) int64, where the edges of each state begin.
        target, label: (E) int32, the state that each edge leads to, and its label.
        inside: (L + 1) int64, where the members of each label begin.
        members: int32, the effects of each label, in order.
        effects: K, the number of effects. A state has no two edges with a common effect.
    """

    begin: np.ndarray
    target: np.ndarray
    label: np.ndarray
    inside: np.ndarray
    members: np.ndarray
    effects: int

    @property
    def states(self) -> int:
        return len(self.begin) - 1

    @once
    def source(self) -> np.ndarray:
        """(E) the state that each edge leaves."""
        return np.repeat(np.arange(self.states, dtype=np.int32), np.diff(self.begin))

    def far(self, sources: np.ndarray) -> np.ndarray:
        """(Q) the fewest edges from some states (Q, bool), -1 where no way leads."""
        return token_loops.distances(self.begin, self.target, sources)

    def near(self, goals: np.ndarray) -> np.ndarray:
        """(Q) the fewest edges to some states (Q, bool), -1 where no way leads."""
        order = np.argsort(self.target, kind="stable")
        begin = np.searchsorted(self.target[order], np.arange(self.states + 1))
        return token_loops.distances(begin, self.source[order], goals)

    def within(self, kept: np.ndarray) -> Edges:
        """The edges between some states (Q, bool), which are renumbered."""
        number = np.cumsum(kept) - 1
        edges = kept[self.source] & kept[self.target]
        counts = np.bincount(self.source[edges], minlength=self.states)[kept]
        used, label = np.unique(self.label[edges], return_inverse=True)
        sizes = np.diff(self.inside)[used]
        inside = np.concatenate([[0], np.cumsum(sizes)])
        members = np.repeat(self.inside[used] - inside[:-1], sizes) + np.arange(inside[-1])
        return Edges(
            np.concatenate([[0], np.cumsum(counts)]),
            number[self.target[edges]].astype(np.int32),
            label.reshape(-1).astype(np.int32),
            inside,
            self.members[members],
            self.effects,
        )


class TokenMachine(Machine):
    """A `Machine` of one kind of position, held as edges. Sweeps are linear in positions and edges.

    Args:
        edges: Q states and K effects; effect k is that of class k, or of the classes that `effect` names.
        start: state.
        accepting: (Q) bool.
        length: T.
        effect: (1, A) int64, the effect of each class.
    """

    def __init__(
        self, edges: Edges, start: int, accepting: BoolTensor, length: int, effect: IntTensor | None = None
    ) -> None:
        effect = torch.arange(edges.effects)[None] if effect is None else effect
        kind = torch.zeros(length, dtype=torch.int64, device=effect.device)
        values = {"edges": edges, "start": start, "accepting": accepting, "effect": effect, "kind": kind}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    edges: Edges

    @property
    def entries(self) -> int:
        return self.edges.states * self.edges.effects

    @once
    def step(self) -> IntTensor:  # type: ignore[override]  # a field there; here it is made when it is asked for
        """The table, where it is small enough to be written."""
        if self.entries > TABLE:
            raise InputError(
                f"a rule of {self.edges.states:,} states and {self.edges.effects:,} classes has no table",
                "join it by & with fewer rules, or write a smaller one",
            )
        edges, table = self.edges, np.full((self.edges.states, self.edges.effects), self.edges.states)
        sizes = np.diff(edges.inside)[edges.label]
        place = np.repeat(edges.inside[edges.label] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        effects = edges.members[place + np.arange(len(place))]
        table[np.repeat(edges.source, sizes), effects] = np.repeat(edges.target, sizes)
        return torch.from_numpy(table)[None].to(self.device)

    @once
    def idle(self) -> BoolTensor:
        edges = self.edges
        free = edges.states == 1 and len(np.unique(edges.members)) == edges.effects
        return torch.full((len(self.kind),), free, device=self.device)

    @once
    def compiled(self) -> Product | None:
        return None

    @once
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last position before which each state may be."""
        start = np.zeros(self.edges.states, bool)
        start[self.start] = True
        early, near = self.edges.far(start), self.edges.near(self.accepting.cpu().numpy())
        late = np.where((near < 0) | (early < 0), -1, len(self.kind) - near)
        return early.astype(np.int64), late.astype(np.int64)

    def _graph(self) -> tuple[np.ndarray | int, ...]:
        edges = self.edges
        return edges.begin, edges.target, edges.label, edges.inside, edges.members, self.start, self._accepts

    @once
    def _accepts(self) -> np.ndarray:
        return self.accepting.cpu().numpy()

    @once
    def _effect_of(self) -> np.ndarray:
        """(A) the effect of each class."""
        return self.effect[0].cpu().numpy()

    @once
    def _same(self) -> bool:
        """Whether each class is its own effect."""
        return np.array_equal(self._effect_of, np.arange(self.edges.effects))

    def over(self, coarser: IntTensor) -> TokenMachine:
        return TokenMachine(self.edges, self.start, self.accepting, len(self.kind), self.effect[..., coarser])

    def to(self, device: torch.device | str) -> TokenMachine:
        return TokenMachine(self.edges, self.start, self.accepting.to(device), len(self.kind), self.effect.to(device))

    def accepts(self, classes: IntTensor) -> BoolTensor:
        effects = self._effect_of[classes.cpu().numpy()]
        return torch.from_numpy(token_loops.accepted(*self._graph(), effects)).to(self.device)

    def shrink(self, candidates: BoolTensor) -> BoolTensor:
        # Rows are swept one by one, equal ones once.
        rows, inverse = candidates.cpu().unique(dim=0, return_inverse=True)
        left = np.stack([self._shrunk(row) for row in rows.numpy()])[inverse.numpy()]
        return without_dead_rows(torch.from_numpy(left).to(candidates.device))

    def _shrunk(self, candidates: np.ndarray) -> np.ndarray:
        may = candidates
        if not self._same:
            may = token_loops.most(candidates, self._effect_of, self.edges.effects, False)
        left = token_loops.shrunk(*self._graph(), *self._bounds, may)
        return left if self._same else candidates & left[:, self._effect_of]

    def best(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        rows = [self._best(row) for row in log_probs.cpu().numpy().astype(np.float64)]
        classes = torch.from_numpy(np.stack([row for row, _ in rows]))
        return classes.to(log_probs.device), torch.tensor([there for _, there in rows], device=log_probs.device)

    def _best(self, log_probs: np.ndarray) -> tuple[np.ndarray, bool]:
        scores = log_probs
        if not self._same:
            scores = token_loops.most(log_probs, self._effect_of, self.edges.effects, -np.inf)
        chosen, total = token_loops.best(*self._graph(), *self._bounds, scores)
        if total == -np.inf:
            return chosen, False
        if not self._same:
            mine = self._effect_of[None] == chosen[:, None]
            chosen = np.where(mine, log_probs, -np.inf).argmax(-1)
        return chosen, True
