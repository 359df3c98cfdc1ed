"""Problems of the run's task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint
from constrained_dg.evaluation import check_sampler, solve_batch
from constrained_dg.runs import Run
from constrained_dg.sampling import named
from constrained_dg.sampling.base import Status, StepRecord
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.serving.jobs import Job, Result
from constrained_dg.task import Problem
from constrained_dg.viz.trace import Follower, Frame, pass_json


class Puzzle:
    """A problem to solve.

    Raises:
        InputError: not a problem of the task, an unknown sampler, or one that the task has no rules for.
    """

    def __init__(self, run: Run, text: str, sampler: str | None, drafts: bool) -> None:
        self.problem: Problem = run.task.parse(text)
        self.sampler: Sampler = named(sampler or run.samplers[0])
        self.drafts = drafts
        check_sampler(run.task, self.sampler)


class Puzzles:
    """Solves problems as `evaluation.solve` does: equal problems, samplers and seeds give equal answers."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model: Any = run.model  # a Denoiser whose attributes have narrower types
        self.device = next(run.model.parameters()).device

    def key(self, work: Puzzle) -> tuple[object, ...]:
        return ("puzzle", work.sampler.name, *self.run.task.shape_of(work.problem))

    @staticmethod
    def seed(seed: int) -> int:
        """The seed of the only row of a call with this seed."""
        return int(rng.row_seeds(seed, 1)[0])

    def answer(self, jobs: Sequence[Job], **options: Any) -> list[Result]:
        """See `Kind`. Each result holds status, answer, sentences of violations, passes and search nodes."""
        task, problems = self.run.task, [job.work.problem for job in jobs]
        batch, rules = task.encode(problems).to(self.device), task.constraint(problems).to(self.device)
        of_rows = [rules if rules.rows == 1 else rules.select(torch.tensor([row])) for row in range(len(jobs))]
        followed = [
            (job, Follower(batch, row, of_rows[row], task.blank_id)) for row, job in enumerate(jobs) if job.work.drafts
        ]

        def on_step(record: StepRecord) -> None:
            for job, follower in followed:
                if not job.gone and (frame := follower.see(record)) is not None:
                    text = task.decode(job.work.problem, frame.shown)
                    job.tell(draft_json(frame, text, follower.rules, follower.answer))

        seeds = torch.tensor([job.seed for job in jobs])
        listener = on_step if followed else None
        sampler = jobs[0].work.sampler
        outcomes = solve_batch(self.model, task, sampler, problems, batch, rules, seeds, on_step=listener, **options)
        results = []
        for outcome, rule in zip(outcomes, of_rows, strict=True):
            proved = outcome.status is Status.UNSATISFIABLE
            values = {
                "status": str(outcome.status),
                "answer": None if proved else outcome.answer,
                "violations": [] if proved or outcome.solved else sentences(rule, outcome.tokens),
                "passes": outcome.passes,
                "tokens_per_pass": outcome.tokens_per_pass,
                "search_nodes": outcome.search_nodes,
            }
            tokens = round(outcome.tokens_per_pass * outcome.passes)
            results.append(Result(values, outcome.status, outcome.passes, tokens))
        return results


def sentences(rule: Constraint | None, answer: torch.Tensor) -> list[str]:
    """What an answer (T) breaks, in the rule's own sentences."""
    return [] if rule is None else rule.explain(answer[None])[0]


def draft_json(frame: Frame, text: str, rule: Constraint | None, answer: torch.Tensor) -> dict[str, Any]:
    """A pass as an event: `pass_json`, the entropy of each position in nats, the text, and what its best answer breaks.

    Args:
        text: of what is settled.
        answer: (T) int64, the best answer of the pass.
    """
    entropies = [round(value, 3) for value in frame.entropies.tolist()]
    broken = sentences(rule, answer) if bool(frame.violations.any()) else []
    return pass_json(frame) | {"entropy_nats": entropies, "text": text, "sentences": broken}
