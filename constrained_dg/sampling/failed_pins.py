"""What a sampler that denoises sets remembers from one attempt to the next."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.diffusion.sets import full_sets
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch, Moves


@dataclass(frozen=True)
class FailedPins:
    """The first pins of attempts that failed. `Restarts` keeps them and changes them in place.

    Attributes:
        counts: (B, T, K) int16, failed attempts that began by pinning this token of the noise range here.
        first: (B, T, K) bool, the first pins of the attempt under way.
    """

    counts: IntTensor
    first: BoolTensor

    @classmethod
    def none(cls, batch: Batch) -> FailedPins:
        """Before the first attempt; the noise range is not too wide, see `full_sets`."""
        first = torch.zeros_like(full_sets(batch.answer, batch.pinned, batch.noise))
        return cls(first.short(), first)

    def of_attempt(self, rows: IntTensor, moves: Moves | None, low: int, copies: int) -> FailedPins:
        """For an attempt at these rows (N), each `copies` times, after the moves."""
        counts = self.counts[rows]
        counts = (counts if moves is None else moves.sets(counts, low)).repeat_interleave(copies, 0)
        return FailedPins(counts, torch.zeros_like(counts, dtype=torch.bool))

    def learn(self, attempt: FailedPins, rows: IntTensor, moves: Moves | None, low: int, failed: BoolTensor) -> None:
        """Count the first pins of the attempt at these rows (N) that `failed` (N)."""
        first = attempt.first.view(len(rows), -1, *attempt.first.shape[1:]).any(1)  # of any copy
        first = first if moves is None else moves.undo_sets(first, low)
        self.counts[rows] += (first & failed[:, None, None]).short()

    def trust(self, rows: IntTensor, span: slice, fade: float) -> FloatTensor:
        """(N, C, K) factors of the probabilities at these rows (N)."""
        return fade ** self.counts[rows, span].float()

    def note(self, rows: IntTensor, span: slice, pins: BoolTensor) -> None:
        """Remember these pins (N, C, K) in rows that have pinned nothing in this canvas yet."""
        before = self.first[rows, span]
        self.first[rows, span] = torch.where(before.flatten(1).any(1)[:, None, None], before, pins)
