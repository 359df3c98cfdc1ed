"""Which tokens each position may hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.candidates import candidates_of, likeliest_alone
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.constraints.words import position
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor, tensor_of

#: Permitted tokens that a sentence names.
_NAMED = 12


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary(Constraint):
    """Each position holds one of its permitted tokens. `allowed`, `propagate` and `most_likely` are exact.

    Args:
        may: (1 or B, T, A) bool, True where a token is permitted.
        show: a token as people write it.
        where: the name of a position.
        classes: None, or the classes of tokens in the last dimension of `may`.

    Raises:
        InputError: wrong shape or type, a position without a permitted token, or A is not that of the classes.
    """

    may: BoolTensor
    show: Callable[[int], str] = str
    where: Callable[[int], str] = position
    classes: TokenClasses | None = None
    strength = "exact"
    per_row = ("may",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "may", tensor_of("may", self.may, torch.bool))
        may = self.may
        check(
            may.dim() == 3 and may.dtype == torch.bool,
            f"may has shape {tuple(may.shape)} and type {may.dtype}",
            "give (1 or rows, positions, tokens) of torch.bool",
        )
        empty = (~may.any(-1)).nonzero().tolist()
        check(not empty, f"no token is permitted at (row, position) {empty[:5]}", "permit one at each position")
        size = self.num_classes if self.classes is None else self.classes.size
        check(self.num_classes == size, f"may has {self.num_classes} classes instead of {size}", f"give {size}")

    @property
    def length(self) -> int:
        return self.may.shape[1]

    @property
    def num_classes(self) -> int:
        return self.may.shape[2]

    @property
    def rows(self) -> int:
        return self.may.shape[0]

    @property
    def bound(self) -> BoolTensor:
        return ~self.may.all(-1).all(0)

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return ~self.violations(answer).any(-1)

    def violations(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        classes = self.class_of(answer)[..., None]
        return ~self.may.expand(len(answer), -1, -1).gather(-1, classes)[..., 0]

    def explain(self, answer: IntTensor) -> list[list[str]]:
        return [
            [
                f"{self.where(at)} holds {self.show(int(answer[row, at]))}; it may be {self._choice(row, at)}"
                for at in blamed.nonzero().flatten().tolist()
            ]
            for row, blamed in enumerate(self.violations(answer))
        ]

    def _choice(self, row: int, at: int) -> str:
        """The tokens of a position, such as "1, 2 or 4"."""
        tokens = self.of_tokens(self.may[row % self.rows, at]).nonzero().flatten().tolist()
        *most, last = [self.show(token) for token in tokens[:_NAMED]]
        if len(tokens) > _NAMED:
            return f"{', '.join([*most, last])} or one of {len(tokens) - _NAMED} more"
        return f"{', '.join(most)} or {last}" if most else last

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        self.check_answer(answer)
        sets = candidates_of(self.class_of(answer[:, span]), known[:, span], self.num_classes)
        return sets & self.may[:, span]

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return candidates & self.may

    def lower(self, into: Lowering) -> None:
        into.all_of(~into.literals[~self.may[0].numpy()])

    def lower_opposite(self, into: Lowering) -> None:
        into.clause(into.literals[~self.may[0].numpy()])

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        return likeliest_alone(log_probs, self.may)

    @property
    def has_most_likely(self) -> bool:
        return True

    def partition(self) -> IntTensor:
        """Tokens share a label if they are permitted at the same positions."""
        return self.of_tokens(self.may.flatten(0, 1).unique(dim=1, return_inverse=True)[1])

    def in_classes(self, classes: TokenClasses) -> Vocabulary:
        return replace(self, may=self.of_tokens(self.may)[..., classes.first], classes=classes)

    def renamed(self, positions: Sequence[int]) -> Vocabulary:
        return replace(self, where=lambda at: position(positions[at])) if self.where is position else self
