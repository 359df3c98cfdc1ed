"""Given tokens: clues, or text that must stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.candidates import candidates_of, likeliest_alone
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.constraints.words import position
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor, tensor_of


@dataclass(frozen=True, eq=False, repr=False)
class Pinned(Constraint):
    """Some positions must hold given tokens. `allowed` is exact.

    Args:
        tokens: (B, T) int64; only positions under the mask matter.
        mask: (B, T) bool, True where a token is given.
        num_classes: A.
        show: a token as people write it.
        where: the name of a position.
        classes: None, or classes of tokens for `allowed`; each given token is alone in its class.

    Raises:
        InputError: shapes differ, a given token lies outside the vocabulary or shares its class, or A is not that of
            the classes.
    """

    tokens: IntTensor
    mask: BoolTensor
    num_classes: int
    show: Callable[[int], str] = str
    where: Callable[[int], str] = position
    classes: TokenClasses | None = None
    strength = "exact"
    per_row = ("tokens", "mask")

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tensor_of("tokens", self.tokens, torch.int64))
        object.__setattr__(self, "mask", tensor_of("mask", self.mask, torch.bool))
        check(
            self.tokens.dim() == 2 and self.tokens.shape == self.mask.shape and self.mask.dtype == torch.bool,
            f"tokens {tuple(self.tokens.shape)} and mask {tuple(self.mask.shape)} of {self.mask.dtype} do not fit",
            "give two tensors (B, T), int64 and bool",
        )
        given = self.tokens[self.mask]
        check(
            bool(((given >= 0) & (given < self.vocab_size)).all()),
            f"a pinned token lies outside the vocabulary of {self.vocab_size}",
            f"tokens run from 0 to {self.vocab_size - 1}",
        )
        if self.classes is not None:
            size, table = self.classes.size, self.classes.table
            check(self.num_classes == size, f"num_classes is {self.num_classes} with {size} classes", f"give {size}")
            alone = (table.bincount()[table[given]] == 1).all()
            check(bool(alone), "a pinned token shares its class", "make it the only token of a class")

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def rows(self) -> int:
        return self.tokens.shape[0]

    @property
    def bound(self) -> BoolTensor:
        return self.mask.any(0)

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

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        self.check_answer(answer)
        sets = candidates_of(self.class_of(answer[:, span]), known[:, span], self.num_classes)
        return sets & self._candidates(span)

    def _candidates(self, span: slice = slice(None)) -> BoolTensor:
        """(B, C, A). Positions off the mask may hold anything, even tokens outside the vocabulary."""
        mask = self.mask[:, span]
        return candidates_of(self.class_of(self.tokens[:, span].where(mask, 0)), mask, self.num_classes)

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return candidates & self._candidates()

    def lower(self, into: Lowering) -> None:
        into.all_of(self._given(into))

    def lower_opposite(self, into: Lowering) -> None:
        into.any_differs(self._given(into))

    def _given(self, into: Lowering) -> np.ndarray:
        """The literals of the given tokens."""
        at = self.mask[0].nonzero().flatten()
        return into.literals[np.asarray(at), np.asarray(self.class_of(self.tokens[0, at]))]

    def partition(self) -> IntTensor:
        """Each given token, and all others."""
        if self.classes is not None:
            return super().partition()
        labels = self.tokens.new_zeros(self.vocab_size)
        given = self.tokens[self.mask].unique()
        labels[given] = torch.arange(1, len(given) + 1, device=labels.device)
        return labels

    def in_classes(self, classes: TokenClasses) -> Pinned:
        return replace(self, num_classes=classes.size, classes=classes)

    def renamed(self, positions: Sequence[int]) -> Pinned:
        return replace(self, where=lambda at: position(positions[at])) if self.where is position else self

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        return likeliest_alone(log_probs, self._candidates())

    @property
    def has_most_likely(self) -> bool:
        return True
