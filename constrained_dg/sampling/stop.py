"""When a row is finished before the passes run out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.errors import check, is_count
from constrained_dg.sampling.distribution import Distribution
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


@dataclass(frozen=True)
class Stable:
    """The arg-max canvas equals those of the last passes, and the mean entropy is low (DiffusionGemma, 2026).

    Args:
        stability_threshold: how many passes before this one must show the same canvas; with 0 only confidence counts.
        confidence_threshold: mean entropy of the free positions in nats, to stay below.
    """

    stability_threshold: int = 1
    confidence_threshold: float = 0.005

    def __post_init__(self) -> None:
        threshold = self.stability_threshold
        check(is_count(threshold), f"stability_threshold is {threshold!r}", "give an integer of at least 0")
        check(
            self.confidence_threshold > 0,
            f"confidence_threshold is {self.confidence_threshold}",
            "give more than 0 nats",
        )

    def start(self, canvas: IntTensor) -> IntTensor:
        """(N, C) -> (N, stability_threshold, C), a history that no canvas equals."""
        return canvas.new_full((len(canvas), self.stability_threshold, canvas.shape[1]), -1)

    def __call__(self, best: IntTensor, settled: Distribution, free: BoolTensor, history: IntTensor) -> Verdict:
        """(N, C), of this pass, (N, C), history -> rows that stop (N), and the history with this pass in it."""
        stable = (best[:, None] == history).flatten(1).all(-1)
        mean = _mean(settled.entropy, free)
        return stable & (mean < self.confidence_threshold), torch.cat([history, best[:, None]], 1)[:, 1:]


@dataclass(frozen=True)
class Change:
    """The distributions of two successive passes are near each other: their total variation, averaged over the free
    positions, lies below a threshold. A fixed point of the denoiser need not be a right answer (EqR, 2605.21488, 2026).

    It keeps the distribution of the pass before: (N, C, V) float32.

    Args:
        threshold: a total variation, from 0 (equal) to 1 (disjoint).
    """

    threshold: float = 0.01

    def __post_init__(self) -> None:
        check(0 < self.threshold <= 1, f"threshold is {self.threshold}", "give more than 0, at most 1")

    def start(self, canvas: IntTensor) -> FloatTensor:
        """(N, C) -> (N, C, 1), a distribution that none is near to."""
        return torch.full((*canvas.shape, 1), torch.inf, device=canvas.device)

    def __call__(self, best: IntTensor, settled: Distribution, free: BoolTensor, history: FloatTensor) -> Verdict:
        """As `Stable`."""
        variation = (settled.probabilities - history).abs().sum(-1) / 2
        # A copy: what reads the distribution next may overwrite it.
        return _mean(variation, free) < self.threshold, settled.probabilities.clone()


#: Rows that stop, and what the next pass is told.
Verdict = tuple[BoolTensor, torch.Tensor]


def _mean(values: FloatTensor, free: BoolTensor) -> FloatTensor:
    """(N, C) -> (N) over the free positions."""
    return values.masked_fill(~free, 0).sum(-1) / free.sum(-1).clamp(min=1)
