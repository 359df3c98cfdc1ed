"""Which accepted positions keep their sample; every other free position gets fresh noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.guarded import blamed, permitted
from constrained_dg.shapes import BoolTensor, IntTensor


@dataclass(frozen=True)
class Accepted:
    """What a pass has accepted, and what the rules read.

    Attributes:
        mask: (N, C) bool.
        answer: (N, T), the samples of this pass written in.
        known: (N, T) bool, pinned and committed positions.
        span: where the canvas lies in the answer.
        constraint: of N rows or one, or None.
    """

    mask: BoolTensor
    answer: IntTensor
    known: BoolTensor
    span: slice
    constraint: Constraint | None

    def violating(self) -> BoolTensor:
        """(N, C) accepted tokens that break a rule with other accepted or known ones; none without a constraint.

        Samples that were not accepted are ignored: the next pass replaces them, and most are wrong. So a token breaks a
        rule if it is not `allowed` given the other decided ones; `violations` is read where all are decided.
        """
        if self.constraint is None:
            return self.mask.new_zeros(self.mask.shape)
        decided = self.known.clone()
        decided[:, self.span] |= self.mask
        allowed = permitted(self.constraint, self.answer, decided, self.span)
        classes = self.constraint.class_of(self.answer[:, self.span])[..., None]
        blame = blamed(self.constraint, self.answer)[:, self.span] & decided.all(-1, keepdim=True)
        return self.mask & (~allowed.gather(-1, classes)[..., 0] | blame)


class Renoiser(ABC):
    """Takes samples back. Subclass it for another choice.

    Attributes:
        reads_rules: whether it reads the constraint.
    """

    reads_rules: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, accepted: Accepted) -> BoolTensor:
        """(N, C) bool, those of the accepted positions that keep their sample."""


@dataclass(frozen=True)
class Uniform(Renoiser):
    """Keep what was accepted (DiffusionGemma, 2026)."""

    def __call__(self, accepted: Accepted) -> BoolTensor:
        """See `Renoiser`."""
        return accepted.mask


@dataclass(frozen=True)
class Violations(Renoiser):
    """Accepted tokens that break a rule with other accepted or known tokens are re-noised."""

    reads_rules: ClassVar[bool] = True

    def __call__(self, accepted: Accepted) -> BoolTensor:
        """See `Renoiser`."""
        return accepted.mask & ~accepted.violating()
