"""Losses of DiffusionGemma's fine-tuning recipe (google-deepmind/gemma, gemma/diffusion, 2026)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


def canvas_loss(
    logits: Sequence[FloatTensor], canvas: IntTensor, pinned: BoolTensor, weights: FloatTensor | None = None
) -> FloatTensor:
    """Cross-entropy to the clean canvas at every free position, corrupted or not, without weights over t.

    Averaged over the free positions of each example, then over examples, then over the loops.

    Args:
        logits: (B, C, V) after each loop.
        canvas: (B, C) clean tokens.
        pinned: (B, C) bool, positions without loss.
        weights: (B) of the examples; None means 1.
    """
    free = (~pinned).float()
    share = free / free.sum(1, keepdim=True).clamp(min=1) / len(canvas)
    if weights is not None:
        share = share * weights[:, None]
    losses = [F.cross_entropy(step.transpose(1, 2), canvas, reduction="none") for step in logits]
    return (torch.stack(losses).mean(0) * share).sum()


def next_token_loss(logits: FloatTensor, tokens: IntTensor, known: BoolTensor) -> FloatTensor:
    """Next-token cross-entropy of the causal pass, which keeps the weights usable left to right.

    Args:
        logits: (B, N, V); position i predicts token i + 1.
        tokens: (B, N).
        known: (B, N) bool, tokens without loss (padding, or pinned cells that a decoder never has to guess).
    """
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    free = (~known[:, 1:]).float()
    return (losses * free).sum() / free.sum().clamp(min=1)
