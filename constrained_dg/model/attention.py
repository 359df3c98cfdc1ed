"""Grouped-query attention of DiffusionGemma (2026), with relation biases as an extension."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from constrained_dg.model.cache import FP8, KeysValues, as_stored
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.layers import RMSNorm
from constrained_dg.model.long_attention import attend_long, serves
from constrained_dg.model.rope import rotate
from constrained_dg.shapes import BoolTensor, FloatTensor

#: Keys and values of 8 bits that are widened at a time.
TILE = 4096


#: Keys and values (B, M, G, K), and what is added to the scores, or None.
Part = tuple[FloatTensor, FloatTensor, FloatTensor | None]


class Block(NamedTuple):
    """What a block of N_i queries sees, apart from later blocks.

    Attributes:
        bias: (B or 1, H or 1, N_i or 1, M_i), added to the scores of the last M_i keys, which end with the last query.
        earlier: whether the keys before those are seen too; never with gradients.
        before: (B, 1, 1, ...), added to the scores of the earlier keys; None adds nothing.
    """

    bias: FloatTensor
    earlier: bool = False
    before: FloatTensor | None = None


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
        self, x: FloatTensor, rotation: KeysValues, past: KeysValues, blocks: list[Block] | None, in_place: bool
    ) -> tuple[FloatTensor, FloatTensor, FloatTensor]:
        """(B, N, D) -> (B, N, D) and the new keys and values (B, N, G, K).

        Args:
            rotation: cosine and sine (N, K).
            past: a cache view: committed keys and values, with N positions of scratch behind them when `in_place`.
            blocks: of queries, see `attend_blocks`.
        """
        new = x.shape[1]
        q = rotate(self.q_norm(self.q_proj(x).unflatten(-1, (self.heads, self.head_dim))), *rotation)
        k, v = self.keys_values(x, rotation)
        keys, values = past
        # A token is read as it is stored, also by itself: so it makes no difference how a prompt is cut into chunks.
        k, v = as_stored(k, keys.dtype), as_stored(v, values.dtype)
        if in_place:
            keys[:, -new:] = k
            values[:, -new:] = v
        elif keys.shape[1]:
            keys, values = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        else:
            keys, values = k, v
        return self.o_proj(attend_blocks(q, keys, values, blocks).flatten(-2)), k, v


def attend_blocks(q: FloatTensor, k: FloatTensor, v: FloatTensor, blocks: list[Block] | None) -> FloatTensor:
    """Attention block by block of queries: (B, N, H, K), keys and values (B, M, G, K) -> (B, N, H, K).

    The queries are the last N of the M positions, and the keys of a block end with its last query, so that a causal
    block reads no later keys and, with a window, no keys far before it. Without blocks every query sees every key.
    """
    if blocks is None:
        return attend(q, k, v, None)
    if len(blocks) == 1 and not blocks[0].earlier:
        return attend(q, k, v, blocks[0].bias)
    out, done, past = [], 0, k.shape[1] - q.shape[1]
    for bias, earlier, before in blocks:
        stop = done + bias.shape[-2]
        first, last = past + stop - bias.shape[-1], past + stop
        parts: list[Part] = [(k[:, first:last], v[:, first:last], bias)]
        if earlier:
            parts.append((k[:, :first], v[:, :first], before))
        queries = q[:, done:stop]
        out.append(attend(queries, *parts[0]) if len(parts) == 1 else attend_parts(queries, parts))
        done = stop
    return torch.cat(out, dim=1)


def attend(q: FloatTensor, k: FloatTensor, v: FloatTensor, bias: FloatTensor | None) -> FloatTensor:
    """softmax(q k^T + bias) v: queries (B, N, H, K), keys and values (B, M, G, K), bias (B or 1, H or 1, N or 1, M).

    Keys and values are never repeated: the H / G query heads that share one are concatenated as more
    queries. A bias that needs a gradient goes through plain matrix products, which is faster with small heads on
    a CPU, forward and backward, than what scaled_dot_product_attention does then. Otherwise that function takes 0.55
    to 0.85 of the time of the plain products (one CPU thread, canvas of 256 behind 256 and 4096 tokens); where
    `attend_long` serves, in bf16, that takes less than half of it.
    """
    if k.dtype == FP8:
        return _attend_narrow(q, k, v, bias)
    heads, groups = q.shape[2], k.shape[2]
    q, k, v, bias = _by_group(q, k, v, bias)
    if bias is not None and bias.requires_grad:
        weights = torch.softmax(q @ k.transpose(-1, -2) + bias, dim=-1, dtype=torch.float32)
        out = weights.to(v.dtype) @ v
    elif bias is None and serves(q, k, v):
        out, _ = attend_long(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v, bias, scale=1.0)
    return _by_query(out, heads // groups)


def attend_parts(q: FloatTensor, parts: Iterable[Part]) -> FloatTensor:
    """`attend` over the keys, values and biases of several parts together, each read once; without gradients.

    With a the answer of one part, s the logarithm of its sum of exponentials, and b and t those of another,
    both together have s' = log(e^s + e^t) and a' = e^(s - s') a + e^(t - s') b. Keys and values of 8 bits are widened
    TILE at a time.
    """
    total: FloatTensor | None = None
    for k, v, bias in _tiles(q.dtype, parts):
        answer, size = partial(*_by_group(q, k, v, bias))
        if total is None:
            out, total, shared = answer, size, q.shape[2] // k.shape[2]
            continue
        both = torch.logaddexp(total, size)
        out = out * _share(total, both) + answer * _share(size, both)
        total = both
    assert total is not None  # there is one part or more
    return _by_query(out.to(q.dtype), shared)


# An operator of ours, so that torch.compile sees one step however many tiles there are.
@torch.library.custom_op("constrained_dg::attend_narrow", mutates_args=())
def _attend_narrow(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return attend_parts(q, [(k, v, bias)]).contiguous()


@_attend_narrow.register_fake
def _(q, k, v, bias):
    return q.new_empty(q.shape)


def partial(
    q: FloatTensor, k: FloatTensor, v: FloatTensor, bias: FloatTensor | None
) -> tuple[FloatTensor, FloatTensor]:
    """Attention of queries (B, G, N, K) and the logarithm (B, G, N), fp32, of each one's sum of exponentials.

    A query that sees no key has an answer of 0, and -inf.
    """
    if bias is None and serves(q, k, v):
        return attend_long(q, k, v)
    if q.device.type == "cpu" and q.dtype != torch.float64:
        out, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=1.0)
    elif q.device.type == "cuda":
        bias = None if bias is None else bias.expand(*q.shape[:-1], -1)
        out, total, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, scale=1.0)
        total = total[..., : q.shape[2]]  # it pads them
    else:
        return partial_by_products(q, k, v, bias)
    if bias is None:
        return out, total
    none = bias.isneginf().all(-1)  # there kernels give 0, -inf or NaN
    return out.masked_fill(none[..., None], 0), total.masked_fill(none, -torch.inf)


def partial_by_products(
    q: FloatTensor, k: FloatTensor, v: FloatTensor, bias: FloatTensor | None
) -> tuple[FloatTensor, FloatTensor]:
    """`partial` with all scores at once, on every device."""
    scores = (q @ k.transpose(-1, -2)).float()
    scores = scores if bias is None else scores + bias
    total = scores.logsumexp(-1)
    weights = (scores - total.clamp(min=torch.finfo(total.dtype).min)[..., None]).exp()
    return weights.to(v.dtype) @ v, total


def _tiles(dtype: torch.dtype, parts: Iterable[Part]) -> Iterator[Part]:
    for k, v, bias in parts:
        if k.dtype != FP8:
            yield k, v, bias
            continue
        for at in range(0, k.shape[1], TILE):
            tile = slice(at, at + TILE)
            yield k[:, tile].to(dtype), v[:, tile].to(dtype), None if bias is None else bias[..., tile]


def _share(part: FloatTensor, whole: FloatTensor) -> FloatTensor:
    """exp(part - whole) (..., 1); 0 where both are -inf."""
    return (part - whole.clamp(min=torch.finfo(whole.dtype).min)).exp()[..., None]


def _by_group(
    q: FloatTensor, k: FloatTensor, v: FloatTensor, bias: FloatTensor | None
) -> tuple[FloatTensor, FloatTensor, FloatTensor, FloatTensor | None]:
    """The H / G query heads of a group one after the other: (B, G, H / G * N, K), (B, G, M, K) twice, and the bias."""
    rows, new, heads, size = q.shape
    groups, shared = k.shape[2], heads // k.shape[2]
    q = q.unflatten(2, (groups, shared)).permute(0, 2, 3, 1, 4).reshape(rows, groups, shared * new, size)
    if bias is not None and (shared > 1 or bias.shape[1] > 1):
        # The bias is reshaped like the queries; a bias equal for all queries stays small.
        if bias.shape[1] == 1 and bias.shape[2] > 1:
            bias = bias.expand(-1, shared, -1, -1).flatten(1, 2)[:, None]
        elif bias.shape[1] > 1:
            bias = bias.expand(-1, -1, new, -1).unflatten(1, (groups, shared)).flatten(2, 3)
    return q, k.transpose(1, 2), v.transpose(1, 2), None if bias is None else bias.to(q.dtype)


def _by_query(out: FloatTensor, shared: int) -> FloatTensor:
    """Back from `_by_group`: (B, G, H / G * N, K) -> (B, N, H, K)."""
    return out.unflatten(2, (shared, out.shape[2] // shared)).permute(0, 3, 1, 2, 4).flatten(2, 3)
