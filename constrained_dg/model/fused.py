"""A layer in few products, for compiled training: the weights of norms and of parallel branches are multiplied and
joined at run time, so that parameters keep their names and shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from constrained_dg.model.cache import KeysValues
from constrained_dg.model.layers import RMSNorm
from constrained_dg.model.native import attend, library
from constrained_dg.shapes import FloatTensor, IntTensor

if TYPE_CHECKING:
    from constrained_dg.model.layer import Layer


def fits(layer: Layer) -> bool:
    """Whether `fused_layer` can stand for a layer: plain linear layers without adapters, narrow experts (all tokens go
    through all of them), heads that the kernels take, on a CPU."""
    attention, experts = layer.self_attn, layer.experts
    plain = all(type(module) is torch.nn.Linear for module in layer.modules() if isinstance(module, torch.nn.Linear))
    return (
        plain
        and experts.narrow
        and attention.q_proj.weight.device.type == "cpu"
        and library(attention.head_dim) is not None
    )


def fused_layer(
    layer: Layer, x: FloatTensor, rotation: KeysValues, past: KeysValues, bias: FloatTensor | None, causal: bool
) -> tuple[FloatTensor, FloatTensor, FloatTensor, FloatTensor, IntTensor]:
    """`Layer.forward` up to rounding: its arithmetic with another order of factors.

    Args:
        bias: (B or 1, H or 1, N or 1, M), or None.
    """
    attention, size = layer.self_attn, x.shape[-1:]
    eps = layer.input_layernorm.eps

    def normed(x: FloatTensor) -> FloatTensor:
        return F.rms_norm(x.float(), size, None, eps)

    # 1. Attention. A norm's weight scales the columns of the product that follows it.
    branches = [attention.q_proj, attention.k_proj, *([] if attention.v_proj is None else [attention.v_proj])]
    shape = (attention.heads, x.shape[1], past[0].shape[1] + x.shape[1])
    bias = x.new_zeros(1, *shape) if bias is None else bias.expand(-1, *shape)
    weight = torch.cat([branch.weight for branch in branches]) * _weight(layer.input_layernorm)
    projected = F.linear(normed(x).to(x.dtype), weight)
    out, keys, values, _ = attend(
        projected, *past, bias, _weight(attention.q_norm), _weight(attention.k_norm), *rotation, attention.q_norm.eps
    )
    x = x + layer.post_attention_layernorm(attention.o_proj(out))

    # 2. Dense MLP, experts and router read the same vector.
    router, experts, dense = layer.router, layer.experts, layer.mlp
    count, _, width = experts.down_proj.shape
    gates, ups = experts.gate_up_proj.chunk(2, dim=1)
    before, before_2 = _weight(layer.pre_feedforward_layernorm), _weight(layer.pre_feedforward_layernorm_2)
    joined = [
        dense.gate_proj.weight * before,
        gates.flatten(0, 1) * before_2,
        dense.up_proj.weight * before,
        ups.flatten(0, 1) * before_2,
        router.proj.weight * (router.scale * size[0] ** -0.5),
    ]
    widths = [dense.gate_proj.out_features, count * width]
    products = F.linear(normed(x).to(x.dtype), torch.cat(joined))
    gate, up, scores = products.split([sum(widths), sum(widths), count], dim=-1)
    probabilities = scores.flatten(0, 1).float().softmax(-1)
    chosen = probabilities.topk(router.top_k, dim=-1).indices
    taken = probabilities * (chosen[:, :, None] == torch.arange(count, device=x.device)).any(1)
    shares = (taken / taken.sum(-1, keepdim=True) * router.per_expert_scale).view(*x.shape[:2], count, 1)
    # gelu_tanh(x) = x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), which costs half as much.
    gated = gate * torch.sigmoid(gate * (1.5957691216 + 0.0713548162726 * gate * gate)) * up
    inner, routed = gated.split(widths, dim=-1)
    routed = (routed.unflatten(-1, (count, width)) * shares).flatten(-2).to(inner.dtype)
    routed = F.linear(routed, experts.down_proj.transpose(0, 1).flatten(1))
    both = layer.post_feedforward_layernorm_1(dense.down_proj(inner)) + layer.post_feedforward_layernorm_2(routed)
    x = x + layer.post_feedforward_layernorm(both)
    return x * (layer.encoder_layer_scalar if causal else layer.layer_scalar), keys, values, probabilities, chosen


def _weight(norm: RMSNorm) -> FloatTensor:
    assert norm.weight is not None
    return norm.weight
