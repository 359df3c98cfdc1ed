"""Finite state machines over the positions of an answer: tables, products, and exact sweeps.

Sweeps over the positions, forward and backward, give the exact allowed tokens, and the best satisfying answer is a
shortest path (Viterbi, 1967).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from constrained_dg.constraints.candidates import one_hot, without_dead_rows
from constrained_dg.constraints.product import Product
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Entries of a transition table up to which a product is made (8 bytes each).
TABLE = 2**24
#: States from which a machine is swept by the compiled loops of `product` on a CPU.
COMPILED = 256


@dataclass(frozen=True, eq=False)
class Machine:
    """Transition tables over positions: Q states, and a dead state, number Q, that is never left.

    Classes with equal transitions share an effect, which makes sweeps cheaper. Positions with equal tables share a
    kind. Sweeps skip positions at which no class changes the state.

    Attributes:
        step: (P, Q, K) int64, the state after effect k in state q at a position of kind p.
        effect: (P, A) int64, the effect of each class.
        kind: (T) int64 in [0, P).
        start: state.
        accepting: (Q) bool.
    """

    step: IntTensor
    effect: IntTensor
    kind: IntTensor
    start: int
    accepting: BoolTensor

    @classmethod
    def of(cls, tables: IntTensor, kind: IntTensor, start: int, accepting: BoolTensor) -> Machine:
        """From tables (P, Q, A) int64, -1 for dead; states that lie on no accepted path are dropped."""
        kinds, states, _ = tables.shape
        # 1. Keep the states that are reached from the start and lead to an accepting one.
        reach = torch.zeros(states + 1, dtype=torch.bool)
        reach[start] = True
        useful = torch.cat([accepting, torch.tensor([False])])
        tables = torch.where(tables < 0, states, tables)
        for sets, forward in ((reach, True), (useful, False)):
            for _ in range(len(kind)):  # a path is no longer than the answer
                after = sets.clone()
                if forward:
                    after[tables[:, sets[:-1]].flatten()] = True
                else:
                    after[:-1] |= sets[tables].any(-1).any(0)
                if torch.equal(after, sets):
                    break
                sets |= after
        keep = (reach & useful)[:-1]
        keep[start] = True
        # 2. Renumber them.
        number = torch.full((states + 1,), int(keep.sum()))
        number[:-1][keep] = torch.arange(int(keep.sum()))
        tables = number[tables[:, keep]]
        # 3. Equal columns of a table are one effect.
        columns = [table.unique(dim=1, return_inverse=True) for table in tables]
        most = max(table.shape[1] for table, _ in columns)
        step = torch.full((kinds, tables.shape[1], most), tables.shape[1])
        for at, (table, _) in enumerate(columns):
            step[at, :, : table.shape[1]] = table
        effect = torch.stack([inverse for _, inverse in columns])
        return cls(step, effect, kind, int(number[start]), accepting[keep])

    @classmethod
    def anything(cls, length: int, num_classes: int) -> Machine:
        """The machine of one state that accepts every answer."""
        zero = torch.zeros(length, dtype=torch.int64)
        return cls.of(torch.zeros(1, 1, num_classes, dtype=torch.int64), zero, 0, torch.ones(1, dtype=torch.bool))

    @property
    def states(self) -> int:
        return len(self.accepting)

    @property
    def entries(self) -> int:
        """Entries of the table of one kind of position."""
        return self.states * self.step.shape[-1]

    @property
    def device(self) -> torch.device:
        return self.kind.device

    @cached_property
    def idle(self) -> BoolTensor:
        """(T) True where every class leaves every state as it is."""
        stays = (self.step[:, :, 0] == torch.arange(self.states, device=self.device)).all(-1)
        return ((self.effect == 0).all(-1) & stays)[self.kind]

    @cached_property
    def active(self) -> IntTensor:
        """(N) the positions that are swept: those at which something happens, or the first where nothing does."""
        at = (~self.idle).nonzero().flatten()
        return at if len(at) else torch.zeros(1, dtype=torch.int64, device=self.device)

    def over(self, coarser: IntTensor) -> Machine:
        """The same over finer classes (A'), each of which is class coarser[a] here."""
        return Machine(self.step, self.effect[..., coarser], self.kind, self.start, self.accepting)

    def with_(self, other: Machine, limit: int = TABLE) -> Machine | None:
        """The product, or None where its tables have more entries than the limit."""
        if max(self.entries, other.entries) > limit:  # the product has no fewer
            return None
        (ours, theirs), kind = torch.stack([self.kind, other.kind]).unique(dim=1, return_inverse=True)
        states, width = self.states * other.states, other.step.shape[-1]
        # 1. A class's effect in the product is the pair of its effects.
        effects = self.effect[ours] * width + other.effect[theirs]  # (P, A)
        most = min(len(effects.flatten().unique()), effects.shape[-1])
        if len(ours) * states * most > limit:
            return None
        # 2. A state of the product is a pair of states; it is dead where one of them is.
        steps = torch.full((len(ours), states, most), states)
        effect = torch.empty_like(effects)
        for at, (one, two) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True)):
            seen, effect[at] = effects[at].unique(return_inverse=True)
            a = self.step[one][:, seen // width][:, None]  # (Q1, 1, K)
            b = other.step[two][:, seen % width][None]  # (1, Q2, K)
            dead = (a == self.states) | (b == other.states)
            steps[at, :, : len(seen)] = torch.where(dead, states, a * other.states + b).flatten(0, 1)
        accepting = (self.accepting[:, None] & other.accepting).flatten()
        # 3. Drop states that no accepted path visits: most of a product.
        tables = steps.gather(-1, effect[:, None].expand(-1, states, -1))
        return Machine.of(tables, kind, self.start * other.states + other.start, accepting)

    def complement(self) -> Machine:
        """The machine that accepts all other answers: its dead state accepts."""
        tables = torch.nn.functional.pad(self.step, (0, 0, 0, 1), value=self.states)
        tables = tables.gather(-1, self.effect[:, None].expand(-1, self.states + 1, -1))
        return Machine.of(tables, self.kind, self.start, ~torch.nn.functional.pad(self.accepting, (0, 1)))

    def to(self, device: torch.device | str) -> Machine:
        step, effect, kind, accepting = (x.to(device) for x in (self.step, self.effect, self.kind, self.accepting))
        return Machine(step, effect, kind, self.start, accepting)

    @cached_property
    def compiled(self) -> Product | None:
        """The same machine in compiled loops, where they are faster."""
        return Product(self, []) if self.device.type == "cpu" and self.states >= COMPILED else None

    @cached_property
    def _ends(self) -> BoolTensor:
        """(Q + 1) the accepting states, the dead one among the others."""
        return torch.nn.functional.pad(self.accepting, (0, 1))

    @cached_property
    def _table(self) -> IntTensor:
        """(P, Q + 1, K): `step` with the dead state, which leads to itself."""
        return torch.nn.functional.pad(self.step, (0, 0, 0, 1), value=self.states)

    def accepts(self, classes: IntTensor) -> BoolTensor:
        """(B, T) -> (B)."""
        table, effect, ends = self._table, self.effect, self._ends
        state = torch.full((len(classes),), self.start, device=self.device)
        if self.device.type == "cpu":  # a step is slower in torch than in numpy
            table, effect, ends, state, classes = (x.numpy() for x in (table, effect, ends, state, classes))
        kinds = self.kind.tolist()
        for at in self.active.tolist():
            state = table[kinds[at], state, effect[kinds[at], classes[:, at]]]
        return torch.as_tensor(ends[state])

    def shrink(self, candidates: BoolTensor) -> BoolTensor:
        """(B, T, A) -> (B, T, A), the classes that some accepted answer within the candidates holds: exact."""
        if self.compiled is not None:
            return self.compiled.shrink(candidates)
        at, rows, states = self.active, len(candidates), self.states
        kinds, effects = self.kind[at].tolist(), self.step.shape[-1]
        effect_of = self.effect[self.kind[at]]  # (N, A)
        # 1. The effects that the candidates of each position can have.
        may = torch.einsum("bta,tak->btk", candidates[:, at].float(), one_hot(effect_of, effects).float()) > 0
        # 2. From behind: the states from which an accepted end can be reached.
        behind = [self._ends.expand(rows, -1)]
        for k in reversed(range(len(kinds))):
            alive = behind[-1][:, self.step[kinds[k]].flatten()].view(rows, states, effects)
            behind.append(torch.nn.functional.pad((alive & may[:, k, None]).any(-1), (0, 1)))
        behind.reverse()
        # 3. From the front: the effects on a way from a reached state to such a state.
        reached = one_hot(torch.tensor([self.start], device=self.device), states + 1).expand(rows, -1)
        left = torch.empty_like(may)
        for k, kind in enumerate(kinds):
            following = self.step[kind].flatten()
            open_ = (reached[:, :-1, None] & may[:, k, None]).flatten(1) & behind[k + 1][:, following]
            left[:, k] = open_.view(rows, states, effects).any(1)
            # Sums of ones, not writes of True: several paths may enter a state.
            entered = torch.zeros(rows, states + 1, device=candidates.device)
            reached = entered.index_add_(1, following, open_.to(entered.dtype)) > 0
        smaller = candidates.clone()
        smaller[:, at] &= left.gather(-1, effect_of.expand(rows, -1, -1))
        return without_dead_rows(smaller)

    def best(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        """(B, T, A) -> the accepted answer of the highest sum (B, T), and whether one of finite sum exists (B)."""
        if self.compiled is not None:
            return self.compiled.best_of_rows(log_probs)
        at, rows, states = self.active, len(log_probs), self.states
        kinds, effects = self.kind[at].tolist(), self.step.shape[-1]
        # 1. Positions that are not swept take their best class.
        value, chosen = log_probs.max(-1)
        value[:, at] = 0
        elsewhere = value.isfinite().all(-1)
        effect_of = self.effect[self.kind[at]].expand(rows, -1, -1)
        log_probs = log_probs[:, at]
        scores = log_probs.new_full((rows, len(kinds), effects), -torch.inf)
        scores = scores.scatter_reduce(-1, effect_of, log_probs, "amax")
        # 2. From behind: the best sum from each state to an accepted end.
        ends = torch.where(self._ends, 0.0, -torch.inf).to(log_probs.dtype)
        values = [ends.expand(rows, -1)]
        for k in reversed(range(len(kinds))):
            following = values[-1][:, self.step[kinds[k]].flatten()].view(rows, states, effects)
            values.append(torch.nn.functional.pad((following + scores[:, k, None]).amax(-1), (0, 1), value=-torch.inf))
        values.reverse()
        # 3. From the front: the effect that keeps the best sum, and its likeliest class, the first of equals.
        state = torch.full((rows,), self.start, device=log_probs.device)
        exists = values[0][:, self.start].isfinite() & elsewhere
        table = self._table
        for k, kind in enumerate(kinds):
            following = table[kind, state]  # (B, K)
            effect = (values[k + 1].gather(1, following) + scores[:, k]).argmax(-1, keepdim=True)
            chosen[:, at[k]] = log_probs[:, k].masked_fill(effect_of[:, k] != effect, -torch.inf).argmax(-1)
            state = following.gather(1, effect)[:, 0]
        return chosen, exists
