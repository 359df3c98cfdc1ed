"""Which accepted positions keep their sample after all; every other free position gets fresh noise."""

from __future__ import annotations

from dataclasses import dataclass

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint, blamed, permitted
from constrained_dg.errors import check
from constrained_dg.sampling.randomness import NEIGHBOURS
from constrained_dg.shapes import BoolTensor, IntTensor


@dataclass(frozen=True)
class Accepted:
    """What a pass has accepted, and all that it is judged beside.

    Attributes:
        mask: (N, C) bool.
        answer: (N, T), the samples of this pass written in.
        known: (N, T) bool, pinned and committed positions.
        span: where the canvas lies in the answer.
        constraint: of N rows or one, or None.
        seeds: (N) int64.
        index, passes: 0-based count of this pass, and how many there may be.
    """

    mask: BoolTensor
    answer: IntTensor
    known: BoolTensor
    span: slice
    constraint: Constraint | None
    seeds: IntTensor
    index: int
    passes: int

    def violating(self) -> BoolTensor:
        """(N, C) accepted tokens that break a rule with other accepted or known ones.

        Samples that were not accepted blame nobody: they are gone in the next pass, and most of them are wrong. So the
        question is whether a token is `allowed` beside what else is decided; blame is asked for where all is decided.
        """
        decided = self.known.clone()
        decided[:, self.span] |= self.mask
        allowed = permitted(self.constraint, self.answer, decided, self.span)
        held = self.constraint.class_of(self.answer[:, self.span])[..., None]
        whole = blamed(self.constraint, self.answer)[:, self.span] & decided.all(-1, keepdim=True)
        return self.mask & (~allowed.gather(-1, held)[..., 0] | whole)


@dataclass(frozen=True)
class Uniform:
    """Keep what was accepted (DiffusionGemma, 2026)."""

    def __call__(self, accepted: Accepted) -> BoolTensor:
        """(N, C) bool, the part of what was accepted that stays."""
        return accepted.mask


@dataclass(frozen=True)
class Violations:
    """Accepted tokens that break a rule with other accepted or known tokens are re-noised."""

    def __call__(self, accepted: Accepted) -> BoolTensor:
        """As `Uniform`."""
        return accepted.mask if accepted.constraint is None else accepted.mask & ~accepted.violating()


@dataclass(frozen=True)
class Blocks:
    """As `Violations`, and with each violation a block of accepted tokens that its rules bind (`neighbours`).

    A neighbour is taken with a probability that falls linearly from `share` in the first pass to 0 after the last, so
    that blocks shrink (BloGDiT, 2505.25129, 2025).

    Args:
        share: of the neighbours, in the first pass.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        check(0 < self.share <= 1, f"share is {self.share}", "give more than 0, at most 1")

    def __call__(self, accepted: Accepted) -> BoolTensor:
        """As `Uniform`."""
        if accepted.constraint is None:
            return accepted.mask
        broken, span = accepted.violating(), accepted.span
        bound = accepted.constraint.neighbours()[:, span, span].float()
        near = (broken.float()[:, None] @ bound)[:, 0] > 0
        chance = rng.uniform(accepted.seeds, span.start, accepted.index, NEIGHBOURS, count=broken.shape[1])
        taken = chance < self.share * (1 - accepted.index / accepted.passes)
        return accepted.mask & ~(broken | (near & taken))
