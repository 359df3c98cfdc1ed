"""One layer of DiffusionGemma (2026)."""

from __future__ import annotations

import torch
from torch import nn

from constrained_dg.model.attention import Attention, Block
from constrained_dg.model.cache import KeysValues
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.fused import fits, fused_layer
from constrained_dg.model.layers import MLP, RMSNorm
from constrained_dg.model.moe import Experts, Router
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


class Layer(nn.Module):
    """One layer: attention, then a dense MLP and routed experts in parallel, each between two norms."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, index)
        self.mlp = MLP(size, config.intermediate_size)
        self.router = Router(config)
        self.experts = Experts(config)
        self.input_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.pre_feedforward_layernorm = RMSNorm(size, eps)
        self.post_feedforward_layernorm = RMSNorm(size, eps)
        self.post_feedforward_layernorm_1 = RMSNorm(size, eps)
        self.pre_feedforward_layernorm_2 = RMSNorm(size, eps)
        self.post_feedforward_layernorm_2 = RMSNorm(size, eps)
        # Two buffers, not one: a released checkpoint stores one for each mode.
        self.layer_scalar: FloatTensor
        self.encoder_layer_scalar: FloatTensor
        self.register_buffer("layer_scalar", torch.ones(1))
        self.register_buffer("encoder_layer_scalar", torch.ones(1))
        self.fused = False

    def compile_training(self) -> None:
        """From now on run compiled, and `fused` where gradients are needed and it fits."""
        self.fused = fits(self)
        self.compile(dynamic=False)

    def score_bias(
        self, relations: BoolTensor | None, visible: BoolTensor | None, dtype: torch.dtype
    ) -> FloatTensor | None:
        """See `Attention.score_bias`; a method of the layer, since the layer is what FSDP2 shards and gathers."""
        return self.self_attn.score_bias(relations, visible, dtype)

    def forward(
        self,
        x: FloatTensor,
        rotation: KeysValues,
        past: KeysValues,
        blocks: list[Block] | None,
        in_place: bool,
        causal: bool,
        keys_only: bool = False,
    ) -> tuple[FloatTensor | None, FloatTensor, FloatTensor, FloatTensor | None, IntTensor | None]:
        """(B, N, D) -> (B, N, D), new keys and values (B, N, G, K), router probabilities and choices.

        With `keys_only` only the keys and values are computed; the rest is None.
        """
        if self.fused and x.requires_grad and not keys_only and (blocks is None or len(blocks) == 1):
            return fused_layer(self, x, rotation, past, None if blocks is None else blocks[0].bias, causal)
        normed = self.input_layernorm(x)
        if keys_only:
            return None, *self.self_attn.keys_values(normed, rotation), None, None
        out, keys, values = self.self_attn(normed, rotation, past, blocks, in_place)
        x = x + self.post_attention_layernorm(out)
        flat = x.flatten(0, 1)
        weights, chosen, probabilities = self.router(flat)
        routed = self.experts(self.pre_feedforward_layernorm_2(flat), weights, chosen).view(x.shape)
        dense = self.mlp(self.pre_feedforward_layernorm(x))
        both = self.post_feedforward_layernorm_1(dense) + self.post_feedforward_layernorm_2(routed)
        x = x + self.post_feedforward_layernorm(both)
        return x * (self.encoder_layer_scalar if causal else self.layer_scalar), keys, values, probabilities, chosen
