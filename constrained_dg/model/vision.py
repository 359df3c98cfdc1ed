"""The vision tower of DiffusionGemma (2026): the pixels of a picture -> soft tokens, which stand in a prompt like
embeddings of text.

    patches of p x p pixels -> layers that see the whole picture -> mean over k x k patches -> projection to D
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from constrained_dg.model.attention import attend
from constrained_dg.model.config import VisionConfig
from constrained_dg.model.layers import MLP, RMSNorm
from constrained_dg.model.rope import inverse_frequencies, rotate, rotation
from constrained_dg.shapes import FloatTensor, IntTensor


@dataclass(frozen=True)
class Patches:
    """A picture as the tower takes it.

    Attributes:
        pixels: (rows * columns, 3 p^2) float32 from 0 to 1, patch by patch from the top left, channels innermost; or
            (B, rows * columns, 3 p^2), pictures of one shape.
        columns: patches side by side; like the rows a multiple of k.
    """

    pixels: FloatTensor
    columns: int


class VisionTower(nn.Module):
    """x = Linear(2 (pixels - 1/2)) + table[0][column] + table[1][row], then layers, pooling and projection.

    Each picture runs by itself and without padding, so that no mask is needed.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.input_proj = nn.Linear(3 * config.patch_size**2, size, bias=False)
        self.position_embedding_table = nn.Parameter(torch.zeros(2, config.position_embedding_size, size))
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))
        self.std_bias: FloatTensor | None
        self.std_scale: FloatTensor | None
        self.register_buffer("std_bias", torch.zeros(size) if config.standardize else None)
        self.register_buffer("std_scale", torch.ones(size) if config.standardize else None)
        self.projection_norm = RMSNorm(size, config.rms_norm_eps, scaled=False)
        self.projection = nn.Linear(size, config.text_size, bias=False)

    def forward(self, picture: Patches) -> FloatTensor:
        """The soft tokens (rows * columns / k^2, D) of a picture, from its top left, or of several."""
        table, weight = self.position_embedding_table, self.input_proj.weight
        pixels = picture.pixels.to(weight.device)
        at = torch.arange(pixels.shape[-2], device=weight.device)
        column, row = at % picture.columns, at // picture.columns
        x = self.input_proj((2 * (pixels - 0.5)).to(weight.dtype)) + (table[0][column] + table[1][row])
        turn = self._rotation(column, row, x.dtype)
        x = x if x.dim() == 3 else x[None]
        for layer in self.layers:
            x = layer(x, turn)
        x = x.flatten(0, 1)
        return self.projection(self.projection_norm(self.pooled(x, picture.columns)))

    def _rotation(self, column: IntTensor, row: IntTensor, dtype: torch.dtype) -> list[tuple[FloatTensor, FloatTensor]]:
        """Cosine and sine for both halves of a head: the first turns by the column, the second by the row."""
        frequencies = inverse_frequencies(self.config.head_dim // 2, self.config.rope_theta, device=column.device)
        return [rotation(position, frequencies, dtype) for position in (column, row)]

    def pooled(self, x: FloatTensor, columns: int) -> FloatTensor:
        """Means over k x k patches times sqrt(hidden size), standardised: (N, hidden) -> (N / k^2, hidden)."""
        k, dtype = self.config.pooling_kernel_size, x.dtype
        grid = x.float().view(-1, k, columns // k, k, x.shape[-1])
        # The mean is rounded to the type of the weights, what follows is not: as the released model was run.
        x = grid.mean((1, 3)).flatten(0, 1).to(dtype).float() * self.config.hidden_size**0.5
        if self.std_bias is not None and self.std_scale is not None:
            x = (x - self.std_bias.float()) * self.std_scale.float()
        return x.to(dtype)


class VisionLayer(nn.Module):
    """Attention over the whole picture, then a gated MLP, each between two norms."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = VisionAttention(config)
        self.mlp = MLP(size, config.intermediate_size)
        self.input_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.pre_feedforward_layernorm = RMSNorm(size, eps)
        self.post_feedforward_layernorm = RMSNorm(size, eps)

    def forward(self, x: FloatTensor, turn: list[tuple[FloatTensor, FloatTensor]]) -> FloatTensor:
        """(B, N, hidden) -> (B, N, hidden)."""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), turn))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class VisionAttention(nn.Module):
    """softmax(q k^T) v without a mask: q and k are normed and rotated, v is normed without a weight."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(size, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(size, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, eps)
        self.k_norm = RMSNorm(config.head_dim, eps)
        self.v_norm = RMSNorm(config.head_dim, eps, scaled=False)

    def forward(self, x: FloatTensor, turn: list[tuple[FloatTensor, FloatTensor]]) -> FloatTensor:
        """(B, N, hidden) -> (B, N, hidden)."""
        q, k, v = (part(x).unflatten(-1, (-1, self.head_dim)) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (self._turned(norm(part), turn) for norm, part in ((self.q_norm, q), (self.k_norm, k)))
        return self.o_proj(attend(q, k, self.v_norm(v), None).flatten(2))

    @staticmethod
    def _turned(x: FloatTensor, turn: list[tuple[FloatTensor, FloatTensor]]) -> FloatTensor:
        halves = zip(x.chunk(2, dim=-1), turn, strict=True)
        return torch.cat([rotate(half, *angles) for half, angles in halves], dim=-1)
