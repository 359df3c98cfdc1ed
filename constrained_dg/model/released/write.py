"""Writing a released checkpoint (DiffusionGemma, Google 2026)."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import InputError, check
from constrained_dg.model.backbone import Backbone
from constrained_dg.model.config import ModelConfig
from constrained_dg.model.quantised.weight import QuantisedWeight
from constrained_dg.model.released.config import read_config
from constrained_dg.model.released.layout import COMPANIONS, CONFIG, GENERATION, INDEX, WEIGHTS, Origin, released_name
from constrained_dg.model.released.quantisation import describe, names_of, unpacked
from constrained_dg.model.weights import ALL_TYPES, opened


def save_pretrained(
    model: Backbone,
    folder: Path | str,
    max_shard_bytes: int = 5_000_000_000,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint in the released format, which `load_pretrained` and `transformers` read.

    The vision weights, tokenizer and processor files of the checkpoint the model came from are copied, tensor by
    tensor; they must still be where they were. The folder may exist, but not hold a checkpoint. The files are
    written into another folder first and then moved, so that it never holds half a checkpoint.

    Args:
        model: from `load_pretrained`, with any weights.
        max_shard_bytes: weights are split into files of at most this size, or of one larger tensor.
        state: the weights where they are not simply those of the model (gathered from shards).

    Raises:
        InputError: a model that was not loaded from such a checkpoint, or has extensions this format cannot hold; a
            folder that holds a checkpoint or cannot be written to.
    """
    # 1. What the format can hold, and a folder that takes it.
    folder = Path(folder)
    check(max_shard_bytes > 0, f"max_shard_bytes is {max_shard_bytes}", "give a number of bytes above 0")
    origin, state = model.origin, model.state_dict() if state is None else state
    if origin is None:
        raise InputError(
            "this model was not loaded from a checkpoint in the released format, which also holds a vision tower",
            "start from load_pretrained, or keep the model in a run folder (constrained_dg.runs.save_run)",
        )
    keys = _check_same_shape(model, origin, state)
    check_free(folder)

    # 2. Every tensor: of the text model from memory, of the vision tower from the files it lies in.
    tensors: dict[str, Outgoing] = {}
    kinds: dict[str, str] = {}
    for key in keys:
        if key in state:
            tensors[released_name(key)] = from_memory(state[key])
        else:
            tensors |= _quantised(key, model.get_submodule(key), state, kinds)
    for path in sorted(set(origin.vision.values())):
        tensors |= from_file(path, [name for name, where in origin.vision.items() if where == path])
    config = {key: value for key, value in origin.config.items() if key not in ("torch_dtype", "quantization_config")}
    config["dtype"] = str(state["embed_tokens.weight"].dtype).removeprefix("torch.")
    if kinds:
        plain = [key for key in keys if key in state and state[key].dim() > 1 and not key.startswith("embed_tokens")]
        config["quantization_config"] = describe(kinds, [key.removesuffix(".weight") for key in plain])

    # 3. All files into a folder of another name, then into place.
    with whole_folder(folder) as partial:
        _write_weights(partial, tensors, max_shard_bytes)
        copy_companions(origin.folder, folder, partial)
        if not (origin.folder / GENERATION).is_file():
            ends = {"eos_token_id": list(model.eos_token_ids), "pad_token_id": model.pad_token_id}
            write_json(partial / GENERATION, ends)
        write_json(partial / CONFIG, config)


def check_free(folder: Path) -> None:
    """Raise InputError where a folder holds a checkpoint or part of one."""
    taken = [path.name for path in folder.glob("*") if path.name in (CONFIG, INDEX) or path.suffix == ".safetensors"]
    check(not taken, f"{str(folder)!r} already holds {sorted(taken)[:4]}", "choose another folder")


def copy_companions(source: Path, folder: Path, partial: Path) -> None:
    """Copy what a checkpoint holds beside weights and configuration, unless `folder` has it already."""
    for name in (*COMPANIONS, GENERATION):
        if (source / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source / name, partial / name)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write a checkpoint into, which then becomes `folder`, so that this never holds half a checkpoint.

    Raises:
        InputError: there is no room, or no right to write.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        if folder.exists():
            # The configuration goes last: a folder without it is not a checkpoint.
            for path in sorted(partial.iterdir(), key=lambda path: path.name == CONFIG):
                os.replace(path, folder / path.name)
        else:
            os.replace(partial, folder)
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}", "free space or use another") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_same_shape(model: Backbone, origin: Origin, state: dict[str, torch.Tensor]) -> list[str]:
    """The names of the weights, without those of the buffers of quantised ones."""
    original = read_config(origin.config)
    changed = {f.name for f in fields(ModelConfig) if getattr(model.config, f.name) != getattr(original, f.name)}
    check(not changed, f"the model differs from its checkpoint in {sorted(changed)}", "use a run folder for it")
    with torch.device("meta"):
        keys = list(Backbone(original).state_dict())
    quantised = [name for name, module in model.named_modules() if isinstance(module, QuantisedWeight)]
    buffers = {f"{name}.{buffer}" for name in quantised for buffer in model.get_submodule(name).state_dict()}
    odd = sorted({*keys} ^ ({*state} - buffers | {*quantised}))
    check(not odd, f"the model has other tensors than its checkpoint: {odd[:4]}", "merge adapters into the weights")
    return keys


def _quantised(key: str, weight: Any, state: dict[str, torch.Tensor], kinds: dict[str, str]) -> dict[str, Outgoing]:
    """The tensors of a quantised weight, matrix by matrix; the format of each matrix goes into `kinds`."""
    tensors: dict[str, Outgoing] = {}
    experts = len(weight.shape) == 3
    stems = [stem for stem, _ in unpacked(key, tuple(weight.shape))] if experts else [key.removesuffix(".weight")]
    for index, stem in enumerate(stems):
        kinds[stem] = weight.kind
        for buffer, name in names_of(stem, weight.kind).items():
            whole = state[f"{key}.{buffer}"]
            shape = (len(stems), 1) if buffer == "global_scale" else (len(stems), -1, whole.shape[-1])
            tensors[name] = from_memory(whole.view(shape)[index])
    return tensors


@dataclass(frozen=True)
class Outgoing:
    """A tensor to write: `type` as in the file format, `size` and `item` in bytes, and what fetches it, if anything."""

    type: str
    shape: tuple[int, ...]
    size: int
    item: int
    fetch: Callable[[], torch.Tensor] | None


def from_memory(tensor: torch.Tensor) -> Outgoing:
    return replace(later(tensor.dtype, tuple(tensor.shape)), fetch=tensor.detach().cpu)


def later(dtype: torch.dtype, shape: tuple[int, ...]) -> Outgoing:
    """A tensor that is made while its file is written, see `write_shard`."""
    return Outgoing(ALL_TYPES[dtype], shape, math.prod(shape) * dtype.itemsize, dtype.itemsize, None)


def from_file(path: Path, names: Iterable[str]) -> dict[str, Outgoing]:
    """Tensors that are read when they are written."""

    def fetched(name: str) -> Callable[[], torch.Tensor]:
        def fetch() -> torch.Tensor:
            with opened(path) as file:
                return file.get_tensor(name)

        return fetch

    tensors = {}
    with opened(path) as file:
        for name in names:
            # On the CPU a tensor is mapped, not read, until it is written.
            mapped, item = file.get_tensor(name), file.get_tensor(name).element_size()
            kind = file.get_slice(name).get_dtype()
            tensors[name] = Outgoing(kind, tuple(mapped.shape), mapped.numel() * item, item, fetched(name))
    return tensors


def _write_weights(folder: Path, tensors: dict[str, Outgoing], max_shard_bytes: int) -> None:
    """One file, or shards and their index; never more than one tensor in memory."""
    shards: list[list[str]] = [[]]
    shard_bytes = 0
    for name, tensor in tensors.items():
        if shards[-1] and shard_bytes + tensor.size > max_shard_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(name)
        shard_bytes += tensor.size
    if len(shards) == 1:
        return write_shard(folder / WEIGHTS, tensors)
    files = shard_names(len(shards))
    for file, names in zip(files, shards, strict=True):
        write_shard(folder / file, {name: tensors[name] for name in names})
    write_index(folder, dict(zip(files, shards, strict=True)), sum(tensor.size for tensor in tensors.values()))


def shard_names(count: int) -> list[str]:
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def write_index(folder: Path, shards: Mapping[str, Iterable[str]], total: int) -> None:
    """Which shard holds which tensors, and the bytes of all of them."""
    where = {name: file for file, names in shards.items() for name in names}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def write_shard(path: Path, tensors: Mapping[str, Outgoing], made: Iterable[tuple[str, torch.Tensor]] = ()) -> None:
    """The safetensors format: length of the header, header, tensors; wide types first, so that all are aligned.

    By hand, since safetensors' writer needs all tensors at once and other users cannot read its files.

    Args:
        made: those of `tensors` that nothing fetches, by name, in any order. Each is in the file before the next is
            asked for.
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
        start = file.tell()
        fetched = ((name, tensor.fetch()) for name, tensor in ordered if tensor.fetch is not None)
        for name, whole in chain(fetched, made):
            file.seek(start + header[name]["data_offsets"][0])
            file.write(whole.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
