"""The canvas once through the stack, and the head: plain functions of the model, which `torch.compile` takes.

Functions, not methods: a compiled method would keep hold of the model that it was compiled for.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.utils.checkpoint import checkpoint

from constrained_dg.model.attention import Block
from constrained_dg.model.cache import KeysValues
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.layers import RMSNorm, ScaledEmbedding
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: For each layer of a canvas pass: rotation, cache view and blocks.
Steps = list[tuple[KeysValues, KeysValues, list[Block] | None]]


class Stack(Protocol):
    """What these functions read of a `Backbone`."""

    config: ModelConfig
    embed_tokens: ScaledEmbedding
    layers: torch.nn.ModuleList
    norm: RMSNorm
    recompute: bool

    def record(self, probabilities: FloatTensor, chosen: IntTensor, mask: BoolTensor | None = None) -> None: ...


def run_layer(model: Stack, layer: Any, *arguments: Any) -> tuple[Any, ...]:
    """One layer of a pass; computed again in the backward pass where the model says so."""
    if model.recompute and torch.is_grad_enabled():
        return checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False)
    return layer(*arguments)


def canvas_loop(model: Stack, x: FloatTensor, steps: Steps, in_place: bool) -> FloatTensor:
    """The canvas (B, C, D) once through the stack."""
    for layer, (rotation, past, blocks) in zip(model.layers, steps, strict=True):
        x, _, _, *routing = run_layer(model, layer, x, rotation, past, blocks, in_place, False)
        model.record(*routing)
    return x


def soft_capped(model: Stack, x: FloatTensor) -> FloatTensor:
    """Tied, soft-capped head: (..., D) -> fp32 logits (..., V)."""
    cap = model.config.final_logit_softcapping
    logits = torch.nn.functional.linear(model.norm(x), model.embed_tokens.weight).float().div_(cap).tanh_()
    # In place except the last step: the gradient of tanh needs its input.
    return logits * cap if logits.requires_grad else logits.mul_(cap)


def mark_dynamic(x: FloatTensor, steps: Steps) -> None:
    """Tell torch.compile that rows and keys change from pass to pass (a size of 1 is always compiled as such)."""
    for _, past, blocks in steps:
        for tensor, keys in ((x, None), *((store, 1) for store in past), *((block.bias, 3) for block in blocks or [])):
            for dim in (0, keys):
                if dim is not None and tensor.shape[dim] > 1:
                    torch._dynamo.maybe_mark_dynamic(tensor, dim)
