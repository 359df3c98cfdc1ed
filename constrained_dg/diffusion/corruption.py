"""Uniform-state corruption, as DiffusionGemma (Google, 2026) is trained with."""

from __future__ import annotations

import torch

from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


def sample_noise_levels(rows: int, generator: torch.Generator, margin: float = 1e-4) -> FloatTensor:
    """(B) noise levels t ~ U(margin, 1 - margin); t = 1 is where the sampler starts."""
    return torch.rand(rows, generator=generator) * (1 - 2 * margin) + margin


def corrupt(
    canvas: IntTensor, pinned: BoolTensor, noise_level: FloatTensor, noise: tuple[int, int], generator: torch.Generator
) -> IntTensor:
    """Replace each free token with probability t by a uniform draw, which may redraw the true token.

    Args:
        canvas: (B, C) clean tokens.
        pinned: (B, C) bool, never corrupted.
        noise_level: (B), t in [0, 1]; alpha(t) = 1 - t.
        noise: (low, high), half-open range of token ids drawn from.

    Returns:
        (B, C) int64.
    """
    # Drawn on the CPU so that one seed gives one training run on every device.
    chance = torch.rand(canvas.shape, generator=generator).to(canvas.device)
    drawn = torch.randint(*noise, canvas.shape, generator=generator).to(canvas.device)
    replaced = (chance < noise_level.to(canvas.device)[:, None]) & ~pinned
    return torch.where(replaced, drawn, canvas)
