"""A different rule for each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


class ByRow(Constraint):
    """A different rule for each row, of any classes.

    Args:
        of_rows: rules of one row, of equal length, vocabulary and classes.

    Raises:
        InputError: they differ in these, or one has several rows.
    """

    def __init__(self, of_rows: Sequence[Constraint]) -> None:
        check(len(of_rows) > 0, "ByRow got no rule", "give one for each row")
        check(all(rule.rows == 1 for rule in of_rows), "ByRow got a rule of several rows", "give one for each row")
        first = of_rows[0]
        layouts = {(rule.length, rule.num_classes, rule.classes) for rule in of_rows}
        check(
            len(layouts) == 1,
            "rules of different lengths, vocabularies or classes cannot be rows of one rule",
            "make them equal",
        )
        self.of_rows = tuple(of_rows)
        self.length, self.num_classes, self.classes = first.length, first.num_classes, first.classes
        self.strength = "; ".join(dict.fromkeys(rule.strength for rule in of_rows))
        self.reads_every_pass = any(rule.reads_every_pass for rule in of_rows)

    @property
    def rows(self) -> int:
        return len(self.of_rows)

    @property
    def bound(self) -> BoolTensor:
        return torch.stack([rule.bound for rule in self.of_rows]).any(0)

    def _each(self, method: str, *per_row: torch.Tensor, **shared: slice) -> list:
        """Call a method of each row's rule on its row, a batch of one; a single rule serves any rows."""
        rules = self.of_rows if len(self.of_rows) > 1 else self.of_rows * len(per_row[0])
        rows = zip(rules, *(tensor.split(1) for tensor in per_row), strict=True)
        return [getattr(rule, method)(*row, **shared) for rule, *row in rows]

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return torch.cat(self._each("is_satisfied", answer))

    def violations(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return torch.cat(self._each("violations", answer))

    def explain(self, answer: IntTensor) -> list[list[str]]:
        self.check_answer(answer)
        return [sentences for [sentences] in self._each("explain", answer)]

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        self.check_answer(answer)
        return torch.cat(self._each("allowed", answer, known, span=span))

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return torch.cat(self._each("propagate", candidates))

    def lower(self, into: Lowering) -> None:
        self.of_rows[0].lower(into)

    def lower_opposite(self, into: Lowering) -> None:
        self.of_rows[0].lower_opposite(into)

    def refuted(self, candidates: BoolTensor, thorough: bool) -> bool:
        return self.of_rows[0].refuted(candidates, thorough)

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        return self.of_rows[0].repair(draft, candidates, log_probs)

    @property
    def has_most_likely(self) -> bool:
        return all(rule.has_most_likely for rule in self.of_rows)

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        if not self.has_most_likely:
            return super().most_likely(log_probs)
        classes, exists = zip(*self._each("most_likely", log_probs), strict=True)
        return torch.cat(classes), torch.cat(exists)

    def __invert__(self) -> ByRow:
        return ByRow([~rule for rule in self.of_rows])

    def renamed(self, positions: Sequence[int]) -> ByRow:
        return ByRow([rule.renamed(positions) for rule in self.of_rows])

    def select(self, rows: IntTensor) -> ByRow:
        return ByRow([self.of_rows[row] for row in rows.tolist()])

    @classmethod
    def stack(cls, constraints: Sequence[Constraint]) -> ByRow:
        """Rows of any rules, in order; a rule may have several rows."""
        rows: list[Constraint] = []
        for rule in constraints:
            if isinstance(rule, ByRow):
                rows += rule.of_rows
            elif rule.rows == 1:
                rows.append(rule)
            else:
                rows += [rule.select(torch.tensor([row])) for row in range(rule.rows)]
        return ByRow(rows)

    def to(self, device: torch.device | str) -> ByRow:
        return self if self.is_on(device) else ByRow([rule.to(device) for rule in self.of_rows])
