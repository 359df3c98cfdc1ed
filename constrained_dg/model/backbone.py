"""The backbone: one stack of weights, causal over committed tokens, bidirectional over the canvas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from constrained_dg.errors import check
from constrained_dg.model.attention import Attention, KeysValues
from constrained_dg.model.cache import Cache
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.layers import MLP, RMSNorm, ScaledEmbedding
from constrained_dg.model.masks import causal_mask, first_visible
from constrained_dg.model.moe import Experts, Router
from constrained_dg.model.rope import inverse_frequencies, rotation
from constrained_dg.model.self_conditioning import SelfConditioning
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: A head that starts tied to a relation gives related keys exp(TIED_BIAS) times the weight of the others.
TIED_BIAS = 4.0


@dataclass
class RoutingRecord:
    """Router probabilities (N, E) and chosen experts (N, k) of each routed layer application of a training step."""

    probabilities: list[FloatTensor]
    chosen: list[IntTensor]


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
        self.register_buffer("layer_scalar", torch.ones(1))
        self.register_buffer("encoder_layer_scalar", torch.ones(1))

    def score_bias(
        self, relations: BoolTensor | None, visible: BoolTensor | None, dtype: torch.dtype
    ) -> FloatTensor | None:
        """See `Attention.score_bias`; a method of the layer, since the layer is what FSDP2 shards and gathers."""
        return self.self_attn.score_bias(relations, visible, dtype)

    def forward(
        self,
        x: FloatTensor,
        turn: KeysValues,
        past: KeysValues,
        bias: FloatTensor | None,
        buffered: bool,
        causal: bool,
    ) -> tuple[FloatTensor, FloatTensor, FloatTensor, FloatTensor, IntTensor]:
        """(B, N, D) -> (B, N, D), new keys and values (B, N, G, K), router probabilities and choices."""
        out, keys, values = self.self_attn(self.input_layernorm(x), turn, past, bias, buffered)
        x = x + self.post_attention_layernorm(out)
        flat = x.flatten(0, 1)
        weights, chosen, probabilities = self.router(flat)
        routed = self.experts(self.pre_feedforward_layernorm_2(flat), weights, chosen).view(x.shape)
        dense = self.mlp(self.pre_feedforward_layernorm(x))
        both = self.post_feedforward_layernorm_1(dense) + self.post_feedforward_layernorm_2(routed)
        x = x + self.post_feedforward_layernorm(both)
        return x * (self.encoder_layer_scalar if causal else self.layer_scalar), keys, values, probabilities, chosen


class Backbone(nn.Module):
    """DiffusionGemma's text model (Google, 2026): a `sampling.base.Denoiser`.

    Positions are absolute and shared by all rows: 0..S-1 are committed, S..S+C-1 is the canvas. Left padding is
    masked, not shifted.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)
        #: Filled by every pass while it is set; training sets it for one step.
        self.routing: RoutingRecord | None = None

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> Backbone:
        """From-scratch weights: matrices N(0, 1 / fan-in), head norms so that scores start as q.k / sqrt(K), heads
        tied to relations in turn."""
        for name, parameter in self.named_parameters():
            if name.endswith("relation_bias"):
                heads, relations = parameter.shape
                tied = (torch.arange(heads)) % relations
                parameter.zero_()
                parameter[torch.arange(heads), tied] = TIED_BIAS
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.fill_(parameter.shape[0] ** -0.25)
            elif parameter.dim() > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
            else:
                parameter.fill_(1.0)
        return self

    # -- the passes ---------------------------------------------------------------------------------------------------

    def prefill(
        self,
        prompt: IntTensor,
        mask: BoolTensor | None = None,
        relations: BoolTensor | None = None,
        room: int | None = None,
    ) -> Cache:
        """Causal pass over the prompt.

        Args:
            prompt: (B, S) int64.
            mask: (B, S) bool, False at padding; None without padding.
            relations: (B or 1, R, >= S, >= S) bool over absolute positions, or None.
            room: tokens to reserve behind the prompt; default one canvas.
        """
        space = self.config.canvas_length if room is None else room
        cache = self.empty_cache(prompt.shape[0], prompt.shape[1] + space)
        self._causal_pass(prompt, cache, mask, relations)
        return cache

    def empty_cache(self, rows: int, capacity: int) -> Cache:
        """A cache of B rows with nothing committed and space for `capacity` tokens."""
        layers = [layer.self_attn for layer in self.layers]
        shapes = [(layer.groups, layer.head_dim) for layer in layers] * self.config.causal_loops
        like = self.embed_tokens.weight[0]
        if torch.is_autocast_enabled(like.device.type):
            like = like.to(torch.get_autocast_dtype(like.device.type))
        return Cache(shapes, rows, capacity, like)

    def commit(self, canvas: IntTensor, cache: Cache, relations: BoolTensor | None = None) -> Cache:
        """Causal pass over a finished canvas (B, C); the cache grows by C tokens, in place."""
        self._causal_pass(canvas, cache, None, relations)
        return cache

    def next_token(self, tokens: IntTensor, cache: Cache, relations: BoolTensor | None = None) -> FloatTensor:
        """Causal pass over new tokens (B, N), committed to the cache -> fp32 logits (B, V) of the token after them."""
        return self.head(self._causal_pass(tokens, cache, None, relations)[:, -1])

    def causal_logits(self, tokens: IntTensor, cache: Cache, relations: BoolTensor | None = None) -> FloatTensor:
        """Like `next_token`, at every position: fp32 (B, N, V)."""
        return self.head(self._causal_pass(tokens, cache, None, relations))

    def denoise(
        self,
        canvas: IntTensor,
        cache: Cache,
        signal: FloatTensor | None = None,
        relations: BoolTensor | None = None,
    ) -> FloatTensor:
        """Bidirectional pass over the canvas (B, C) -> fp32 logits (B, C, V). Committed entries never change.

        Args:
            signal: (B, C, D) from `self_condition`, or None on the first pass.
            relations: (B or 1, R, >= S + C, >= S + C) bool, or None.
        """
        return self.denoise_loops(canvas, cache, signal, relations, every=False)[-1]

    def denoise_loops(
        self,
        canvas: IntTensor,
        cache: Cache,
        signal: FloatTensor | None = None,
        relations: BoolTensor | None = None,
        every: bool = True,
    ) -> list[FloatTensor]:
        """`denoise`, with the logits after every loop when `every`: a list of fp32 (B, C, V), the last loop last."""
        rows, new = canvas.shape
        check(
            new <= self.config.canvas_length,
            f"the canvas has {new} tokens",
            f"this model takes canvases of up to {self.config.canvas_length}",
        )
        cache.reserve(new)
        x = self.self_conditioning(self.embed_tokens(canvas), signal)
        plan = []
        for index, layer in enumerate(self.layers):
            window = None if self.config.is_full(index) else self.config.sliding_window
            first = first_visible(cache.length, window)
            visible = None
            if cache.mask is not None:
                own = torch.ones(rows, new, dtype=torch.bool, device=canvas.device)
                visible = torch.cat([cache.mask[:, first:], own], dim=1)[:, None].expand(-1, new, -1)
            plan.append((layer, first, *self._pass_constants(layer, first, cache.length, new, relations, visible, x)))
        # With gradients nothing is written into the buffers: autograd may still need what they hold.
        buffered = cache.buffered and not torch.is_grad_enabled()
        logits = []
        for loop in range(self.config.loops):
            base = min(loop, self.config.causal_loops - 1) * len(self.layers)
            for index, (layer, first, turn, bias) in enumerate(plan):
                past = cache.view(base + index, first, new if buffered else 0)
                x, _, _, *routing = layer(x, turn, past, bias, buffered, causal=False)
                self._record(*routing)
            if every or loop == self.config.loops - 1:
                logits.append(self.head(x))
        return logits

    def self_condition(self, probabilities: FloatTensor, mask: BoolTensor | None = None) -> FloatTensor:
        """Expected embedding (B, C, D) under probabilities (B, C, V); zero in rows whose `mask` (B) is False."""
        signal = self.embed_tokens.expected(probabilities)
        return signal if mask is None else signal * mask[:, None, None].to(signal.dtype)

    def head(self, x: FloatTensor) -> FloatTensor:
        """Tied, soft-capped head: (..., D) -> fp32 logits (..., V)."""
        cap = self.config.final_logit_softcapping
        logits = torch.nn.functional.linear(self.norm(x), self.embed_tokens.weight).float()
        return cap * torch.tanh(logits / cap)

    # -- parts of the passes ------------------------------------------------------------------------------------------

    def _causal_pass(
        self, tokens: IntTensor, cache: Cache, mask: BoolTensor | None, relations: BoolTensor | None
    ) -> FloatTensor:
        """Commit tokens (B, N) to the cache -> last hidden states (B, N, D), before the final norm."""
        new, start = tokens.shape[1], cache.length
        limit = self.config.max_position_embeddings
        check(start + new <= limit, f"{start + new} tokens of context", f"this model takes up to {limit}")
        cache.reserve(new)
        seen = None
        if mask is not None or cache.mask is not None:
            past_mask = cache.mask if cache.mask is not None else mask.new_ones(mask.shape[0], start)
            new_mask = mask if mask is not None else past_mask.new_ones(past_mask.shape[0], new)
            seen = torch.cat([past_mask, new_mask], dim=1)
        x = self.embed_tokens(tokens)
        plan = []
        for index, layer in enumerate(self.layers):
            window = None if self.config.is_full(index) else self.config.sliding_window
            first = first_visible(start, window)
            visible = causal_mask(start, new, window, tokens.device)[None, :, first:]
            if seen is not None:
                # A padded query sees itself alone: a softmax over nothing would be NaN.
                itself = torch.eye(new, dtype=torch.bool, device=tokens.device)
                itself = torch.cat([itself.new_zeros(new, start - first), itself], dim=1)
                visible = (visible & seen[:, None, first:]) | itself
            plan.append((layer, first, *self._pass_constants(layer, first, start, new, relations, visible, x)))
        for loop in range(self.config.causal_loops):
            for index, (layer, first, turn, bias) in enumerate(plan):
                entry = loop * len(self.layers) + index
                past = cache.view(entry, first, new)
                x, keys, values, *routing = layer(x, turn, past, bias, cache.buffered, causal=True)
                cache.append(entry, keys, values)
                self._record(*routing)
        cache.advance(new, mask)
        return x

    def _pass_constants(
        self,
        layer: Layer,
        first: int,
        start: int,
        new: int,
        relations: BoolTensor | None,
        visible: BoolTensor | None,
        x: FloatTensor,
    ) -> tuple[KeysValues, FloatTensor | None]:
        """Rotation and score bias of one layer, the same in every loop of a pass."""
        attention = layer.self_attn
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        full = attention.v_proj is None
        frequencies = inverse_frequencies(
            attention.head_dim,
            self.config.rope_theta_full if full else self.config.rope_theta_sliding,
            self.config.partial_rotary_factor if full else 1.0,
            x.device,
        )
        turn = rotation(torch.arange(start, start + new, device=x.device), frequencies, dtype)
        related = None if relations is None else relations[:, :, start : start + new, first : start + new]
        return turn, layer.score_bias(related, visible, dtype)

    def _record(self, probabilities: FloatTensor, chosen: IntTensor) -> None:
        if self.routing is not None:
            self.routing.probabilities.append(probabilities)
            self.routing.chosen.append(chosen)
