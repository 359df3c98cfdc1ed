"""The backbone: one stack of weights, causal over committed tokens, bidirectional over the canvas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from constrained_dg.errors import InputError, check
from constrained_dg.memory import free_memory, swept_at_once
from constrained_dg.model.cache import Cache, Entry
from constrained_dg.model.canvas_pass import canvas_loop, mark_dynamic, run_layer, soft_capped
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.footprint import PREFILL_CHUNK, QUERY_BLOCK, generation_bytes
from constrained_dg.model.images import Images, Pictures
from constrained_dg.model.layer import Layer
from constrained_dg.model.layers import RMSNorm, ScaledEmbedding
from constrained_dg.model.masks import uncut
from constrained_dg.model.native import keep_memory
from constrained_dg.model.plan import plan_pass
from constrained_dg.model.released.layout import Origin
from constrained_dg.model.self_conditioning import SelfConditioning
from constrained_dg.model.vision import VisionTower
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: A head that starts tied to a relation gives related keys exp(TIED_BIAS) times the weight of the others.
TIED_BIAS = 4.0

#: With gradients, tokens up to which a causal pass attends to all of itself at once.
AT_ONCE = 512


@dataclass
class RoutingRecord:
    """Router probabilities (N, E) and chosen experts (N, k) of each routed layer application of a training step."""

    probabilities: list[FloatTensor]
    chosen: list[IntTensor]


class Backbone(nn.Module):
    """DiffusionGemma's text model (Google, 2026): a `sampling.base.Denoiser`.

    Positions are absolute and shared by all rows: 0..S-1 are committed, S..S+C-1 is the canvas. Left padding is
    masked, not shifted.

    Attributes:
        vocab_size: V.
        canvas_length: longest canvas, in tokens.
        max_context: most tokens of prompt and answer together.
        eos_token_ids, pad_token_id, image_token_ids: tokens that end an answer, follow its end, and mark images;
            `load_pretrained` sets them.
        makes_room, image_width: `prefill` takes `room`, and soft tokens of D numbers.
        origin: the released checkpoint it was loaded from, or None.
        routing: filled by every pass while it is set; training sets it for one step.
        narrow_cache: keep keys and values of full layers in 8 bits (see `cache.FP8`) where no gradient is needed: a
            long context then takes half the memory of bf16.
        recompute: with gradients, keep only what enters each layer, and compute the layer again in the backward pass.

    Raises:
        InputError: there is not enough free memory for the weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        device, size = torch.get_default_device(), torch.get_default_dtype().itemsize
        needed, free = config.num_parameters * size, free_memory(device)
        check(
            free is None or needed <= free,
            f"the weights need {needed / 1e9:.1f} GB, and {0 if free is None else free / 1e9:.1f} GB are free",
            "choose a smaller model",
        )
        self.config = config
        self.vocab_size = config.vocab_size
        self.canvas_length, self.max_context = config.canvas_length, config.max_position_embeddings
        self.eos_token_ids: tuple[int, ...] = ()
        self.image_token_ids: tuple[int, ...] = ()
        self.makes_room = True
        self.image_width: int | None = config.hidden_size
        self.pad_token_id = 0
        self.origin: Origin | None = None
        self.routing: RoutingRecord | None = None
        self.narrow_cache = self.recompute = False
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)
        self.vision = None if config.vision is None else VisionTower(config.vision)
        self._compiled: tuple[Callable[..., FloatTensor], Callable[..., FloatTensor]] | None = None
        self._training_head: Callable[..., FloatTensor] = soft_capped

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
        images: Images | Pictures | None = None,
    ) -> Cache:
        """Causal pass over the prompt, PREFILL_CHUNK tokens at a time (all at once with gradients).

        Pictures are never divided: their tokens see each other, so they need to be in one chunk.

        No head, and only keys and values in the last layer: a canvas reads no more.

        Args:
            prompt: (B, S) int64.
            mask: (B, S) bool, False at padding; None without padding.
            relations: (B or 1, R, >= S, >= S) bool over absolute positions, or None.
            room: tokens to reserve behind the prompt; default one canvas.
            images: what stands at some positions instead of the embedding of their token, or None.

        Raises:
            InputError: the prompt is longer than the context, or the mask has another shape.
        """
        self._check_context(prompt.shape[1])
        space = self.config.canvas_length if room is None else room
        cache = self.empty_cache(prompt.shape[0], prompt.shape[1] + space)
        self._causal_pass(prompt, cache, mask, relations, images=self._read(images, prompt.shape[1]))
        return cache

    def empty_cache(self, rows: int, capacity: int) -> Cache:
        """A cache of B rows with nothing committed and space for `capacity` tokens."""
        like = self.embed_tokens.weight[0]
        if torch.is_autocast_enabled(like.device.type):
            like = like.to(torch.get_autocast_dtype(like.device.type))
        return Cache(self._entries(), rows, capacity, self.config.canvas_length, like, self.narrow_cache)

    def commit(self, canvas: IntTensor, cache: Cache, relations: BoolTensor | None = None) -> Cache:
        """Causal pass over a finished canvas (B, C); the cache grows by C tokens, in place."""
        self._causal_pass(canvas, cache, None, relations)
        return cache

    def next_token(self, tokens: IntTensor, cache: Cache, relations: BoolTensor | None = None) -> FloatTensor:
        """Causal pass over new tokens (B, N), committed to the cache -> fp32 logits (B, V) of the token after them."""
        return self.head(self._causal_pass(tokens, cache, None, relations, wanted=1)[:, -1])

    def causal_logits(
        self,
        tokens: IntTensor,
        cache: Cache,
        relations: BoolTensor | None = None,
        mask: BoolTensor | None = None,
        images: Images | Pictures | None = None,
    ) -> FloatTensor:
        """Like `next_token`, at every position: fp32 (B, N, V).

        Args:
            mask: (B, N) bool, False at padding, where logits are undefined.
            images: what stands for these tokens, where nothing is committed yet.
        """
        new = tokens.shape[1]
        return self.head(self._causal_pass(tokens, cache, mask, relations, new, self._read(images, new)))

    def denoise(
        self, canvas: IntTensor, cache: Cache, signal: FloatTensor | None = None, relations: BoolTensor | None = None
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
        plan = plan_pass(self.config, self.layers, x, start, new, False, seen, relations)
        compiled = self._compiled if self.routing is None and not torch.is_grad_enabled() else None
        run, head = compiled or (canvas_loop, self._training_head if torch.is_grad_enabled() else soft_capped)
        logits = []
        for loop in range(self.config.loops):
            base = min(loop, self.config.causal_loops - 1) * len(self.layers)
            # With gradients nothing is written into the buffers: autograd may still need what they hold.
            views = [cache.view(base + index, layer.first, new) for index, layer in enumerate(plan)]
            steps = [(layer.rotation, past, layer.blocks) for (past, _), layer in zip(views, plan, strict=True)]
            if compiled:
                mark_dynamic(x, steps)
            x = run(self, x, steps, views[0][1])
            if every or loop == self.config.loops - 1:
                logits.append(head(self, x))
        return logits

    def compile_canvas_pass(self, mode: str | None = None) -> Backbone:
        """From now on compile the canvas pass (torch.compile) wherever no gradient is needed; returns the model.

        Rows and context are dynamic: a generation compiles a handful of graphs (below and beyond the window, one row
        and several), for any length. Each canvas length is compiled separately. The stack gets `mode`.
        The head is always compiled without CUDA graphs, so that its logits are fresh tensors, which the caller may
        keep while the next pass runs.
        """
        self._compiled = torch.compile(canvas_loop, mode=mode), torch.compile(soft_capped)
        return self

    def compile_training(self) -> Backbone:
        """From now on run compiled layers (torch.compile) and, on a CPU, `fused` ones where gradients are
        needed; returns the model. Losses and gradients stay equal up to rounding."""
        # One graph for each kind of layer, pass, gradient mode and shape; beyond the limit torch runs eagerly.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        layers: Iterable[Any] = self.layers
        for layer in layers:
            layer.compile_training()
        self.self_conditioning.compile(dynamic=False)
        self._training_head = torch.compile(soft_capped, dynamic=False)
        keep_memory()
        return self

    def self_condition(self, probabilities: FloatTensor, mask: BoolTensor | None = None) -> FloatTensor:
        """Expected embedding (B, C, D) under probabilities (B, C, V); zero in rows whose `mask` (B) is False."""
        signal = self.embed_tokens.expected(probabilities)
        return signal if mask is None else signal * mask[:, None, None].to(signal.dtype)

    def head(self, x: FloatTensor) -> FloatTensor:
        """Tied, soft-capped head: (..., D) -> fp32 logits (..., V)."""
        return soft_capped(self, x)

    def memory_needed(self, rows: int, committed: int, canvas: int, pictures: tuple[int, int] = (0, 0)) -> int:
        """Bytes beyond the weights that generating takes at its peak, see `footprint.generation_bytes`."""
        weight = self.embed_tokens.weight
        with torch.no_grad():  # of no rows: it holds nothing, and knows the sizes
            length, scratch = committed + canvas, self.config.canvas_length
            cache = Cache(self._entries(), 0, length, scratch, weight[0], self.narrow_cache)
        stored = sum(math.prod(store.shape[1:]) * store.element_size() for store in (*cache.keys, *cache.values))
        swept, size = swept_at_once(weight.device), weight.element_size()
        return generation_bytes(self.config, stored, size, rows, committed, canvas, swept, self.narrow_cache, pictures)

    # -- parts of the passes ------------------------------------------------------------------------------------------

    def _read(self, images: Images | Pictures | None, length: int) -> Images | None:
        """Pictures as the model's own tower reads them."""
        if not isinstance(images, Pictures):
            return images
        if self.vision is None:
            raise InputError("the model has no vision tower", "use the run of a task with pictures")
        return images.read(self.vision, length)

    def _entries(self) -> list[Entry]:
        config = self.config
        full = Entry(config.num_global_key_value_heads, config.global_head_dim, None)
        sliding = Entry(config.num_key_value_heads, config.head_dim, config.sliding_window)
        layers = range(config.num_hidden_layers)
        return [full if config.is_full(layer) else sliding for layer in layers] * config.causal_loops

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
        images: Images | None = None,
    ) -> FloatTensor:
        """Commit tokens (B, N) to the cache -> hidden states (B, wanted, D) of the last ones, before the final norm."""
        new = tokens.shape[1]
        self._check_context(cache.length + new)
        check(
            mask is None or mask.shape == tokens.shape,
            f"the padding mask is {() if mask is None else tuple(mask.shape)} for tokens {tuple(tokens.shape)}",
            "give one of the same shape",
        )
        chunk = max(1, new) if torch.is_grad_enabled() else PREFILL_CHUNK
        states = [] if wanted and new else [self.embed_tokens(tokens[:, :0])]
        for at, end in uncut(0, new, chunk, None if images is None else images.inside):
            part = None if mask is None else mask[:, at:end]
            keep = max(0, end - max(at, new - wanted))
            x = self._causal_chunk(tokens[:, at:end], cache, part, relations, keep == 0, images)
            if x is not None and keep:
                states.append(x[:, -keep:])
        return torch.cat(states, dim=1) if len(states) > 1 else states[0]

    def _causal_chunk(
        self,
        tokens: IntTensor,
        cache: Cache,
        mask: BoolTensor | None,
        relations: BoolTensor | None,
        keys_only: bool,
        images: Images | None = None,
    ) -> FloatTensor | None:
        """One chunk of `_causal_pass` -> hidden states (B, N, D), or None with `keys_only`."""
        new, start = tokens.shape[1], cache.length
        cache.reserve(new)
        seen = cache.seen(new, mask)
        # With gradients a short prompt attends at once: fewer products, and `fused` layers can take it.
        block = new if torch.is_grad_enabled() and new <= AT_ONCE else QUERY_BLOCK
        x: FloatTensor = self.embed_tokens(tokens)
        x = x if images is None else images.placed(x, start)
        plan = plan_pass(self.config, self.layers, x, start, block, True, seen, relations, images)
        entries = self.config.causal_loops * len(self.layers)
        for entry in range(entries):
            first, rotation, blocks = plan[entry % len(self.layers)]
            past, in_place = cache.view(entry, first, new)
            last = keys_only and entry == entries - 1
            layer = self.layers[entry % len(self.layers)]
            in_place = in_place and not last
            x, keys, values, probabilities, chosen = run_layer(
                self, layer, x, rotation, past, blocks, in_place, True, last
            )
            cache.append(entry, keys, values, in_place)
            if not last:
                self.record(probabilities, chosen, mask)
        cache.advance(new, mask)
        return x

    def record(self, probabilities: FloatTensor, chosen: IntTensor, mask: BoolTensor | None = None) -> None:
        """Record the routing of the tokens of a pass (B * N), without padding, where `mask` (B, N) is
        False."""
        if self.routing is not None:
            if mask is not None:
                probabilities, chosen = probabilities[mask.flatten()], chosen[mask.flatten()]
            self.routing.probabilities.append(probabilities)
            self.routing.chosen.append(chosen)
