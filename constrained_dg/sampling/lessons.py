"""What a sampler that denoises sets learns from one attempt for the next."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.diffusion.sets import full_sets
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch, Moves


@dataclass(frozen=True)
class Lessons:
    """`Restarts` keeps one for its batch, and gives a copy to each attempt, which writes into it.

    Attributes:
        failures: (B) int64, failed attempts.
        counts: (B, T, K) int16, failed attempts that began by pinning this token of the noise range here.
        start: (B, T, K) bool, the sets that an attempt starts from, but for pinned positions.
        first: (B, T, K) bool, the first pins of the attempt under way.
        before: (B, T, K) bool, the sets of the pass that made them.
    """

    failures: IntTensor
    counts: IntTensor
    start: BoolTensor
    first: BoolTensor
    before: BoolTensor

    @classmethod
    def none(cls, batch: Batch) -> Lessons:
        """Before the first attempt. Raises InputError where `full_sets` does."""
        start = torch.ones_like(full_sets(batch.answer, batch.pinned, batch.noise))
        failures = torch.zeros_like(batch.answer[:, 0])
        return cls(failures, torch.zeros_like(start, dtype=torch.int16), start, ~start, start.clone())

    def of_attempt(self, rows: IntTensor, fresh: BoolTensor, moves: Moves | None, low: int, copies: int) -> Lessons:
        """For an attempt at these rows (N), each `copies` times, after the moves; `fresh` (N) ones start from noise."""
        parts = self.counts[rows], self.start[rows] | fresh[:, None, None]
        parts = parts if moves is None else (moves.sets(parts[0], low), moves.sets(parts[1], low))
        failures, counts, start = (part.repeat_interleave(copies, 0) for part in (self.failures[rows], *parts))
        return Lessons(failures, counts, start, torch.zeros_like(start), start.clone())

    def learn(self, attempt: Lessons, rows: IntTensor, moves: Moves | None, low: int, failed: BoolTensor) -> None:
        """From the attempt at these rows (N), where it `failed` (N): its first pins count, and the sets before them are
        the next start."""
        shape = len(rows), -1, *self.start.shape[1:]
        first, before = attempt.first.view(shape).any(1), attempt.before.view(shape)[:, 0]  # of any copy; of one
        if moves is not None:
            first, before = moves.undo_sets(first, low), moves.undo_sets(before, low)
        self.failures[rows] += failed
        self.counts[rows] += (first & failed[:, None, None]).short()
        self.start[rows] = torch.where(failed[:, None, None], before, self.start[rows])

    def trust(self, rows: IntTensor, span: slice, fade: float) -> FloatTensor:
        """(N, C, K) float64 factors of the probabilities at these rows (N), which float32 could round to 0."""
        return fade ** self.counts[rows, span].double()

    def note(self, rows: IntTensor, span: slice, pins: BoolTensor, before: BoolTensor) -> None:
        """Remember these pins (N, C, K), and the sets (N, C, K) before them, in rows that have pinned nothing in this
        canvas yet. Sets of later canvases hold for one attempt only, since they follow from its earlier canvases."""
        first = self.first[rows, span]
        now = (pins.flatten(1).any(1) & ~first.flatten(1).any(1))[:, None, None]
        self.first[rows, span] = torch.where(now, pins, first)
        if span.start == 0:
            self.before[rows, span] = torch.where(now, before, self.before[rows, span])
