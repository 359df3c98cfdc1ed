"""Training on canvases that the model's sampler computed in the step before (`objective.own_canvas`).

Source: training on detached rollouts of the model, as in Flow Reasoning Models (2606.29150, 2026).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.sampling import Diffusion
from constrained_dg.sampling.distribution import settle
from constrained_dg.sampling.renoise import Accepted
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch

_TENSORS = ("canvas", "logits", "age", "live")


@dataclass(frozen=True)
class Carried:
    """Rows between two passes of the sampler.

    Attributes:
        batch: their examples (N rows).
        canvas: (N, C), the input of the next pass.
        logits: (N, C, V) processed logits of the pass before, for self-conditioning.
        age: (N) passes so far.
        live: (N) bool, False where the row is to be replaced by a new example.
    """

    batch: Batch
    canvas: IntTensor
    logits: FloatTensor
    age: IntTensor
    live: BoolTensor

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        batch, values = self.batch, {name: getattr(self, name) for name in _TENSORS}
        return {"prompt": batch.prompt, "clean": batch.answer, "pinned": batch.pinned} | {
            "relations": batch.relations,
            "noise": batch.noise,
            **values,
        }

    def to(self, device: torch.device | str) -> Carried:
        return Carried(self.batch.to(device), *(getattr(self, name).to(device) for name in _TENSORS))

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Carried:
        batch = Batch(*(state[name] for name in ("prompt", "clean", "pinned", "relations", "noise")))
        return cls(batch, *(state[name] for name in _TENSORS))


def refill(carried: Carried, fresh: Batch, noisy: IntTensor) -> tuple[Carried, Batch]:
    """Replace finished rows by the first rows of a new batch of the same shape.

    Args:
        noisy: (B, C) starting canvases of the new rows.

    Returns:
        the carried rows with replacements, and the new batch whose first rows are now the carried ones.
    """
    rows, live = len(carried.live), carried.live

    def mixed(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return torch.where(live.reshape(-1, *[1] * (old.dim() - 1)), old, new[:rows])

    old = carried.batch
    front: dict[str, Any] = {
        name: mixed(getattr(old, name), getattr(fresh, name)) for name in ("prompt", "answer", "pinned")
    }
    if fresh.relations is not None and old.relations is not None and len(fresh.relations) > 1:
        front["relations"] = mixed(old.relations, fresh.relations)
    both: dict[str, Any] = {name: torch.cat([front[name], getattr(fresh, name)[rows:]]) for name in front}
    filled = Carried(
        replace(fresh, **front),
        mixed(carried.canvas, noisy),
        carried.logits.masked_fill(~live[:, None, None], 0),  # a product would turn -inf into NaN
        carried.age * live,
        live,
    )
    return filled, replace(fresh, **both)


@torch.no_grad()
def advance(
    carried: Carried,
    logits: FloatTensor,
    passes: int,
    generator: torch.Generator,
    sampler: Diffusion,
    rules: Constraint | None = None,
) -> Carried:
    """One step of the sampler on the carried rows, from the logits (N, C, V) of the training step.

    Args:
        passes: number of passes after which a row is replaced; the temperature falls over them.
        rules: of the rows, for a sampler that reads them. A row is solved when it equals its example.
    """
    batch, shape = carried.batch, carried.canvas.shape
    span, free = slice(0, shape[1]), ~batch.pinned
    heat = torch.tensor([sampler.temperature(age, passes) for age in range(passes)], device=logits.device)
    heat = heat[carried.age.clamp(max=passes - 1)][:, None, None]
    seen = logits.float().clone()
    conflict = torch.zeros_like(free)
    if rules is not None and sampler.guide.masks:
        forbidden, conflict = sampler.guide.forbidden(batch.answer, batch.pinned, span, rules)
        seen = sampler.guide(seen, forbidden, rules)
    conditioning = seen / heat
    uniform = torch.rand(shape, generator=generator).to(logits.device)
    settled = settle(conditioning.clone(), 1.0, uniform)
    best, sample = (torch.where(free, tokens, batch.answer) for tokens in (settled.best, settled.sample))
    accepted = sampler.accept(settled, free) & ~conflict
    torch.randint(2**62, (len(free),), generator=generator)  # no longer used; runs keep their draws
    accepted = sampler.renoise(Accepted(accepted, sample, batch.pinned, span, rules))
    # Drawn on the CPU, so that a seed gives one run on every device.
    noise = torch.randint(*batch.noise, shape, generator=generator).to(logits.device)
    canvas = torch.where(accepted | batch.pinned, sample, noise)
    age = carried.age + 1
    live = (age < passes) & (best != batch.answer).any(1)
    return Carried(batch, canvas, conditioning, age, live)
