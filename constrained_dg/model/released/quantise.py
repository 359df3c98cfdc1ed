"""Writing a quantised checkpoint from a plain one, a layer at a time."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

from constrained_dg.errors import check
from constrained_dg.model.backbone import Backbone
from constrained_dg.model.quantised.formats import FORMATS, GROUP, NVFP4, buffers, quantise
from constrained_dg.model.quantised.place import usually_quantised
from constrained_dg.model.released.config import read_config
from constrained_dg.model.released.layout import CONFIG, VISION, read_json, released_name
from constrained_dg.model.released.quantisation import describe, describe_by_modelopt, names_of, unpacked
from constrained_dg.model.released.read import stored_tensors, weights_of_headers
from constrained_dg.model.released.write import (
    Outgoing,
    check_free,
    copy_companions,
    from_file,
    later,
    shard_names,
    whole_folder,
    write_index,
    write_json,
    write_shard,
)
from constrained_dg.model.weights import Stored, opened

_LOG = logging.getLogger(__name__)

#: Numbers that are quantised at a time. NVFP4 takes about 40 bytes for each of them.
_BLOCK = 2**18
#: NVFP4 in the spelling of NVIDIA's ModelOpt; the others are in that of compressed-tensors.
MODELOPT = "nvfp4_modelopt"


def quantise_checkpoint(source: Path | str, folder: Path | str, form: str) -> None:
    """Write a checkpoint whose linear layers are quantised from a plain one.

    Quantised are dense MLPs and experts, in FP8 attention too. All else is copied as it is. There is one file for each
    layer, and never more than one of its matrices in memory, plain and quantised. The folder appears under its name
    when it is complete.

    Args:
        source: a checkpoint in the released format.
        folder: to write; it may exist, but not hold a checkpoint.
        form: "fp8" or "nvfp4", as compressed-tensors spells them, or "nvfp4_modelopt": the same numbers in the
            spelling of NVIDIA's ModelOpt.

    Raises:
        InputError: before anything is written: an unknown format, a checkpoint that is quantised, incomplete or unfit,
            a row that groups of 16 do not divide, a folder that holds a checkpoint. Later: a weight that is NaN or
            infinite, a full disk.
    """
    # 1. What there is, and whether the format takes it.
    source, folder = Path(source), Path(folder)
    forms = (*FORMATS, MODELOPT)
    check(form in forms, f"format is {form!r}", f"use one of {', '.join(forms)}")
    modelopt, kind = form == MODELOPT, NVFP4 if form == MODELOPT else form
    raw = read_json(source / CONFIG, "a checkpoint in the released format holds config.json and safetensors")
    check(
        raw.get("quantization_config") is None, f"{str(source)!r} is quantised already", "start from a plain checkpoint"
    )
    with torch.device("meta"):
        model = Backbone(read_config(raw))
    stored = stored_tensors(source)
    text = {name: entry for name, entry in stored.items() if not name.startswith(VISION)}
    weights_of_headers(model, text, frozenset(), source)
    state = model.state_dict()
    chosen = [key for key in state if usually_quantised(key, kind)]
    for key in chosen if kind == NVFP4 else ():
        columns = state[key].shape[-1]
        problem = f"{key}: rows of {columns} numbers cannot be split into groups of {GROUP}"
        check(columns % GROUP == 0, problem, "use format=fp8")
    check_free(folder)

    # 2. One shard for each layer, and one for what is in no layer.
    layers: list[list[str]] = [[] for _ in model.layers]
    others = [name for name in stored if name.startswith(VISION)]
    for key in state:
        layer = re.match(r"layers\.(\d+)\.", key)
        (layers[int(layer[1])] if layer else others).append(key if layer else released_name(key))
    files = shard_names(len(layers) + 1)
    shards: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    total = 0
    with whole_folder(folder) as partial:
        for index, file in enumerate(files):
            keys = layers[index - 1] if index else []
            plain = [released_name(key) for key in keys if key not in chosen] if index else others
            tensors = _copied(plain, stored)
            shapes = {key: tuple(state[key].shape) for key in keys if key in chosen}
            for stem, shape in chain.from_iterable(_matrices(*each) for each in shapes.items()):
                kinds[stem], named = kind, names_of(stem, kind, modelopt)
                for buffer, (dtype, size) in buffers(kind, shape, 1).items():
                    # ModelOpt's number of a whole matrix has no dimension.
                    tensors[named[buffer]] = later(dtype, () if modelopt and buffer == "global_scale" else size)
            made = chain.from_iterable(_quantised(key, shape, stored, kind, modelopt) for key, shape in shapes.items())
            write_shard(partial / file, tensors, made)
            shards[file], total = list(tensors), total + sum(tensor.size for tensor in tensors.values())
            _LOG.info("%s: %d tensors", file, len(tensors))
        write_index(partial, shards, total)
        copy_companions(source, folder, partial)
        linear = [key for key in state if state[key].dim() > 1 and key not in chosen and not key.startswith("embed")]
        stems = [key.removesuffix(".weight") for key in linear]
        described = describe_by_modelopt(stems) if modelopt else describe(kinds, stems)
        write_json(partial / CONFIG, raw | {"quantization_config": described})


def _copied(names: list[str], stored: dict[str, Stored]) -> dict[str, Outgoing]:
    tensors: dict[str, Outgoing] = {}
    for path in sorted({stored[name].file for name in names}):
        tensors |= from_file(path, [name for name in names if stored[name].file == path])
    return tensors


def _matrices(key: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Stem and shape of each matrix of a weight."""
    return list(unpacked(key, shape)) if len(shape) == 3 else [(key.removesuffix(".weight"), shape)]


def _quantised(
    key: str, shape: tuple[int, ...], stored: dict[str, Stored], kind: str, modelopt: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of all that a quantised weight consists of. When it ends, nothing of the weight is held."""
    experts = len(shape) == 3
    stems = iter([stem for stem, _ in _matrices(key, shape)])
    each = 2 if key.endswith("gate_up_proj") else 1
    with opened(stored[released_name(key)].file) as file:
        part = file.get_slice(released_name(key))
        for expert in range(shape[0] if experts else 1):
            matrix = part[expert] if experts else part[:]
            largest = _largest(matrix, f"{key}, expert {expert}" if experts else key)
            # Programs multiply gate and up as one matrix, with one global scale.
            other = _other(key)
            if other is not None:
                with opened(stored[released_name(other)].file) as partner:
                    largest = largest.maximum(_largest(partner.get_tensor(released_name(other)), other))
            for half in matrix.chunk(each):
                named = names_of(next(stems), kind, modelopt)
                for buffer, made in by_rows(half, kind, largest).items():
                    yield named[buffer], 1 / made if modelopt and buffer == "global_scale" else made


def by_rows(matrix: torch.Tensor, kind: str, largest: torch.Tensor) -> dict[str, torch.Tensor]:
    """`formats.quantise` of a matrix (out, in), some rows at a time: what is computed on the way stays small."""
    filled = {name: torch.empty(size, dtype=dtype) for name, (dtype, size) in buffers(kind, matrix.shape, 1).items()}
    step = max(1, _BLOCK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        for name, part in quantise(matrix[start : start + step], kind, largest).items():
            at = 0 if name == "global_scale" else start
            filled[name][at : at + len(part)] = part
    return filled


def _other(key: str) -> str | None:
    """The partner of a gate or up projection."""
    for one, two in (("gate_proj", "up_proj"), ("up_proj", "gate_proj")):
        if key.endswith(f"mlp.{one}.weight"):
            return key.replace(one, two)
    return None


def _largest(matrix: torch.Tensor, name: str) -> torch.Tensor:
    """The largest magnitude. Raises InputError where it is not a finite number."""
    low, high = matrix.aminmax()  # without a copy of all magnitudes
    largest = high.maximum(-low).float()
    check(bool(largest.isfinite()), f"{name} holds {largest.item()}", "a weight that is not finite cannot be quantised")
    return largest
