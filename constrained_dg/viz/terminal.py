"""Problems settling in the terminal, pass by pass, and what the judge says of them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from constrained_dg.constraints.base import Constraint
from constrained_dg.evaluation import Outcome
from constrained_dg.sampling.base import Status
from constrained_dg.task import Batch, Problem, Task
from constrained_dg.viz import trace

#: Seconds that a pass stays in the terminal, and that all problems together may take.
FRAME, TOTAL = 0.4, 36.0
#: Frames that are printed one below the other without a terminal.
PRINTED = 6


@dataclass(frozen=True, eq=False)
class Settled:
    """A problem that was solved, with what is needed to show it; `batch` and `constraint` have one row."""

    problem: Problem
    outcome: Outcome
    frames: list[trace.Frame]
    batch: Batch
    constraint: Constraint


def show(task: Task, sampler: str, settled: Settled, count: int) -> None:
    """Show one of `count` problems: its frames in color at a pace that one can follow, then the verdict."""
    console = Console(highlight=False)
    console.print(f"\n{sampler} on {settled.problem.text}", soft_wrap=True, markup=False)
    _play(console, task, settled, max(4, int(TOTAL / FRAME / count)))
    console.print(Text.from_ansi(verdict(task, settled)), soft_wrap=True)


def _play(console: Console, task: Task, settled: Settled, most: int) -> None:
    """Show frames in one place of the terminal; without a terminal, print a few one below the other."""
    if not console.is_terminal:
        for frame in trace.chosen(settled.frames, PRINTED):
            console.print(trace.draw_frame(task, settled.problem, frame, color=False), markup=False)
        return
    with Live(console=console, auto_refresh=False) as live:
        for frame in trace.chosen(settled.frames, most):
            live.update(Text.from_ansi(trace.draw_frame(task, settled.problem, frame, color=True)), refresh=True)
            time.sleep(FRAME)


def verdict(task: Task, settled: Settled) -> str:
    """The answer where no frame shows it yet, what the judge says of it, and what it cost."""
    problem, outcome, constraint = settled.problem, settled.outcome, settled.constraint
    batch = settled.batch
    cost = f"passes {outcome.passes}, search branches {outcome.search_nodes}, {outcome.seconds:.2f} s"
    lines = [f"{outcome.status}: {cost}"]
    if outcome.status is Status.UNSATISFIABLE:
        given = torch.where(batch.pinned, batch.answer, task.blank_id)
        drawn = task.draw(problem, None, (constraint.violations(given) & batch.pinned)[0].cpu())
        return "\n".join([drawn, *lines, "proved: no answer agrees with what is given"])
    answer = outcome.tokens[None].to(batch.answer.device)
    if not settled.frames:
        lines.insert(0, task.draw(problem, outcome.tokens, constraint.violations(answer)[0].cpu()))
    remark = [sentence] if (sentence := task.remark(problem, outcome.tokens)) else []
    return "\n".join([*lines, *constraint.explain(answer)[0], *remark, outcome.answer])
