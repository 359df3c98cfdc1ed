"""Problems of the run's task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from constrained_dg import rng
from constrained_dg.evaluation import check_sampler, solve_batch
from constrained_dg.runs import Run
from constrained_dg.sampling import named
from constrained_dg.sampling.base import StepRecord
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.serving.jobs import Draft, Job, Result
from constrained_dg.task import Problem, Task
from constrained_dg.viz.page.recording import Recorder, candidates_of, kind_of, labels, tokens_of


class Puzzle:
    """A problem to solve.

    Attributes:
        opening: what the page shows before the first pass; None where no drafts are wanted.

    Raises:
        InputError: not a problem of the task, an unknown sampler, or one that the task has no rules for.
    """

    def __init__(self, run: Run, text: str, sampler: str | None, drafts: bool) -> None:
        task = run.task
        self.problem: Problem = task.parse_sent(text)
        self.sampler: Sampler = named(sampler or run.samplers[0])
        check_sampler(task, self.sampler)
        self.opening: dict[str, Any] | None = None
        if drafts:
            start = Recorder(task, task.encode([self.problem]), None)
            drawn = {"kind": kind_of(self.sampler), "picture": task.picture(self.problem)}
            self.opening = {"tier": self.problem.tier, "text": self.problem.text, **drawn, **as_opening(task, start)}


class Puzzles:
    """Solves problems as `evaluation.solve` does: equal problems, samplers and seeds give equal answers."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model: Any = run.model  # a Denoiser whose attributes have narrower types
        self.device = next(run.model.parameters()).device

    def key(self, work: Puzzle) -> tuple[object, ...]:
        return (id(self), work.sampler.name, *self.run.task.shape_of(work.problem))

    @staticmethod
    def seed(seed: int) -> int:
        """The seed of the only row of a call with this seed."""
        return int(rng.row_seeds(seed, 1)[0])

    def answer(self, jobs: Sequence[Job], **options: Any) -> list[Result]:
        """See `Kind`. Each result holds what `Recorder.verdict` says, with drafts also `Recorder.ending`."""
        task, problems, sampler = self.run.task, [job.work.problem for job in jobs], jobs[0].work.sampler
        batch, rules = task.encode(problems).to(self.device), task.constraint(problems).to(self.device)
        copies = candidates_of(sampler)
        recorders = []
        for row in range(len(jobs)):
            of_row = rules if rules.rows == 1 else rules.select(torch.tensor([row]))
            recorders.append(Recorder(task, batch, of_row, row, row * copies))
        followed = [pair for pair in zip(jobs, recorders, strict=True) if pair[0].work.opening is not None]

        def on_step(record: StepRecord) -> None:
            for job, recorder in followed:
                if not job.gone and (seen := recorder.see(record)) is not None:
                    job.tell(as_draft(task, seen, task.decode(job.work.problem, recorder.best)))

        seeds = torch.tensor([job.seed for job in jobs])
        listener = on_step if followed else None
        outcomes = solve_batch(self.model, task, sampler, problems, batch, rules, seeds, on_step=listener, **options)
        results = []
        for job, recorder, outcome in zip(jobs, recorders, outcomes, strict=True):
            values = recorder.verdict(outcome)
            if job.work.opening is not None:
                by = recorder.author(outcome.status, outcome.tokens, "complete" in sampler.rule_uses, copies)
                values |= as_ending(task, recorder, outcome.tokens, by)
            tokens = round(outcome.tokens_per_pass * outcome.passes)
            results.append(Result(values, outcome.status, outcome.passes, tokens))
        return results


def as_opening(task: Task, recorder: Recorder) -> dict[str, Any]:
    """What is given, with the texts of its tokens as "labels"."""
    opening = recorder.opening()
    return opening | {"labels": labels(task, tokens_of(opening))}


def as_draft(task: Task, seen: dict[str, Any], text: str) -> Draft:
    """A pass that a recorder saw as an event: with the "text" of its best answer and "labels"."""
    return Draft(seen | {"text": text, "labels": labels(task, tokens_of(seen))})


def as_ending(task: Task, recorder: Recorder, tokens: torch.Tensor, by: str) -> dict[str, Any]:
    """What the page needs of an answer (T) beside its verdict."""
    ending = recorder.ending(tokens, by)
    return ending | {"labels": labels(task, tokens_of(ending))}
