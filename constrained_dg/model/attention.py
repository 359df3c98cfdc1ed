"""Grouped-query attention of DiffusionGemma (2026), with relation biases as an extension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from constrained_dg.model.cache import KeysValues
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.layers import RMSNorm
from constrained_dg.model.rope import rotate
from constrained_dg.shapes import BoolTensor, FloatTensor


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
        """The biases added to the scores in every loop: of relations, and -inf at masked keys.

        Args:
            relations: (B or 1, R, N, M) bool, or None.
            visible: (B or 1, N or 1, M) bool, or None where every key is seen.

        Returns:
            (B or 1, H or 1, N or 1, M), or None without biases.
        """
        bias = None
        if self.relation_bias is not None and relations is not None:
            bias = torch.einsum("hr,brqk->bhqk", self.relation_bias, relations.to(self.relation_bias.dtype)).to(dtype)
        if visible is not None:
            hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            hidden = hidden.masked_fill(~visible, float("-inf"))[:, None]
            bias = hidden if bias is None else bias + hidden
        return bias

    def keys_values(self, x: FloatTensor, rotation: KeysValues) -> KeysValues:
        """(B, N, D) -> its entries for the cache: keys and values (B, N, G, K)."""
        k = self.k_proj(x).unflatten(-1, (self.groups, self.head_dim))
        v = k if self.v_proj is None else self.v_proj(x).unflatten(-1, (self.groups, self.head_dim))
        return rotate(self.k_norm(k), *rotation), self.v_norm(v)

    def forward(
        self, x: FloatTensor, rotation: KeysValues, past: KeysValues, biases: list[FloatTensor] | None, in_place: bool
    ) -> tuple[FloatTensor, FloatTensor, FloatTensor]:
        """(B, N, D) -> (B, N, D) and the new keys and values (B, N, G, K).

        Args:
            rotation: cosine and sine (N, K).
            past: a cache view: committed keys and values, with N positions of scratch behind them when `in_place`.
            biases: None, or what is added to the scores of each block of queries, see `attend_blocks`.
        """
        new = x.shape[1]
        q = rotate(self.q_norm(self.q_proj(x).unflatten(-1, (self.heads, self.head_dim))), *rotation)
        k, v = self.keys_values(x, rotation)
        keys, values = past
        if in_place:
            keys[:, -new:] = k
            values[:, -new:] = v
        elif keys.shape[1]:
            keys, values = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        else:
            keys, values = k, v
        return self.o_proj(attend_blocks(q, keys, values, biases).flatten(-2)), k, v


def attend_blocks(q: FloatTensor, k: FloatTensor, v: FloatTensor, biases: list[FloatTensor] | None) -> FloatTensor:
    """`attend`, block by block of queries, each over the stretch of keys that its bias (.., N_i, M_i) covers.

    The queries are the last N of the M positions. Blocks divide them evenly but for the last one, and the keys of a
    block end with its last query, so that a causal block reads no later keys and, with a window, no keys far
    before it. One bias covers all queries and all keys; None adds nothing.
    """
    if biases is None or len(biases) == 1:
        return attend(q, k, v, None if biases is None else biases[0])
    out, done, past = [], 0, k.shape[1] - q.shape[1]
    for bias in biases:
        stop = done + bias.shape[-2]
        keys = slice(past + stop - bias.shape[-1], past + stop)
        out.append(attend(q[:, done:stop], k[:, keys], v[:, keys], bias))
        done = stop
    return torch.cat(out, dim=1)


def attend(q: FloatTensor, k: FloatTensor, v: FloatTensor, bias: FloatTensor | None) -> FloatTensor:
    """softmax(q k^T + bias) v: queries (B, N, H, K), keys and values (B, M, G, K), bias (B or 1, H or 1, N or 1, M).

    Keys and values are never repeated: the H / G query heads that share one are concatenated as more
    queries. A bias that needs a gradient goes through plain matrix products, which is faster with small heads on
    a CPU, forward and backward, than what scaled_dot_product_attention does then. Otherwise that function takes 0.55
    to 0.85 of the time of the plain products (one CPU thread, canvas of 256 behind 256 and 4096 tokens).
    """
    rows, new, heads, size = q.shape
    groups, shared = k.shape[2], heads // k.shape[2]
    q = q.unflatten(2, (groups, shared)).permute(0, 2, 3, 1, 4).reshape(rows, groups, shared * new, size)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    if bias is not None and (shared > 1 or bias.shape[1] > 1):
        # The bias is reshaped like the queries; a bias equal for all queries stays small.
        if bias.shape[1] == 1 and bias.shape[2] > 1:
            bias = bias.expand(-1, shared, -1, -1).flatten(1, 2)[:, None]
        elif bias.shape[1] > 1:
            bias = bias.expand(-1, -1, new, -1).unflatten(1, (groups, shared)).flatten(2, 3)
    if bias is not None and bias.requires_grad:
        weights = torch.softmax(q @ k.transpose(-1, -2) + bias.to(q.dtype), dim=-1, dtype=torch.float32)
        out = weights.to(v.dtype) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype), scale=1.0)
    return out.unflatten(2, (shared, new)).permute(0, 3, 1, 2, 4).flatten(2, 3)
