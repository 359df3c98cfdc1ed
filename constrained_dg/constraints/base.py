"""The constraint protocol: a judge, blame, allowed tokens and propagation, batched over rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch

from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, IntTensor


def one_hot(tokens: IntTensor, alphabet: int) -> BoolTensor:
    """(..., T) -> (..., T, A) bool; tokens outside the alphabet give an empty set."""
    return tokens[..., None] == torch.arange(alphabet, device=tokens.device)


def candidates_of(answer: IntTensor, known: BoolTensor, alphabet: int) -> BoolTensor:
    """(B, T, A): known positions hold their token alone, the others anything."""
    return one_hot(answer, alphabet) | ~known[..., None]


def contradictory(constraint: Constraint, answer: IntTensor, known: BoolTensor) -> BoolTensor:
    """(B) True where propagation alone proves that no satisfying answer agrees with the known tokens."""
    return ~constraint.propagate(candidates_of(answer, known, constraint.alphabet)).any(-1).all(-1)


class Constraint(ABC):
    """A rule on whole answers, one row for each problem of a batch.

    Positions count over the whole answer (T), all canvases joined. Tokens are those of the alphabet (A); for puzzle
    codecs A = V. A row of the constraint judges the same row of the answer; a constraint with `rows == 1` serves any B.
    Wrong shapes raise InputError (`check_answer`).

    Attributes:
        length: T.
        alphabet: A.
        rows: B, or 1 where the rule is the same for every row.
    """

    length: int
    alphabet: int
    rows: int

    @property
    def vocab_size(self) -> int:
        """V, the tokens that answers are made of; A unless the rule speaks about classes of tokens."""
        return self.alphabet

    def class_of(self, tokens: IntTensor) -> IntTensor:
        """The class of each token: (...) in [0, V) -> (...) in [0, A). `answer` everywhere else means tokens."""
        return tokens

    def of_tokens(self, by_class: torch.Tensor) -> torch.Tensor:
        """What holds for each class, for each token: (..., A) -> (..., V)."""
        return by_class

    def check_answer(self, answer: IntTensor) -> None:
        """Raise InputError unless `answer` is (B, T) int64 with rows that match."""
        check(
            answer.dim() == 2 and answer.shape[1] == self.length and answer.dtype == torch.int64,
            f"{type(self).__name__} got an answer of shape {tuple(answer.shape)} and type {answer.dtype}",
            f"it judges (rows, {self.length}) of torch.int64",
        )
        check(
            self.rows in (1, answer.shape[0]),
            f"{type(self).__name__} of {self.rows} rows got an answer of {answer.shape[0]} rows",
            "select, stack or repeat it to the rows of the answer",
        )

    @abstractmethod
    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        """The judge: (B, T) -> (B). It alone decides what counts as solved."""

    @abstractmethod
    def violations(self, answer: IntTensor) -> BoolTensor:
        """Blame: (B, T) -> (B, T), True where a position takes part in a broken rule.

        No position is True exactly when `is_satisfied`.
        """

    @abstractmethod
    def explain(self, answer: IntTensor) -> list[list[str]]:
        """For each row one sentence per broken rule, e.g. "row 3 holds 7 twice, at columns 2 and 8"."""

    @abstractmethod
    def allowed(self, answer: IntTensor, known: BoolTensor, window: slice) -> BoolTensor:
        """What each position of the window may still be: (B, T), (B, T) -> (B, C, A).

        Sound: every satisfying answer that agrees with `answer` wherever `known` is allowed at every position.
        Monotone: knowing more never allows more. Each class states its strength.
        """

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        """Shrink candidate sets (B, T, A) to a fixed point, for search. Sound; never grows a set.

        Default: `allowed`, taking positions with one candidate as known, until nothing changes.
        """
        while True:
            known = candidates.sum(-1) == 1
            answer = candidates.to(torch.uint8).argmax(-1)
            smaller = candidates & self.allowed(answer, known, slice(0, self.length))
            if torch.equal(smaller, candidates):
                return candidates
            candidates = smaller

    @abstractmethod
    def select(self, rows: IntTensor) -> Self:
        """The constraint of these rows (N) int64, in this order; rows may repeat."""

    @classmethod
    @abstractmethod
    def stack(cls, constraints: Sequence[Self]) -> Self:
        """Join constraints of equal length and alphabet along the rows."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same constraint with its tensors on a device."""

    def repeat(self, times: int) -> Self:
        """Each row `times` times, neighbours together: rows (0, 0, ..., 1, 1, ...)."""
        return self.select(torch.arange(self.rows).repeat_interleave(times))

    def __and__(self, other: Constraint) -> Constraint:
        from constrained_dg.constraints.combine import All

        return All([self, other])
