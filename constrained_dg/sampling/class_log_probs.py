"""What a search needs of the model's distribution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.shapes import FloatTensor, IntTensor


@dataclass(frozen=True)
class ClassLogProbs:
    """What the completer needs of the distribution: each class of tokens through its likeliest token.

    Attributes:
        log_probs: (B, T, A) float32 of that token; equal without a pass.
        tokens: (B, T, A) int64, that token.
        of_first: whether they are of the first pass of each canvas, on pure noise, instead of the last.
    """

    log_probs: FloatTensor
    tokens: IntTensor
    of_first: bool = False

    @classmethod
    def before_any_pass(
        cls, constraint: Constraint, rows: int, device: torch.device, of_first: bool = False
    ) -> ClassLogProbs:
        """All tokens equal."""
        shape = (rows, constraint.length, constraint.num_classes)
        tokens = constraint.tokens_of(torch.arange(constraint.num_classes, device=device))
        return cls(torch.zeros(shape, device=device), tokens.expand(shape).clone(), of_first)

    def write(self, rows: IntTensor, span: slice, probabilities: FloatTensor, constraint: Constraint) -> None:
        """Take over the distribution (N, C, V) of these rows (N)."""
        highest, self.tokens[rows, span] = constraint.likeliest(probabilities)
        self.log_probs[rows, span] = highest.log()

    def select(self, rows: IntTensor) -> ClassLogProbs:
        """Those of these rows."""
        return replace(self, log_probs=self.log_probs[rows], tokens=self.tokens[rows])

    def updated(self, other: ClassLogProbs, rows: IntTensor) -> ClassLogProbs:
        """Those of a further attempt at these rows: the last pass is a later one, the first stays what it was."""
        if self.of_first:
            return self
        log_probs, tokens = self.log_probs.clone(), self.tokens.clone()
        log_probs[rows], tokens[rows] = other.log_probs, other.tokens
        return replace(self, log_probs=log_probs, tokens=tokens)
