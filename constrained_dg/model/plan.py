"""What a pass computes once for all of its loops: rotations, and what is added to the attention scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from constrained_dg.model.cache import KeysValues
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.masks import first_visible
from constrained_dg.model.rope import inverse_frequencies, rotation
from constrained_dg.shapes import BoolTensor, FloatTensor

#: (window, lo, hi, first) -> which keys [first, hi) the queries [lo, hi) of a layer see; None where they see all.
Visible = Callable[[int | None, int, int, int], BoolTensor | None]


class LayerPlan(NamedTuple):
    """One layer's plan of a pass.

    Attributes:
        first: the oldest position that the layer reads.
        rotation: cosine and sine of the new positions (N, K).
        biases: added to the scores of each block of queries, see `attend_blocks`; None where nothing is added.
    """

    first: int
    rotation: KeysValues
    biases: list[FloatTensor] | None


def plan_pass(
    config: ModelConfig,
    layers: Iterable[Any],
    x: FloatTensor,
    start: int,
    blocks: list[tuple[int, int]],
    visible: Visible,
    relations: BoolTensor | None,
) -> list[LayerPlan]:
    """The plan of each layer for a pass over positions `start` .. of x (B, N, D).

    Args:
        blocks: of queries, as absolute positions [lo, hi).
        relations: (B or 1, R, >= hi, >= hi) bool, or None.
    """
    device = x.device
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else x.dtype
    positions = torch.arange(start, start + x.shape[1], device=device)
    plans: list[LayerPlan] = []
    #: By window: rotation, first key and visible keys of each block, and biases without relations.
    shared: dict[int | None, tuple[KeysValues, list[int], list[BoolTensor | None]]] = {}
    plain: dict[int | None, list[FloatTensor | None]] = {}
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
            firsts = [first_visible(lo, window) for lo, _ in blocks]
            seen = [visible(window, *block, first) for block, first in zip(blocks, firsts, strict=True)]
            shared[window] = rotation(positions, frequencies, dtype), firsts, seen
        turn, firsts, seen = shared[window]
        # 2. Biases: of each layer where it has relations, else shared too.
        biases: list[FloatTensor | None]
        if relations is not None and config.num_relations:
            biases = [
                layer.score_bias(relations[:, :, lo:hi, first:hi], mask, dtype)
                for (lo, hi), first, mask in zip(blocks, firsts, seen, strict=True)
            ]
        else:
            if window not in plain:
                plain[window] = [layer.score_bias(None, mask, dtype) for mask in seen]
            biases = plain[window]
        given = [bias for bias in biases if bias is not None]  # all of them, or none
        plans.append(LayerPlan(firsts[0], turn, given or None))
    return plans
