"""When a row is finished before the passes run out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.errors import check, is_count, is_number
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
            is_number(self.confidence_threshold, above=0),
            f"confidence_threshold is {self.confidence_threshold!r}",
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


#: Rows that stop, and the history for the next pass.
Verdict = tuple[BoolTensor, IntTensor]


def _mean(values: FloatTensor, free: BoolTensor) -> FloatTensor:
    """(N, C) -> (N) over the free positions."""
    return values.masked_fill(~free, 0).sum(-1) / free.sum(-1).clamp(min=1)
