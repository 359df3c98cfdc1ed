"""A DiffusionGemma that `transformers` loaded, as a denoiser: our samplers and rules on a model one already has.

from constrained_dg.integrations.transformers import wrap
constrained_dg.generate(wrap(model), prompt, constraint=...)
"""

from __future__ import annotations

import inspect
from copy import copy
from typing import Any

import torch

from constrained_dg.errors import check
from constrained_dg.model.images import ATTENTION, Images
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: What `self_condition` hands to the next pass: log-probabilities (B, C, V), and the rows (B) that get them or None.
Signal = tuple[FloatTensor, BoolTensor | None]


class WrappedCache:
    """A `DynamicCache` with the padding of its prompt.

    The other caches of `transformers` (5.23, 5.24) are not used: once a context reaches the sliding window, a
    `StaticCache` hides and overwrites committed tokens.

    Attributes:
        past: keys and values; sliding layers keep the last window - 1 tokens.
        mask: (B, S) bool, False at padding, or None where there is none.
        length: S.
    """

    def __init__(self, past: Any, mask: BoolTensor | None, length: int) -> None:
        self.past, self.mask, self.length = past, mask, length

    def select(self, rows: IntTensor) -> WrappedCache:
        """A copy of these rows (N), in this order; rows may repeat."""
        past = copy(self.past)
        past.layers = [copy(layer) for layer in self.past.layers]
        for layer in past.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        return WrappedCache(past, None if self.mask is None else self.mask[rows], self.length)

    def reserve(self, tokens: int) -> None:
        """Nothing: the cache of `transformers` grows when it must."""

    def fork(self, copies: int) -> WrappedCache:
        """Each row `copies` times, neighbours together.

        Raises:
            InputError: copies below 1.
        """
        check(copies >= 1, f"cannot fork a cache into {copies} copies", "use at least 1")
        keys = self.past.layers[0].keys
        return self.select(torch.arange(len(keys), device=keys.device).repeat_interleave(copies))


class Wrapped:
    """See `wrap`. The methods are those of `sampling.base.Denoiser`; relations are refused."""

    def __init__(self, model: Any) -> None:
        config = model.config
        text = config.get_text_config()
        self.model = model
        self._cache = cache_keyword(model)
        self.vocab_size: int = text.vocab_size
        self.canvas_length: int = config.canvas_length
        self.max_context: int = text.max_position_embeddings
        images = (config.image_token_id, config.boi_token_id, config.eoi_token_id)
        self.image_token_ids = tuple(token for token in images if token is not None)
        self.makes_room, self.image_width, self.vision = False, text.hidden_size, None

        described = [part.to_dict() for part in (model.generation_config, config, text)]

        def first(key: str) -> Any:
            return next((part[key] for part in described if part.get(key) is not None), None)

        ends, pad = first("eos_token_id"), first("pad_token_id")
        self.eos_token_ids: tuple[int, ...] = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
        self.pad_token_id: int = 0 if pad is None else pad

    def memory_needed(self, rows: int, committed: int, canvas: int, pictures: tuple[int, int] = (0, 0)) -> None:
        """Not known of a model of transformers."""

    def prefill(
        self,
        prompt: IntTensor,
        mask: BoolTensor | None = None,
        relations: BoolTensor | None = None,
        images: Images | None = None,
    ) -> WrappedCache:
        """Causal pass over the prompt (B, S); `mask` (B, S) is False at padding, which stands on the left.

        Args:
            images: what stands at some positions instead of the embedding of their token, or None.

        Raises:
            InputError: images that see each other as `transformers` does not compute it.
        """
        from transformers import DynamicCache

        cache = WrappedCache(DynamicCache(config=self.model.config.get_text_config()), None, 0)
        self._encode(prompt, cache, mask, relations, images)
        return cache

    def denoise(
        self, canvas: IntTensor, cache: WrappedCache, signal: Signal | None = None, relations: BoolTensor | None = None
    ) -> FloatTensor:
        """Bidirectional pass over the canvas (B, C) -> fp32 logits (B, C, V); the cache does not change."""
        _refuse(relations)
        # Without this mask the canvas would attend to the padding of the prompt.
        mask = None if cache.mask is None else torch.cat([cache.mask, torch.ones_like(canvas, dtype=torch.bool)], 1)
        logits, rows = (None, None) if signal is None else signal
        return self.model(
            decoder_input_ids=canvas,
            self_conditioning_logits=logits,
            self_conditioning_mask=rows,
            decoder_attention_mask=mask,
            **{self._cache: cache.past},
        ).logits

    def self_condition(self, probabilities: FloatTensor, mask: BoolTensor | None = None) -> Signal:
        """Log-probabilities, of which the model takes the softmax; rows whose `mask` (B) is False get none."""
        return probabilities.float().log(), mask

    def commit(self, canvas: IntTensor, cache: WrappedCache, relations: BoolTensor | None = None) -> WrappedCache:
        """Causal pass over a finished canvas (B, C); the cache grows by C tokens, in place."""
        self._encode(canvas, cache, None, relations)
        return cache

    def next_token(self, tokens: IntTensor, cache: WrappedCache, relations: BoolTensor | None = None) -> FloatTensor:
        """Causal pass over new tokens (B, N), committed to the cache -> fp32 logits (B, V) of the one that follows."""
        hidden = self._encode(tokens, cache, None, relations)[:, -1]
        cap = self.model.final_logit_softcapping
        return cap * torch.tanh(self.model.lm_head(hidden).float() / cap)

    def _encode(
        self,
        tokens: IntTensor,
        cache: WrappedCache,
        mask: BoolTensor | None,
        relations: BoolTensor | None,
        images: Images | None = None,
    ) -> FloatTensor:
        """Commit tokens (B, N) -> last hidden states (B, N, D), after the final norm."""
        _refuse(relations)
        if mask is not None or cache.mask is not None:
            seen = tokens.new_ones(len(tokens), cache.length, dtype=torch.bool) if cache.mask is None else cache.mask
            new = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
            cache.mask = torch.cat([seen, new], 1)
        encoder, past = self.model.model.encoder, {self._cache: cache.past}
        given: dict[str, Any] = {"input_ids": tokens, "attention_mask": cache.mask}
        if images is not None:
            check(
                images.attention == ATTENTION[0],
                f"images with attention={images.attention!r}",
                f"a model of transformers takes those with attention={ATTENTION[0]!r}",
            )
            given = {"inputs_embeds": images.placed(encoder.get_input_embeddings()(tokens), 0)}
            # The encoder makes masks that show a picture to itself, and does not use them (5.23, 5.24).
            masks = encoder.create_masks_for_generate(
                config=self.model.config.get_text_config(),
                attention_mask=cache.mask,
                position_ids=torch.arange(tokens.shape[1], device=tokens.device)[None],
                mm_token_type_ids=images.present.long(),
                **given,
                **past,
            )
            given["attention_mask"] = masks
        output = encoder(**given, **past)
        cache.length += tokens.shape[1]
        return output.last_hidden_state


def wrap(model: Any) -> Wrapped:
    """A loaded `DiffusionGemmaForBlockDiffusion` as a `Denoiser`; it is not copied or changed.

    Pictures are read by the `constrained_dg.vision.Vision` of its checkpoint, as in front of our own backbone.
    Relations are refused, since it has no weights for them.

    Raises:
        InputError: `transformers` is not installed, or the model is of another class.
    """
    try:
        from transformers import DiffusionGemmaForBlockDiffusion

        fits = isinstance(model, DiffusionGemmaForBlockDiffusion)
    except ImportError:
        fits = False
    check(
        fits,
        f"a {type(model).__name__} cannot be wrapped",
        "load a DiffusionGemmaForBlockDiffusion with transformers 5.11 or newer",
    )
    return Wrapped(model)


def cache_keyword(model: Any) -> str:
    """The name of the argument for keys and values: `cache` from transformers 5.24 on, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _refuse(relations: BoolTensor | None) -> None:
    check(relations is None, "relations were given", "a model of transformers has no weights for them")
