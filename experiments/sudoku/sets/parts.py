"""What each part of the sampler `sets` contributes: the same model and puzzles with one part changed at a time.

    python -m experiments.sudoku.sets.parts run=RUN data=FILE out=FILE.json

Other keys: tier=hardest_1905_11plus (of the file), limit=100 (puzzles), passes=64. FILE is written after each part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.errors import check
from constrained_dg.evaluation import solve
from constrained_dg.files import write_whole
from constrained_dg.intervals import share
from constrained_dg.report import new_header
from constrained_dg.runs import load
from constrained_dg.sampling import sets
from experiments.arguments import parse
from experiments.arguments import run as command
from experiments.samplers.statistics import difference

KEYS: dict[str, Any] = {"run": None, "data": None, "out": None}
KEYS |= {"tier": "hardest_1905_11plus", "limit": 100, "passes": 64}
CARELESS = "no more careful after failures"
#: What is changed -> the sampler, and what is set in it.
PARTS = {
    "as it is": ("sets", []),
    "one pin a pass": ("sets", ["sampler.sets.pins=1"]),
    "two": ("sets", ["sampler.sets.pins=2"]),
    "eight": ("sets", ["sampler.sets.pins=8"]),
    "elimination below 0.002": ("sets", ["sampler.sets.below=0.002"]),
    "below 0.05": ("sets", ["sampler.sets.below=0.05"]),
    "no memory of first pins": ("sets", ["sampler.sets.fade=1"]),
    CARELESS: ("sets", []),
    "the model's word that there is no answer is not heard": ("sets", ["sampler.sets.conflict=1"]),
    "no symmetry": ("sets_restarts", []),
}
#: Numbers of passes that the table shows.
WITHIN = (16, 64, 256, 1024)
BATCH = 50


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments, KEYS)
    out = Path(given["out"])
    check(not out.exists(), f"{str(out)!r} is there already", "give a new file")
    torch.set_num_threads(1)
    run, passes = load(given["run"]), given["passes"]
    problems = [each for each in run.task.read(given["data"]) if each.tier == given["tier"]][: given["limit"]]
    check(bool(problems), f"{given['data']} has no tier {given['tier']!r}", "give another tier")
    header = new_header(ROOT, 0, "cpu", **{key: given[key] for key in KEYS if key != "out"})
    rows: list[dict[str, Any]] = []
    reference: dict[int, np.ndarray] = {}
    care = sets.CARE
    for part, (name, settings) in PARTS.items():
        sets.CARE = 0.0 if part == CARELESS else care
        sampler = load_sampler(name, [f"attempts={passes}", *settings])
        outcomes = solve(run.model, run.task, sampler, problems, batch_size=BATCH, seed=0, max_passes=passes)
        after = np.array([[each.passes if each.solved else np.inf] for each in outcomes])
        within = {p: after <= p for p in WITHIN if p <= passes}
        reference = reference or within
        row = {"part": part, "solved_after": [None if a == np.inf else int(a) for a in after[:, 0]]}
        row |= {"solved_within": {str(p): share(int(each.sum()), len(each)) for p, each in within.items()}}
        row |= {"difference": {str(p): difference(each, reference[p]) for p, each in within.items()}}
        rows.append(row)
        write_whole(out, json.dumps({"header": header, "rows": rows}) + "\n")
        print(markdown(row), flush=True)


def markdown(row: dict[str, Any]) -> str:
    """Solved within so many passes, % (95 % interval), and the paired difference to the sampler as it is."""
    cells = []
    for p, each in row["solved_within"].items():
        low, high = each["ci95"]
        value, least, most = row["difference"][p]
        cells.append(f"{100 * each['value']:.0f} ({100 * low:.0f}-{100 * high:.0f})")
        cells.append(f"{100 * value:+.0f} ({100 * least:.0f} to {100 * most:.0f})")
    return f"| {row['part']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    command(main)
