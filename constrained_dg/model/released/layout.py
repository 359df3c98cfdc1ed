"""The files of a released checkpoint (DiffusionGemma, Google 2026), and the names of its tensors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constrained_dg.errors import InputError, check
from constrained_dg.files import read_text

CONFIG, GENERATION, WEIGHTS, INDEX = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
#: Further files of a checkpoint, which are copied without being read.
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


@dataclass(frozen=True)
class Origin:
    """Where a model came from, for `save_pretrained`.

    Attributes:
        folder: of the checkpoint.
        config: the content of its config.json.
        vision: the tensors that were not loaded, and the file of each.
    """

    folder: Path
    config: dict[str, Any]
    vision: dict[str, Path]


def released_name(key: str) -> str:
    """The name a tensor of `Backbone.state_dict` has in a released checkpoint."""
    layer, replaced = re.subn(r"^(layers\.\d+)\.encoder_layer_scalar$", r"\1.layer_scalar", key)
    return f"model.encoder.language_model.{layer}" if replaced else f"model.decoder.{key}"


def read_json(path: Path, hint: str = "") -> dict[str, Any]:
    """The table of names in a JSON file.

    Raises:
        InputError: no such file, or one that is not JSON, nested too deep, or not a table.
    """
    check(path.is_file(), f"no {path.name} in {str(path.parent)!r}", hint)
    text = read_text(path, hint)
    try:
        values = json.loads(text)
    except RecursionError:
        raise InputError(f"{path} cannot be read (it is nested too deep)", hint) from None
    except ValueError as error:  # not JSON, or a number of thousands of digits
        raise InputError(f"{path} cannot be read ({error})", hint) from None
    check(isinstance(values, dict), f"{path} holds {type(values).__name__}, not a table of names", hint)
    return values
