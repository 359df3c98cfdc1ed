"""Samplers around a sampler: several tries at what the judge does not accept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint, judged
from constrained_dg.errors import check, is_count
from constrained_dg.sampling.base import Denoiser, Generation, Status, StepRecord
from constrained_dg.sampling.diffusion import Diffusion
from constrained_dg.sampling.loop import select_relations, select_rows
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.randomness import ATTEMPT
from constrained_dg.sampling.request import Completer, completed
from constrained_dg.shapes import IntTensor
from constrained_dg.task import Batch, Symmetric


@dataclass(frozen=True)
class Restarts:
    """Rows that the judge does not accept start again from fresh noise, with a seed of their own.

    A run either settles soon or wanders, so that several short ones find more than a long one. Where none is accepted,
    the answer with the highest `log_probability` is kept, and a search is ordered by their distributions, averaged.

    Args:
        name: as on the command line.
        sampler: makes each attempt; `max_passes` of it are those of one attempt. It does not search itself.
        attempts: at most. The option `max_passes` bounds the passes of all together, and thereby lowers them.
        complete: search for what the attempts left unsolved, or None.
    """

    name: str
    sampler: Diffusion
    attempts: int = 8
    complete: Completer | None = None
    needs_model: ClassVar[bool] = True
    uses_symmetry: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(is_count(self.attempts, 1), f"attempts is {self.attempts!r}", "give an integer of at least 1")
        check(isinstance(self.sampler, Diffusion), f"sampler is {self.sampler!r}", "give a diffusion sampler")
        searches = self.sampler.complete
        check(searches is None, f"each attempt of {self.name!r} would search", "give `complete` to the whole")

    @property
    def judge_stop(self) -> bool:
        """It asks the judge after each attempt, whatever the attempt does."""
        return True

    def run(
        self,
        model: Denoiser,
        batch: Batch,
        constraint: Constraint | None = None,
        seeds: IntTensor | int = 0,
        **options: Any,
    ) -> Generation:
        """See `Sampler.run`.

        Raises:
            InputError: as there; symmetries were asked of a task that has none.
        """
        whole = Options.of(model, options)
        seeds = rng.row_seeds(seeds, len(batch)).to(batch.answer.device) if isinstance(seeds, int) else seeds
        left = whole.max_passes or self.attempts * self.sampler.max_passes
        made: Generation | None = None
        attempt = 0
        while attempt < self.attempts and left > 0:
            rows = torch.arange(len(batch), device=seeds.device)
            if made is not None:
                rows = rows[torch.tensor([status is Status.UNSOLVED for status in made.status], device=seeds.device)]
                if len(rows) == 0 or whole.expired():
                    break
            passes = min(left, self.sampler.max_passes)
            limit = whole.time_limit and max(whole.remaining(), 1e-6)
            own = options | {"max_passes": passes, "time_limit": limit, "on_step": _told(whole, rows)}
            own["distribution"] = whole.distribution or self.complete is not None
            fresh = seeds[rows]
            if attempt > 0:
                fresh = rng.random_bits(fresh, ATTEMPT, attempt, count=1)[:, 0]
            rules, undo = select_rows(constraint, rows), None
            part = batch if len(rows) == len(batch) else _rows_of(batch, rows)
            if self.uses_symmetry and (attempt > 0 or whole.symmetric is None):
                moved = self._moved(part, fresh, whole)
                part, rules, undo = moved.batch, moved.constraint, moved.undo
            found = self.sampler.run(model, part, rules, fresh, **own)
            if undo is not None:
                found = _undone(found, undo, select_rows(constraint, rows))
            made = found if made is None else _better(made, found, rows, attempt)
            attempt, left = attempt + 1, left - passes
            if constraint is None:
                break
        if self.complete is None or constraint is None:
            return made
        made = completed(made, constraint, batch.pinned, self.complete, whole)
        return made if whole.distribution else replace(made, distribution=None)

    def _moved(self, batch: Batch, seeds: IntTensor, options: Options) -> Symmetric:
        moved = None if options.symmetric is None else options.symmetric(batch, seeds)
        check(moved is not None, f"sampler {self.name!r} was given no symmetries", "use a task that has some")
        return moved


@dataclass(frozen=True)
class Symmetry(Restarts):
    """As `Restarts`; from the second attempt on a row is solved in a version moved by a random symmetry of the task.

    What a network makes of a problem depends on how it is turned; its rules do not (test-time symmetry). The search
    that may follow is ordered by the last distribution of the version as it was given.
    """

    uses_symmetry: ClassVar[bool] = True


@dataclass(frozen=True)
class Candidates:
    """Several answers to each prompt from one prefill; the first that the judge accepts ends the others.

    Args:
        name: as on the command line.
        sampler: makes each of them.
        candidates: how many, unless the option of that name says otherwise.
    """

    name: str
    sampler: Diffusion
    candidates: int = 16
    needs_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(is_count(self.candidates, 1), f"candidates is {self.candidates!r}", "give an integer of at least 1")
        check(isinstance(self.sampler, Diffusion), f"sampler is {self.sampler!r}", "give a diffusion sampler")

    def run(
        self,
        model: Denoiser,
        batch: Batch,
        constraint: Constraint | None = None,
        seeds: IntTensor | int = 0,
        **options: Any,
    ) -> Generation:
        """See `Sampler.run`. Passes are those of all candidates."""
        asked = options.get("candidates") or 1
        options["candidates"] = self.candidates if asked == 1 else asked
        return self.sampler.run(model, batch, constraint, seeds, **options)


def _rows_of(batch: Batch, rows: IntTensor) -> Batch:
    chosen = {name: getattr(batch, name)[rows] for name in ("prompt", "answer", "pinned")}
    mask = None if batch.mask is None else batch.mask[rows]
    return replace(batch, **chosen, mask=mask, relations=select_relations(batch.relations, rows))


def _told(options: Options, rows: IntTensor) -> Callable[[StepRecord], None] | None:
    """The caller's listener, told of the caller's own rows."""
    if options.on_step is None:
        return None
    copies = options.candidates

    def tell(record: StepRecord) -> None:
        options.on_step(replace(record, rows=rows[record.rows // copies] * copies + record.rows % copies))

    return tell


def _undone(made: Generation, undo: Callable[[IntTensor], IntTensor], constraint: Constraint | None) -> Generation:
    """Answers of moved problems as answers of the problems; the judge of those has the last word."""
    tokens = undo(made.tokens)
    solved = judged(constraint, tokens).tolist()
    status = [
        Status.SOLVED if good else Status.UNSOLVED if was is Status.SOLVED else was
        for good, was in zip(solved, made.status, strict=True)
    ]
    # Step records and distributions speak of the moved problem, and would be read as if of the problem.
    return replace(made, tokens=tokens, status=status, trace=[], distribution=None)


def _better(made: Generation, found: Generation, rows: IntTensor, before: int) -> Generation:
    """What is known of all rows, after one more attempt than `before` at some: an accepted answer, or the likelier."""
    solved = torch.tensor([status is Status.SOLVED for status in found.status], device=rows.device)
    take = solved | (found.log_probability > made.log_probability[rows])
    to, of = rows[take], take.nonzero().flatten()
    values = {}
    for name in ("tokens", "free_tokens", "seeds", "log_probability", "padding"):
        values[name] = getattr(made, name).clone()
        values[name][to] = getattr(found, name)[of]
    for name in ("passes", "search_nodes"):
        values[name] = getattr(made, name).clone()
        values[name][rows] += getattr(found, name)
    status = list(made.status)
    for row, new in zip(rows.tolist(), found.status, strict=True):
        status[row] = new
    trace = made.trace + [replace(record, rows=rows[record.rows]) for record in found.trace]
    distribution = made.distribution
    if distribution is not None and found.distribution is not None:
        distribution = distribution.averaged(found.distribution, rows, before)
    return replace(made, **values, status=status, trace=trace, distribution=distribution)
