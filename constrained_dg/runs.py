"""Run folders: weights and a description, enough to use a trained model anywhere.

    RUN/run.json            {"model": ModelConfig, "task": {...}, "sampler": {...}, "training": {...}}, plain values
    RUN/model.safetensors   weights (the averaged ones where training averaged), nothing pickled

`train.py` keeps its own checkpoints beside them, to resume from.
"""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from constrained_dg.errors import InputError, check
from constrained_dg.model import Backbone, ModelConfig
from constrained_dg.task import Task

DESCRIPTION, WEIGHTS = "run.json", "model.safetensors"


@dataclass(frozen=True)
class Run:
    """A trained model with its task and the sampler it was reported with."""

    folder: Path
    model: Backbone
    task: Task
    sampler: Any
    description: dict[str, Any]


def build(config: Any) -> Any:
    """Build the object a plain configuration describes: {"_target_": "package.Class", **arguments}, nested.

    Only task classes and dataclasses are built, so that a run folder from elsewhere cannot call anything it likes.

    Raises:
        InputError: an unknown or refused target, or arguments it does not take.
    """
    if isinstance(config, (list, tuple)):
        return [build(item) for item in config]
    if not isinstance(config, dict):
        return config
    arguments = {key: build(value) for key, value in config.items() if key != "_target_"}
    if "_target_" not in config:
        return arguments
    module, _, name = str(config["_target_"]).rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"cannot import {config['_target_']!r}: {error}", "install what defines it") from None
    check(
        isinstance(target, type) and (issubclass(target, Task) or is_dataclass(target)),
        f"{config['_target_']!r} is neither a task nor a part of a sampler",
        "name a subclass of constrained_dg.task.Task or a dataclass",
    )
    try:
        return target(**arguments)
    except TypeError as error:
        raise InputError(f"{config['_target_']}: {error}") from None


def save_run(
    folder: Path | str, model: Backbone, description: dict[str, Any], state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write weights and description, each whole or not at all (written beside, then moved into place).

    Args:
        description: plain values with "task" and "sampler" configurations for `build`; "model" is added.
        state: the weights where they are not simply those of the model (gathered from shards).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in (state or model.state_dict()).items()}
    partial = folder / (WEIGHTS + ".partial")
    save_file(weights, partial)
    os.replace(partial, folder / WEIGHTS)
    partial = folder / (DESCRIPTION + ".partial")
    partial.write_text(json.dumps({**description, "model": model.config.to_dict()}, indent=1) + "\n")
    os.replace(partial, folder / DESCRIPTION)


def load(folder: Path | str, device: torch.device | str = "cpu") -> Run:
    """Model (in eval mode), task and sampler of a run folder.

    Raises:
        InputError: a folder that is no run, or weights that are cut short, missing, extra or of another shape.
    """
    folder = Path(folder)
    hint = "a run folder holds run.json and model.safetensors; train.py makes one"
    for name in (DESCRIPTION, WEIGHTS):
        check((folder / name).is_file(), f"no {name} in {str(folder)!r}", hint)
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        parts = {key: description[key] for key in ("model", "task", "sampler")}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{folder / DESCRIPTION} is not a run description ({error!r})", hint) from None
    check(isinstance(parts["model"], dict), f"{folder / DESCRIPTION}: model is {parts['model']!r}", hint)
    with torch.device("meta"):
        model = Backbone(ModelConfig.from_dict(parts["model"]))
    load_weights(model, folder / WEIGHTS, device)
    return Run(folder, model.eval(), build(parts["task"]), build(parts["sampler"]), description)


def load_weights(model: Backbone, path: Path, device: torch.device | str) -> None:
    """Fill a model (which may be on the meta device) from a safetensors file.

    Raises:
        InputError: naming the tensors that are missing, extra or misshapen, or the file that is cut short.
    """
    expected = model.state_dict()
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            found = set(file.keys())
            for problem, names in (("lacks", set(expected) - found), ("has unknown", found - set(expected))):
                check(not names, f"{path} {problem} tensors {sorted(names)[:4]}", "use the weights of this very model")
            weights = {name: file.get_tensor(name) for name in expected}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error})", "it may be cut short: copy or export it again") from None
    for name, tensor in weights.items():
        check(
            tensor.shape == expected[name].shape,
            f"{path}: {name} has shape {tuple(tensor.shape)}",
            f"the model takes {tuple(expected[name].shape)}",
        )
    model.load_state_dict(weights, assign=True)
