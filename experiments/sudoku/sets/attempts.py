"""What single attempts of `elimination` end by: where they lose the answer, and how long they go on after that.

    python -m experiments.sudoku.sets.attempts run=RUN data=FILE out=FILE.json

Other keys: tier=hardest_1905_11plus (of the file), limit=100 (puzzles), seeds=2 (attempts at
each puzzle).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.errors import check
from constrained_dg.evaluation import solve
from constrained_dg.files import write_whole
from constrained_dg.intervals import mean, share
from constrained_dg.report import new_header
from constrained_dg.runs import load
from constrained_dg.sampling import StepRecord
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.sudoku import solve as solve_puzzle

KEYS: dict[str, Any] = {"run": None, "data": None, "out": None, "tier": "hardest_1905_11plus", "limit": 100, "seeds": 2}
#: Passes that get a row of their own.
SHOWN = 8


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments, KEYS)
    torch.set_num_threads(1)
    run, sampler = load(given["run"]), load_sampler("elimination")
    problems = [each for each in run.task.read(given["data"]) if each.tier == given["tier"]][: given["limit"]]
    check(bool(problems), f"{given['data']} has no tier {given['tier']!r}", "give another tier")
    batch = run.task.encode([replace(each, solution=solve_puzzle(each.cells)[0]) for each in problems])
    lost_at, solved, passes, after = Counter(), 0, 0, []
    for seed in range(given["seeds"]):
        lost: dict[int, int] = {}

        def look(record: StepRecord, lost: dict[int, int] = lost) -> None:
            holds = record.sets.gather(2, (batch.answer[record.rows] - batch.noise[0])[..., None])[..., 0]
            for row, kept in zip(
                record.rows.tolist(), (holds | batch.pinned[record.rows]).all(-1).tolist(), strict=True
            ):
                if not kept:
                    lost.setdefault(row, record.pass_index + 1)

        outcomes = solve(
            run.model, run.task, sampler, problems, batch_size=len(problems), seed=seed, on_step=look
        )  # one batch, so that rows of records are puzzles
        solved += sum(outcome.solved for outcome in outcomes)
        passes += sum(outcome.passes for outcome in outcomes)
        unsolved = [row for row, outcome in enumerate(outcomes) if not outcome.solved and row in lost]
        lost_at.update(lost[row] for row in unsolved)
        after += [outcomes[row].passes - lost[row] for row in unsolved]
    attempts = len(problems) * given["seeds"]
    report = {
        "solved": share(solved, attempts),
        "passes of an attempt": passes / attempts,
        "passes for a solution": passes / solved if solved else None,
        "passes after the answer was lost": mean(after) if len(after) > 1 else None,
        "lost by the pass": {str(at): share(lost_at[at], attempts) for at in sorted(lost_at) if at <= SHOWN},
    }
    header = new_header(ROOT, 0, "cpu", **{key: given[key] for key in KEYS if key != "out"})
    write_whole(Path(given["out"]), json.dumps({"header": header, **report}) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    command(main)
