"""Quantised weights in the place of plain ones."""

from __future__ import annotations

import re

import torch
from torch import nn

from constrained_dg.model.quantised.formats import FP8
from constrained_dg.model.quantised.weight import QuantisedLinear, QuantisedWeight

#: What the published checkpoints of DiffusionGemma quantise (RedHatAI and NVIDIA, 2026): dense MLPs and experts, and in
#: FP8 attention too. Embedding, routers and self-conditioning stay as they are.
_MLPS = r"layers\.\d+\.(mlp\..*|experts\.(gate_up|down)_proj)"
_ATTENTION = r"layers\.\d+\.self_attn\.\w_proj\.weight"


def usually_quantised(key: str, kind: str) -> bool:
    """Whether published checkpoints of this format quantise the weight of this name in `Backbone.state_dict`."""
    return re.fullmatch(f"{_MLPS}|{_ATTENTION}" if kind == FP8 else _MLPS, key) is not None


def place(model: nn.Module, key: str, kind: str) -> QuantisedWeight:
    """Put an empty quantised weight where the parameter `key` is; on the device that is torch's default."""
    name, _, leaf = key.rpartition(".")
    holder = model.get_submodule(name)
    if isinstance(holder, nn.Linear):
        layer = QuantisedLinear(kind, holder.in_features, holder.out_features)
        model.set_submodule(name, layer)
        return layer.weight
    weight = QuantisedWeight(kind, tuple(model.get_parameter(key).shape), matrices=2 if leaf == "gate_up_proj" else 1)
    delattr(holder, leaf)
    setattr(holder, leaf, weight)
    return weight


def place_usual(model: nn.Module, kind: str) -> nn.Module:
    """Empty quantised weights wherever published checkpoints have them, in place; returns the model."""
    device = next(model.parameters()).device
    with torch.device(device):
        for key in [name for name, _ in model.named_parameters() if usually_quantised(name, kind)]:
            place(model, key, kind)
    return model


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights; of a model on the meta device too."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
