"""The backbone: one stack of weights, causal over committed tokens, bidirectional over the canvas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from constrained_dg.errors import check
from constrained_dg.model.attention import Attention
from constrained_dg.model.cache import Cache, Entry, KeysValues
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.layers import MLP, RMSNorm, ScaledEmbedding
from constrained_dg.model.masks import causal_mask, first_visible
from constrained_dg.model.moe import Experts, Router
from constrained_dg.model.rope import inverse_frequencies, rotation
from constrained_dg.model.self_conditioning import SelfConditioning
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: A head that starts tied to a relation gives related keys exp(TIED_BIAS) times the weight of the others.
TIED_BIAS = 4.0

#: Tokens that go through the stack at a time in a causal pass without gradients (activations are bounded by it, and
#: every chunk reads all weights once more), and queries that attend at a time in it (a sliding layer's queries read up
#: to a block more keys than they see). Prefill of 4096 tokens, hidden 512, one CPU thread: chunks of 256, 1024, 2048
#: and 4096 take 3.5, 3.1, 2.8 and 3.5 s; blocks of 128, 256 and 512 take 2.7, 2.8 and 2.9 s.
PREFILL_CHUNK, QUERY_BLOCK = 2048, 256


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
        biases: list[FloatTensor] | None,
        in_place: bool,
        causal: bool,
        keys_only: bool = False,
    ) -> tuple[FloatTensor | None, FloatTensor, FloatTensor, FloatTensor | None, IntTensor | None]:
        """(B, N, D) -> (B, N, D), new keys and values (B, N, G, K), router probabilities and choices.

        With `keys_only` nothing but the keys and values is made; the rest is None.
        """
        normed = self.input_layernorm(x)
        if keys_only:
            return None, *self.self_attn.keys_values(normed, turn), None, None
        out, keys, values = self.self_attn(normed, turn, past, biases, in_place)
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
        self.canvas_length, self.max_context = config.canvas_length, config.max_position_embeddings
        self.eos_token_ids: tuple[int, ...] = ()
        self.image_token_ids: tuple[int, ...] = ()
        self.pad_token_id = 0
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)
        #: Filled by every pass while it is set; training sets it for one step.
        self.routing: RoutingRecord | None = None
        self._compiled: tuple[Callable[..., FloatTensor], Callable[..., FloatTensor]] | None = None

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
        """Causal pass over the prompt, PREFILL_CHUNK tokens at a time (all at once with gradients).

        No head, and of the last layer nothing but its keys and values: no canvas ever reads more.

        Args:
            prompt: (B, S) int64.
            mask: (B, S) bool, False at padding; None without padding.
            relations: (B or 1, R, >= S, >= S) bool over absolute positions, or None.
            room: tokens to reserve behind the prompt; default one canvas.

        Raises:
            InputError: the prompt is longer than the context, or the mask has another shape.
        """
        self._check_context(prompt.shape[1])
        space = self.config.canvas_length if room is None else room
        cache = self.empty_cache(prompt.shape[0], prompt.shape[1] + space)
        self._causal_pass(prompt, cache, mask, relations)
        return cache

    def empty_cache(self, rows: int, capacity: int) -> Cache:
        """A cache of B rows with nothing committed and space for `capacity` tokens."""
        like = self.embed_tokens.weight[0]
        if torch.is_autocast_enabled(like.device.type):
            like = like.to(torch.get_autocast_dtype(like.device.type))
        return Cache(self._entries(), rows, capacity, self.config.canvas_length, like)

    def commit(self, canvas: IntTensor, cache: Cache, relations: BoolTensor | None = None) -> Cache:
        """Causal pass over a finished canvas (B, C); the cache grows by C tokens, in place."""
        self._causal_pass(canvas, cache, None, relations)
        return cache

    def hidden_states(
        self, tokens: IntTensor, cache: Cache, mask: BoolTensor | None = None, relations: BoolTensor | None = None
    ) -> FloatTensor:
        """Causal pass over new tokens (B, N), committed to the cache -> hidden states (B, N, D) after the final norm.

        Args:
            mask: (B, N) bool, False at padding; what stands at padding means nothing.
        """
        return self.norm(self._causal_pass(tokens, cache, mask, relations, wanted=tokens.shape[1]))

    def next_token(self, tokens: IntTensor, cache: Cache, relations: BoolTensor | None = None) -> FloatTensor:
        """Causal pass over new tokens (B, N), committed to the cache -> fp32 logits (B, V) of the token after them."""
        return self.head(self._causal_pass(tokens, cache, None, relations, wanted=1)[:, -1])

    def causal_logits(
        self,
        tokens: IntTensor,
        cache: Cache,
        relations: BoolTensor | None = None,
        mask: BoolTensor | None = None,
    ) -> FloatTensor:
        """Like `next_token`, at every position: fp32 (B, N, V). `mask` as in `hidden_states`."""
        return self.head(self._causal_pass(tokens, cache, mask, relations, wanted=tokens.shape[1]))

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

        Raises:
            InputError: the canvas is longer than trained, or ends beyond the context.
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
        new, start = canvas.shape[1], cache.length
        check(
            new <= self.config.canvas_length,
            f"the canvas has {new} tokens",
            f"this model takes canvases of up to {self.config.canvas_length}",
        )
        self._check_context(start + new)
        cache.reserve(new)
        x = self.self_conditioning(self.embed_tokens(canvas), signal)
        seen = None if cache.mask is None else cache.seen(new, None)
        plan = self._plan(
            [(start, start + new)],
            start,
            relations,
            x,
            lambda window, lo, hi, first: None if seen is None else seen[:, None, first:hi],
        )
        compiled = self._compiled if self.routing is None and not torch.is_grad_enabled() else None
        run, head = compiled or (_canvas_loop, _soft_capped)
        logits = []
        for loop in range(self.config.loops):
            base = min(loop, self.config.causal_loops - 1) * len(self.layers)
            # With gradients nothing is written into the buffers: autograd may still need what they hold.
            views = [cache.view(base + index, first, new) for index, (first, _, _) in enumerate(plan)]
            steps = [(turn, past, biases) for (past, _), (_, turn, biases) in zip(views, plan, strict=True)]
            if compiled:
                _mark_dynamic(x, steps)
            x = run(self, x, steps, views[0][1])
            if every or loop == self.config.loops - 1:
                logits.append(head(self, x))
        return logits

    def compile_canvas_pass(self, mode: str | None = None) -> Backbone:
        """From now on compile the canvas pass (torch.compile) wherever no gradient is needed; returns the model.

        Rows and context are dynamic: a generation compiles a handful of graphs (below and beyond the window, one row
        and several), whatever its length. The canvas length is not; each one compiles its own. The stack gets `mode`.
        The head is always compiled without CUDA graphs, so that its logits are fresh tensors, which the caller may
        keep while the next pass runs.
        """
        self._compiled = torch.compile(_canvas_loop, mode=mode), torch.compile(_soft_capped)
        return self

    def self_condition(self, probabilities: FloatTensor, mask: BoolTensor | None = None) -> FloatTensor:
        """Expected embedding (B, C, D) under probabilities (B, C, V); zero in rows whose `mask` (B) is False."""
        signal = self.embed_tokens.expected(probabilities)
        return signal if mask is None else signal * mask[:, None, None].to(signal.dtype)

    def head(self, x: FloatTensor) -> FloatTensor:
        """Tied, soft-capped head: (..., D) -> fp32 logits (..., V)."""
        return _soft_capped(self, x)

    def memory_needed(self, rows: int, committed: int, canvas: int) -> int:
        """Bytes beyond the weights that generating takes at its peak, estimated without allocating anything.

        The sum of the cache (all layers of `committed` tokens and two canvases of room, sliding ones only what their
        window bounds; twice with more than one row, since rows that leave the batch select a second, smaller cache
        while the first still stands), one canvas of logits in fp32 with the probabilities that go back in the dtype of
        the weights (and, where that is not fp32, the logits before the cast), and the larger pass of prefill and
        canvas: its residual stream, queries, MLP, experts and masks as if one layer's tensors were all alive at once.
        A sampler's own tensors come on top.

        Args:
            rows: B.
            committed: tokens in the cache when the last canvas begins.
            canvas: C.
        """
        config, size = self.config, self.embed_tokens.weight.element_size()
        shape = Cache(self._entries(), 0, committed + 2 * canvas, config.canvas_length, self.embed_tokens.weight[0])
        slots = [(entry, shape.slots(entry, committed + 2 * canvas)) for entry in shape.entries]
        cache = sum(2 * n * entry.groups * entry.head_dim for entry, n in slots) * rows * size * (2 if rows > 1 else 1)
        logits = rows * canvas * config.vocab_size * (4 + size + (size if size < 4 else 0))
        heads = config.num_attention_heads * max(config.head_dim, config.global_head_dim)
        token = 8 * config.hidden_size + 4 * heads + 3 * config.intermediate_size
        token += config.top_k_experts * (3 * config.hidden_size + 4 * config.moe_intermediate_size)
        tokens = max(canvas, min(committed, PREFILL_CHUNK))
        masks = tokens * committed * (1 + config.num_attention_heads // config.num_global_key_value_heads)
        return cache + logits + (rows * tokens * token + masks) * size

    # -- parts of the passes ------------------------------------------------------------------------------------------

    def _entries(self) -> list[Entry]:
        windows = [self._window(index) for index in range(len(self.layers))]
        parts = [(layer.self_attn.groups, layer.self_attn.head_dim) for layer in self.layers]
        return [Entry(*part, window) for part, window in zip(parts, windows, strict=True)] * self.config.causal_loops

    def _window(self, layer: int) -> int | None:
        return None if self.config.is_full(layer) else self.config.sliding_window

    def _check_context(self, tokens: int) -> None:
        limit = self.config.max_position_embeddings
        check(tokens <= limit, f"{tokens} tokens of context", f"this model takes up to {limit}")

    def _causal_pass(
        self,
        tokens: IntTensor,
        cache: Cache,
        mask: BoolTensor | None,
        relations: BoolTensor | None,
        wanted: int = 0,
    ) -> FloatTensor | None:
        """Commit tokens (B, N) to the cache -> hidden states (B, wanted, D) of the last ones, before the final norm."""
        new = tokens.shape[1]
        self._check_context(cache.length + new)
        check(
            mask is None or mask.shape == tokens.shape,
            f"the padding mask is {tuple(mask.shape) if mask is not None else ()} for tokens {tuple(tokens.shape)}",
            "give one of the same shape",
        )
        chunk = max(1, new) if torch.is_grad_enabled() else PREFILL_CHUNK
        states = [self.embed_tokens(tokens[:, :0])] if wanted == new == 0 else []
        for at in range(0, new, chunk):
            part = None if mask is None else mask[:, at : at + chunk]
            keep = max(0, min(at + chunk, new) - max(at, new - wanted))
            x = self._causal_chunk(tokens[:, at : at + chunk], cache, part, relations, keep == 0)
            if keep:
                states.append(x[:, -keep:])
        return torch.cat(states, dim=1) if len(states) > 1 else states[0] if states else None

    def _causal_chunk(
        self,
        tokens: IntTensor,
        cache: Cache,
        mask: BoolTensor | None,
        relations: BoolTensor | None,
        keys_only: bool,
    ) -> FloatTensor | None:
        """One chunk of `_causal_pass` -> hidden states (B, N, D), or None with `keys_only`."""
        new, start = tokens.shape[1], cache.length
        cache.reserve(new)
        seen = cache.seen(new, mask)
        block = new if torch.is_grad_enabled() else QUERY_BLOCK
        blocks = [(lo, min(lo + block, start + new)) for lo in range(start, start + new, block)]
        x = self.embed_tokens(tokens)

        def visible(window: int | None, lo: int, hi: int, first: int) -> BoolTensor:
            see = causal_mask(lo, hi - lo, window, tokens.device, first)[None]
            if seen is None:
                return see
            # A padded query sees itself alone: a softmax over nothing would be NaN.
            itself = torch.eye(hi - lo, dtype=torch.bool, device=tokens.device)
            return (see & seen[:, None, first:hi]) | torch.nn.functional.pad(itself, (lo - first, 0))

        plan = self._plan(blocks, start, relations, x, visible)
        entries = self.config.causal_loops * len(self.layers)
        for entry in range(entries):
            first, turn, biases = plan[entry % len(self.layers)]
            past, in_place = cache.view(entry, first, new)
            last = keys_only and entry == entries - 1
            layer = self.layers[entry % len(self.layers)]
            x, keys, values, *routing = layer(x, turn, past, biases, in_place and not last, True, last)
            cache.append(entry, keys, values, in_place and not last)
            if not last:
                self._record(*routing)
        cache.advance(new, mask)
        return x

    def _plan(
        self,
        blocks: list[tuple[int, int]],
        start: int,
        relations: BoolTensor | None,
        x: FloatTensor,
        visible: Callable[[int | None, int, int, int], BoolTensor | None],
    ) -> list[tuple[int, KeysValues, list[FloatTensor] | None]]:
        """What is the same in every loop of a pass over positions `start` .. of x (B, N, D).

        Args:
            blocks: of queries, as absolute positions [lo, hi).
            visible: (window, lo, hi, first) -> which keys [first, hi) the queries [lo, hi) of a layer see.

        Returns:
            for each layer the oldest position that it reads, its rotation, and the biases of its blocks or None.
        """
        config, device = self.config, x.device
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else x.dtype
        positions = torch.arange(start, start + x.shape[1], device=device)
        shared: dict[int | None, tuple] = {}
        plan = []
        for index, layer in enumerate(self.layers):
            window = self._window(index)
            if window not in shared:
                full = window is None
                frequencies = inverse_frequencies(
                    config.global_head_dim if full else config.head_dim,
                    config.rope_theta_full if full else config.rope_theta_sliding,
                    config.partial_rotary_factor if full else 1.0,
                    device,
                )
                firsts = [first_visible(lo, window) for lo, _ in blocks]
                see = [visible(window, *block, first) for block, first in zip(blocks, firsts, strict=True)]
                biases = None
                if relations is None or not config.num_relations:
                    biases = [layer.score_bias(None, mask, dtype) for mask in see]
                shared[window] = rotation(positions, frequencies, dtype), firsts, see, biases
            turn, firsts, see, biases = shared[window]
            if biases is None:
                biases = [
                    layer.score_bias(relations[:, :, lo:hi, first:hi], mask, dtype)
                    for (lo, hi), first, mask in zip(blocks, firsts, see, strict=True)
                ]
            plan.append((firsts[0], turn, None if biases[0] is None else biases))
        return plan

    def _record(self, probabilities: FloatTensor, chosen: IntTensor) -> None:
        if self.routing is not None:
            self.routing.probabilities.append(probabilities)
            self.routing.chosen.append(chosen)


#: For each layer of a canvas pass: rotation, cache view and biases.
Steps = list[tuple[KeysValues, KeysValues, list[FloatTensor] | None]]


# Functions of the model, not methods: a compiled method would keep hold of the model that it was compiled for.
def _canvas_loop(model: Backbone, x: FloatTensor, steps: Steps, in_place: bool) -> FloatTensor:
    """The canvas (B, C, D) once through the stack."""
    for layer, (turn, past, biases) in zip(model.layers, steps, strict=True):
        x, _, _, *routing = layer(x, turn, past, biases, in_place, False)
        model._record(*routing)
    return x


def _soft_capped(model: Backbone, x: FloatTensor) -> FloatTensor:
    cap = model.config.final_logit_softcapping
    logits = torch.nn.functional.linear(model.norm(x), model.embed_tokens.weight).float().div_(cap).tanh_()
    # In place but for the last step, which tanh's own gradient forbids.
    return logits * cap if logits.requires_grad else logits.mul_(cap)


def _mark_dynamic(x: FloatTensor, steps: Steps) -> None:
    """Tell torch.compile that rows and keys change from pass to pass (a size of 1 is always compiled as such)."""
    for _, past, biases in steps:
        for tensor, keys in ((x, None), *((store, 1) for store in past), *((bias, 3) for bias in biases or [])):
            for dim in (0, keys):
                if dim is not None and tensor.shape[dim] > 1:
                    torch._dynamo.maybe_mark_dynamic(tensor, dim)
