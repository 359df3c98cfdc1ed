"""Given tokens: clues, or text that must stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from constrained_dg.constraints.base import Constraint, candidates_of, one_hot
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, IntTensor


@dataclass(frozen=True, eq=False)
class Pinned(Constraint):
    """Some positions must hold given tokens. `allowed` is exact.

    Args:
        tokens: (B, T) int64; only positions under the mask matter.
        mask: (B, T) bool, True where a token is given.
        alphabet: A.
        show: a token as people write it.
        where: the name of a position.

    Raises:
        InputError: shapes differ, or a given token lies outside the alphabet.
    """

    tokens: IntTensor
    mask: BoolTensor
    alphabet: int
    show: Callable[[int], str] = str
    where: Callable[[int], str] = lambda at: f"position {at + 1}"

    def __post_init__(self) -> None:
        check(
            self.tokens.dim() == 2 and self.tokens.shape == self.mask.shape and self.mask.dtype == torch.bool,
            f"tokens {tuple(self.tokens.shape)} and mask {tuple(self.mask.shape)} of {self.mask.dtype} do not fit",
            "give two tensors (B, T), int64 and bool",
        )
        given = self.tokens[self.mask]
        check(
            bool(((given >= 0) & (given < self.alphabet)).all()),
            f"a pinned token lies outside the alphabet of {self.alphabet}",
            f"tokens run from 0 to {self.alphabet - 1}",
        )

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def rows(self) -> int:
        return self.tokens.shape[0]

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return ~self.violations(answer).any(-1)

    def violations(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return self.mask & (answer != self.tokens)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        tokens = self.tokens.expand_as(answer).tolist()
        return [
            [
                f"{self.where(at)} must stay {self.show(tokens[row][at])} but holds {self.show(int(answer[row, at]))}"
                for at in blamed.nonzero().flatten().tolist()
            ]
            for row, blamed in enumerate(self.violations(answer))
        ]

    def allowed(self, answer: IntTensor, known: BoolTensor, window: slice) -> BoolTensor:
        self.check_answer(answer)
        own = candidates_of(answer[:, window], known[:, window], self.alphabet)
        return own & candidates_of(self.tokens[:, window], self.mask[:, window], self.alphabet)

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return candidates & (one_hot(self.tokens, self.alphabet) | ~self.mask[..., None])

    def select(self, rows: IntTensor) -> Pinned:
        return replace(self, tokens=self.tokens[rows], mask=self.mask[rows])

    @classmethod
    def stack(cls, constraints: Sequence[Pinned]) -> Pinned:
        shapes = sorted({(part.length, part.alphabet) for part in constraints})
        check(len(shapes) == 1, f"cannot stack pinned tokens of (length, alphabet) {shapes}", "stack equal ones only")
        tokens, mask = (torch.cat([getattr(part, name) for part in constraints]) for name in ("tokens", "mask"))
        return replace(constraints[0], tokens=tokens, mask=mask)

    def to(self, device: torch.device | str) -> Pinned:
        return replace(self, tokens=self.tokens.to(device), mask=self.mask.to(device))
