"""Norms, gated MLP and embedding of DiffusionGemma (2026), section by section the arithmetic of the released model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from constrained_dg.shapes import FloatTensor, IntTensor


class RMSNorm(nn.Module):
    """y = x (mean(x^2) + eps)^(-1/2) w, in fp32, cast back to the dtype of x.

    The factor is w, not 1 + w. `scaled=False` has no weight.
    """

    def __init__(self, size: int, eps: float, scaled: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size)) if scaled else None

    def forward(self, x: FloatTensor) -> FloatTensor:
        """(..., size) -> (..., size)."""
        weight = None if self.weight is None else self.weight.float()
        return F.rms_norm(x.float(), x.shape[-1:], weight, self.eps).to(x.dtype)


def gated_gelu(gate: FloatTensor, up: FloatTensor) -> FloatTensor:
    """gelu_tanh(gate) * up."""
    return F.gelu(gate, approximate="tanh") * up


class MLP(nn.Module):
    """down(gelu_tanh(gate(x)) * up(x)), no biases."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, width, bias=False)
        self.up_proj = nn.Linear(size, width, bias=False)
        self.down_proj = nn.Linear(width, size, bias=False)

    def forward(self, x: FloatTensor) -> FloatTensor:
        return self.down_proj(gated_gelu(self.gate_proj(x), self.up_proj(x)))


class ScaledEmbedding(nn.Embedding):
    """E[id] * sqrt(D), the factor rounded to the dtype of the weight before the product."""

    def __init__(self, vocab_size: int, size: int) -> None:
        super().__init__(vocab_size, size)
        self.scale = size**0.5

    def rounded_scale(self) -> FloatTensor:
        # Filled on the device: a tensor made of a number would be copied there, which waits for the device.
        return torch.full((), self.scale, dtype=self.weight.dtype, device=self.weight.device)

    def forward(self, tokens: IntTensor) -> FloatTensor:
        """(...) -> (..., D)."""
        return F.embedding(tokens, self.weight) * self.rounded_scale()

    def expected(self, probabilities: FloatTensor) -> FloatTensor:
        """Expected embedding under (..., V) probabilities -> (..., D)."""
        return (probabilities.to(self.weight.dtype) @ self.weight) * self.rounded_scale()
