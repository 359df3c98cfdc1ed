"""Which accepted positions keep their sample after all; every other free position gets fresh noise.

The noise itself is always uniform: tokens that merely look valid are out of distribution for a model trained on uniform
noise (measured in shared/reference/findings.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from constrained_dg.constraints.base import Constraint
from constrained_dg.shapes import BoolTensor, IntTensor


@dataclass(frozen=True)
class Uniform:
    """Keep what was accepted (DiffusionGemma, 2026)."""

    def __call__(
        self, accepted: BoolTensor, answer: IntTensor, known: BoolTensor, window: slice, constraint: Constraint | None
    ) -> BoolTensor:
        """What each position keeps.

        Args:
            accepted: (N, C) bool.
            answer: (N, T), the samples of this pass written in.
            known: (N, T) bool, pinned and committed positions.
            window: where the canvas lies in the answer.
            constraint: of N rows or one, or None.

        Returns:
            (N, C) bool, a part of `accepted`.
        """
        return accepted


@dataclass(frozen=True)
class Violations:
    """Accepted tokens that break a rule with other accepted or known tokens are re-noised.

    Samples that were not accepted blame nobody: they are gone in the next pass, and most of them are wrong. So the
    question is not `violations` of the whole canvas but whether a token is `allowed` beside what else is decided.
    """

    def __call__(
        self, accepted: BoolTensor, answer: IntTensor, known: BoolTensor, window: slice, constraint: Constraint | None
    ) -> BoolTensor:
        """As `Uniform`."""
        if constraint is None:
            return accepted
        decided = known.clone()
        decided[:, window] |= accepted
        allowed = constraint.allowed(answer, decided, window)
        return accepted & allowed.gather(-1, constraint.class_of(answer[:, window])[..., None])[..., 0]
