"""Several rules at once: `a & b`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, IntTensor


@dataclass(frozen=True, eq=False)
class All(Constraint):
    """Every part must hold. `allowed` is the intersection of the parts' sets; `propagate` lets them work on each other.

    Args:
        parts: constraints of equal length and alphabet; each has one row or the same number of rows. Parts that are
            `All` themselves are flattened.

    Raises:
        InputError: lengths, alphabets or rows do not fit.
    """

    parts: Sequence[Constraint]

    def __post_init__(self) -> None:
        check(len(self.parts) > 0, "All got no constraint", "give one or more")
        flat = [leaf for part in self.parts for leaf in (part.parts if isinstance(part, All) else [part])]
        object.__setattr__(self, "parts", tuple(flat))
        for name in ("length", "alphabet"):
            values = [getattr(part, name) for part in flat]
            check(len(set(values)) == 1, f"constraints of {name} {values} cannot be joined", f"make the {name} equal")
        rows = [part.rows for part in flat]
        check(len({*rows} - {1}) < 2, f"constraints of {rows} rows cannot be joined", "give each one row or equal rows")

    @property
    def length(self) -> int:
        return self.parts[0].length

    @property
    def alphabet(self) -> int:
        return self.parts[0].alphabet

    @property
    def rows(self) -> int:
        return max(part.rows for part in self.parts)

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return torch.stack([part.is_satisfied(answer) for part in self.parts]).all(0)

    def violations(self, answer: IntTensor) -> BoolTensor:
        return torch.stack([part.violations(answer) for part in self.parts]).any(0)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        return [
            [sentence for of_part in of_row for sentence in of_part]
            for of_row in zip(*(part.explain(answer) for part in self.parts), strict=True)
        ]

    def allowed(self, answer: IntTensor, known: BoolTensor, window: slice) -> BoolTensor:
        may = self.parts[0].allowed(answer, known, window)
        for part in self.parts[1:]:
            may = may & part.allowed(answer, known, window)
        return may

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        size = None
        while (new_size := int(candidates.sum())) != size:
            size = new_size
            for part in self.parts:
                candidates = part.propagate(candidates)
        return candidates

    def select(self, rows: IntTensor) -> All:
        shared = self.rows > 1
        return All([part if shared and part.rows == 1 else part.select(rows) for part in self.parts])

    @classmethod
    def stack(cls, constraints: Sequence[All]) -> All:
        kinds = [[type(part) for part in constraint.parts] for constraint in constraints]
        check(all(kind == kinds[0] for kind in kinds), "cannot stack different rules", "keep one order of parts")
        return All([type(column[0]).stack(column) for column in zip(*(c.parts for c in constraints), strict=True)])

    def to(self, device: torch.device | str) -> All:
        return All([part.to(device) for part in self.parts])
