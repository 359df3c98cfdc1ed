"""Reading a released checkpoint (DiffusionGemma, Google 2026)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import InputError, check
from constrained_dg.model.backbone import Backbone
from constrained_dg.model.released.config import read_config, special_tokens
from constrained_dg.model.released.layout import (
    CONFIG,
    DEAD,
    GENERATION,
    INDEX,
    VISION,
    WEIGHTS,
    Origin,
    read_json,
    released_name,
)
from constrained_dg.model.weights import TYPES, Stored, check_tensors, headers, opened


def load_pretrained(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Backbone:
    """The text model of a checkpoint in the released format, in eval mode.

    On the CPU its weights are memory-mapped; on another device each tensor goes there by itself.

    Args:
        dtype: of the weights; None means the one config.json names, or else the stored one.

    Returns:
        A `Backbone` that knows its end, padding and image tokens, and its `origin`.

    Raises:
        InputError: a folder that is not a checkpoint, a configuration this backbone cannot express, or tensors that
            are missing, unknown, misshapen or cut short; all of it before the first tensor is read.
    """
    # 1. The configuration.
    folder = Path(folder)
    raw = read_json(folder / CONFIG, "a checkpoint in the released format holds config.json and safetensors")
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    try:
        config = read_config(raw)
        tokens = special_tokens(raw, generation, config.vocab_size)
        dtype = _dtype(raw) if dtype is None else dtype
    except (InputError, RecursionError) as error:  # the latter while an odd value is put into words
        raise InputError(f"{folder / CONFIG}: {error}") from None
    check(dtype is None or dtype in TYPES, f"dtype is {dtype}", f"use one of {[str(known) for known in TYPES]}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used: {error}") from None

    # 2. The headers of the weights, against the shapes of an empty model.
    stored = _stored(folder)
    with torch.device("meta"):
        model = Backbone(config)
    expected = {released_name(key): tensor for key, tensor in model.state_dict().items()}
    check_tensors({n: entry for n, entry in stored.items() if not n.startswith(VISION)}, expected, folder, CONFIG)

    # 3. The weights, file by file.
    dtype = dtype or _torch_type(stored[released_name("embed_tokens.weight")].type)
    weights: dict[str, torch.Tensor] = {}
    for path in sorted({stored[name].file for name in expected}):
        with opened(path, device) as file:
            for key in model.state_dict():
                if stored[released_name(key)].file == path:
                    weights[key] = file.get_tensor(released_name(key)).to(dtype)
    model.load_state_dict(weights, assign=True)

    # 4. What the checkpoint holds in addition to its weights.
    model.eos_token_ids, model.pad_token_id = tokens["eos_token_ids"], tokens["pad_token_id"]
    model.image_token_ids = tokens["image_token_ids"]
    vision = {name: tensor.file for name, tensor in stored.items() if name.startswith(VISION)}
    model.origin = Origin(folder.resolve(), raw, {name: file for name, file in vision.items() if DEAD not in name})
    return model.eval()


def _dtype(raw: dict[str, Any]) -> torch.dtype | None:
    """The type of the weights that the configuration names, if any."""
    name = raw.get("dtype", raw.get("torch_dtype"))
    known = {str(dtype).removeprefix("torch."): dtype for dtype in TYPES}
    fits = name is None or (isinstance(name, str) and name in known)
    check(fits, f"dtype is {name!r}", f"use one of {list(known)}")
    return None if name is None else known[name]


def _stored(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint, read from the headers of its files."""
    if (folder / WEIGHTS).is_file():
        return headers(folder / WEIGHTS)
    check(
        (folder / INDEX).is_file(),
        f"neither {WEIGHTS} nor {INDEX} in {str(folder)!r}",
        "weights are read from safetensors only",
    )
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(v, str) and Path(v).name == v for v in where.values()):
        raise InputError(f"{folder / INDEX} has no weight_map", "it names the file of each tensor")
    absent = sorted(shard for shard in set(where.values()) if not (folder / shard).is_file())
    check(not absent, f"{str(folder)!r} lacks the shards {absent[:4]}", f"{INDEX} names them: copy them too")
    stored: dict[str, Stored] = {}
    for shard in sorted(set(where.values())):
        shard_headers = headers(folder / shard)
        wanted = sorted(name for name, at in where.items() if at == shard)
        lost = [name for name in wanted if name not in shard_headers]
        check(not lost, f"{folder / shard} lacks {lost[:4]}", f"{INDEX} says that they are there")
        stored |= {name: shard_headers[name] for name in wanted}
    return stored


def _torch_type(name: str) -> torch.dtype:
    return next(dtype for dtype, known in TYPES.items() if known == name)
