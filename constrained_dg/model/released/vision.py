"""Reading the vision tower of a released checkpoint (DiffusionGemma, Google 2026)."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import InputError, check, is_count
from constrained_dg.model.config import VisionConfig, shown
from constrained_dg.model.released.layout import CONFIG, DEAD, VISION, read_json
from constrained_dg.model.released.read import _dtype, _torch_type, stored_tensors
from constrained_dg.model.vision import VisionTower
from constrained_dg.model.weights import Stored, check_tensors, opened

#: Where the most soft tokens of an image may stand.
PROCESSOR = ("processor_config.json", "preprocessor_config.json")
#: What transformers 5.23 assumes of an absent key. These are not the values of the released model.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "patch_size": 16,
    "pooling_kernel_size": 3,
    "position_embedding_size": 10_240,
    "rms_norm_eps": 1e-6,
    "standardize": False,
}
#: Keys for which this tower knows these values only; the first one is assumed when absent.
ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": ("gemma4_vision",),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False, None),
    "attention_dropout": (0.0, None),
    "use_clipped_linears": (False,),
}


@dataclass(frozen=True)
class VisionFile:
    """The vision part of a checkpoint, of which no tensor has been read yet.

    Attributes:
        config: of the tower.
        tokens: <|image|>, begin of an image, end of an image.
        soft_tokens: the usual budget of an image, or None where the checkpoint says nothing of it.
        stored: the tensors, by their names in the checkpoint.
        dtype: of the weights as the configuration names it, or None.
    """

    folder: Path
    config: VisionConfig
    tokens: tuple[int, int, int]
    soft_tokens: int | None
    stored: dict[str, Stored]
    dtype: torch.dtype | None

    @classmethod
    def of(cls, folder: Path) -> VisionFile:
        """Raises InputError for a checkpoint without a vision tower, or with one that this code cannot express."""
        raw = read_json(folder / CONFIG, "a checkpoint in the released format holds config.json and safetensors")
        stored = {
            name: tensor
            for name, tensor in stored_tensors(folder).items()
            if name.startswith(VISION) and DEAD not in name
        }
        described = raw.get("vision_config")
        if not stored or not isinstance(described, dict):
            raise InputError(f"{str(folder)!r} has no vision tower", "give text alone, or another checkpoint")
        try:
            image, begin, end = (_token(raw, *usual) for usual in _TOKENS)
            config = read_vision_config(described, raw.get("text_config"))
            return cls(folder, config, (image, begin, end), _soft_tokens(folder), stored, _dtype(raw))
        except InputError as error:
            raise InputError(f"{folder / CONFIG}: {error}") from None


_TOKENS = (("image_token_id", 258_880), ("boi_token_id", 255_999), ("eoi_token_id", 258_882))


def _token(raw: dict[str, Any], name: str, usual: int) -> int:
    value = raw.get(name, usual)
    check(is_count(value) and value < 2**63, f"{name} is {shown(value)}", "give the number of a token")
    return value


def _soft_tokens(folder: Path) -> int | None:
    for name in PROCESSOR:
        if (folder / name).is_file():
            raw = read_json(folder / name)
            part = raw.get("image_processor", raw)
            budget = part.get("max_soft_tokens") if isinstance(part, dict) else None
            if budget is not None:
                check(is_count(budget, 1), f"{folder / name}: max_soft_tokens is {shown(budget)}", "give 280")
                return budget
    return None


def read_vision_config(raw: dict[str, Any], text: Any) -> VisionConfig:
    """The shape that a vision_config describes; absent keys mean the defaults of `transformers` 5.23.

    Args:
        text: the text_config, which says D.

    Raises:
        InputError: naming the key and value that this tower cannot express.
    """
    for key, known in ONLY.items():
        value = raw.get(key, known[0])
        hint = f"this tower knows {' and '.join(map(repr, known))} only"
        check(value in known, f"vision_config.{key} is {shown(value)}", hint)
    rope = raw.get("rope_parameters") or {}
    kind = rope.get("rope_type", "axial") if isinstance(rope, dict) else rope
    check(
        kind in ("axial", "default"), f"vision_config.rope_parameters is {shown(rope)}", "this tower knows axial only"
    )
    sizes = {key: raw.get(key, default) for key, default in DEFAULTS.items()}
    sizes["rope_theta"] = rope.get("rope_theta", 100.0)
    sizes["text_size"] = text.get("hidden_size", 2304) if isinstance(text, dict) else None
    return VisionConfig(**{field.name: sizes[field.name] for field in fields(VisionConfig)})


def load_tower(file: VisionFile, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> VisionTower:
    """The vision tower of a checkpoint, in eval mode.

    Raises:
        InputError: tensors that are missing, unknown, misshapen or cut short, before the first is read.
    """
    with torch.device("meta"):
        tower = VisionTower(file.config)
    names = {vision_name(key): key for key in tower.state_dict()}
    expected = {name: tower.state_dict()[key] for name, key in names.items()}
    check_tensors(file.stored, expected, file.folder, CONFIG)
    dtype = dtype or file.dtype or _torch_type(next(iter(file.stored.values())).type)
    weights = {}
    for path in sorted({tensor.file for tensor in file.stored.values()}):
        with opened(path, device) as opened_file:
            for name, key in names.items():
                if file.stored[name].file == path:
                    weights[key] = opened_file.get_tensor(name).to(dtype)
    tower.load_state_dict(weights, assign=True)
    return tower.requires_grad_(False).eval()


def vision_name(key: str) -> str:
    """The name that a tensor of `VisionTower.state_dict` has in a released checkpoint."""
    if key == "projection.weight":
        return "model.encoder.embed_vision.embedding_projection.weight"
    if key.startswith("layers."):
        linear = re.sub(r"_proj\.weight$", "_proj.linear.weight", key)
        return f"model.encoder.vision_tower.encoder.{linear}"
    part = "" if key.startswith("std_") else "patch_embedder."
    return f"model.encoder.vision_tower.{part}{key}"
