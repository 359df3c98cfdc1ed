"""Sets of tokens as bool tensors (..., A): what a position may still hold."""

from __future__ import annotations

import torch

from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


def one_hot(tokens: IntTensor, num_classes: int) -> BoolTensor:
    """(..., T) -> (..., T, A) bool; tokens outside [0, A) give an empty set."""
    return tokens[..., None] == torch.arange(num_classes, device=tokens.device)


def candidates_of(answer: IntTensor, known: BoolTensor, num_classes: int) -> BoolTensor:
    """(B, T, A): known positions hold only their token, the others anything."""
    return one_hot(answer, num_classes) | ~known[..., None]


def classes_of(sets: BoolTensor, classes: IntTensor, num_classes: int) -> BoolTensor:
    """Sets of K tokens (..., K), whose classes are (K) -> (..., A): a class lives while one of its tokens does."""
    return sets.float() @ one_hot(classes, num_classes).float() > 0


def without_dead_rows(candidates: BoolTensor) -> BoolTensor:
    """(B, T, A): a row with an empty set has no answer, so all its sets become empty."""
    return candidates & candidates.any(-1).all(-1)[:, None, None]


def likeliest_alone(log_probs: FloatTensor, may: BoolTensor) -> tuple[IntTensor, BoolTensor]:
    """`Constraint.most_likely` where positions are independent: log_probs and sets (B, T, A), rows broadcast."""
    best, classes = log_probs.masked_fill(~may, -torch.inf).max(-1)
    return classes, best.isfinite().all(-1)
