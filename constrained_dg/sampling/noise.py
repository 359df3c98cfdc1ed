"""What free positions without a kept sample hold: the first canvas, and what is re-noised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from constrained_dg.sampling.distribution import draw
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


def among(may: BoolTensor, uniform: FloatTensor) -> IntTensor:
    """A token of each set, all equally likely: (..., V) bool, none of them empty, (...) in (0, 1) -> (...) int64."""
    return draw(may.float(), uniform)


@dataclass(frozen=True)
class AnyToken:
    """Uniform over the noise range, whatever the rules say (DiffusionGemma, 2026)."""

    reads_rules: ClassVar[bool] = False


@dataclass(frozen=True)
class AllowedToken:
    """Uniform over what the rules allow beside the known tokens.

    Such noise is out of distribution for a model trained on uniform noise: train with this sampler to use it.
    """

    reads_rules: ClassVar[bool] = True

    def __call__(self, may: BoolTensor, noise: tuple[int, int], uniform: FloatTensor) -> IntTensor:
        """Tokens that are allowed and lie in the noise range, or any of the range where none is.

        Args:
            may: (N, C, V) bool.
            noise: (low, high), half-open.
            uniform: (N, C) in (0, 1).
        """
        low, high = noise
        may = may[..., low:high]
        return low + among(may | ~may.any(-1, keepdim=True), uniform)
