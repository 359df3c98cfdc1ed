"""Router and experts of DiffusionGemma (2026)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from constrained_dg.model.config import ModelConfig
from constrained_dg.model.layers import RMSNorm, gated_gelu
from constrained_dg.model.quantised.weight import QuantisedWeight, plain
from constrained_dg.shapes import FloatTensor, IntTensor


class Router(nn.Module):
    """u = RMS_noscale(r) * scale * D^(-1/2); p = softmax(u W^T) in fp32 over all experts; the k largest, renormalised,
    times the scale of each expert. It is fed the raw residual stream r, not a normed one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k = config.top_k_experts
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, scaled=False)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))

    def forward(self, r: FloatTensor) -> tuple[FloatTensor, IntTensor, FloatTensor]:
        """(N, D) -> weights (N, k), expert indices (N, k), probabilities over all experts (N, E) fp32."""
        u = self.norm(r) * self.scale * r.shape[-1] ** -0.5
        probabilities = self.proj(u).float().softmax(-1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True) * self.per_expert_scale[chosen]
        return weights.to(r.dtype), chosen, probabilities


class Experts(nn.Module):
    """E gated MLPs; token n gets sum_k weights[n, k] * expert[chosen[n, k]](z[n]).

    `grouped_forward` sorts the assignments by expert and multiplies each group with its expert, in one grouped
    matrix product; nothing waits for the device, and no sum depends on the order of threads. On CUDA that is one kernel
    for bf16 (compute capability 8.0 and up); for fp32 torch multiplies expert by expert there and waits for the device.

    `dense_forward`, its twin, sends every token through every expert and weighs the rest with zero: E / k times the
    arithmetic. It serves inputs that grouped_mm refuses (float64, no tokens, rows not a multiple of 16 bytes), and
    narrow experts, see `DENSE_WIDTH`.

    Quantised weights (`QuantisedWeight` instead of a parameter) have grouped products of their own, for every input.
    """

    #: Up to this width of all experts together the dense path is taken. There it costs little (one CPU thread,
    #: preset "small", forward: 81 tokens 0.14 ms dense and 0.23 grouped, 2592 tokens 2.8 and 2.3; width 256, 648 tokens
    #: 1.3 and 0.6), and its products have a shape that does not depend on the routing, so that a row of the laptop
    #: preset gets the same bits in every batch. In a compiled training step no sort interrupts what surrounds it.
    DENSE_WIDTH = 128

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width, size = config.num_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj: Any = nn.Parameter(torch.empty(experts, 2 * width, size))
        self.down_proj: Any = nn.Parameter(torch.empty(experts, size, width))

    @property
    def quantised(self) -> bool:
        return isinstance(self.down_proj, QuantisedWeight) or isinstance(self.gate_up_proj, QuantisedWeight)

    @property
    def narrow(self) -> bool:
        experts, _, width = self.down_proj.shape
        return experts * width <= self.DENSE_WIDTH and not self.quantised

    def forward(self, z: FloatTensor, weights: FloatTensor, chosen: IntTensor) -> FloatTensor:
        """(N, D), (N, k), (N, k) -> (N, D)."""
        path = self.dense_forward if self.narrow or not self._fits_grouped(z) else self.grouped_forward
        return path(z, weights, chosen)

    def _fits_grouped(self, z: FloatTensor) -> bool:
        if self.quantised:
            return True
        _, size, width = self.down_proj.shape
        known = z.dtype in (torch.float32, torch.bfloat16, torch.float16) and len(z) > 0
        return known and size * z.element_size() % 16 == width * z.element_size() % 16 == 0

    def grouped_forward(self, z: FloatTensor, weights: FloatTensor, chosen: IntTensor) -> FloatTensor:
        experts, (tokens, k) = self.down_proj.shape[0], chosen.shape
        expert, order = chosen.flatten().sort(stable=True)
        # bincount would give the sizes of the groups too, but waits for the device.
        ends = torch.searchsorted(expert, torch.arange(experts, device=z.device), right=True, out_int32=True)
        gate, up = grouped_linear(z.index_select(0, order // k), self.gate_up_proj, ends).chunk(2, dim=-1)
        out = grouped_linear(gated_gelu(gate, up), self.down_proj, ends)
        # Back in the order of the tokens, rather than added up in the sorted order: on CUDA that would need atomics.
        out = out.index_select(0, order.argsort()).view(tokens, k, z.shape[1])
        return (out * weights[:, :, None]).sum(1).to(z.dtype)

    def dense_forward(self, z: FloatTensor, weights: FloatTensor, chosen: IntTensor) -> FloatTensor:
        experts, _, width = self.down_proj.shape
        every = torch.zeros(z.shape[0], experts, dtype=weights.dtype, device=z.device)
        every = every.scatter(1, chosen, weights)
        gate_up, down = plain(self.gate_up_proj, z.dtype), plain(self.down_proj, z.dtype)
        gate_weight, up_weight = gate_up.chunk(2, dim=1)
        hidden = gated_gelu(
            torch.nn.functional.linear(z, gate_weight.flatten(0, 1)),
            torch.nn.functional.linear(z, up_weight.flatten(0, 1)),
        )
        hidden = (hidden.unflatten(1, (experts, width)) * every[:, :, None]).flatten(1)
        return torch.nn.functional.linear(hidden, down.transpose(0, 1).flatten(1))


def grouped_linear(x: FloatTensor, weight: Any, ends: IntTensor) -> FloatTensor:
    """Rows [ends[e - 1], ends[e]) of x (M, D) times the transpose of weight[e]: (E, width, D) -> (M, width).

    Args:
        weight: a tensor, or a `QuantisedWeight`.
        ends: (E) int32, on the device of x; the last one is M.
    """
    if isinstance(weight, QuantisedWeight):
        return weight.linear(x, ends)
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x, weight = (t.to(torch.get_autocast_dtype(kind)) for t in (x, weight))
    return _grouped_linear(x, weight, ends)


# An operator of ours, since torch 2.13 traces grouped_mm for bf16 alone: with it torch.compile takes every dtype.
@torch.library.custom_op("constrained_dg::grouped_linear", mutates_args=())
def _grouped_linear(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.grouped_mm(x.contiguous(), weight.transpose(1, 2), offs=ends)


@torch.library.custom_op("constrained_dg::grouped_outer", mutates_args=())
def _grouped_outer(x: torch.Tensor, y: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """x_e^T y_e for the rows of each group e: (M, P), (M, Q) -> (E, P, Q)."""
    return torch.nn.functional.grouped_mm(x.contiguous().T, y.contiguous(), offs=ends)


@_grouped_linear.register_fake
def _(x, weight, ends):
    return x.new_empty(x.shape[0], weight.shape[1])


@_grouped_outer.register_fake
def _(x, y, ends):
    return x.new_empty(ends.shape[0], x.shape[1], y.shape[1])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    x, weight, ends = ctx.saved_tensors
    needs_x, needs_weight, _ = ctx.needs_input_grad
    return (
        _grouped_linear(grad, weight.transpose(1, 2), ends) if needs_x else None,
        _grouped_outer(grad, x, ends) if needs_weight else None,
        None,
    )


_grouped_linear.register_autograd(_backward, setup_context=_save)


def balance_loss(probabilities: FloatTensor, chosen: IntTensor) -> FloatTensor:
    """E * sum_e f_e P_e: f_e the share of assignments, P_e the mean probability of expert e; 1 when balanced.

    Source: Switch Transformer (2101.03961, 2021), equation 4.
    """
    experts = probabilities.shape[-1]
    share = torch.nn.functional.one_hot(chosen.flatten(), experts).float().mean(0)
    return experts * (share * probabilities.mean(0)).sum()
