"""Router and experts of DiffusionGemma (2026)."""

from __future__ import annotations

import torch
from torch import nn

from constrained_dg.model.config import ModelConfig
from constrained_dg.model.layers import RMSNorm, gated_gelu
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

    Two paths, tested equal. `sorted_forward` sorts the assignments by expert and multiplies each expert with its own
    tokens. `dense_forward` sends every token through every expert and weighs the rest with zero: more arithmetic, but
    three large matrix products and no gather, which is faster while all experts together are small.
    """

    #: Up to this width of all experts together the dense path is taken. A guess, not tuned: see experiments/LOG.md.
    DENSE_WIDTH = 512

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width, size = config.num_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, size))
        self.down_proj = nn.Parameter(torch.empty(experts, size, width))

    def forward(self, z: FloatTensor, weights: FloatTensor, chosen: IntTensor) -> FloatTensor:
        """(N, D), (N, k), (N, k) -> (N, D)."""
        experts, _, width = self.down_proj.shape
        path = self.dense_forward if experts * width <= self.DENSE_WIDTH else self.sorted_forward
        return path(z, weights, chosen)

    def dense_forward(self, z: FloatTensor, weights: FloatTensor, chosen: IntTensor) -> FloatTensor:
        experts, _, width = self.down_proj.shape
        every = torch.zeros(z.shape[0], experts, dtype=weights.dtype, device=z.device)
        every = every.scatter(1, chosen, weights)
        gate_weight, up_weight = self.gate_up_proj.chunk(2, dim=1)
        hidden = gated_gelu(
            torch.nn.functional.linear(z, gate_weight.flatten(0, 1)),
            torch.nn.functional.linear(z, up_weight.flatten(0, 1)),
        )
        hidden = (hidden.unflatten(1, (experts, width)) * every[:, :, None]).flatten(1)
        return torch.nn.functional.linear(hidden, self.down_proj.transpose(0, 1).flatten(1))

    def sorted_forward(self, z: FloatTensor, weights: FloatTensor, chosen: IntTensor) -> FloatTensor:
        experts = len(self.down_proj)
        order = chosen.flatten().argsort(stable=True)
        token = order // chosen.shape[1]
        counts = torch.bincount(chosen.flatten(), minlength=experts).tolist()
        pieces = []
        for expert, tokens in enumerate(z[token].split(counts)):
            gate, up = torch.nn.functional.linear(tokens, self.gate_up_proj[expert]).chunk(2, dim=-1)
            pieces.append(torch.nn.functional.linear(gated_gelu(gate, up), self.down_proj[expert]))
        out = torch.cat(pieces) * weights.flatten()[order][:, None]
        return torch.zeros(z.shape, dtype=out.dtype, device=z.device).index_add(0, token, out)


def balance_loss(probabilities: FloatTensor, chosen: IntTensor) -> FloatTensor:
    """E * sum_e f_e P_e: f_e the share of assignments, P_e the mean probability of expert e; 1 when balanced.

    Source: Switch Transformer (2101.03961, 2021), equation 4.
    """
    experts = probabilities.shape[-1]
    share = torch.nn.functional.one_hot(chosen.flatten(), experts).float().mean(0)
    return experts * (share * probabilities.mean(0)).sum()
