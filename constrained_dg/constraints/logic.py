"""Or and not: `a | b`, `~a`, and so `a.implies(b)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.combine import All, Joined, over_finer
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.part import On
from constrained_dg.constraints.predicate import Predicate
from constrained_dg.constraints.sweep import Swept
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, IntTensor


class Either(Joined):
    """At least one part must hold. `allowed` and `propagate` are the union over the parts that are still
    possible: sound, and exact where one exact part is left."""

    strength = "the union over the parts that are still possible"

    def lower(self, into: Lowering) -> None:
        into.any_holds([(view, part, True) for view, part in self.views(into)])

    def lower_opposite(self, into: Lowering) -> None:
        for view, part in self.views(into):
            part.lower_opposite(view)

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return torch.stack([part.is_satisfied(answer) for part in self.parts]).any(0)

    def violations(self, answer: IntTensor) -> BoolTensor:
        """The union of the parts' blame, where no part holds."""
        blame = torch.stack([part.violations(answer) for part in self.parts]).any(0)
        return blame & ~self.is_satisfied(answer)[:, None]

    def explain(self, answer: IntTensor) -> list[list[str]]:
        of_rows = zip(*(part.explain(answer) for part in self.parts), strict=True)
        what = self.name or "one of these must hold"
        return [
            [] if satisfied else [f"{what}: {' or: '.join(', '.join(of_part) for of_part in of_row)}"]
            for of_row, satisfied in zip(of_rows, self.is_satisfied(answer).tolist(), strict=True)
        ]

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        sets = []
        for part, coarser in self.by_class:
            may = part.allowed(answer, known, slice(0, self.length))
            sets.append(may if coarser is None else may[..., coarser])
        return self._of_possible(sets)[:, span]

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return self._of_possible([over_finer(part, coarser, candidates) for part, coarser in self.by_class])

    @staticmethod
    def _of_possible(sets: Sequence[BoolTensor]) -> BoolTensor:
        """The union over the parts (B, T, A) in which every position has a candidate left."""
        possible = [may & may.any(-1).all(-1)[:, None, None] for may in sets]
        return torch.stack(possible).any(0)

    def __invert__(self) -> Constraint:
        return All([~part for part in self.parts], self.classes)


@dataclass(frozen=True, eq=False, repr=False)
class Negation(Constraint):
    """The rule must not hold. `allowed` rules out only what the known tokens exclude; the rule is not inspected.

    Args:
        rule: any rule, except an `On` whose judge is plain Python: negate its function instead.
    """

    rule: Constraint

    def __post_init__(self) -> None:
        rule = self.rule
        check(
            not (isinstance(rule, On) and rule.reads_every_pass),
            f"{rule!r} is judged by a function that may fail, and a failure is no proof of the opposite",
            "negate the function instead",
        )

    def __repr__(self) -> str:
        return f"~{self.rule!r}"

    @property
    def length(self) -> int:
        return self.rule.length

    @property
    def num_classes(self) -> int:
        return self.rule.num_classes

    @property
    def rows(self) -> int:
        return self.rule.rows

    @property
    def classes(self) -> TokenClasses | None:
        return self.rule.classes

    @property
    def reads_every_pass(self) -> bool:
        return self.rule.reads_every_pass

    @property
    def bound(self) -> BoolTensor:
        return self._bounds.any(0)

    @cached_property
    def _bounds(self) -> BoolTensor:
        """(B, T) the bound positions of each row's rule; all if it binds none, so that one can be blamed."""
        rows = torch.arange(self.rows).split(1) if self.rows > 1 else []
        bounds = torch.stack([self.rule.select(row).bound for row in rows] or [self.rule.bound])
        return bounds | ~bounds.any(-1, keepdim=True)

    def lower(self, into: Lowering) -> None:
        self.rule.lower_opposite(into)

    def lower_opposite(self, into: Lowering) -> None:
        self.rule.lower(into)

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return ~self.rule.is_satisfied(answer)

    def violations(self, answer: IntTensor) -> BoolTensor:
        """See `Constraint.violations`; a row blames what its own rule is about, whatever the rows beside it."""
        return ~self.is_satisfied(answer)[:, None] & self._bounds.to(answer.device)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        rule = self.rule if self.rows == 1 else self.rule.select(torch.tensor([0]))
        what = self.name or f"this must not hold, and does: {rule!r}"
        return [[] if satisfied else [what] for satisfied in self.is_satisfied(answer).tolist()]

    def __invert__(self) -> Constraint:
        return self.rule

    def partition(self) -> IntTensor:
        return self.rule.partition()

    def in_classes(self, classes: TokenClasses) -> Negation:
        return Negation(self.rule.in_classes(classes))

    def renamed(self, positions: Sequence[int]) -> Negation:
        return Negation(self.rule.renamed(positions))

    def select(self, rows: IntTensor) -> Negation:
        return self._changed({"rule": self.rule.select(rows)})

    @classmethod
    def stack(cls, constraints: Sequence[Negation]) -> Constraint:  # type: ignore[override]
        return ~type(constraints[0].rule).stack([constraint.rule for constraint in constraints])

    def to(self, device: torch.device | str) -> Negation:
        return self._changed({"rule": self.rule.to(device)})


class NotSwept(Swept):
    """A rule that a machine decides must not hold: the machine that accepts all other answers. Exact.

    Args:
        rule: the rule.
    """

    def __init__(self, rule: Constraint) -> None:
        if rule.machine is None:
            raise InputError(f"no automaton decides {rule!r}", "write ~rule")
        self.rule, self.machine = rule, rule.machine.complement()
        self.length, self.num_classes, self.classes = rule.length, rule.num_classes, rule.classes
        possible = self.machine.best(torch.zeros(1, self.length, self.num_classes))[1]
        check(bool(possible), f"every answer satisfies {rule!r}", "its opposite cannot be required")

    def __repr__(self) -> str:
        return f"~{self.rule!r}"

    def lower(self, into: Lowering) -> None:
        self.rule.lower_opposite(into)

    def lower_opposite(self, into: Lowering) -> None:
        self.rule.lower(into)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        what = self.name or f"this must not hold, and does: {self.rule!r}"
        return [[] if satisfied else [what] for satisfied in self.is_satisfied(answer).tolist()]

    def __invert__(self) -> Constraint:
        return self.rule

    def to(self, device: torch.device | str) -> NotSwept:
        return self._changed({"rule": self.rule.to(device), "machine": self.machine.to(device)})


def negated(rule: Constraint) -> Constraint:
    """The opposite of a rule, with the negation moved into its parts."""
    if isinstance(rule, All):
        return Either([~part for part in rule.parts], rule.classes)
    if isinstance(rule, Predicate):
        return rule.opposite()
    return Negation(rule) if rule.machine is None else NotSwept(rule)


Constraint.operators["or"] = Either
Constraint.operators["not"] = negated
