"""Rotary position embeddings: default on sliding layers, "proportional" on full layers (DiffusionGemma, 2026)."""

from __future__ import annotations

from functools import lru_cache

import torch

from constrained_dg.shapes import FloatTensor, IntTensor


@lru_cache
def inverse_frequencies(
    head_dim: int, theta: float, rotary_factor: float = 1.0, device: torch.device | None = None
) -> FloatTensor:
    """(K / 2) angles per position.

    theta^(-2i / K) for the first `rotary_factor` of the pairs, exactly 0 (no rotation) for the others. The exponent
    divides by the whole head size, not by the rotated width. The tensor is shared: do not write into it.
    """
    pairs = head_dim // 2
    turning = int(rotary_factor * pairs)
    # Rounded as the released model is run, on the CPU and once: at 262,144 tokens one unit in the last place of a
    # frequency is an angle of 0.03, and at 4,096 it moved logits by 0.6.
    exponents = torch.arange(turning, dtype=torch.float32, device="cpu") * 2 / head_dim
    return torch.cat([1.0 / theta**exponents, torch.zeros(pairs - turning, device="cpu")]).to(device)


def rotation(positions: IntTensor, frequencies: FloatTensor, dtype: torch.dtype) -> tuple[FloatTensor, FloatTensor]:
    """Cosine and sine, (N) positions -> (N, K) each; angles in fp32, result in the activation dtype."""
    angles = positions.float()[:, None] * frequencies.float()
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: FloatTensor, cosine: FloatTensor, sine: FloatTensor) -> FloatTensor:
    """Rotate split-half pairs (t, t + K/2) of x (..., N, heads, K) by (N, K) angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine[:, None] + torch.cat([-second, first], dim=-1) * sine[:, None]
