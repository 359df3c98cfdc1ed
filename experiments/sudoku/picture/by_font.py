"""Which held-out fonts are read: pictures of the held-out style in one font each.

python -m experiments.sudoku.picture.by_font run=sudoku/picture n=40 seed=13 out=FILE.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg.cli import load_sampler
from constrained_dg.errors import check
from constrained_dg.evaluation import solve, summarise
from constrained_dg.runs import load
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.sudoku.picture_task import held_out_puzzles, pictured
from tasks.sudoku.pictures import HELD_OUT_FONTS, HELD_OUT_STYLES

KEYS: dict[str, Any] = {"run": None, "n": 40, "seed": 13, "sampler": "views", "out": None}


def main(arguments: Sequence[str]) -> None:
    """Write a row for each font and for all. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    out = Path(given["out"])
    check(not out.exists(), f"{str(out)!r} is there already", "give a new file")
    check(given["n"] >= 2, f"n={given['n']}", "give at least 2")
    torch.set_num_threads(1)
    run, sampler = load(given["run"]), load_sampler(given["sampler"])
    problems = []
    for number, font in enumerate(HELD_OUT_FONTS):
        draws = np.random.default_rng((given["seed"], number))
        puzzles = held_out_puzzles(font, given["n"], draws)
        problems += [pictured(puzzle, HELD_OUT_STYLES[0], draws, [font]) for puzzle in puzzles]
    ended = solve(run.model, run.task, sampler, problems, batch_size=40, seed=given["seed"])
    found = {
        "command": "python -m experiments.sudoku.picture.by_font " + " ".join(arguments),
        "date": time.strftime("%F"),
        "rows": summarise(sampler.name, ended, run.task, run.model),
    }
    out.write_text(json.dumps(found, indent=1) + "\n")
    for row in found["rows"]:
        print(row["tier"], row["n"], row["solved"], row["metrics"]["cells_read"], flush=True)


if __name__ == "__main__":
    command(main)
