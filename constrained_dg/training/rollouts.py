"""Training on the model's own rollouts: a pool of set states that each step trains on and then advances.

Each row holds an example and its sets (`constrained_dg.diffusion.sets`). A step

1. moves every row by a fresh symmetry of the task,
2. trains on the sets of all rows (cross-entropy after every loop),
3. advances them by the model's own step: unlikely tokens are eliminated, and the undecided position of which it is most
   certain is pinned to a token that is drawn from it,
4. replaces rows by new examples where the model has solved them, where a set lost the token of the answer (no answer
   is left there, so nothing could be learned), or after `most_passes`. With `other_answers` a row that lost its answer
   goes on with another one that its sets allow.

With `conflict` a row that lost its answer stays for up to `MOST_LOST` steps, until the model sees that: it learns to
give all probability there to the task's blank token. A sampler that sees it starts again at once.

So the model meets the states that it reaches as a sampler, as often as it reaches them. Source: the pool of Lattice
Deduction Transformers (2026), without their second pass, their conflict read-out and their rows without an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.guarded import judged
from constrained_dg.diffusion.sets import (
    doubt,
    draw_canvas,
    eliminated,
    full_sets,
    most_certain,
    pinned_at,
    unless_noise,
    within_range,
    without_unlikeliest,
)
from constrained_dg.errors import check
from constrained_dg.model.images import Pictures
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch, Task
from constrained_dg.training.other_answers import other_answers
from constrained_dg.training.settings import Objective

_TENSORS = ("sets", "age", "lost", "over")
#: Steps that a row without an answer stays.
MOST_LOST = 8
#: A row is seen to have no answer where `doubt` is above this.
SEEN = 0.5


@dataclass(frozen=True)
class Pool:
    """The rows between two steps.

    Attributes:
        batch: their examples (B rows).
        sets: (B, C, K) bool; each holds the token of the answer, unless the row has lost it.
        age: (B) int64, steps since the row began.
        lost: (B) int64, steps since a set lost the token of the answer; 0 where none did.
        over: (B) bool, rows that the next step replaces.
    """

    batch: Batch
    sets: BoolTensor
    age: IntTensor
    lost: IntTensor
    over: BoolTensor

    @classmethod
    def of(cls, batch: Batch, objective: Objective, generator: torch.Generator) -> Pool:
        """New rows: pure noise in a share of them, `objective.pure_start`; in the others one random token is dead that
        is not of the answer: a state as after the first pass."""
        sets = full_sets(batch.answer, batch.pinned, batch.noise)
        noise, chance = (torch.rand(shape, generator=generator).to(sets.device) for shape in (len(sets), sets.shape))
        wrong = batch.answer[..., None] != torch.arange(*batch.noise, device=sets.device)
        after_first = without_unlikeliest(sets, chance.masked_fill(~wrong, torch.inf), batch.pinned)
        sets = torch.where((noise < objective.pure_start)[:, None, None], sets, after_first)
        zeros = torch.zeros(len(batch), dtype=torch.int64, device=sets.device)
        return cls(batch, sets, zeros, zeros, zeros > 0)

    @property
    def kind(self) -> tuple[int, ...]:
        return kind_of(self.batch)

    def target(self, blank: int) -> IntTensor:
        """(B, C) what the model learns: the answer, or the blank token at free positions of rows that lost it."""
        return torch.where((self.lost > 0)[:, None] & ~self.batch.pinned, blank, self.batch.answer)

    def canvas(self, generator: torch.Generator) -> IntTensor:
        """(B, C) a draw from every set; by the generator's numbers, which a CPU draws on every machine."""
        uniform = torch.rand(self.batch.answer.shape, generator=generator).to(self.sets.device)
        return draw_canvas(self.sets, self.batch.answer, self.batch.pinned, self.batch.noise[0], uniform)

    def moved(self, task: Task, generator: torch.Generator) -> Pool:
        """Every row moved by a symmetry, if the task has some."""
        seeds = torch.randint(2**62, (len(self.batch),), generator=generator)
        symmetric = task.symmetric(self.batch, seeds.to(self.sets.device))
        if symmetric is None:
            return self
        return replace(self, batch=symmetric.batch, sets=symmetric.moves.sets(self.sets, self.batch.noise[0]))

    def advanced(
        self, logits: FloatTensor, objective: Objective, generator: torch.Generator, rules: Constraint | None = None
    ) -> tuple[Pool, dict[str, FloatTensor]]:
        """The rows after the model's own step, from the logits (B, C, V) of the training pass.

        Args:
            rules: of the batch, where a problem may have several answers: they judge whether a row is solved, and give
                another answer to rows that lost theirs. None where there is one answer.

        Returns:
            the rows; and for the log the share of rows that the model has solved ("pool/solved"), that lost their
            answer in this step ("lost"), that got another one ("other_answers"), of which the model says rightly
            ("seen") or wrongly ("false_alarms") that there is no answer; and the mean age.
        """
        batch, (low, high) = self.batch, self.batch.noise
        free, answer = ~batch.pinned, (batch.answer - low).clamp(0, high - low - 1)
        logits = logits.float()
        # 1. Eliminate.
        probabilities, outside = within_range(logits.softmax(-1), batch.noise)
        sets = eliminated(self.sets, probabilities, batch.pinned, objective.below)
        living = logits[..., low:high].masked_fill(~self.sets, -torch.inf)
        guess = living.argmax(-1)
        if rules is None:
            solved = ((guess == answer) | ~free).all(-1)
        else:
            solved = judged(rules, torch.where(free, guess + low, batch.answer))
        # 2. Pin the undecided position of which the model is most certain, if there is one, to a token drawn from it.
        at, some = most_certain(sets, probabilities, batch.pinned)
        here = at[:, None, None].expand(-1, 1, high - low)
        weights = living.masked_fill(~sets, -torch.inf).gather(1, here)[:, 0].softmax(-1)
        chance = torch.rand(len(some), 1, generator=generator).to(sets.device)
        token = (weights.nan_to_num(0).cumsum(-1) <= chance).sum(-1).clamp(max=high - low - 1)
        sets = pinned_at(sets, at, token, some)
        sets = unless_noise(self.sets, sets, probabilities, batch.pinned)
        # 3. Which rows are over.
        lost = (~sets.gather(2, answer[..., None])[..., 0] & free).any(-1)
        age = self.age + 1
        ends = solved | (age >= objective.most_passes)
        metrics = {"pool/solved": solved, "pool/age": age}
        if rules is not None:
            rows = (lost & ~ends & (self.lost == 0)).nonzero().flatten()
            answers, found = other_answers(rules, batch, sets, rows)
            batch = replace(batch, answer=batch.answer.index_copy(0, rows, answers))
            lost = lost.index_copy(0, rows, ~found)
            metrics["pool/other_answers"] = torch.zeros_like(lost).index_copy(0, rows, found)
        steps_lost = torch.where(lost, self.lost + 1, 0)
        metrics["pool/lost"] = steps_lost == 1
        if objective.conflict:
            seen = doubt(outside, batch.pinned) > SEEN
            metrics |= {"pool/seen": seen & (self.lost > 0), "pool/false_alarms": seen & ~lost}
            empty = ((sets.sum(-1) == 0) & free).any(-1)
            lost = lost & ((seen & (self.lost > 0)) | empty | (steps_lost > MOST_LOST))
        moved = replace(self, batch=batch, sets=sets, age=age, lost=steps_lost, over=ends | lost)
        return moved, {name: m.float().mean() for name, m in metrics.items()}

    def refilled(self, fresh: Batch, objective: Objective, generator: torch.Generator) -> Pool:
        """Rows that are over, replaced by those of a new batch, see `of`.

        Raises:
            InputError: the batch has another size.
        """
        rows, over = len(self.age), self.over
        check(len(fresh) == rows, f"the task gave a batch of {len(fresh)} rows for a pool of {rows}", "give as many")
        new = Pool.of(fresh, objective, generator)
        ours, shared = self.batch, fresh.relations is None or len(fresh.relations) == 1
        batch = replace(
            fresh,
            prompt=_where(over, fresh.prompt, ours.prompt),
            answer=_where(over, fresh.answer, ours.answer),
            pinned=_where(over, fresh.pinned, ours.pinned),
            relations=fresh.relations if shared else _where(over, fresh.relations, ours.relations),
            mask=None if fresh.mask is None else _where(over, fresh.mask, ours.mask),
            images=_pictures(over, fresh.images, ours.images),
        )
        return replace(
            new,
            batch=batch,
            sets=_where(over, new.sets, self.sets),
            age=_where(over, new.age, self.age),
            lost=_where(over, new.lost, self.lost),
        )

    def to(self, device: torch.device | str) -> Pool:
        return Pool(self.batch.to(device), *(getattr(self, name).to(device) for name in _TENSORS))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint; relations as bits, since each row may have its own."""
        values = {f.name: getattr(self.batch, f.name) for f in fields(Batch)}
        if isinstance(self.batch.images, Pictures):
            values["images"] = vars(self.batch.images)
        if (relations := self.batch.relations) is not None:
            values |= {
                "relations": torch.from_numpy(np.packbits(relations.cpu(), axis=-1)),
                "width": relations.shape[-1],
            }
        return values | {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Pool:
        # Earlier checkpoints lack fields of a batch that are newer; those have a default.
        batch: dict[str, Any] = {f.name: state[f.name] for f in fields(Batch) if f.name in state}
        if batch.get("images") is not None:
            batch["images"] = Pictures(**batch["images"])
        if "width" in state:  # earlier checkpoints hold relations as they are
            bits = np.unpackbits(batch["relations"].cpu(), axis=-1, count=state["width"])
            batch["relations"] = torch.from_numpy(bits).bool()
        # Earlier checkpoints have no rows that lost their answer.
        state = {"lost": torch.zeros_like(state["age"])} | state
        return cls(Batch(**batch), *(state[name] for name in _TENSORS))


def _pictures(over: BoolTensor, new: object, old: object) -> Pictures | None:
    """`_where` of pictures."""
    if not isinstance(new, Pictures) or not isinstance(old, Pictures):
        return None
    return replace(new, pixels=_where(over, new.pixels, old.pixels))


def kind_of(batch: Batch) -> tuple[int, ...]:
    """What the rows of a pool have in common: (S, C) and the range of the noise."""
    return batch.prompt.shape[1], batch.answer.shape[1], *batch.noise


def _where(over: BoolTensor, new: torch.Tensor | None, old: torch.Tensor | None) -> torch.Tensor:
    """(B, ...) rows of `new` where `over` (B), else of `old`; batches of one kind have both."""
    assert new is not None and old is not None
    return torch.where(over.reshape(-1, *[1] * (old.dim() - 1)), new, old)
