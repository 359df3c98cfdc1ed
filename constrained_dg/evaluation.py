"""Solve problems in batches, and compute solve rates with intervals."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check
from constrained_dg.intervals import mean, share
from constrained_dg.ranks import Ranks
from constrained_dg.sampling.autoregressive import Autoregressive
from constrained_dg.sampling.base import Denoiser, Status, StepRecord
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.shapes import IntTensor
from constrained_dg.task import Batch, Problem, Task

#: One process.
ALONE = Ranks()
#: The metrics that every row of a report has; a task may add others (`Task.measure`).
COMMON_METRICS = ("violations", "passes", "passes_of_solved", "search_nodes", "unsatisfiable")


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a sampler answered one problem.

    Attributes:
        answer: `tokens` as text.
        tokens: (T) int64, on the CPU.
        seed: of the row; its random draws follow from it alone.
        violations: positions that take part in a broken rule.
        tokens_per_pass: free tokens over passes; 0 without a pass.
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
    ranks: Ranks = ALONE,
) -> list[Outcome]:
    """Solve problems in batches of equal shape; the outcomes come in the order of the problems.

    The seed of a row depends on `seed` and the index of its problem alone, so neither the batch size nor the sampler
    changes it: samplers are compared on equal draws.

    Args:
        model: on `device`; None for a sampler that needs none.
        seed: not negative.
        seeds: one for each problem, instead of those that follow from `seed`.
        max_passes: overrides the sampler's.
        progress: called after each batch with its outcomes.
        on_step: called with the record of every pass; its rows count within the batch.
        ranks: the processes that share the batches; all must call, with equal arguments. The batches are the same for
            any number of them, so the outcomes are, but for `seconds`.

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
    outcomes: dict[int, Outcome] = {}
    batches = [group[at : at + batch_size] for group in groups.values() for at in range(0, len(group), batch_size)]
    for number, indices in enumerate(batches):
        if not ranks.takes(number):
            continue
        chosen = [problems[index] for index in indices]
        begun = time.perf_counter()
        batch, constraint = task.encode(chosen).to(device), task.constraint(chosen).to(device)
        solved = solve_batch(
            model, task, sampler, chosen, batch, constraint, seeds[indices], max_passes, on_step, begun
        )
        outcomes |= zip(indices, solved, strict=True)
        if progress is not None:
            progress(solved)
    own = set(outcomes)
    outcomes = ranks.gathered(outcomes)
    if progress is not None and len(own) < len(outcomes):
        progress([outcome for index, outcome in outcomes.items() if index not in own])
    return [outcomes[index] for index in range(len(problems))]


def check_sampler(task: Task, sampler: Sampler) -> None:
    """Raise InputError if a sampler would read reference answers as rules, or needs what the task has not."""
    name = f"sampler {sampler.name!r}"
    check(
        not (task.compares and sampler.rule_uses),
        f"{name} reads the rules ({', '.join(sampler.rule_uses)}), but task {task.name!r} has none",
        "use plain: its answers are compared with references",
    )
    moves = type(task).symmetric is not Task.symmetric
    check(moves or not sampler.uses_symmetry, f"{name} was given no symmetries: {task.name!r} has none", "use restarts")
    reads = task.max_prompt >= 2 or not isinstance(sampler, Autoregressive)
    check(reads, f"{name} needs a prompt: problems of this {task.name!r} stand in the canvas alone", "use plain")
    seen = task.vision is not None
    check(seen or not sampler.uses_pictures, f"{name} without pictures: {task.name!r} has none", "use plain")


def solve_batch(
    model: Denoiser | None,
    task: Task,
    sampler: Sampler,
    problems: Sequence[Problem],
    batch: Batch,
    constraint: Constraint,
    seeds: IntTensor,
    max_passes: int | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    begun: float | None = None,
    **options: Any,
) -> list[Outcome]:
    """Solve problems of equal shape that are encoded already; see `solve`.

    Args:
        batch, constraint: from `Task.encode` and `Task.constraint`, on the model's device.
        seeds: (B) int64, one for each problem.
        begun: `time.perf_counter()` from which the time of the batch is counted; by default now.
        options: further ones of the sampler, see `sampling.options.Options`.
    """
    begun = time.perf_counter() if begun is None else begun
    options |= {"max_passes": max_passes, "on_step": on_step}
    if task.ends:
        options |= {"eos": task.ends, "pad": task.padding_id, "canvas_length": task.canvas_length}
    # Reference answers are not shown to a sampler.
    rules = None if task.compares else constraint
    if sampler.uses_symmetry:
        options["symmetric"] = task.symmetric
    generation = sampler.run(model, batch, rules, seeds.to(batch.answer.device), **options)
    tokens = generation.tokens.cpu()  # waits for the device, so it belongs to the time
    seconds = (time.perf_counter() - begun) / len(problems)
    status = generation.status
    if task.compares:
        status = [
            Status.SOLVED if same else Status.UNSOLVED for same in constraint.is_satisfied(generation.tokens).tolist()
        ]
    agrees = task.agrees(problems, tokens).tolist()
    status = [
        Status.UNSOLVED if each is Status.SOLVED and not good else each
        for each, good in zip(status, agrees, strict=True)
    ]
    columns: list[list[Any]] = [
        status,
        generation.seeds.tolist(),
        constraint.violations(generation.tokens).sum(-1).tolist(),
        generation.passes.tolist(),
        generation.tokens_per_pass.tolist(),
        generation.search_nodes.tolist(),
        [seconds] * len(problems),
    ]
    rows = zip(problems, tokens, *columns, strict=True)
    return [Outcome(p, task.decode(p, answer), answer, *values) for p, answer, *values in rows]


def tiers_of(outcomes: Sequence[Outcome]) -> list[str]:
    """The tiers, numbers in them read as numbers ("9" before "17"), names after numbers."""
    return sorted(dict.fromkeys(outcome.problem.tier for outcome in outcomes), key=_natural)


def _natural(tier: str) -> list[tuple[int, int, str]]:
    parts = [part for part in re.split(r"(\d+)", tier) if part]
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def summarise(
    sampler: str, outcomes: Sequence[Outcome], task: Task | None = None, model: Denoiser | None = None
) -> list[dict[str, Any]]:
    """One row of plain values for each tier, and one for all: see `_row`; a task may add metrics."""
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
    among the metrics have the normal interval and are left out for fewer than two values.
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
    metrics = {name: mean(values) for name, values in means.items() if len(values) >= 2}
    metrics["unsatisfiable"] = share(unsatisfiable, n)
    return {
        "sampler": sampler,
        "tier": tier,
        "n": n,
        "solved": len(solved) / n,
        "ci95": share(len(solved), n)["ci95"],
        "mean_passes": passes / n,
        "tokens_per_pass": sum(o.tokens_per_pass * o.passes for o in outcomes) / passes if passes else 0.0,
        "seconds": sum(o.seconds for o in outcomes) / n,
        "most_seconds": max(o.seconds for o in outcomes),
        "metrics": metrics,
    }
