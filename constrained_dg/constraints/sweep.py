"""Rules that read the answer from left to right with finitely many states: automata, counts and sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.by_row import ByRow
from constrained_dg.constraints.candidates import candidates_of, one_hot
from constrained_dg.constraints.machine import Machine
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


class Swept(Constraint):
    """A rule that a `Machine` decides. `allowed`, `propagate` and `most_likely` are exact.

    Blame: the positions that a nearest satisfying answer (the fewest tokens changed) changes. Subclasses define
    `machine`, and may override blame and sentences.

    Attributes:
        machine: decides the rule, over classes.
        show: a token as people write it.
    """

    machine: Machine  # type: ignore[assignment]  # only `Sum` may have none, and checks this
    show: Callable[[int], str] = str
    strength = "exact"

    @cached_property
    def bound(self) -> BoolTensor:
        effect = self.machine.effect
        return (effect != effect[..., :1]).any(-1)[self.machine.kind]

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
        classes = self.class_of(answer)
        nearest, _ = self.most_likely(one_hot(classes, self.num_classes).float() - 1)
        return torch.where(nearest == classes, answer, self.tokens_of(nearest))

    def violations(self, answer: IntTensor) -> BoolTensor:
        return (self.nearest(answer) != answer) & ~self.is_satisfied(answer)[:, None]

    def explain(self, answer: IntTensor) -> list[list[str]]:
        nearest = self.nearest(answer).tolist()
        return [
            [
                f"position {at + 1} holds {self.show(token)}; the nearest answer that fits has {self.show(near[at])}"
                for at, token in enumerate(row)
                if token != near[at] and not satisfied
            ]
            for row, near, satisfied in zip(answer.tolist(), nearest, self.is_satisfied(answer).tolist(), strict=True)
        ]

    @classmethod
    def stack(cls, constraints: Sequence[Constraint]) -> Constraint:
        """A rule for each row; equal rules stay one row."""
        first = constraints[0]
        return first if all(each is first for each in constraints) else ByRow.stack(constraints)

    def to(self, device: torch.device | str) -> Swept:
        return super().to(device)._changed({"machine": self.machine.to(device)})
