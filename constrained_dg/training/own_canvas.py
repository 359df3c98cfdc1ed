"""Canvases that the model's own sampler made, carried over from step to step.

Source: training on own rollouts, detached, as in Flow Reasoning Models (2606.29150, 2026).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.sampling import Diffusion
from constrained_dg.sampling.distribution import settle
from constrained_dg.sampling.renoise import Accepted
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Carried:
    """Rows in the middle of being denoised.

    Attributes:
        batch: their examples (N rows).
        canvas: (N, C), what enters the next pass.
        logits: (N, C, V) processed logits of the pass before, for self-conditioning.
        age: (N) passes made.
        live: (N) bool, False where the row is to be replaced by a fresh example.
    """

    batch: Batch
    canvas: IntTensor
    logits: FloatTensor
    age: IntTensor
    live: BoolTensor

    def state_dict(self) -> dict[str, torch.Tensor | tuple[int, int]]:
        """Tensors and plain values, for a checkpoint."""
        return {
            "prompt": self.batch.prompt,
            "clean": self.batch.answer,
            "pinned": self.batch.pinned,
            "relations": self.batch.relations,
            "noise": self.batch.noise,
            "canvas": self.canvas,
            "logits": self.logits,
            "age": self.age,
            "live": self.live,
        }

    def to(self, device: torch.device | str) -> Carried:
        moved = (getattr(self, name).to(device) for name in ("canvas", "logits", "age", "live"))
        return Carried(self.batch.to(device), *moved)

    @classmethod
    def from_state_dict(cls, state: dict) -> Carried:
        state = dict(state)
        batch = Batch(
            state.pop("prompt"), state.pop("clean"), state.pop("pinned"), state.pop("relations"), state.pop("noise")
        )
        return cls(batch, **state)


def refill(carried: Carried, fresh: Batch, noisy: IntTensor) -> tuple[Carried, Batch]:
    """Replace the rows that are done by the first rows of a fresh batch of the same shape.

    Args:
        noisy: (B, C) starting canvases of the fresh rows.

    Returns:
        the carried rows with replacements, and the fresh batch whose first rows are now the carried ones.
    """
    rows, live = len(carried.live), carried.live

    def mixed(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return torch.where(live.reshape(-1, *[1] * (old.dim() - 1)), old, new[:rows])

    whole = {name: mixed(getattr(carried.batch, name), getattr(fresh, name)) for name in ("prompt", "answer", "pinned")}
    relations = fresh.relations
    if relations is not None and len(relations) > 1:
        whole["relations"] = mixed(carried.batch.relations, relations)
    batch = replace(fresh, **whole)
    both = {name: torch.cat([whole[name], getattr(fresh, name)[rows:]]) for name in whole}
    filled = Carried(
        batch,
        mixed(carried.canvas, noisy),
        carried.logits.masked_fill(~live[:, None, None], 0),  # a product would make NaN of what rules forbid
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
    """One step of the sampler on the carried rows, from the logits (N, C, V) that training just made.

    Args:
        passes: after which a row is replaced; its temperature falls over them.
        rules: of the rows, for a sampler that reads them. What is solved is said by the example, not by them.
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
