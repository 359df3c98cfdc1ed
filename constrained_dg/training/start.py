"""Where training starts from: nothing, the model of a finished run, or a checkpoint in the released format."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import check, is_count
from constrained_dg.model import Backbone, ModelConfig, load_pretrained, preset
from constrained_dg.model.lora import adapt, freeze_routers, merge
from constrained_dg.model.quantised.weight import is_quantised
from constrained_dg.runs import load, save_released_run, save_run, task_in_text
from constrained_dg.task import Task

#: Layers times loops of a pass: far more than any model that can be trained.
MOST_LAYERS = 10_000


class Start(ABC):
    """A start of training. The rest of training does not depend on its class."""

    @abstractmethod
    def model(self, task: Task) -> tuple[Backbone, Task]:
        """The model, and the task in the tokens of that model.

        Raises:
            InputError: a checkpoint, tokenizer or setting that cannot be used.
        """

    def choose_trained(self, model: Backbone) -> None:  # noqa: B027  (nothing to do by default)
        """Decide which weights are trained, after all checks; all by default."""

    def finish(self, model: Backbone) -> None:  # noqa: B027
        """Bring the trained weights into the form they are written in."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """The entries of run.json about the start, plain values."""

    def save(
        self, folder: Path, model: Backbone, description: dict[str, Any], state: dict[str, torch.Tensor] | None
    ) -> None:
        """Write the model and its description, see `constrained_dg.runs.save_run`."""
        save_run(folder, model, description, state)


@dataclass(frozen=True)
class Scratch(Start):
    """An untrained model: a preset, changed by other fields of ModelConfig.

    Attributes:
        relations: whether attention learns a bias for each relation of the task.
        seed: of the weights.
    """

    preset: str
    relations: bool
    changes: Mapping[str, Any]
    seed: int

    def model(self, task: Task) -> tuple[Backbone, Task]:
        hint = "give model.pretrained=FOLDER, a checkpoint in the released format"
        check(not task.needs_tokenizer, f"task {task.name!r} needs a model that comes with a tokenizer", hint)
        check(isinstance(self.relations, bool), f"model.relations is {self.relations!r}", "use true or false")
        shape = {
            "vocab_size": task.vocab_size,
            "num_relations": task.num_relations if self.relations else 0,
            "canvas_length": task.max_canvas,
        }
        changes = {**shape, **self.changes}
        if task.vision is not None:
            tower = changes.get("vision")
            hint = "give the sizes of a tower, as conf/task/sudoku/picture.yaml does"
            check(isinstance(tower, Mapping), f"task {task.name!r} gives pictures, and model.vision is {tower!r}", hint)
            changes["vision"] = {**dict(tower or {}), **task.vision}
        config = preset(self.preset, **changes)
        check_size(config)
        return Backbone(config).init_weights(torch.Generator().manual_seed(self.seed)), task

    def record(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class FromRun(Start):
    """The model of a finished run. Its canvas may grow with the task, which needs no new weights.

    Attributes:
        packages: that the run may import from, see `constrained_dg.runs.load`.
    """

    run: str
    packages: Collection[str]

    def model(self, task: Task) -> tuple[Backbone, Task]:
        model = load(self.run, packages=self.packages).model
        config = model.config
        for name, has, wanted in (
            ("vocab_size", config.vocab_size, task.vocab_size),
            ("num_relations", config.num_relations, task.num_relations),
        ):
            fits = has == wanted or (name == "num_relations" and has == 0)
            problem = f"the model of {self.run!r} has {name} {has}, task {task.name!r} needs {wanted}"
            check(fits, problem, "start from scratch")
        sees = None if config.vision is None else {key: getattr(config.vision, key) for key in task.vision or {}}
        problem = f"the model of {self.run!r} reads pictures as {sees}, task {task.name!r} gives {task.vision}"
        check(task.vision is None or sees == dict(task.vision), problem, "start from scratch")
        grown = Backbone(replace(config, canvas_length=max(config.canvas_length, task.max_canvas)))
        grown.load_state_dict(model.state_dict())
        return grown.train(), task

    def record(self) -> dict[str, Any]:
        return {"run": self.run}


@dataclass
class Released(Start):
    """A checkpoint in the released format, fine-tuned on the task as text.

    Attributes:
        lora: rank of adapters on frozen weights; 0 trains all weights but the routers, in fp32, since steps of the
            optimiser are too small for bf16.
        seed: of the adapters.
        stored: the type of the weights in the checkpoint, in which they are written again.
    """

    pretrained: str
    lora: int
    seed: int
    stored: torch.dtype = torch.float32

    def model(self, task: Task) -> tuple[Backbone, Task]:
        model = load_pretrained(self.pretrained)  # memory-mapped: fast
        problem = f"{self.pretrained!r} is quantised, and model.lora is {self.lora}"
        check(bool(self.lora) or not is_quantised(model), problem, "train adapters: model.lora=8")
        return model, task_in_text(task, self.pretrained, model.config)

    def choose_trained(self, model: Backbone) -> None:
        self.stored = model.embed_tokens.weight.dtype
        if self.lora:
            adapt(model.train(), self.lora, torch.Generator().manual_seed(self.seed))
        else:
            freeze_routers(model.train().float())

    def finish(self, model: Backbone) -> None:
        (merge(model) if self.lora else model).to(self.stored)

    def record(self) -> dict[str, Any]:
        return {"pretrained": self.pretrained, "lora": self.lora}

    def save(
        self, folder: Path, model: Backbone, description: dict[str, Any], state: dict[str, torch.Tensor] | None
    ) -> None:
        save_released_run(folder, model, description, state)


def start_of(cfg: dict[str, Any], packages: Collection[str]) -> Start:
    """The start that the group `model` describes: a preset, `run` or `pretrained`.

    Args:
        packages: that the starting run may import from.

    Raises:
        InputError: keys that do not go together, or a value out of range.
    """
    keys = dict(cfg["model"])
    if "run" in keys or "pretrained" in keys:
        # A task's defaults for a new model: the weights fix the shape.
        keys = {key: value for key, value in keys.items() if key not in ModelConfig.__dataclass_fields__}
    if "run" in keys:
        _check_keys(keys, "run")
        return FromRun(str(keys["run"]), packages)
    if "pretrained" not in keys:
        _check_keys(keys, "preset", "relations", others=True)
        return Scratch(keys.pop("preset"), keys.pop("relations"), keys, cfg["seed"])
    _check_keys(keys, "pretrained", "lora")
    rank, rollouts = keys["lora"], cfg["objective"].get("rollouts", False)
    check(is_count(rank), f"model.lora is {rank!r}", "use the rank of the adapters, or 0 to train all weights")
    sharded = cfg["trainer"].get("strategy") == "fsdp"
    check(not (sharded and rank), f"trainer=fsdp with adapters (model.lora={rank})", "use model.lora=0, or ddp")
    check(not rollouts, f"objective.rollouts is {rollouts}", "with model.pretrained use false")
    return Released(str(keys["pretrained"]), rank, cfg["seed"])


def _check_keys(keys: dict[str, Any], *known: str, others: bool = False) -> None:
    missing, unknown = sorted(set(known) - set(keys)), sorted(set(keys) - set(known))
    check(not missing, f"model.{missing[0] if missing else ''} is missing", f"give {', '.join(known)}")
    check(
        others or not unknown, f"no configuration keys model.{', model.'.join(unknown)}", f"known: {', '.join(known)}"
    )


def check_size(config: ModelConfig) -> None:
    """Raise InputError for a model that is too large for this machine, before it is built."""
    layers = config.num_hidden_layers * config.loops  # causal loops are at most as many
    problem = f"model.num_hidden_layers {config.num_hidden_layers} times model.loops {config.loops}"
    check(layers <= MOST_LAYERS, problem, f"use at most {MOST_LAYERS} in all")
    needed = 4 * config.num_parameters  # float32
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not known on this system
        return
    problem = f"the weights of this model take {needed / 2**30:.0f} GiB, this machine has {memory / 2**30:.0f}"
    check(needed <= memory, problem, "make model.hidden_size, model.num_hidden_layers or model.num_experts smaller")
