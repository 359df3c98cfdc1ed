"""What a pass computes once for all of its loops: rotations, and what is added to the attention scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from constrained_dg.model.attention import Block
from constrained_dg.model.cache import KeysValues
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.images import Images
from constrained_dg.model.masks import first_visible, uncut, visible
from constrained_dg.model.rope import inverse_frequencies, rotation
from constrained_dg.shapes import BoolTensor, FloatTensor

#: A full layer attends to this many keys before a block, and more, apart and without a mask. Fewer are cheaper at once.
SPLIT = 256


class LayerPlan(NamedTuple):
    """One layer's plan of a pass.

    Attributes:
        first: the oldest position that the layer reads.
        rotation: cosine and sine of the new positions (N, K).
        blocks: of queries, see `attend_blocks`; None where every query sees every key and nothing is added.
    """

    first: int
    rotation: KeysValues
    blocks: list[Block] | None


def plan_pass(
    config: ModelConfig,
    layers: Iterable[Any],
    x: FloatTensor,
    start: int,
    block: int,
    causal: bool,
    seen: BoolTensor | None,
    relations: BoolTensor | None,
    images: Images | None = None,
) -> list[LayerPlan]:
    """The plan of each layer for a pass over positions `start` .. of x (B, N, D).

    Args:
        block: queries that attend at a time.
        causal: whether a query sees no later key.
        seen: (B, start + N) bool, False at padding; None without padding.
        relations: (B or 1, R, >= start + N, >= start + N) bool, or None.
        images: pictures among these positions; no block ends within one.
    """
    device, end = x.device, start + x.shape[1]
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else x.dtype
    positions = torch.arange(start, end, device=device)
    relations = relations if config.num_relations else None
    # Without gradients and relations a full layer needs no mask for what lies before a block, which may be long.
    split = causal and relations is None and not torch.is_grad_enabled()
    plans: list[LayerPlan] = []
    #: By window: rotation, and the bounds (first masked key, first and last query) and masks of each block.
    shared: dict[int | None, tuple[KeysValues, list[tuple[int, int, int]], list[BoolTensor | None]]] = {}
    plain: dict[int | None, list[Block] | None] = {}

    def key_of(first: int, lo: int, hi: int) -> Any:
        # Without padding and pictures, blocks of one size see the same.
        return (lo - first, hi - lo) if seen is None and images is None else lo

    for index, layer in enumerate(layers):
        window = config.window(index)
        # 1. Values shared by all layers of one window.
        if window not in shared:
            full = window is None
            frequencies = inverse_frequencies(
                config.global_head_dim if full else config.head_dim,
                config.rope_theta_full if full else config.rope_theta_sliding,
                config.partial_rotary_factor if full else 1.0,
                device,
            )
            queries = uncut(start, end, block, None if images is None else images.inside)
            begins = [lo if full and split and lo >= SPLIT else first_visible(lo, window) for lo, _ in queries]
            bounds = [(first, *query) for first, query in zip(begins, queries, strict=True)]
            masks: dict[Any, BoolTensor | None] = {}
            for first, lo, hi in bounds:
                if (key := key_of(first, lo, hi)) not in masks:
                    masks[key] = visible(causal, lo, hi, first, window, seen, device, images)
            by_block = [masks[key_of(*each)] for each in bounds]
            shared[window] = rotation(positions, frequencies, dtype), bounds, by_block
        turn, bounds, by_block = shared[window]
        # 2. Biases: of each layer where it has relations, else shared too.
        if relations is not None:
            blocks = _blocks(layer, dtype, bounds, by_block, relations, None, False)
        else:
            if window not in plain:
                plain[window] = _blocks(layer, dtype, bounds, by_block, None, seen, split and window is None)
            blocks = plain[window]
        plans.append(LayerPlan(first_visible(start, window), turn, blocks))
    return plans


def _blocks(
    layer: Any,
    dtype: torch.dtype,
    bounds: list[tuple[int, int, int]],
    masks: list[BoolTensor | None],
    relations: BoolTensor | None,
    seen: BoolTensor | None,
    split: bool,
) -> list[Block] | None:
    """The blocks of one layer; with `split` they see what lies before the first masked key, but for padding."""
    made: dict[int, FloatTensor | None] = {}  # by mask: equal masks are one object
    blocks = []
    for (first, lo, hi), mask in zip(bounds, masks, strict=True):
        if relations is not None:
            bias = layer.score_bias(relations[:, :, lo:hi, first:hi], mask, dtype)
        else:
            if id(mask) not in made:
                made[id(mask)] = layer.score_bias(None, mask, dtype)
            bias = made[id(mask)]
        if bias is None:
            return None
        before = layer.score_bias(None, seen[:, None, :first], dtype) if split and first and seen is not None else None
        blocks.append(Block(bias, split and first > 0, before))
    return blocks
