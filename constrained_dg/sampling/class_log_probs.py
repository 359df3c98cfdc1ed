"""What a search needs of the model's distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.shapes import FloatTensor, IntTensor


@dataclass(frozen=True)
class ClassLogProbs:
    """What the completer needs of the distribution: each class of tokens through its likeliest token.

    Attributes:
        log_probs: (B, T, A) float32 of that token; equal without a pass.
        tokens: (B, T, A) int64, that token.
    """

    log_probs: FloatTensor
    tokens: IntTensor

    @classmethod
    def before_any_pass(cls, constraint: Constraint, rows: int, device: torch.device) -> ClassLogProbs:
        """All tokens equal."""
        shape = (rows, constraint.length, constraint.num_classes)
        tokens = constraint.tokens_of(torch.arange(constraint.num_classes, device=device))
        return cls(torch.zeros(shape, device=device), tokens.expand(shape).clone())

    def write(self, rows: IntTensor, span: slice, probabilities: FloatTensor, constraint: Constraint) -> None:
        """Take over the distribution (N, C, V) of these rows (N)."""
        highest, self.tokens[rows, span] = constraint.likeliest(probabilities)
        self.log_probs[rows, span] = highest.log()

    def averaged(self, other: ClassLogProbs, rows: IntTensor, before: IntTensor) -> ClassLogProbs:
        """The mean over one more than `before` (N) of them at these rows; each class through its likelier token."""
        several = before[:, None, None].float()
        log_probs, tokens = self.log_probs.clone(), self.tokens.clone()
        mean = torch.logaddexp(log_probs[rows] + several.log(), other.log_probs) - (several + 1).log()
        tokens[rows] = torch.where(other.log_probs > log_probs[rows], other.tokens, tokens[rows])
        log_probs[rows] = mean
        return ClassLogProbs(log_probs, tokens)
