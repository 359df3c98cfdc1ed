"""What training can be told, checked before any long work."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from constrained_dg.errors import InputError, check, is_count


@dataclass(frozen=True)
class Objective:
    """The loss and what the denoiser is shown (section 7 of DiffusionGemma's fact sheet, 2026).

    Attributes:
        encoder_weight: weight of the causal next-token loss over prompt and answer; 0 leaves it out.
        encoder_rows: share of the batch that pays for the causal pass over the answer.
        balance_weight: weight of the router's balance loss (Switch Transformer, 2101.03961), 0 leaves it out.
        self_conditioning: share of the rows that are told a first prediction, made without gradient.
        pure_start: share of the rows, from those that are told nothing, that are pure noise. Where nothing in a canvas
            gives noise away (a sequence breaks no rule), a model otherwise takes what it sees for half right, in the
            first pass too. With 1 - self_conditioning, being told nothing means pure noise, as when sampling.
        own_canvas: share of the rows whose canvas and signal are carried over from the model's own sampler in the
            step before, instead of being corrupted afresh.
        own_canvas_passes: passes after which a carried row is replaced by a fresh puzzle; solved rows leave at once.
    """

    encoder_weight: float = 1.0
    encoder_rows: float = 0.125
    balance_weight: float = 0.01
    self_conditioning: float = 0.5
    pure_start: float = 0.0
    own_canvas: float = 0.0
    own_canvas_passes: int = 16

    def __post_init__(self) -> None:
        for name in ("encoder_rows", "self_conditioning", "pure_start", "own_canvas"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"objective.{name} is {value}", "use a share from 0 to 1")
        told = self.self_conditioning + self.pure_start <= 1
        check(
            told,
            f"objective.pure_start is {self.pure_start}",
            "use at most 1 - self_conditioning: what is told nothing",
        )
        for name in ("encoder_weight", "balance_weight"):
            value = getattr(self, name)
            check(value >= 0, f"objective.{name} is {value}", "use 0 or more")
        passes = self.own_canvas_passes
        check(is_count(passes, 1), f"objective.own_canvas_passes is {passes!r}", "use an integer of at least 1")


@dataclass(frozen=True)
class Optimisation:
    """The optimiser, with linear warm-up and cosine decay of its rate, and an average of the weights.

    Attributes:
        steps: optimiser steps of the whole run: the budget.
        batch_size: rows a step and process.
        learning_rate: its peak.
        warmup: steps of linear warm-up.
        weight_decay: decoupled; with Muon on the matrices that it takes.
        clip: largest norm of the gradient.
        average: decay a step of the weight average that is evaluated and shipped (its horizon grows with the run: the
            first steps use (1 + step) / (10 + step)); 0 keeps the raw weights, and no copy of them.
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
        for name, low in (("steps", 1), ("batch_size", 2), ("warmup", 0)):
            value = getattr(self, name)
            check(is_count(value, low), f"optimisation.{name} is {value!r}", f"use an integer of at least {low}")
        for name in ("learning_rate", "clip"):
            check(getattr(self, name) > 0, f"optimisation.{name} is {getattr(self, name)}", "use a number above 0")
        check(self.weight_decay >= 0, f"optimisation.weight_decay is {self.weight_decay}", "use 0 or more")
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
