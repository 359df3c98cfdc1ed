"""The values of conf/train.yaml, checked before any long work."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from constrained_dg.errors import InputError, check, is_count, is_number, needs

#: Integers of conf/train.yaml with their range; `validate.` is the prefix of its group.
COUNTS = {
    "seed": (0, 2**32 - 10),  # torch takes 32 bits, and held-out problems use the next ones
    "threads": (0, 1024),
    "workers": (0, 1024),
    "checkpoint_every": (1, 2**31),
    "report_per_tier": (1, 1_000_000),
    "validate.every": (1, 2**31),
    "validate.per_tier": (1, 1_000_000),
}
GROUPS = ("task", "sampler", "model", "objective", "optimisation", "trainer", "validate")


def check_groups(cfg: Mapping[str, Any]) -> None:
    """Raise InputError for a group that does not hold keys, or a path that is not text."""
    for name in GROUPS:
        check(isinstance(cfg[name], dict), f"{name} is {cfg[name]!r}", f"name a file of conf/{name}, or give its keys")
    for name in ("task", "sampler"):
        target = cfg[name].get("_target_")
        check(isinstance(target, str), f"{name}._target_ is {target!r}", "give the name of a class: package.Class")
    for name in ("every", "per_tier"):
        check(name in cfg["validate"], f"validate.{name} is missing", "give a value")
    for name in ("out", "resume", "data"):
        check(cfg[name] is None or isinstance(cfg[name], str), f"{name} is {cfg[name]!r}", "give a path")


def check_values(cfg: Mapping[str, Any]) -> None:
    """Raise InputError for a value out of range.

    task, sampler, objective and optimisation are checked by their classes.
    """
    for name, (low, high) in COUNTS.items():
        group, _, key = name.rpartition(".")
        value = cfg[group][key] if group else cfg[key]
        check(is_count(value, low) and value <= high, f"{name} is {value!r}", f"use an integer from {low} to {high}")
    packages = cfg["packages"]
    texts = isinstance(packages, list) and all(isinstance(name, str) for name in packages)
    check(texts, f"packages is {packages!r}", "give the names of packages, such as [my_tasks]")
    takes_data = "data" in cfg["task"]
    check(takes_data or cfg["data"] is None, f"data is {cfg['data']!r}, but this task takes none", "leave data out")
    check(not takes_data or cfg["task"]["data"] is not None, "the task needs a file of examples", "give data=FILE")
    check(cfg["compile"] in ("auto", True, False), f"compile is {cfg['compile']!r}", "use auto, true or false")
    check(isinstance(cfg["recompute"], bool), f"recompute is {cfg['recompute']!r}", "use true or false")
    check(cfg["logger"] in ("csv", "wandb"), f"unknown logger {cfg['logger']!r}", "known: csv, wandb")
    if cfg["logger"] == "wandb":
        with needs("wandb", "logger=wandb (logger=csv does not)"):
            importlib.import_module("wandb")


@dataclass(frozen=True)
class Objective:
    """The loss, and the inputs that the denoiser learns from (training of DiffusionGemma, Google, 2026).

    Attributes:
        canvas_weight: weight of the loss on the noisy answer; with 0 no canvas is denoised, and the model learns to
            write from left to right alone.
        encoder_weight: weight of the causal next-token loss over prompt and answer; 0 leaves it out. For pictures it is
            that of naming the token in whose place each soft token stands.
        encoder_prompt: whether the next-token loss counts the tokens of the prompt, too.
        encoder_rows: share of the batch that the next-token loss is computed on, since it costs a causal pass.
        balance_weight: weight of the router's balance loss (Switch Transformer, arXiv 2101.03961); 0 leaves it out.
        self_conditioning: share of the rows that are conditioned on a first prediction of the model (without
            gradient).
        pure_start: share of the rows whose canvas is pure noise, from those without a first prediction. Without it, a
            model that cannot recognise noise in a canvas (a sequence breaks no rule) expects about half of the
            tokens to be right even in the first pass. With 1 - self_conditioning, rows without a first prediction are
            always pure noise, as in sampling.
        rollouts: train on sets of living tokens that the model's own steps make, instead of corrupted examples (see
            `training.rollouts`). Then `self_conditioning` is not used, and `pure_start` is the share of new rows that
            begin as pure noise.
        below: a rollout eliminates tokens of less probability.
        most_passes: steps after which a row of the pool is replaced.
        other_answers: for problems with several answers: a rollout that excludes the answer of its example goes on with
            another one, if its rules (`Task.rules`) and the solver find one.
        conflict: weight of rollouts that lost their answer, where the model learns to say so; 0 leaves them out.
    """

    canvas_weight: float = 1.0
    encoder_weight: float = 1.0
    encoder_prompt: bool = True
    encoder_rows: float = 0.125
    balance_weight: float = 0.01
    self_conditioning: float = 0.5
    pure_start: float = 0.0
    rollouts: bool = False
    below: float = 0.015
    most_passes: int = 100
    other_answers: bool = False
    conflict: float = 0.0

    def __post_init__(self) -> None:
        for name in ("encoder_rows", "self_conditioning", "pure_start"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"objective.{name} is {value}", "use a share from 0 to 1")
        check(
            self.self_conditioning + self.pure_start <= 1,
            f"objective.pure_start is {self.pure_start}",
            "use at most 1 - self_conditioning, the share of rows without a first prediction",
        )
        for name in ("canvas_weight", "encoder_weight", "balance_weight", "conflict"):
            value = getattr(self, name)
            check(value >= 0 and isfinite(value), f"objective.{name} is {value}", "use 0 or more")
        causal = self.encoder_weight > 0 and self.encoder_rows > 0
        hint = "use objective.encoder_weight and objective.encoder_rows above 0"
        check(self.canvas_weight > 0 or causal, "objective.canvas_weight is 0, and nothing else is learned", hint)
        check(self.canvas_weight > 0 or not self.rollouts, "objective.canvas_weight is 0 with rollouts", "use 1")
        for name in ("encoder_prompt", "rollouts", "other_answers"):
            value = getattr(self, name)
            check(isinstance(value, bool), f"objective.{name} is {value!r}", "use true or false")
        for name in ("other_answers", "conflict"):
            value = getattr(self, name)
            check(self.rollouts or not value, f"objective.{name} is {value} without rollouts", "use objective=rollouts")
        below, passes = self.below, self.most_passes
        good = is_number(below, above=0) and below < 1
        check(good, f"objective.below is {below!r}", "use a probability above 0 and below 1")
        check(is_count(passes, 1), f"objective.most_passes is {passes!r}", "use an integer of at least 1")


@dataclass(frozen=True)
class Optimisation:
    """The optimiser, with linear warm-up and cosine decay of its rate, and an average of the weights.

    Attributes:
        steps: optimiser steps of the run.
        batch_size: rows for each step and process.
        learning_rate: its peak.
        warmup: steps of linear warm-up.
        weight_decay: decoupled from the gradient; with Muon only on its matrices.
        clip: largest norm of the gradient.
        average: decay of the weight average in each step; the average is what is evaluated and saved. The first steps
            use (1 + step) / (10 + step) where that is less. 0 keeps the weights as they are trained, without a copy.
        method: "muon" for matrices with AdamW for the rest, or "adam": AdamW for all, with b1 0.95 and b2 0.99 as in
            the fine-tuning recipe of DiffusionGemma.
        floor: share of the peak learning rate that the last step has.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    weight_decay: float
    clip: float
    average: float
    method: str = "muon"
    floor: float = 0.05

    def __post_init__(self) -> None:
        for name, low, high in (("steps", 1, 2**31), ("batch_size", 2, 2**16), ("warmup", 0, 2**31)):
            value = getattr(self, name)
            fits = is_count(value, low) and value <= high
            check(fits, f"optimisation.{name} is {value!r}", f"use an integer from {low} to {high}")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            check(value > 0 and isfinite(value), f"optimisation.{name} is {value}", "use a number above 0")
        decay = self.weight_decay
        check(decay >= 0 and isfinite(decay), f"optimisation.weight_decay is {decay}", "use 0 or more")
        check(self.method in ("muon", "adam"), f"optimisation.method is {self.method!r}", "use muon or adam")
        check(0 <= self.floor <= 1, f"optimisation.floor is {self.floor}", "use a share from 0 to 1")
        check(0 <= self.average < 1, f"optimisation.average is {self.average}", "use 0 or more, below 1")


def from_dict(cls: type, values: dict[str, Any], group: str) -> Any:
    """Build settings from plain values.

    Raises:
        InputError: unknown or missing keys, or a value out of range.
    """
    known = {f.name for f in fields(cls)}
    check(set(values) <= known, f"unknown {group} keys {sorted(set(values) - known)}", f"known: {sorted(known)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"{group}: {error}") from None
