"""Grouped-query attention of DiffusionGemma (2026), with relation biases as an extension."""

from __future__ import annotations

import torch
from torch import nn

from constrained_dg.model.config import ModelConfig
from constrained_dg.model.layers import RMSNorm
from constrained_dg.model.rope import rotate
from constrained_dg.shapes import BoolTensor, FloatTensor

#: Keys and values.
KeysValues = tuple[FloatTensor, FloatTensor]


class Attention(nn.Module):
    """q = RoPE(RMS(x Wq)), k = RoPE(RMS(x Wk)), v = RMS_noscale(x Wv); scores q.k with scale 1, softmax in fp32.

    Full layers have no Wv: v is the norm without scale of the raw key projection. Query head h uses key/value head
    h // (H / G). With relations, each head adds its learned bias of every relation that holds between query and key.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        full = config.is_full(layer)
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.groups = config.num_global_key_value_heads if full else config.num_key_value_heads
        self.head_dim = config.global_head_dim if full else config.head_dim
        self.q_proj = nn.Linear(size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(size, self.groups * self.head_dim, bias=False)
        self.v_proj = None if full else nn.Linear(size, self.groups * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.v_norm = RMSNorm(self.head_dim, config.rms_norm_eps, scaled=False)
        self.relation_bias = None
        if config.num_relations:
            self.relation_bias = nn.Parameter(torch.zeros(self.heads, config.num_relations))

    def score_bias(
        self, relations: BoolTensor | None, visible: BoolTensor | None, dtype: torch.dtype
    ) -> FloatTensor | None:
        """What is added to the scores, the same in every loop: relation biases, and -inf where nothing is seen.

        Args:
            relations: (B or 1, R, N, M) bool, or None.
            visible: (B or 1, N, M) bool, or None where every key is seen.

        Returns:
            (B or 1, H or 1, N, M), or None where there is nothing to add.
        """
        bias = None
        if self.relation_bias is not None and relations is not None:
            bias = torch.einsum("hr,brqk->bhqk", self.relation_bias, relations.to(self.relation_bias.dtype)).to(dtype)
        if visible is not None:
            hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            hidden = hidden.masked_fill(~visible, float("-inf"))[:, None]
            bias = hidden if bias is None else bias + hidden
        return bias

    def forward(
        self, x: FloatTensor, rotation: KeysValues, past: KeysValues, bias: FloatTensor | None, buffered: bool
    ) -> tuple[FloatTensor, FloatTensor, FloatTensor]:
        """(B, N, D) -> (B, N, D) and the new keys and values (B, N, G, K).

        Args:
            rotation: cosine and sine (N, K).
            past: a cache view: committed keys and values, with N positions of scratch behind them when `buffered`.
            bias: from `score_bias`.
        """
        new = x.shape[1]
        q = self.q_proj(x).unflatten(-1, (self.heads, self.head_dim))
        k = self.k_proj(x).unflatten(-1, (self.groups, self.head_dim))
        v = k if self.v_proj is None else self.v_proj(x).unflatten(-1, (self.groups, self.head_dim))
        q, k, v = rotate(self.q_norm(q), *rotation), rotate(self.k_norm(k), *rotation), self.v_norm(v)
        keys, values = past
        if buffered:
            keys[:, -new:] = k
            values[:, -new:] = v
        elif keys.shape[1]:
            keys, values = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        else:
            keys, values = k, v
        return self.o_proj(attend(q, keys, values, bias).flatten(-2)), k, v


def attend(q: FloatTensor, k: FloatTensor, v: FloatTensor, bias: FloatTensor | None) -> FloatTensor:
    """softmax(q k^T + bias) v: queries (B, N, H, K), keys and values (B, M, G, K), bias (B or 1, H or 1, N, M).

    Matmul, softmax, matmul: with small heads on a CPU this is faster, forward and backward, than
    scaled_dot_product_attention with a bias that needs a gradient.
    """
    heads, groups = q.shape[2], k.shape[2]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if groups != heads:
        k = k.repeat_interleave(heads // groups, dim=1)
        v = v.repeat_interleave(heads // groups, dim=1)
    scores = q @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return (torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v).transpose(1, 2)
