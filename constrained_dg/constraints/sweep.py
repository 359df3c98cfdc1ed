"""Rules that read the answer from left to right with finitely many states, and what follows from that exactly.

Automata, counts and sums are of this kind, and so are their products: sweeps over the positions, forward and backward,
give the exact allowed tokens, and the best satisfying answer is a shortest path (Viterbi, 1967).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from constrained_dg.constraints.all_different import listing
from constrained_dg.constraints.base import Constraint, candidates_of, one_hot
from constrained_dg.constraints.product import Counted
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Entries of a transition table up to which a product is made (8 bytes each).
TABLE = 2**24
#: States from which a machine of one row is swept by the compiled loops of `counted` on a CPU.
COMPILED = 256


@dataclass(frozen=True, eq=False)
class Machine:
    """Transition tables over positions: Q states, and one more, number Q, that is dead and stays so.

    Classes that always do the same are one effect: a sweep then costs as many steps as there are effects. Positions
    that do the same are of one kind.

    Attributes:
        step: (M, P, Q, K) int64, the state after effect k in state q at a position of kind p; M is 1 or the rows.
        effect: (M, P, A) int64, the effect of each class.
        kind: (T) int64 in [0, P).
        start: (M) int64.
        accepting: (M, Q) bool.
    """

    step: IntTensor
    effect: IntTensor
    kind: IntTensor
    start: IntTensor
    accepting: BoolTensor

    @classmethod
    def of(cls, tables: IntTensor, kind: IntTensor, start: int, accepting: BoolTensor) -> Machine:
        """One row from tables (P, Q, A) int64, -1 for dead; states that lie on no accepted path are dropped."""
        kinds, states, _ = tables.shape
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
        number = torch.full((states + 1,), int(keep.sum()))
        number[:-1][keep] = torch.arange(int(keep.sum()))
        tables = number[tables[:, keep]]
        columns = [table.unique(dim=1, return_inverse=True) for table in tables]
        most = max(table.shape[1] for table, _ in columns)
        step = torch.full((kinds, tables.shape[1], most), tables.shape[1])
        for at, (table, _) in enumerate(columns):
            step[at, :, : table.shape[1]] = table
        effect = torch.stack([inverse for _, inverse in columns])
        return cls(step[None], effect[None], kind, number[start][None], accepting[keep][None])

    @property
    def states(self) -> int:
        return self.accepting.shape[1]

    @property
    def rows(self) -> int:
        return len(self.start)

    @property
    def device(self) -> torch.device:
        return self.start.device

    def told_in(self, to_own: IntTensor) -> Machine:
        """The same over finer classes (A'), each of which is class to_own[a] here."""
        return Machine(self.step, self.effect[..., to_own], self.kind, self.start, self.accepting)

    @classmethod
    def anything(cls, length: int, num_classes: int) -> Machine:
        """The machine of one state that accepts every answer."""
        zero = torch.zeros(length, dtype=torch.int64)
        return cls.of(torch.zeros(1, 1, num_classes, dtype=torch.int64), zero, 0, torch.ones(1, dtype=torch.bool))

    def with_(self, other: Machine, limit: int = TABLE) -> Machine | None:
        """The product, or None where its tables have more entries than the limit."""
        pairs = torch.stack([self.kind, other.kind]).unique(dim=1, return_inverse=True)
        (ours, theirs), kind = pairs
        rows, states = max(self.rows, other.rows), self.states * other.states
        effects = self.effect[:, ours] * other.step.shape[-1] + other.effect[:, theirs]  # (M, P, A)
        effects = effects.expand(rows, -1, -1)
        used = effects.flatten().unique()
        most = min(len(used), effects.shape[-1])
        if rows * len(ours) * states * most > limit:
            return None
        made = torch.full((rows, len(ours), states, most), states)
        effect = torch.empty_like(effects)
        for row in range(rows):
            for at, (one, two) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True)):
                seen, effect[row, at] = effects[row, at].unique(return_inverse=True)
                first, second = (seen // other.step.shape[-1], seen % other.step.shape[-1])
                a = self.step[row % self.rows, one][:, first][:, None]  # (Q1, 1, K)
                b = other.step[row % other.rows, two][:, second][None]  # (1, Q2, K)
                dead = (a == self.states) | (b == other.states)
                made[row, at, :, : len(seen)] = torch.where(dead, states, a * other.states + b).flatten(0, 1)
        accepting = (self.accepting[:, :, None] & other.accepting[:, None]).flatten(1)
        start = self.start * other.states + other.start
        if rows > 1:
            return Machine(made, effect, kind, start, accepting)
        # One row: states that no accepted path visits go, and with them most of a product.
        return Machine.of(made[0].gather(-1, effect[0][:, None].expand(-1, states, -1)), kind, int(start), accepting[0])

    @classmethod
    def stack(cls, machines: Sequence[Machine]) -> Machine:
        """Machines over the same answers as rows of one; states, effects and kinds are filled up with what is dead."""
        if len({tuple(machine.kind.tolist()) for machine in machines}) > 1:
            machines = [
                Machine(m.step[:, m.kind], m.effect[:, m.kind], torch.arange(len(m.kind)), m.start, m.accepting)
                for m in machines
            ]
        states, effects = max(m.states for m in machines), max(m.step.shape[-1] for m in machines)
        steps, accepting = [], []
        for m in machines:
            size = (0, effects - m.step.shape[-1], 0, states - m.states)
            step = torch.where(m.step == m.states, states, m.step)
            steps.append(torch.nn.functional.pad(step, size, value=states))
            accepting.append(torch.nn.functional.pad(m.accepting, (0, states - m.states)))
        rest = (torch.cat([getattr(m, name) for m in machines]) for name in ("effect", "start"))
        effect, start = rest
        return cls(torch.cat(steps), effect, machines[0].kind, start, torch.cat(accepting))

    def select(self, rows: IntTensor) -> Machine:
        if self.rows == 1:
            return self
        return Machine(self.step[rows], self.effect[rows], self.kind, self.start[rows], self.accepting[rows])

    def to(self, device: torch.device | str) -> Machine:
        return Machine(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def _next(self, kind: int, rows: int) -> IntTensor:
        """(B, Q * K) states after each effect in each state."""
        return self.step[:, kind].flatten(1).expand(rows, -1)

    def accepts(self, classes: IntTensor) -> BoolTensor:
        """(B, T) -> (B)."""
        if self.rows == 1 and classes.device.type == "cpu":
            return torch.from_numpy(self._accepted(classes.numpy()))
        rows, effects = len(classes), self.step.shape[-1]
        state, dead = self.start.expand(rows).clone(), torch.full((rows,), self.states, device=classes.device)
        for at, kind in enumerate(self.kind.tolist()):
            effect = self.effect[:, kind].expand(rows, -1).gather(1, classes[:, at : at + 1])[:, 0]
            following = self._next(kind, rows).gather(1, (state.clamp(max=self.states - 1) * effects + effect)[:, None])
            state = torch.where(state == dead, dead, following[:, 0])
        return torch.nn.functional.pad(self.accepting, (0, 1)).expand(rows, -1).gather(1, state[:, None])[:, 0]

    @cached_property
    def counted(self) -> Counted | None:
        """The same in compiled loops, where they are faster."""
        here = self.rows == 1 and self.device.type == "cpu" and self.states >= COMPILED
        return Counted(self, []) if here else None

    @cached_property
    def _steps(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, Q + 1, K) with the dead state, and (P, A): of one row."""
        step = np.pad(self.step[0].numpy(), ((0, 0), (0, 1), (0, 0)), constant_values=self.states)
        return step, self.effect[0].numpy()

    def _accepted(self, classes: np.ndarray) -> np.ndarray:
        """`accepts` of one row on a CPU, where a step costs more in torch than in numpy."""
        (step, effect), state = self._steps, np.full(len(classes), int(self.start[0]))
        for at, kind in enumerate(self.kind.tolist()):
            state = step[kind, state, effect[kind, classes[:, at]]]
        return np.append(self.accepting[0].numpy(), False)[state]

    def shrink(self, candidates: BoolTensor) -> BoolTensor:
        """(B, T, A) -> (B, T, A), what some accepted answer within the candidates holds: exact."""
        if self.counted is not None:
            return self.counted.shrink(candidates)
        (rows, length, _), states, effects = candidates.shape, self.states, self.step.shape[-1]
        kinds = self.kind.tolist()
        effect_of = one_hot(self.effect, effects).float()  # (M, P, A, K)
        may = torch.einsum("bta,btak->btk", candidates.float(), effect_of[:, self.kind].expand(rows, -1, -1, -1)) > 0
        behind = [torch.nn.functional.pad(self.accepting, (0, 1)).expand(rows, -1)]
        for at in reversed(range(length)):
            alive = behind[-1].gather(1, self._next(kinds[at], rows)).view(rows, states, effects)
            behind.append(torch.nn.functional.pad((alive & may[:, at, None]).any(-1), (0, 1)))
        behind.reverse()
        reached = one_hot(self.start, states + 1).expand(rows, -1)
        left = torch.empty_like(may)
        for at in range(length):
            following = self._next(kinds[at], rows)
            open_ = (reached[:, :-1, None] & may[:, at, None]).flatten(1) & behind[at + 1].gather(1, following)
            left[:, at] = open_.view(rows, states, effects).any(1)
            # Sums of ones, not writes of True: several paths may enter a state.
            entered = torch.zeros(rows, states + 1, device=candidates.device)
            reached = entered.scatter_add_(1, following, open_.to(entered.dtype)) > 0
        own = self.effect[:, self.kind].expand(rows, -1, -1)
        return candidates & left.gather(-1, own)

    def best(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        """(B, T, A) -> the accepted answer of the highest sum (B, T), and whether one of finite sum exists (B)."""
        if self.counted is not None:
            found = [self.counted.best(row) for row in log_probs.numpy()]
            return torch.from_numpy(np.stack([row for row, _ in found])), torch.tensor([there for _, there in found])
        (rows, length, _), states, effects = log_probs.shape, self.states, self.step.shape[-1]
        kinds, own = self.kind.tolist(), self.effect[:, self.kind].expand(rows, -1, -1)
        scores = log_probs.new_full((rows, length, effects), -torch.inf)
        scores = scores.scatter_reduce(-1, own, log_probs, "amax")
        value = torch.where(torch.nn.functional.pad(self.accepting, (0, 1)), 0.0, -torch.inf).to(log_probs.dtype)
        values = [value.expand(rows, -1)]
        for at in reversed(range(length)):
            following = values[-1].gather(1, self._next(kinds[at], rows)).view(rows, states, effects)
            best = (following + scores[:, at, None]).amax(-1)
            values.append(torch.nn.functional.pad(best, (0, 1), value=-torch.inf))
        values.reverse()
        state = self.start.expand(rows)[:, None]
        found = values[0].gather(1, state)[:, 0].isfinite()
        state, chosen = state.clone(), torch.empty(rows, length, dtype=torch.int64, device=log_probs.device)
        within = torch.arange(effects, device=log_probs.device)
        for at in range(length):
            following = self._next(kinds[at], rows).gather(1, state.clamp(max=states - 1) * effects + within)
            effect = (values[at + 1].gather(1, following) + scores[:, at]).argmax(-1, keepdim=True)
            # The likeliest class of that effect, the first of equals.
            chosen[:, at] = log_probs[:, at].masked_fill(own[:, at] != effect, -torch.inf).argmax(-1)
            state = following.gather(1, effect)
        return chosen, found


class Layered(Constraint):
    """A rule that a `Machine` decides. `allowed`, `propagate` and `most_likely` are exact.

    Blame: the positions that a nearest satisfying answer (the fewest tokens changed) changes. Subclasses give a
    `machine`, and blame and words of their own where a reader would expect others.

    Attributes:
        machine: decides, over classes.
        show: a token as people write it.
    """

    machine: Machine
    show: Callable[[int], str] = str
    strength = "exact"

    @property
    def rows(self) -> int:
        return self.machine.rows

    @cached_property
    def bound(self) -> BoolTensor:
        effect = self.machine.effect
        open_ = (effect == effect[..., :1]).all(-1).all(0)  # (P): one effect for all classes
        return ~open_[self.machine.kind]

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return self.machine.accepts(self.class_of(answer))

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        self.check_answer(answer)
        return self.machine.shrink(candidates_of(self.class_of(answer), known, self.num_classes))[:, span]

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return self.machine.shrink(candidates)

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        return self.machine.best(log_probs)

    @property
    def has_most_likely(self) -> bool:
        return True

    def nearest(self, answer: IntTensor) -> IntTensor:
        """(B, T) -> (B, T), a satisfying answer that differs at the fewest positions; tokens that fit stay."""
        own = self.class_of(answer)
        classes, _ = self.most_likely(one_hot(own, self.num_classes).float() - 1)
        return torch.where(classes == own, answer, self.tokens_of(classes))

    def violations(self, answer: IntTensor) -> BoolTensor:
        return (self.nearest(answer) != answer) & ~self.is_satisfied(answer)[:, None]

    def explain(self, answer: IntTensor) -> list[list[str]]:
        nearest = self.nearest(answer).tolist()
        return [
            [
                f"position {at + 1} holds {self.show(held)}; the nearest answer that fits has {self.show(near[at])}"
                for at, held in enumerate(row)
                if held != near[at] and not satisfied
            ]
            for row, near, satisfied in zip(answer.tolist(), nearest, self.is_satisfied(answer).tolist(), strict=True)
        ]

    def select(self, rows: IntTensor) -> Layered:
        return self._changed({"machine": self.machine.select(rows)}) if self.rows > 1 else self

    @classmethod
    def stack(cls, constraints: Sequence[Layered]) -> Layered:
        """Rows of this kind with a machine each; equal ones stay one row."""
        first = constraints[0]
        check(
            len({(c.length, c.num_classes, c.classes) for c in constraints}) == 1,
            "cannot stack rules of other lengths or alphabets",
            "stack rows of one layout only",
        )
        if all(c is first for c in constraints) and first.rows == 1:
            return first
        swept = all(c.machine is not None for c in constraints)
        check(swept, "cannot stack rules that are too large to be swept", "solve them one by one")
        return RowsOf([c.select(torch.tensor([row])) for c in constraints for row in range(c.rows)])

    def to(self, device: torch.device | str) -> Layered:
        return super().to(device)._changed({"machine": self.machine.to(device)})


class RowsOf(Layered):
    """Rules of one row each, a row for each: their machines are swept together, their words are their own.

    Args:
        parts: rules of one row, of equal length and alphabet.
    """

    def __init__(self, parts: Sequence[Layered], machine: Machine | None = None) -> None:
        self.parts_of_rows = [
            own for part in parts for own in (part.parts_of_rows if isinstance(part, RowsOf) else [part])
        ]
        first = self.parts_of_rows[0]
        self.length, self.num_classes, self.classes = first.length, first.num_classes, first.classes
        self.machine = Machine.stack([part.machine for part in self.parts_of_rows]) if machine is None else machine

    def violations(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return torch.cat([part.violations(own[None]) for part, own in self._each(answer)])

    def explain(self, answer: IntTensor) -> list[list[str]]:
        self.check_answer(answer)
        return [part.explain(own[None])[0] for part, own in self._each(answer)]

    def _each(self, answer: IntTensor) -> list[tuple[Layered, IntTensor]]:
        parts = self.parts_of_rows if len(self.parts_of_rows) > 1 else self.parts_of_rows * len(answer)
        return list(zip(parts, answer, strict=True))

    def neighbours(self) -> BoolTensor:
        return torch.cat([part.neighbours() for part in self.parts_of_rows])

    @property
    def rows(self) -> int:
        return len(self.parts_of_rows)

    def select(self, rows: IntTensor) -> RowsOf:
        machine = self.machine.select(rows) if self.rows > 1 else Machine.stack([self.machine] * len(rows))
        return RowsOf([self.parts_of_rows[row] for row in rows.tolist()], machine)

    @classmethod
    def stack(cls, constraints: Sequence[RowsOf]) -> RowsOf:
        return RowsOf(constraints)

    def to(self, device: torch.device | str) -> RowsOf:
        return RowsOf([part.to(device) for part in self.parts_of_rows], self.machine.to(device))


def places(positions: Sequence[int]) -> str:
    """ "position 2", "positions 2 and 8": counted from one."""
    return listing("position", [at + 1 for at in positions])
