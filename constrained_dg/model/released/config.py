"""The configuration of a released checkpoint (DiffusionGemma, Google 2026) as a `ModelConfig`."""

from __future__ import annotations

import re
from typing import Any

from constrained_dg.errors import InputError, check, is_count
from constrained_dg.model.config import MOST, ModelConfig, shown
from constrained_dg.model.released.quantisation import declared

# What transformers 5.23 assumes of an absent key. These are not the values of the released model.
SIZES: dict[str, Any] = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "moe_intermediate_size": None,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 512,
    "num_experts": None,
    "top_k_experts": None,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072,
    "final_logit_softcapping": 30.0,
}
GLOBAL_HEAD_DIM, PATTERN, CANVAS = 512, 6, 256
ROPE: dict[str, dict[str, Any]] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
#: Keys of the text configuration for which this backbone knows these values only; the first one is assumed when absent.
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "attention_dropout": (0.0, None),
    "use_bidirectional_attention": (None, "vision"),
    "tie_word_embeddings": (True,),
}


def read_config(raw: dict[str, Any]) -> ModelConfig:
    """The shape that a released config.json describes; absent keys mean the defaults of `transformers` 5.23.

    Raises:
        InputError: naming the key and value that this backbone cannot express, or the scheme of quantised weights.
    """
    kind = raw.get("model_type")
    check(kind == "diffusion_gemma", f"model_type is {shown(kind)}", "this backbone is 'diffusion_gemma'")
    text = raw.get("text_config")
    if not isinstance(text, dict):
        raise InputError(f"text_config is {shown(text)}", "it holds the sizes of the text model")
    for holder, where, keys in ((text, "text_config.", ONLY), (raw, "", ("tie_word_embeddings",))):
        for key in keys:
            value = holder.get(key, ONLY[key][0])
            hint = f"this backbone knows {' and '.join(map(repr, ONLY[key]))} only"
            check(value in ONLY[key], f"{where}{key} is {shown(value)}", hint)
    declared(raw)

    sizes = {key: text.get(key, default) for key, default in SIZES.items()}
    layers = sizes["num_hidden_layers"]
    most = MOST["num_hidden_layers"]
    fits = is_count(layers, 1) and layers <= most
    check(fits, f"text_config.num_hidden_layers is {shown(layers)}", f"use an integer from 1 to {most}")
    full, period = _layer_pattern(text.get("layer_types"), layers)
    full_head_dim, full_heads = _of_full_layers(text, full, sizes)
    theta, partial = _rope(text, all(full))
    canvas = raw.get("canvas_length", CANVAS)
    return ModelConfig(
        **sizes,
        num_global_key_value_heads=full_heads,
        global_head_dim=full_head_dim,
        sliding_layers_per_full=period,
        rope_theta_sliding=theta["sliding_attention"],
        rope_theta_full=theta["full_attention"],
        partial_rotary_factor=partial,
        canvas_length=canvas,
    )


def _layer_pattern(types: Any, layers: int) -> tuple[list[bool], int]:
    """Which layers are full, and the number of sliding layers before each full one."""
    if types is None:
        types = ["full_attention" if (i + 1) % PATTERN == 0 else "sliding_attention" for i in range(layers)]
    fits = isinstance(types, list) and len(types) == layers and all(kind in list(ROPE) for kind in types)
    check(fits, f"text_config.layer_types is {shown(types)}", f"give {layers} of {sorted(ROPE)}")
    full = [kind == "full_attention" for kind in types[:-1]] + [True]
    for period in (PATTERN - 1, *range(layers)):
        if full[:-1] == [(i + 1) % (period + 1) == 0 for i in range(layers - 1)]:
            return full, period
    raise InputError(
        f"text_config.layer_types is {shown(types)}", "this backbone repeats some sliding layers and one full layer"
    )


def _of_full_layers(text: dict[str, Any], full: list[bool], sizes: dict[str, Any]) -> tuple[int, int]:
    """Head size and key/value heads of full layers, in either spelling."""
    usual = {key: sizes[key] for key in ("head_dim", "num_key_value_heads")}
    by_layer = text.get("per_layer_config")
    if by_layer is None:
        heads = text.get("num_global_key_value_heads")
        return text.get("global_head_dim", GLOBAL_HEAD_DIM), usual["num_key_value_heads"] if heads is None else heads
    hint = "this backbone gives all full layers one head_dim and num_key_value_heads, and sliding layers theirs"
    fits = isinstance(by_layer, dict) and all(re.fullmatch("[0-9]{1,6}", key) for key in by_layer)
    # transformers writes numbers of equal length: 05 and 11.
    numbered = {int(key): entry for key, entry in by_layer.items()} if fits else {}
    fits = fits and len(numbered) == len(by_layer) and set(numbered) <= set(range(len(full)))
    fits = fits and all(isinstance(entry, dict) and set(entry) <= set(usual) for entry in numbered.values())
    check(fits, f"text_config.per_layer_config is {shown(by_layer)}", hint)
    layers = [usual | numbered.get(i, {}) for i in range(len(full))]
    same = all(layer == (layers[-1] if is_full else usual) for layer, is_full in zip(layers, full, strict=True))
    check(same, f"text_config.per_layer_config is {shown(by_layer)}", hint)
    return layers[-1]["head_dim"], layers[-1]["num_key_value_heads"]


def _rope(text: dict[str, Any], all_full: bool) -> tuple[dict[str, float], float]:
    """Base of each kind of layer, and the rotating share of full layers."""
    given = text.get("rope_parameters")
    given = ROPE if given is None else given
    theta, share = {}, 1.0
    for kind, usual in ROPE.items():
        at = f"text_config.rope_parameters.{kind}"
        entry = given.get(kind) if isinstance(given, dict) else None
        if entry is None and all_full and kind == "sliding_attention":
            entry = usual
        if not isinstance(entry, dict) or "rope_theta" not in entry:
            raise InputError(f"{at} is {shown(entry)}", "give rope_type and rope_theta")
        rope_type, share = entry.get("rope_type", "default"), entry.get("partial_rotary_factor", 1.0)
        known = ["default", "proportional"] if kind == "full_attention" else ["default"]
        check(rope_type in known, f"{at}.rope_type is {shown(rope_type)}", f"this backbone knows {known}")
        factor = entry.get("factor", 1.0)
        check(factor == 1.0, f"{at}.factor is {shown(factor)}", "this backbone knows 1.0 only")
        turns = rope_type == "proportional" or share == 1.0
        check(turns, f"{at}.partial_rotary_factor is {shown(share)}", "with rope_type 'default' all channels rotate")
        theta[kind] = entry["rope_theta"]
    return theta, share


def special_tokens(raw: dict[str, Any], generation: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The attributes of a `Denoiser` that say which tokens end an answer, pad it, and mark images.

    Args:
        raw: config.json.
        generation: generation_config.json, which has precedence; empty without one.

    Raises:
        InputError: a token outside the vocabulary.
    """

    def first(key: str, default: Any) -> Any:
        values = (holder.get(key) for holder in (generation, raw, raw["text_config"]))
        return next((value for value in values if value is not None), default)

    ends = first("eos_token_id", 1)
    tokens = {"eos_token_id": tuple(ends) if isinstance(ends, list) else (ends,)}
    tokens["pad_token_id"] = (first("pad_token_id", 0),)
    for name, values in tokens.items():
        fits = all(is_count(value) and value < vocab_size for value in values)
        check(fits, f"{name} is {shown(values)}", f"tokens run from 0 to {vocab_size - 1}")
    # A checkpoint of a small vocabulary may keep the usual image tokens, which no prompt can contain.
    usual = {"image_token_id": 258_880, "boi_token_id": 255_999, "eoi_token_id": 258_882}
    images = {name: raw.get(name, token) for name, token in usual.items()}
    for name, token in images.items():
        fits = token is None or (is_count(token) and token < 2**63)
        check(fits, f"{name} is {shown(token)}", "give the number of a token, or null")
    return {
        "eos_token_ids": tokens["eos_token_id"],
        "pad_token_id": tokens["pad_token_id"][0],
        "image_token_ids": tuple(token for token in images.values() if token is not None),
    }
