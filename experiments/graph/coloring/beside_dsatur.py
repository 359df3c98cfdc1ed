"""The model alone beside DSATUR, on held-out graphs of 33 to 64 nodes: solve rate against passes, paired differences.

    python -m experiments.graph.coloring.beside_dsatur run=RUN sampler=cold passes=1024 out=FILE.json

Other keys: limit=300 (graphs), seed=5 (of the graphs), attempt=0 (most passes of one attempt, 0: those of the
sampler), untrained=false (control). A graph counts as solved within p passes if the judge accepted an answer of its
first p passes, with the fewest colors that a short tabu search finds. The passes come in blocks of 64 with a seed each,
as if one block followed the other; those after the first are one batch, which is twice as fast as one by one.
Finished graphs are saved every minute, so the same command continues an interrupted run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.errors import check
from constrained_dg.evaluation import solve
from constrained_dg.files import write_whole
from constrained_dg.intervals import percentile_mean, share
from constrained_dg.model import Backbone
from constrained_dg.report import new_header
from constrained_dg.rng import row_seeds
from constrained_dg.runs import load
from constrained_dg.sampling import Sampler
from constrained_dg.task import Task
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.graph.coloring import SIZES, dsatur

KEYS: dict[str, Any] = {"run": None, "out": None, "sampler": "cold", "passes": 1024, "limit": 300, "seed": 5}
KEYS |= {"attempt": 0, "untrained": False}
#: Numbers of passes that the summary shows.
WITHIN = (64, 256, 1024)
#: Passes of a block.
BLOCK = 64


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments, KEYS)
    torch.set_num_threads(1)
    run, out, passes = load(given["run"]), Path(given["out"]), given["passes"]
    model = run.model
    if given["untrained"]:
        model = Backbone(model.config).init_weights(torch.Generator().manual_seed(0)).eval()
    shorter = [f"sampler.max_passes={given['attempt']}"] if given["attempt"] else []
    check(passes % BLOCK == 0, f"passes={passes}", f"use a multiple of {BLOCK}")
    sampler = load_sampler(given["sampler"], [f"attempts={BLOCK}", *shorter])
    problems = [each for each in run.task.held_out(given["limit"], given["seed"]) if each.graph.nodes >= SIZES[1][0]]
    seeds = row_seeds(given["seed"], len(problems) * (passes // BLOCK)).view(len(problems), -1).tolist()
    found: dict[str, int | None] = json.loads(out.read_text())["solved_after"] if out.exists() else {}
    saved = time.monotonic()
    for at, problem in enumerate(problems):
        if str(at) in found:
            continue
        found[str(at)] = solved_after(model, run.task, sampler, problem, seeds[at])
        if time.monotonic() - saved > 60 or at + 1 == len(problems):
            saved = time.monotonic()
            write_whole(out, json.dumps({"solved_after": found}) + "\n")
            solved = sum(each is not None for each in found.values())
            print(f"{given['sampler']}: {solved} of {len(found)}", file=sys.stderr, flush=True)
    reached = np.array([dsatur(problem.graph) <= problem.k for problem in problems], float)
    rows: dict[str, Any] = {"dsatur": share(int(reached.sum()), len(reached))}
    for within in (each for each in WITHIN if each <= passes):
        solved = np.array([(after := found[str(at)]) is not None and after <= within for at in range(len(problems))])
        rows[f"within {within}"] = share(int(solved.sum()), len(solved))
        difference = solved - reached
        low, high = percentile_mean(difference)
        rows[f"within {within}, minus DSATUR"] = {"value": float(difference.mean()), "low": low, "high": high}
    header = new_header(ROOT, given["seed"], "cpu", **{key: given[key] for key in KEYS if key not in ("out", "seed")})
    write_whole(out, json.dumps({"header": header, "rows": rows, "solved_after": found}, indent=0) + "\n")
    for name, row in rows.items():
        print(f"{name}: {row}")


def solved_after(model: Backbone, task: Task, sampler: Sampler, problem: Any, seeds: Sequence[int]) -> int | None:
    """The passes after which a problem is solved, in blocks of BLOCK with these seeds, or None."""
    for first, block_seeds in ((0, seeds[:1]), (1, seeds[1:])):
        many = len(block_seeds)
        outcomes = solve(
            model, task, sampler, [problem] * many, batch_size=max(many, 1), seed=0, seeds=block_seeds, max_passes=BLOCK
        )
        for at, outcome in enumerate(outcomes):
            if outcome.solved:
                return (first + at) * BLOCK + outcome.passes
    return None


if __name__ == "__main__":
    command(main)
