"""What the rows of a call have so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from constrained_dg.sampling.class_log_probs import ClassLogProbs
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

if TYPE_CHECKING:
    from constrained_dg.sampling.loop import Live


@dataclass(frozen=True)
class Answers:
    """The answers of a call while they grow; rows are written when they leave a canvas.

    Attributes:
        tokens: (B, T) int64.
        passes: (B) int64.
        log_best: (B, T) float32, log-probability of each token in the last pass of its canvas; 0 without one.
        padding: (B, T) bool, what follows the end of an answer.
        by_class: for the completer, or None.
    """

    tokens: IntTensor
    passes: IntTensor
    log_best: FloatTensor
    padding: BoolTensor
    by_class: ClassLogProbs | None = None

    @classmethod
    def begin(cls, tokens: IntTensor, by_class: ClassLogProbs | None) -> Answers:
        passes = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        log_best = torch.zeros(tokens.shape, device=tokens.device)
        return cls(tokens.clone(), passes, log_best, torch.zeros_like(log_best, dtype=torch.bool), by_class)

    def write(self, live: Live, which: IntTensor | slice, probabilities: FloatTensor, span: slice) -> None:
        """Take over what these of the live rows have found in their canvas; (N, C, V) are all their distributions."""
        rows = live.rows[which]
        self.tokens[rows, span], self.log_best[rows, span] = live.best[which], live.log_best[which]
        self.passes[rows] += live.passes[which]
        if self.by_class is not None:
            self.by_class.write(rows, span, probabilities[which], live.constraint)

    def select(self, rows: IntTensor) -> Answers:
        """The answers of these rows."""
        by_class = self.by_class and replace(
            self.by_class, log_probs=self.by_class.log_probs[rows], tokens=self.by_class.tokens[rows]
        )
        return Answers(self.tokens[rows], self.passes[rows], self.log_best[rows], self.padding[rows], by_class)

    def log_probability(self, pinned: BoolTensor) -> FloatTensor:
        """(B) over what is neither pinned nor padding."""
        return self.log_best.masked_fill(pinned | self.padding, 0).sum(-1)


def after_end(tokens: IntTensor, eos: tuple[int, ...]) -> tuple[BoolTensor, BoolTensor]:
    """(B, C) -> positions after the first EOS (B, C), and rows that have one (B)."""
    ends = torch.zeros_like(tokens, dtype=torch.bool)
    for token in eos:
        ends |= tokens == token
    return (ends.cumsum(-1) - ends.long()) > 0, ends.any(-1)
