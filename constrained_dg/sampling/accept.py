"""Which positions keep their sample in a pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from constrained_dg.errors import check, is_count
from constrained_dg.sampling.distribution import Distribution
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


@dataclass(frozen=True)
class EntropyBound:
    """The most certain positions whose entropies add up to at most `bound`, not counting their own.

    With entropies in ascending order, the j-th is accepted when sum_{i<j} H_(i) <= bound. The first always is. The sum
    without the largest bounds what sampling in parallel ignores (Ben-Hamu et al., arXiv 2505.24857, 2025).

    Args:
        bound: in nats.
    """

    bound: float = 0.1
    needs_margin: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.bound > 0, f"entropy bound is {self.bound}", "give a number above 0, in nats")

    def __call__(self, settled: Distribution, free: BoolTensor, done: float = 0.0) -> BoolTensor:
        """(B, C) free -> (B, C) accepted. Positions that are not free take no part and are not accepted.

        `done` is the share of the passes that will be over with this one.
        """
        order = settled.entropy.masked_fill(~free, torch.inf).argsort(dim=-1, stable=True)
        ascending = settled.entropy.masked_fill(~free, 0).gather(-1, order)
        within = ascending.cumsum(-1) - ascending <= self.bound
        return torch.zeros_like(free).scatter(-1, order, within) & free


@dataclass(frozen=True)
class Confidence:
    """Positions whose likeliest token has at least this probability, and the most certain one (LLaDA, 2502.09992).

    Args:
        threshold: a probability.
    """

    threshold: float = 0.9
    needs_margin: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_share("confidence threshold", self.threshold)

    def __call__(self, settled: Distribution, free: BoolTensor, done: float = 0.0) -> BoolTensor:
        """As `EntropyBound`."""
        return _above(settled.log_best.exp(), free, self.threshold)


@dataclass(frozen=True)
class Margin:
    """Positions whose two best tokens are at least this far apart in probability, and the one where they are farthest.

    "Train for the Worst, Plan for the Best" (2502.06768, 2025) orders by it.

    Args:
        threshold: a difference of probabilities.
    """

    threshold: float = 0.8
    needs_margin: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_share("margin threshold", self.threshold)

    def __call__(self, settled: Distribution, free: BoolTensor, done: float = 0.0) -> BoolTensor:
        """As `EntropyBound`."""
        return _above(settled.margin, free, self.threshold)


@dataclass(frozen=True)
class FixedCount:
    """The `count` most certain positions, or all where fewer are free.

    Args:
        count: positions a pass.
        by: what certain means: "entropy", "confidence" or "margin".
    """

    count: int = 16
    by: str = "entropy"

    def __post_init__(self) -> None:
        check(is_count(self.count, 1), f"count is {self.count!r}", "give an integer of at least 1")
        check(self.by in _CERTAIN, f"by is {self.by!r}", f"give one of {', '.join(_CERTAIN)}")

    @property
    def needs_margin(self) -> bool:
        return self.by == "margin"

    def __call__(self, settled: Distribution, free: BoolTensor, done: float = 0.0) -> BoolTensor:
        """As `EntropyBound`; of equals the first positions."""
        certain = _CERTAIN[self.by](settled).masked_fill(~free, -torch.inf)
        rank = certain.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return (rank < self.count) & free


@dataclass(frozen=True)
class Schedule:
    """A share of the free positions that grows evenly to all in the last pass, always the same first.

    After pass n of N the canvas holds samples at a share n / N and noise elsewhere, which is what training corrupts it
    to: the reverse process itself (Austin et al., 2107.03006, 2021). For texts that are uncertain everywhere, where
    bounds on entropy would accept next to nothing. What was accepted keeps its token: drawn anew in every pass, it
    would drift to what is likeliest everywhere. The order is scattered and the same for all rows (van der Corput), so
    that what is near comes at different times.

    Attributes:
        keeps: what a pass accepted stays as it was.
    """

    needs_margin: ClassVar[bool] = False
    keeps: ClassVar[bool] = True

    def __call__(self, settled: Distribution, free: BoolTensor, done: float = 0.0) -> BoolTensor:
        """As `EntropyBound`."""
        order = _scattered(free.shape[1], free.device).masked_fill(~free, 2**62)
        rank = order.argsort(dim=-1).argsort(dim=-1)
        wanted = torch.ceil(free.sum(-1, keepdim=True) * done - 1e-6).clamp(min=1)
        return (rank < wanted) & free


@lru_cache(maxsize=64)
def _scattered(length: int, device: torch.device) -> IntTensor:
    """(C) int64 the bits of each position in reverse: sorted by it, positions that are near lie apart."""
    return torch.tensor([int(f"{at:030b}"[::-1], 2) for at in range(length)], device=device)


_CERTAIN = {
    "entropy": lambda settled: -settled.entropy,
    "confidence": lambda settled: settled.log_best,
    "margin": lambda settled: settled.margin,
}


def _above(certain: FloatTensor, free: BoolTensor, threshold: float) -> BoolTensor:
    """(B, C) what reaches the threshold, and the first of the highest."""
    certain = certain.masked_fill(~free, -torch.inf)
    first = torch.zeros_like(free).scatter(-1, certain.argmax(-1, keepdim=True), True)
    return ((certain >= threshold) | first) & free


def _check_share(name: str, value: float) -> None:
    check(0 < value <= 1, f"{name} is {value}", "give more than 0, at most 1")
