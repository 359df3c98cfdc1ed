"""Run folders: weights and a description, enough to use a trained model anywhere.

    RUN/run.json            {"model": ModelConfig, "task": {...}, "sampler": {...}, "training": {...}}, plain values
    RUN/model.safetensors   weights (the averaged ones where training averaged), nothing pickled

The run of a fine-tuned checkpoint is such a checkpoint itself, in the released format (`model.pretrained`), tokenizer
included; its run.json says `"model": "released"`, and its task is read and written as text.

`train.py` also keeps its checkpoints there, to resume from.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from constrained_dg.errors import InputError, check
from constrained_dg.files import read_text, write_whole
from constrained_dg.model import Backbone, ModelConfig, load_pretrained, save_pretrained
from constrained_dg.model.weights import load_weights
from constrained_dg.places import OUR_PACKAGES, module_name, shipped_runs
from constrained_dg.sampling import Autoregressive, Diffusion, saved
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.task import Task
from constrained_dg.text import Tokenizer

DESCRIPTION, WEIGHTS = "run.json", "model.safetensors"
#: What run.json holds for the model where the folder is a checkpoint in the released format.
RELEASED = "released"
#: Tasks whose name has changed since runs were saved: old name -> present name. The parts of samplers have such a table
#: in constrained_dg/sampling/saved.py.
RENAMED = {
    "tasks.graph.generate.GenerateGraphs": "tasks.graph.GenerateGraphs",
    "tasks.graph.hamiltonian.Hamiltonian": "tasks.graph.Hamiltonian",
}
_HINT = "a run folder holds run.json and model.safetensors; train.py makes one"


@dataclass(frozen=True)
class Run:
    """A trained model with its task and the sampler it was reported with."""

    folder: Path
    model: Backbone
    task: Task
    sampler: Sampler
    description: dict[str, Any]

    @property
    def samplers(self) -> tuple[str, ...]:
        """What evaluate.py compares by default: the samplers of the task, and before them the one that the model was
        trained for, where others cannot take its place: sets of living tokens, or left to right."""
        inner = self.sampler.inner
        own = isinstance(self.sampler, Autoregressive) or (isinstance(inner, Diffusion) and inner.sets is not None)
        names = (self.sampler.name, *self.task.samplers) if own else self.task.samplers
        return tuple(dict.fromkeys(names))


def build(config: Any, packages: Collection[str] | None = None) -> Any:
    """Build the object a plain configuration describes: {"_target_": "package.Class", **arguments}, nested.

    Only task classes and dataclasses are built. Importing a module runs its code, so for files from elsewhere, such as
    a run folder, give the `packages` that may be named; nothing outside them is imported.

    Args:
        packages: top-level packages that targets may lie in; None for the user's configuration, which may
            name any.

    Raises:
        InputError: an unknown or refused target, or arguments it does not take.
    """
    if isinstance(config, (list, tuple)):
        return [build(item, packages) for item in config]
    if not isinstance(config, dict):
        return config
    config = saved.current(config)  # a sampler from before its parts had their present names
    arguments = {key: build(value, packages) for key, value in config.items() if key != "_target_"}
    if "_target_" not in config:
        return arguments
    name = str(config["_target_"])
    target = _find(name, packages)
    # A saved description may hold any value; where the user writes his own class, its errors keep their traceback.
    odd_values = (AttributeError, LookupError, ArithmeticError, RecursionError) if packages is not None else ()
    try:
        return target(**arguments)
    except InputError:
        raise
    except (TypeError, ValueError, *odd_values) as error:
        raise InputError(f"{name}: {_short(error)}") from error


def _short(value: object) -> str:
    """A value or an error as a line of a message."""
    text = " ".join((str(value) if isinstance(value, Exception) else repr(value)).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _find(name: str, packages: Collection[str] | None) -> type:
    """The task class or dataclass of this name, in one of the packages."""
    module, _, attribute = name.rpartition(".")

    def check_package(of: str) -> None:
        check(
            packages is None or of.partition(".")[0] in packages,
            f"{_short(name)} lies outside {', '.join(sorted(packages or ()))}",
            "a package that you trust can be added: packages=[...] on the command line, load(folder, packages=[...])",
        )

    check_package(module)
    try:
        target = getattr(importlib.import_module(module_name(module)), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"cannot import {_short(name)}: {_short(error)}", "install what defines it") from None
    check(
        isinstance(target, type) and (issubclass(target, Task) or is_dataclass(target)),
        f"{name!r} is neither a task nor a part of a sampler",
        "name a subclass of constrained_dg.task.Task or a dataclass",
    )
    check_package(target.__module__)  # a module also holds what it imported from elsewhere
    return target


def save_run(
    folder: Path | str, model: Backbone, description: dict[str, Any], state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write weights and description; each file appears only when it is complete.

    Args:
        description: plain values with "task" and "sampler" configurations for `build`; "model" is added.
        state: the weights where they are not simply those of the model (gathered from shards).

    Raises:
        InputError: the folder cannot be written to, or the disk is full; an earlier run there stays unchanged.
    """
    folder = Path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in (state or model.state_dict()).items()}
    text = json.dumps({**description, "model": model.config.to_dict()}, indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not save_file of safetensors: its errors do not name the file, and other users cannot read its files.
        write_whole(folder / WEIGHTS, save(weights))
        write_whole(folder / DESCRIPTION, text)
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}", "free space or use another") from None


def save_released_run(
    folder: Path | str, model: Backbone, description: dict[str, Any], state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write a model from `load_pretrained` as a checkpoint in the released format, and the description.

    The files are written into a folder inside `folder` and moved when all are there. The description comes last, so
    that a folder with a description is complete.

    Args:
        description, state: as for `save_run`.

    Raises:
        InputError: see `save_pretrained`; the folder cannot be written to, or the disk is full.
    """
    folder = Path(folder)
    export = folder / "export.partial"
    text = json.dumps({**description, "model": RELEASED}, indent=1) + "\n"
    try:
        shutil.rmtree(export, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        save_pretrained(model, export, state=state)
        (folder / DESCRIPTION).unlink(missing_ok=True)
        for path in sorted(export.iterdir()):
            os.replace(path, folder / path.name)
        write_whole(folder / DESCRIPTION, text)
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}", "free space or use another") from None
    finally:
        shutil.rmtree(export, ignore_errors=True)


def task_in_text(task: Task, folder: Path | str, config: ModelConfig) -> Task:
    """The task as text, for the checkpoint in the released format that lies in a folder.

    Raises:
        InputError: a tokenizer that is missing or does not fit the model, or a task that has no text form or that the
            model cannot hold.
    """
    text = task.in_text(Tokenizer.load(folder, config.vocab_size), config.canvas_length)
    needed = text.max_prompt + text.max_canvas
    check(
        needed <= config.max_position_embeddings,
        f"a prompt of {text.max_prompt} and an answer of {text.max_canvas} tokens",
        f"the model of {str(folder)!r} takes {config.max_position_embeddings} together",
    )
    return text


def find_run(name: Path | str) -> Path:
    """The run folder of a path, or of the name of a task that a trained model is shipped for: sudoku, graph/coloring.

    Raises:
        InputError: neither; the message lists the names.
    """
    check(isinstance(name, (str, os.PathLike)), f"run is {_short(name)}", "give the path of a run folder, or a name")
    folder, shipped = Path(name), shipped_runs()
    if not os.path.isfile(folder / DESCRIPTION) and str(name) in shipped:
        return shipped[str(name)]
    known = f"; shipped runs: {', '.join(shipped)}" if shipped else ""
    check(os.path.isfile(folder / DESCRIPTION), f"no {DESCRIPTION} in {_short(str(name))}", _HINT + known)
    return folder


def current(configuration: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration (run.json, train.json) in the present names of tasks and parts of samplers.

    Raises:
        InputError: it uses a part of samplers that no longer exists; the message names it.
    """

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [renamed(item) for item in value]
        if not isinstance(value, dict):
            return value
        values = {key: renamed(item) for key, item in value.items()}
        target = values.get("_target_")
        return values | ({"_target_": RENAMED[target]} if isinstance(target, str) and target in RENAMED else {})

    return configuration | {"task": renamed(configuration["task"]), "sampler": saved.current(configuration["sampler"])}


def load(folder: Path | str, device: torch.device | str = "cpu", packages: Collection[str] = ()) -> Run:
    """Model (in eval mode), task and sampler of a run folder.

    Args:
        folder: its path, or the name of a shipped run as `constrained_dg.checkpoints()` lists them: `load("sudoku")`.
        packages: further top-level packages that the run's task and sampler may come from.

    Raises:
        InputError: a folder that is not a run, weights that are cut short, missing, extra or of another shape, or a
            task or sampler from a package that is not named.
    """
    folder = find_run(folder)
    description = _read_description(folder)
    released = description["model"] == RELEASED
    if released:
        model = load_pretrained(folder, device)
    else:
        check((folder / WEIGHTS).is_file(), f"no {WEIGHTS} in {str(folder)!r}", _HINT)
        shape = description["model"]
        check(isinstance(shape, dict), f"{folder / DESCRIPTION}: model is {_short(shape)}", _HINT)
        with torch.device("meta"):
            model = Backbone(ModelConfig.from_dict(shape))
        load_weights(model, folder / WEIGHTS, device, DESCRIPTION)
    task, sampler = (build(description[key], {*OUR_PACKAGES, *packages}) for key in ("task", "sampler"))
    for key, value, kind in (("task", task, Task), ("sampler", sampler, Sampler)):
        check(isinstance(value, kind), f"{folder / DESCRIPTION}: {key} describes {_short(value)}", _HINT)
    task = task_in_text(task, folder, model.config) if released else task
    return Run(folder, model.eval(), task, sampler, description)


def _read_description(folder: Path) -> dict[str, Any]:
    """What run.json holds, with "model", "task" and "sampler" among its keys. Raises InputError."""
    path = folder / DESCRIPTION
    try:
        description = json.loads(read_text(path, _HINT))
        missing = {"model", "task", "sampler"} - set(description)
        check(isinstance(description, dict) and not missing, f"{path} is not a run description", _HINT)
        _depth(description)
        return current(description)
    except InputError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a run description ({_short(error)})", _HINT) from None


def _depth(value: Any, depth: int = 0) -> None:
    """Raise ValueError for values nested more deeply than any description."""
    if depth > 50:
        raise ValueError("it is nested too deeply")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _depth(inner, depth + 1)
