"""Reading a released checkpoint (DiffusionGemma, Google 2026)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import InputError, check
from constrained_dg.model.backbone import Backbone
from constrained_dg.model.quantised.place import place
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
from constrained_dg.model.released.quantisation import WEIGHT, Part, check_scale, declared, find_parts
from constrained_dg.model.weights import TYPES, Stored, check_tensors, headers, opened


def load_pretrained(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Backbone:
    """The text model of a checkpoint in the released format, in eval mode.

    On the CPU its weights are memory-mapped; on another device each tensor goes there by itself. Quantised weights stay
    quantised (`model.quantised`); experts that are stored one by one are copied into one tensor for each layer.

    Args:
        dtype: of the weights; None means the one config.json names, or else the stored one.

    Returns:
        A `Backbone` that knows its end, padding and image tokens, and its `origin`.

    Raises:
        InputError: a folder that is not a checkpoint, a configuration this backbone cannot express, or tensors that
            are missing, unknown, misshapen or cut short; all of it before the first tensor is read. Scales of quantised
            weights that are NaN, infinite or not above zero, before the weights are read.
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
    stored = stored_tensors(folder)
    with torch.device("meta"):
        model = Backbone(config)
    text = {name: entry for name, entry in stored.items() if not name.startswith(VISION)}
    parts = weights_of_headers(model, text, declared(raw), folder)

    # 3. The weights.
    dtype = dtype or _torch_type(stored[parts["embed_tokens.weight"][0].tensors[WEIGHT]].type)
    model.load_state_dict(_read(model, parts, stored, device, dtype), assign=True)

    # 4. What the checkpoint holds in addition to its weights.
    model.eos_token_ids, model.pad_token_id = tokens["eos_token_ids"], tokens["pad_token_id"]
    model.image_token_ids = tokens["image_token_ids"]
    vision = {name: tensor.file for name, tensor in stored.items() if name.startswith(VISION)}
    model.origin = Origin(folder.resolve(), raw, {name: file for name, file in vision.items() if DEAD not in name})
    return model.eval()


def weights_of_headers(
    model: Backbone, stored: dict[str, Stored], kinds: frozenset[str], folder: Path
) -> dict[str, list[Part]]:
    """Where each weight of a plain model lies in the files, see `find_parts`; the model may be on the meta device."""
    expected = model.state_dict()
    if kinds:
        try:
            return find_parts(stored, expected, kinds, model.config)
        except InputError as error:
            raise InputError(f"{folder}: {error}") from None
    check_tensors(stored, {released_name(key): tensor for key, tensor in expected.items()}, folder, CONFIG)
    return {key: [Part(None, {WEIGHT: released_name(key)})] for key in expected}


def _read(
    model: Backbone,
    parts: dict[str, list[Part]],
    stored: dict[str, Stored],
    device: torch.device | str,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """The state of a model on the meta device, which gets quantised weights where the checkpoint has them: scales
    first, since they are checked, then the rest."""
    weights: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        files = {path: stack.enter_context(opened(path, device)) for path in sorted({e.file for e in stored.values()})}

        def tensor(name: str) -> torch.Tensor:
            return files[stored[name].file].get_tensor(name)

        later: list[tuple[torch.Tensor, list[str]]] = []
        for key, of_key in parts.items():
            kind = of_key[0].kind
            if kind is None:
                names = [part.tensors[WEIGHT] for part in of_key]
                if len(names) == 1:
                    weights[key] = tensor(names[0]).to(dtype)  # on the CPU mapped, not copied
                else:
                    weights[key] = torch.empty(model.get_parameter(key).shape, dtype=dtype, device=device)
                    later.append((weights[key], names))
                continue
            with torch.device("meta"):
                place(model, key, kind)
            for buffer, empty in model.get_submodule(key).state_dict().items():
                filled = weights[f"{key}.{buffer}"] = torch.empty_like(empty, device=device)
                if buffer == "values":
                    later.append((filled, [part.tensors[buffer] for part in of_key]))
                    continue
                for at, part in zip(filled.view(len(of_key), -1), of_key, strict=True):
                    inverted = part.inverted and buffer == "global_scale"
                    at.copy_(check_scale(part.tensors[buffer], tensor(part.tensors[buffer]), inverted).flatten())
        for filled, names in later:
            for at, name in zip(filled.view(len(names), -1), names, strict=True):
                at.copy_(tensor(name).flatten())
    return weights


def _dtype(raw: dict[str, Any]) -> torch.dtype | None:
    """The type of the weights that the configuration names, if any."""
    name = raw.get("dtype", raw.get("torch_dtype"))
    known = {str(dtype).removeprefix("torch."): dtype for dtype in TYPES}
    fits = name is None or (isinstance(name, str) and name in known)
    check(fits, f"dtype is {name!r}", f"use one of {list(known)}")
    return None if name is None else known[name]


def stored_tensors(folder: Path) -> dict[str, Stored]:
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
