"""Solve problems in batches, and say how well with intervals."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from constrained_dg import rng
from constrained_dg.errors import check
from constrained_dg.intervals import mean_interval, wilson
from constrained_dg.sampling.base import Denoiser, Sampler, Status, StepRecord
from constrained_dg.shapes import IntTensor
from constrained_dg.task import Problem, Task

#: The metrics that every row has; a task may add others (`Task.measure`).
METRICS = ("violations", "passes", "passes_of_solved", "search_nodes", "unsatisfiable")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a sampler made of one problem.

    Attributes:
        answer: `tokens` as text.
        tokens: (T) int64, on the CPU.
        seed: of the row; its random draws follow from it alone.
        violations: positions that take part in a broken rule.
        tokens_per_pass: free tokens over passes; 0 where no pass was made.
        seconds: wall time of its batch, divided by the rows of the batch.
    """

    problem: Problem
    answer: str
    tokens: IntTensor
    status: Status
    seed: int
    violations: int
    passes: int
    tokens_per_pass: float
    search_nodes: int
    seconds: float

    @property
    def solved(self) -> bool:
        return self.status is Status.SOLVED


def solve(
    model: Denoiser | None,
    task: Task,
    sampler: Sampler,
    problems: Sequence[Problem],
    *,
    batch_size: int,
    seed: int,
    seeds: Sequence[int] | None = None,
    max_passes: int | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[Sequence[Outcome]], None] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> list[Outcome]:
    """Solve problems in batches of equal shape; the outcomes come in the order of the problems.

    The seed of a row depends on `seed` and the index of its problem alone, so neither the batch size nor the sampler
    changes it: samplers are compared on equal draws.

    Args:
        model: on `device`; None for a sampler that needs none.
        seed: not negative.
        seeds: one for each problem, instead of those that follow from `seed`.
        max_passes: instead of the sampler's own.
        progress: called after each batch with its outcomes.
        on_step: called with the record of every pass; its rows count within the batch.

    Raises:
        InputError: a batch size below 1, or what the sampler refuses.
    """
    check(batch_size >= 1, f"batch_size is {batch_size}", "give 1 or more")
    check_sampler(task, sampler)
    check(seeds is None or len(seeds) == len(problems), "seeds and problems differ in number", "give one for each")
    seeds = rng.row_seeds(seed, len(problems)) if seeds is None else torch.tensor(seeds)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, problem in enumerate(problems):
        groups.setdefault(task.shape_of(problem), []).append(index)
    outcomes: list[Outcome | None] = [None] * len(problems)
    for group in groups.values():
        for first in range(0, len(group), batch_size):
            indices = group[first : first + batch_size]
            chosen = [problems[index] for index in indices]
            made = _solve_batch(model, task, sampler, chosen, seeds[indices], max_passes, device, on_step)
            for index, outcome in zip(indices, made, strict=True):
                outcomes[index] = outcome
            if progress is not None:
                progress(made)
    return outcomes


def check_sampler(task: Task, sampler: Sampler) -> None:
    """Raise InputError where a sampler would read what its task only compares answers with."""
    if not task.compares:
        return
    reads = [name for name in ("reads_rules", "judge_stop", "complete") if getattr(sampler, name, None)]
    several = hasattr(sampler, "sampler")  # which asks the judge whether another is needed
    what = ", ".join(reads) or "the judge"
    check(
        not reads and not several,
        f"sampler {sampler.name!r} reads the rules ({what}), but task {task.name!r} has none",
        "use plain: its answers are compared with references",
    )


def _solve_batch(
    model: Denoiser | None,
    task: Task,
    sampler: Sampler,
    problems: Sequence[Problem],
    seeds: IntTensor,
    max_passes: int | None,
    device: torch.device | str,
    on_step: Callable[[StepRecord], None] | None,
) -> list[Outcome]:
    begun = time.perf_counter()
    batch, constraint = task.encode(problems).to(device), task.constraint(problems).to(device)
    ends = {"eos": task.ends, "pad": task.padding_id, "canvas_length": task.canvas_length} if task.ends else {}
    # What is only compared with is not handed to a sampler.
    rules = None if task.compares else constraint
    if getattr(sampler, "uses_symmetry", False):
        ends["symmetric"] = task.symmetric
    made = sampler.run(model, batch, rules, seeds.to(device), max_passes=max_passes, on_step=on_step, **ends)
    tokens = made.tokens.cpu()  # waits for the device, so it belongs to the time
    seconds = (time.perf_counter() - begun) / len(problems)
    status = made.status
    if task.compares:
        status = [Status.SOLVED if same else Status.UNSOLVED for same in constraint.is_satisfied(made.tokens).tolist()]
    columns = (
        status,
        made.seeds.tolist(),
        constraint.violations(made.tokens).sum(-1).tolist(),
        made.passes.tolist(),
        made.tokens_per_pass.tolist(),
        made.search_nodes.tolist(),
    )
    rows = zip(problems, tokens, *columns, strict=True)
    return [Outcome(p, task.decode(p, answer), answer, *values, seconds=seconds) for p, answer, *values in rows]


def tiers_of(outcomes: Sequence[Outcome]) -> list[str]:
    """The tiers, numbers in them read as numbers ("9" before "17"), names after numbers."""
    return sorted(dict.fromkeys(outcome.problem.tier for outcome in outcomes), key=_natural)


def _natural(tier: str) -> list[tuple[int, int, str]]:
    parts = [part for part in re.split(r"(\d+)", tier) if part]
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def summarise(
    sampler: str, outcomes: Sequence[Outcome], task: Task | None = None, model: Denoiser | None = None
) -> list[dict[str, Any]]:
    """One row of plain values for each tier, and one for all: see `_row`; a task adds metrics of its own."""
    tiers = {tier: [o for o in outcomes if o.problem.tier == tier] for tier in tiers_of(outcomes)}
    rows = []
    for tier, chosen in [*tiers.items(), ("all", list(outcomes))]:
        if chosen:
            rows.append(_row(sampler, tier, chosen))
            rows[-1]["metrics"] |= {} if task is None else task.measure(chosen, model)
    return rows


def _row(sampler: str, tier: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The row of a tier.

    "solved" is a share with Wilson's interval. "tokens_per_pass" is all free tokens over all passes, 0 without a pass.
    "seconds" is wall time for one problem, and "most_seconds" that of the slowest batch for each of its problems. Means
    among the metrics stand with the normal interval and are left out for fewer than two values, which have none.
    """
    n, passes = len(outcomes), sum(o.passes for o in outcomes)
    solved = [o for o in outcomes if o.solved]
    unsatisfiable = sum(o.status is Status.UNSATISFIABLE for o in outcomes)
    means = {
        "violations": [o.violations for o in outcomes],
        "passes": [o.passes for o in outcomes],
        "passes_of_solved": [o.passes for o in solved],
        "search_nodes": [o.search_nodes for o in outcomes],
    }
    metrics = {
        name: {"value": sum(values) / len(values), "n": len(values), "ci95": list(mean_interval(values))}
        for name, values in means.items()
        if len(values) >= 2
    }
    metrics["unsatisfiable"] = {"value": unsatisfiable / n, "n": n, "ci95": list(wilson(unsatisfiable, n))}
    return {
        "sampler": sampler,
        "tier": tier,
        "n": n,
        "solved": len(solved) / n,
        "ci95": list(wilson(len(solved), n)),
        "mean_passes": passes / n,
        "tokens_per_pass": sum(o.tokens_per_pass * o.passes for o in outcomes) / passes if passes else 0.0,
        "seconds": sum(o.seconds for o in outcomes) / n,
        "most_seconds": max(o.seconds for o in outcomes),
        "metrics": metrics,
    }
