"""Checkpoints in the format DiffusionGemma was released in (Google, 2026), read and written without `transformers`.

    FOLDER/config.json               sizes; both spellings of what full layers have of their own are understood
    FOLDER/generation_config.json    end and padding tokens; optional
    FOLDER/model.safetensors         weights, or shards named by model.safetensors.index.json

The text weights stand in it once, under the decoder; the encoder adds one number a layer. The vision tower is not
loaded, but `save_pretrained` carries it, the tokenizer and the processor files over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from constrained_dg.errors import InputError, check
from constrained_dg.model.backbone import Backbone
from constrained_dg.model.config import ModelConfig

CONFIG, GENERATION, WEIGHTS, INDEX = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
#: What belongs to a checkpoint beside its weights and is carried over unread.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
)
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")
#: Some checkpoints carry these weights; no model reads them.
DEAD = "model.encoder.embed_vision.embedding."
#: Type names of the file format.
TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

# What transformers 5.23 assumes of an absent key. These are not the values of the released model.
SIZES = {
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
ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
#: Keys of the text configuration for which this backbone knows these values only; the first one is assumed when absent.
ONLY = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "attention_dropout": (0.0, None),
    "use_bidirectional_attention": (None, "vision"),
    "tie_word_embeddings": (True,),
}


@dataclass(frozen=True)
class Origin:
    """Where a model came from, for `save_pretrained`.

    Attributes:
        folder: of the checkpoint.
        config: its config.json as it stands there.
        vision: the tensors that were not loaded, and the file of each.
    """

    folder: Path
    config: dict[str, Any]
    vision: dict[str, Path]


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint as its header describes it."""

    file: Path
    type: str
    shape: tuple[int, ...]


def load_pretrained(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Backbone:
    """The text model of a checkpoint in the released format, in eval mode.

    On the CPU its weights are memory-mapped; on another device each tensor goes there by itself.

    Args:
        dtype: of the weights; None means the one config.json names, or else the stored one.

    Returns:
        A `Backbone` with what generation needs as attributes: `canvas_length`, `eos_token_ids` and `image_token_ids`
        (tuples), `pad_token_id`, `image_token_id`; and with its `origin`.

    Raises:
        InputError: a folder that is no checkpoint, a configuration this backbone cannot express, or tensors that are
            missing, unknown, misshapen or cut short; all of it before the first tensor is read.
    """
    folder = Path(folder)
    raw = _read_json(folder / CONFIG, "a checkpoint in the released format holds config.json and safetensors")
    try:
        config = read_config(raw)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from None
    attributes = _attributes(folder, raw, config)
    dtype = _dtype(folder, raw) if dtype is None else dtype
    check(dtype is None or dtype in TYPES, f"dtype is {dtype}", f"use one of {[str(known) for known in TYPES]}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used: {error}") from None

    stored = _stored(folder)
    with torch.device("meta"):
        model = Backbone(config)
    names = {key: released_name(key) for key in model.state_dict()}
    _check_tensors(folder, model, names, stored)

    dtype = dtype or _torch_type(stored[names["embed_tokens.weight"]].type)
    weights: dict[str, torch.Tensor] = {}
    for path in sorted({stored[name].file for name in names.values()}):
        with _opened(path, str(device)) as file:
            for key, name in names.items():
                if stored[name].file == path:
                    weights[key] = file.get_tensor(name).to(dtype)
    model.load_state_dict(weights, assign=True)
    for name, value in attributes.items():
        setattr(model, name, value)
    vision = {name: tensor.file for name, tensor in stored.items() if name.startswith(VISION)}
    model.origin = Origin(folder.resolve(), raw, {name: file for name, file in vision.items() if DEAD not in name})
    return model.eval()


def save_pretrained(
    model: Backbone,
    folder: Path | str,
    max_shard_bytes: int = 5_000_000_000,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint in the released format, which `load_pretrained` and `transformers` read.

    The vision weights, tokenizer and processor files of the checkpoint the model came from are copied, tensor by
    tensor; they must still be where they were. The folder may exist, but not hold a checkpoint. It is written
    beside first and then moved, so that it never holds a part of one.

    Args:
        model: from `load_pretrained`, with any weights.
        max_shard_bytes: weights are split into files of at most this size, or of one larger tensor.
        state: the weights where they are not simply those of the model (gathered from shards).

    Raises:
        InputError: a model that was not loaded from such a checkpoint, or has extensions this format cannot hold; a
            folder that holds a checkpoint or cannot be written to.
    """
    folder = Path(folder)
    check(max_shard_bytes > 0, f"max_shard_bytes is {max_shard_bytes}", "give a number of bytes above 0")
    origin = getattr(model, "origin", None)
    check(
        isinstance(origin, Origin),
        "this model was not loaded from a checkpoint in the released format, which also holds a vision tower",
        "start from load_pretrained, or keep the model in a run folder (constrained_dg.runs.save_run)",
    )
    came_with = read_config(origin.config)
    changed = {f.name for f in fields(ModelConfig) if getattr(model.config, f.name) != getattr(came_with, f.name)}
    check(not changed, f"the model differs from its checkpoint in {sorted(changed)}", "use a run folder for it")
    with torch.device("meta"):
        expected = set(Backbone(came_with).state_dict())
    state = model.state_dict() if state is None else state
    odd = sorted(expected ^ set(state))
    check(not odd, f"the model has other tensors than its checkpoint: {odd[:4]}", "merge adapters into the weights")
    taken = [path.name for path in folder.glob("*") if path.name in (CONFIG, INDEX) or path.suffix == ".safetensors"]
    check(not taken, f"{str(folder)!r} already holds {sorted(taken)[:4]}", "choose another folder")

    tensors = {released_name(key): _from_memory(tensor) for key, tensor in state.items()}
    for path in sorted(set(origin.vision.values())):
        with _opened(path) as file:
            for name in (name for name, where in origin.vision.items() if where == path):
                # On the CPU a tensor is mapped, not read, until it is written.
                tensors[name] = _from_file(path, name, file.get_slice(name).get_dtype(), file.get_tensor(name))

    partial = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write_weights(partial, tensors, max_shard_bytes)
        for name in (*COMPANIONS, GENERATION):
            if (origin.folder / name).is_file() and not (folder / name).exists():
                shutil.copyfile(origin.folder / name, partial / name)
        if not (origin.folder / GENERATION).is_file():
            ends = {"eos_token_id": list(model.eos_token_ids), "pad_token_id": model.pad_token_id}
            _write_json(partial / GENERATION, ends)
        config = {key: value for key, value in origin.config.items() if key != "torch_dtype"}
        _write_json(partial / CONFIG, config | {"dtype": str(next(iter(state.values())).dtype).removeprefix("torch.")})
        if folder.exists():
            # The configuration goes last: without it the folder is no checkpoint.
            for path in sorted(partial.iterdir(), key=lambda path: path.name == CONFIG):
                os.replace(path, folder / path.name)
        else:
            os.replace(partial, folder)
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}", "free space or use another") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def released_name(key: str) -> str:
    """The name a tensor of `Backbone.state_dict` has in a released checkpoint."""
    layer, found = re.subn(r"^(layers\.\d+)\.encoder_layer_scalar$", r"\1.layer_scalar", key)
    return f"model.encoder.language_model.{layer}" if found else f"model.decoder.{key}"


# -- configuration ----------------------------------------------------------------------------------------------------


def read_config(raw: dict[str, Any]) -> ModelConfig:
    """The shape that a released config.json describes; absent keys mean what they mean to `transformers` 5.23.

    Raises:
        InputError: naming the key and value that this backbone cannot express.
    """
    kind = raw.get("model_type")
    check(kind == "diffusion_gemma", f"model_type is {kind!r}", "this backbone is 'diffusion_gemma'")
    text = raw.get("text_config")
    check(isinstance(text, dict), f"text_config is {text!r}", "it holds the sizes of the text model")
    for holder, where, keys in ((text, "text_config.", ONLY), (raw, "", ("tie_word_embeddings",))):
        for key in keys:
            value = holder.get(key, ONLY[key][0])
            hint = f"this backbone knows {' and '.join(map(repr, ONLY[key]))} only"
            check(value in ONLY[key], f"{where}{key} is {value!r}", hint)
    quantised = raw.get("quantization_config")
    check(quantised is None, f"quantization_config is {quantised!r}", "use the checkpoint that is not quantised")

    sizes = {key: text.get(key, default) for key, default in SIZES.items()}
    layers = sizes["num_hidden_layers"]
    check(isinstance(layers, int) and layers > 0, f"text_config.num_hidden_layers is {layers!r}")
    full, period = _layer_pattern(text.get("layer_types"), layers)
    own_head_dim, own_heads = _of_full_layers(text, full, sizes)
    theta, partial = _rope(text, all(full))
    canvas = raw.get("canvas_length", CANVAS)
    return ModelConfig(
        **sizes,
        num_global_key_value_heads=own_heads,
        global_head_dim=own_head_dim,
        sliding_layers_per_full=period,
        rope_theta_sliding=theta["sliding_attention"],
        rope_theta_full=theta["full_attention"],
        partial_rotary_factor=partial,
        canvas_length=canvas,
    )


def _layer_pattern(types: Any, layers: int) -> tuple[list[bool], int]:
    """Which layers are full, and how many sliding ones stand before each full one."""
    if types is None:
        types = ["full_attention" if (i + 1) % PATTERN == 0 else "sliding_attention" for i in range(layers)]
    fits = isinstance(types, list) and len(types) == layers and all(kind in list(ROPE) for kind in types)
    check(fits, f"text_config.layer_types is {types!r}", f"give {layers} of {sorted(ROPE)}")
    full = [kind == "full_attention" for kind in types[:-1]] + [True]
    for period in (PATTERN - 1, *range(layers)):
        if full[:-1] == [(i + 1) % (period + 1) == 0 for i in range(layers - 1)]:
            return full, period
    raise InputError(
        f"text_config.layer_types is {types!r}", "this backbone repeats some sliding layers and one full layer"
    )


def _of_full_layers(text: dict[str, Any], full: list[bool], sizes: dict[str, Any]) -> tuple[int, int]:
    """Head size and key/value heads of full layers, in either spelling."""
    usual = {key: sizes[key] for key in ("head_dim", "num_key_value_heads")}
    by_layer = text.get("per_layer_config")
    if by_layer is None:
        heads = text.get("num_global_key_value_heads")
        return text.get("global_head_dim", GLOBAL_HEAD_DIM), usual["num_key_value_heads"] if heads is None else heads
    hint = "this backbone gives all full layers one head_dim and num_key_value_heads, and sliding layers theirs"
    check(
        isinstance(by_layer, dict)
        and all(isinstance(own, dict) and set(own) <= set(usual) for own in by_layer.values()),
        f"text_config.per_layer_config is {by_layer!r}",
        hint,
    )
    own = [usual | by_layer.get(str(i), by_layer.get(i, {})) for i in range(len(full))]
    known = {str(i) for i in range(len(full))} >= set(map(str, by_layer))
    same = all(own[i] == (own[-1] if full[i] else usual) for i in range(len(full)))
    check(known and same, f"text_config.per_layer_config is {by_layer!r}", hint)
    return own[-1]["head_dim"], own[-1]["num_key_value_heads"]


def _rope(text: dict[str, Any], all_full: bool) -> tuple[dict[str, float], float]:
    """Base of each kind of layer, and the rotating share of full layers."""
    given = text.get("rope_parameters")
    given = ROPE if given is None else given
    theta, share = {}, 1.0
    for kind, usual in ROPE.items():
        at = f"text_config.rope_parameters.{kind}"
        own = given.get(kind) if isinstance(given, dict) else None
        own = usual if own is None and all_full and kind == "sliding_attention" else own
        check(isinstance(own, dict) and "rope_theta" in own, f"{at} is {own!r}", "give rope_type and rope_theta")
        rope_type, own_share = own.get("rope_type", "default"), own.get("partial_rotary_factor", 1.0)
        known = {"default", "proportional"} if kind == "full_attention" else {"default"}
        check(rope_type in known, f"{at}.rope_type is {rope_type!r}", f"this backbone knows {sorted(known)}")
        check(own.get("factor", 1.0) == 1.0, f"{at}.factor is {own.get('factor')!r}", "this backbone knows 1.0 only")
        turns = rope_type == "proportional" or own_share == 1.0
        check(turns, f"{at}.partial_rotary_factor is {own_share!r}", "with rope_type 'default' all channels rotate")
        theta[kind], share = own["rope_theta"], own_share
    return theta, share


def _attributes(folder: Path, raw: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """What generation needs to know of the tokens."""
    generation = _read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}

    def first(key: str, default: Any) -> Any:
        found = (holder.get(key) for holder in (generation, raw, raw["text_config"]))
        return next((value for value in found if value is not None), default)

    ends = first("eos_token_id", 1)
    ends = tuple(ends) if isinstance(ends, list) else (ends,)
    pad = first("pad_token_id", 0)
    image = raw.get("image_token_id", 258_880)
    images = (image, raw.get("boi_token_id", 255_999), raw.get("eoi_token_id", 258_882))
    for name, values in (("eos_token_id", ends), ("pad_token_id", (pad,))):
        fits = all(isinstance(value, int) and 0 <= value < config.vocab_size for value in values)
        check(fits, f"{folder}: {name} is {values}", f"tokens run from 0 to {config.vocab_size - 1}")
    return {
        "canvas_length": config.canvas_length,
        "eos_token_ids": ends,
        "pad_token_id": pad,
        "image_token_id": image,
        "image_token_ids": tuple(token for token in images if token is not None),
    }


def _dtype(folder: Path, raw: dict[str, Any]) -> torch.dtype | None:
    """The type of the weights that the configuration names, if any."""
    name = raw.get("dtype", raw.get("torch_dtype"))
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    check(name is None or dtype in TYPES, f"{folder / CONFIG}: dtype is {name!r}", f"known: {list(map(str, TYPES))}")
    return dtype


# -- tensors ----------------------------------------------------------------------------------------------------------


def _stored(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint, read from the headers of its files."""
    if (folder / WEIGHTS).is_file():
        with _opened(folder / WEIGHTS) as file:
            return {name: _header(folder / WEIGHTS, file, name) for name in file.keys()}  # noqa: SIM118
    check(
        (folder / INDEX).is_file(),
        f"neither {WEIGHTS} nor {INDEX} in {str(folder)!r}",
        "weights are read from safetensors only",
    )
    where = _read_json(folder / INDEX).get("weight_map")
    fits = isinstance(where, dict) and all(isinstance(v, str) and Path(v).name == v for v in where.values())
    check(fits, f"{folder / INDEX} has no weight_map", "it names the file of each tensor")
    absent = sorted(shard for shard in set(where.values()) if not (folder / shard).is_file())
    check(not absent, f"{str(folder)!r} lacks the shards {absent[:4]}", f"{INDEX} names them: copy them too")
    stored = {}
    for shard in sorted(set(where.values())):
        with _opened(folder / shard) as file:
            wanted, held = sorted(name for name, at in where.items() if at == shard), set(file.keys())
            lost = [name for name in wanted if name not in held]
            check(not lost, f"{folder / shard} lacks {lost[:4]}", f"{INDEX} says that they are there")
            stored |= {name: _header(folder / shard, file, name) for name in wanted}
    return stored


def _header(path: Path, file: Any, name: str) -> Stored:
    entry = file.get_slice(name)
    return Stored(path, entry.get_dtype(), tuple(entry.get_shape()))


def _check_tensors(folder: Path, model: Backbone, names: dict[str, str], stored: dict[str, Stored]) -> None:
    missing = sorted(set(names.values()) - set(stored))
    check(not missing, f"{folder} lacks {_some(missing)}", f"{CONFIG} promises them")
    extra = sorted(name for name in set(stored) - set(names.values()) if not name.startswith(VISION))
    check(not extra, f"{folder} has unknown tensors {_some(extra)}", f"{CONFIG} does not describe them")
    for key, tensor in model.state_dict().items():
        found, shape = stored[names[key]], tuple(tensor.shape)
        check(found.shape == shape, f"{found.file}: {names[key]} has shape {found.shape}", f"{CONFIG} promises {shape}")
        hint = "quantised weights are not supported"
        check(found.type in TYPES.values(), f"{found.file}: {names[key]} has type {found.type}", hint)


def _some(names: list[str]) -> str:
    return f"{len(names)} tensors, first {names[:4]}" if len(names) > 4 else str(names)


def _torch_type(name: str) -> torch.dtype:
    return next(dtype for dtype, known in TYPES.items() if known == name)


@contextmanager
def _opened(path: Path, device: str = "cpu"):
    """A safetensors file; InputError where it cannot be read."""
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error})", "it may be cut short: copy it again") from None


# -- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outgoing:
    """A tensor to write: `type` as in the file format, `size` and `item` in bytes, and what fetches it."""

    type: str
    shape: tuple[int, ...]
    size: int
    item: int
    fetch: Callable[[], torch.Tensor]


def _from_memory(tensor: torch.Tensor) -> Outgoing:
    item = tensor.element_size()
    return Outgoing(TYPES[tensor.dtype], tuple(tensor.shape), tensor.numel() * item, item, tensor.detach().cpu)


def _from_file(path: Path, name: str, kind: str, mapped: torch.Tensor) -> Outgoing:
    def fetch() -> torch.Tensor:
        with _opened(path) as file:
            return file.get_tensor(name)

    item = mapped.element_size()
    return Outgoing(kind, tuple(mapped.shape), mapped.numel() * item, item, fetch)


def _write_weights(folder: Path, tensors: dict[str, Outgoing], max_shard_bytes: int) -> None:
    """One file, or shards and their index; never more than one tensor in memory."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.size > max_shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += tensor.size
    if len(shards) == 1:
        return _write_shard(folder / WEIGHTS, tensors)
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for file, names in zip(files, shards, strict=True):
        _write_shard(folder / file, {name: tensors[name] for name in names})
    where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    total = sum(tensor.size for tensor in tensors.values())
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _write_shard(path: Path, tensors: dict[str, Outgoing]) -> None:
    """The safetensors format: length of the header, header, tensors; wide types first, so that all are aligned.

    By hand, since the library's own writer wants all tensors at once and closes its files to other users.
    """
    ordered = sorted(tensors.items(), key=lambda named: -named[1].item)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        header[name] = {"dtype": tensor.type, "shape": tensor.shape, "data_offsets": (end, end + tensor.size)}
        end += tensor.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(tensor.fetch().contiguous().reshape(-1).view(torch.uint8).numpy())


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


def _read_json(path: Path, hint: str = "") -> dict[str, Any]:
    check(path.is_file(), f"no {path.name} in {str(path.parent)!r}", hint)
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error})", hint) from None
    check(isinstance(values, dict), f"{path} holds {type(values).__name__}, not a table of names", hint)
    return values
