"""Quantised checkpoints: what config.json declares, and where the tensors of each weight lie.

    X.weight float8_e4m3fn, X.weight_scale (out, 1)                               FP8, compressed-tensors
    X.weight_packed uint8, X.weight_scale float8_e4m3fn, X.weight_global_scale    NVFP4, compressed-tensors
    X.weight uint8, X.weight_scale float8_e4m3fn, X.weight_scale_2 = 1 / global   NVFP4, NVIDIA's ModelOpt

Each weight is recognised by the types of its tensors; what a checkpoint leaves plain is read as such. Experts may be
one tensor for each layer, or one matrix for each expert and projection: `experts.{e}.{gate,up,down}_proj`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from constrained_dg.errors import InputError, check
from constrained_dg.model.config import ModelConfig, shown
from constrained_dg.model.quantised.formats import FP8, GROUP, NVFP4
from constrained_dg.model.released.layout import released_name
from constrained_dg.model.weights import TYPES, Stored

WEIGHT, PACKED, SCALE = "weight", "weight_packed", "weight_scale"
GLOBAL, INVERTED = "weight_global_scale", "weight_scale_2"
#: Tensors that products here do not need: scales of activations and of a quantised cache.
UNUSED = re.compile(r".*\.(input_scale|input_global_scale|k_scale|v_scale)|(.*\.)?lm_head\.weight")
#: The part of a name that a weight has in `Backbone.state_dict`.
_KEY = re.compile(r"(|.*?\.)((?:layers\.\d+|embed_tokens|norm|self_conditioning)\..+)")
_FORMATS = {FP8: ("float-quantized", "naive-quantized"), NVFP4: ("nvfp4-pack-quantized",)}
#: ModelOpt's names of NVFP4; the second has no scales of activations.
_ALGORITHMS = ("NVFP4", "W4A16_NVFP4")
_HINT = "known are FP8 (8 bits, float, channel) and NVFP4 (4 bits, float, tensor_group of 16), and ModelOpt's NVFP4"


def declared(config: Mapping[str, Any]) -> frozenset[str]:
    """The formats that a config.json declares; empty without a quantization_config.

    Raises:
        InputError: naming a scheme that is not known.
    """
    given = config.get("quantization_config")
    if given is None:
        return frozenset()
    where = "quantization_config"
    if not isinstance(given, dict):
        raise InputError(f"{where} is {shown(given)}", "it is a table")
    method = given.get("quant_method")
    if method == "modelopt":
        return frozenset({_declared_by_modelopt(where, given)})
    groups = given.get("config_groups")
    if method != "compressed-tensors" or not isinstance(groups, dict) or not groups:
        raise InputError(f"{where} is {shown(given)}", _HINT)
    for key in ("transform_config", "sparsity_config"):
        odd = given.get(key)
        check(not odd or odd == {"format": "dense"}, f"{where}.{key} is {shown(odd)}", "this is not supported")
    return frozenset(_declared_kind(f"{where}.config_groups.{name}", each, given) for name, each in groups.items())


def _declared_by_modelopt(where: str, config: Mapping[str, Any]) -> str:
    """Its size of groups stands beside the algorithm, or in groups like those of compressed-tensors."""
    algorithm, groups = config.get("quant_algo"), config.get("config_groups") or {}
    check(algorithm in _ALGORITHMS, f"{where} has quant_algo {shown(algorithm)}", _HINT)
    check(isinstance(groups, dict), f"{where}.config_groups is {shown(groups)}", _HINT)
    for holder in (config, *(group.get("weights") for group in groups.values() if isinstance(group, dict))):
        size = holder.get("group_size", GROUP) if isinstance(holder, dict) else GROUP
        check(size == GROUP, f"{where} has quant_algo {algorithm} in groups of {shown(size)}", _HINT)
    return NVFP4


def _declared_kind(where: str, group: Any, config: Mapping[str, Any]) -> str:
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        raise InputError(f"{where}.weights is {shown(weights)}", _HINT)
    scheme = tuple(weights.get(key) for key in ("num_bits", "type", "strategy"))
    form = group.get("format") or config.get("format")
    plain = weights.get("symmetric", True) is True and weights.get("dynamic", False) is False
    known: dict[tuple[Any, ...], str] = {(8, "float", "channel"): FP8, (4, "float", "tensor_group"): NVFP4}
    kind = known.get(scheme) if plain else None
    fits = kind is not None and form in (*_FORMATS[kind], None) and (kind == FP8 or weights.get("group_size") == GROUP)
    check(fits, f"{where} is {shown(weights)} in format {shown(form)}", _HINT)
    assert kind is not None
    return kind


@dataclass(frozen=True)
class Part:
    """One matrix of a checkpoint: the name of the tensor that fills each buffer, or of the weight where it is plain.

    Attributes:
        kind: FP8, NVFP4, or None for a plain tensor.
        tensors: buffer of a `QuantisedWeight` ("weight" for a plain tensor) -> name in the files.
        inverted: whether the global scale is stored as its inverse.
    """

    kind: str | None
    tensors: dict[str, str]
    inverted: bool = False


def find_parts(
    stored: Mapping[str, Stored], expected: Mapping[str, torch.Tensor], kinds: Iterable[str], config: ModelConfig
) -> dict[str, list[Part]]:
    """The matrices that make up each weight, stacked along `out` and then by expert.

    Args:
        stored: the tensors of the text model, as the headers of the files describe them.
        expected: `Backbone.state_dict` of a plain model, on any device.
        kinds: that config.json declares.

    Raises:
        InputError: tensors that are missing, unknown, misshapen or of another type; groups that do not divide a row;
            one layer of experts in several formats.
    """
    names, spare = _by_key(stored)
    parts: dict[str, list[Part]] = {}
    for key, tensor in expected.items():
        if key in names or not key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stems = {key.removesuffix(".weight"): tuple(tensor.shape)}
        else:
            stems = dict(unpacked(key, tuple(tensor.shape)))
        parts[key] = [_find(stem, shape, key, stored, names) for stem, shape in stems.items()]
        found = sorted({part.kind or "plain" for part in parts[key]})
        check(len(found) == 1, f"{key} is stored in the formats {found}", "the experts of a layer must share one")
    used = {name for of_key in parts.values() for part in of_key for name in part.tensors.values()}
    odd = sorted(name for name in stored if name not in used | spare and not UNUSED.fullmatch(name))
    check(not odd, f"the checkpoint has unknown tensors {odd[:4]}", "config.json does not describe them")
    formats = {part.kind for of_key in parts.values() for part in of_key if part.kind is not None}
    problem = f"config.json declares {sorted(kinds)}, the tensors are {sorted(formats)}"
    check(formats == set(kinds), problem, "quantization_config must describe the weights")
    return parts


def _by_key(stored: Mapping[str, Stored]) -> tuple[dict[str, str], set[str]]:
    """Key -> name, and names that repeat a weight: encoder and decoder share all but one number of each layer."""
    names: dict[str, str] = {}
    spare: set[str] = set()
    for name in sorted(stored):
        found = _KEY.fullmatch(name)
        if found is None:
            continue
        key, encoder = found[2], "encoder" in found[1]
        if encoder and key.endswith(".layer_scalar"):
            key = key.replace("layer_scalar", "encoder_layer_scalar")
        if key in names:  # sorted: the decoder's came first
            spare.add(name)
        else:
            names[key] = name
    return names, spare


def unpacked(key: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Stem and shape of each matrix of a layer's experts, in the order in which they are stacked."""
    experts, rows, columns = shape
    stem, _, leaf = key.rpartition(".")
    projections = ("gate_proj", "up_proj") if leaf == "gate_up_proj" else ("down_proj",)
    for expert in range(experts):
        for projection in projections:
            yield f"{stem}.{expert}.{projection}", (rows // len(projections), columns)


def _find(stem: str, shape: tuple[int, ...], key: str, stored: Mapping[str, Stored], names: Mapping[str, str]) -> Part:
    """The tensors of one matrix."""
    # 1. Which they are, by the type of the weight.
    name = names.get(key) or names.get(f"{stem}.{WEIGHT}") or names.get(f"{stem}.{PACKED}")
    if name is None:
        raise InputError(f"the checkpoint lacks tensors of {stem}", "config.json promises them")
    kind = stored[name].type
    if kind in TYPES.values():
        _check(stored[name], name, shape, tuple(TYPES.values()))
        return Part(None, {WEIGHT: name})
    known = len(shape) == 2 and not stem.startswith("embed_tokens") and kind in ("F8_E4M3", "U8")
    check(known, f"{stored[name].file}: {name} has type {kind}", f"weights have one of {sorted(TYPES.values())}")
    rows, columns = shape
    packed = name.endswith(PACKED)
    scales: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]]
    if kind == "F8_E4M3":
        wanted, scales = shape, {"scale": (SCALE, (rows, 1), ("F32", "BF16", "F16"))}
    else:
        problem = f"{name}: rows of {columns} numbers cannot be split into groups of {GROUP}"
        check(columns % GROUP == 0, problem, "NVFP4 has one scale for each group")
        wanted = (rows, columns // 2)
        scales = {"scale": (SCALE, (rows, columns // GROUP), ("F8_E4M3",))}
        scales["global_scale"] = (GLOBAL if packed else INVERTED, (), ("F32",))
    # 2. Whether all are there and fit.
    _check(stored[name], name, wanted, (kind,))
    tensors = {"values": name}
    for buffer, (suffix, size, types) in scales.items():
        at = f"{stem}.{suffix}"
        check(at in names, f"{name} is quantised, and {at} is missing", "copy the checkpoint again")
        _check(stored[names[at]], names[at], size, types)
        tensors[buffer] = names[at]
    return Part(FP8 if kind == "F8_E4M3" else NVFP4, tensors, inverted=not packed)


def _check(entry: Stored, name: str, shape: tuple[int, ...], types: tuple[str, ...]) -> None:
    # One number may be stored as () or as (1).
    fits = entry.shape == shape or (shape == () and math.prod(entry.shape) == 1)
    check(fits, f"{entry.file}: {name} has shape {entry.shape}", f"config.json promises {shape}")
    check(entry.type in types, f"{entry.file}: {name} has type {entry.type}", f"it must be one of {list(types)}")


def check_scale(name: str, scale: torch.Tensor, inverted: bool = False) -> torch.Tensor:
    """The scale in fp32, or its inverse. Raises InputError unless every number, and its inverse, is finite and above
    zero."""
    given = scale.float()
    scale = 1 / given if inverted else given
    bad = given[~(scale.isfinite() & (scale > 0) & given.isfinite())]
    problem = f"{name} holds {bad[0].item() if len(bad) else 0} ({len(bad)} such numbers)"
    too_small = "" if not len(bad) or not 0 < bad[0] < 1 else ", whose inverse is too large"
    check(not len(bad), problem + too_small, "a scale is finite and above zero: quantise the checkpoint again")
    return scale


def names_of(stem: str, kind: str, modelopt: bool = False) -> dict[str, str]:
    """Buffer of a `QuantisedWeight` -> the name of its tensor for one matrix, in the spelling of compressed-tensors or
    in that of ModelOpt, which keeps the inverse of the global scale."""
    names = {"values": WEIGHT if kind == FP8 or modelopt else PACKED, "scale": SCALE}
    names |= {"global_scale": INVERTED if modelopt else GLOBAL} if kind == NVFP4 else {}
    return {buffer: f"{released_name(stem)}.{name}" for buffer, name in names.items()}


def describe(kinds: Mapping[str, str], plain: Iterable[str]) -> dict[str, Any]:
    """The quantization_config of a checkpoint, in the spelling of compressed-tensors.

    Args:
        kinds: stem of each quantised matrix, such as layers.0.mlp.up_proj -> its format.
        plain: stems of the matrices of linear layers that are not.
    """
    groups: dict[str, Any] = {}
    for index, kind in enumerate(sorted(set(kinds.values()))):
        weights: dict[str, Any] = {"num_bits": 8 if kind == FP8 else 4, "type": "float", "symmetric": True}
        weights |= {"dynamic": False, "strategy": "channel" if kind == FP8 else "tensor_group"}
        inputs = None
        if kind == FP8:
            inputs = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": True, "strategy": "token"}
        else:
            weights |= {"group_size": GROUP, "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}
        here = [stem for stem, of_stem in kinds.items() if of_stem == kind]
        others = {stem for stem, of_stem in kinds.items() if of_stem != kind}
        groups[f"group_{index}"] = {
            "targets": _patterns(here, {*others, *plain}) if others else ["Linear"],
            "weights": weights,
            "input_activations": inputs,
            "output_activations": None,
            "format": _FORMATS[kind][0],
        }
    # compressed-tensors' own converter takes every name that ends in .weight for a linear layer, norms too.
    ignored = ["lm_head", "re:.*embed.*", "re:.*norm.*", "re:.*vision_tower.*", *_patterns(plain, set(kinds))]
    form = "mixed-precision" if len(groups) > 1 else groups["group_0"]["format"]
    shared = {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed"}
    return shared | {"config_groups": groups, "ignore": ignored}


def describe_by_modelopt(plain: Iterable[str]) -> dict[str, Any]:
    """The quantization_config of an NVFP4 checkpoint in the spelling of ModelOpt, without scales of activations.

    Args:
        plain: stems of the matrices of linear layers that are not quantised.
    """
    names = sorted({re.sub(r"\d+", "*", released_name(stem)) for stem in plain})
    return {
        "quant_method": "modelopt",
        "quant_algo": _ALGORITHMS[1],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 4, "type": "float", "group_size": GROUP, "dynamic": False},
            }
        },
        "ignore": ["lm_head", "*embed*", "*vision_tower*", *names],
    }


def _patterns(stems: Iterable[str], others: set[str]) -> list[str]:
    """Regular expressions that match these stems and none of the others: one for all layers and experts if possible."""

    def numberless(stem: str) -> str:
        return re.sub(r"\d+", r"\\d+", stem.replace(".", r"\."))

    mixed = {numberless(stem) for stem in others}
    patterns = {n if (n := numberless(stem)) not in mixed else stem.replace(".", r"\.") for stem in stems}
    return [f"re:.*{pattern}$" for pattern in sorted(patterns)]
