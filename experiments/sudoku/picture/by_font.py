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
from tasks.sudoku.codec import Puzzle
from tasks.sudoku.generator import HELD_OUT, generate_puzzles
from tasks.sudoku.picture_task import CLUES, SIZE, PicturedPuzzle
from tasks.sudoku.pictures import HELD_OUT_FONTS, HELD_OUT_STYLES, draw

KEYS: dict[str, Any] = {"run": None, "n": 40, "seed": 13, "out": None}


def pictures(font: str, n: int, draws: np.random.Generator) -> list[PicturedPuzzle]:
    """n held-out puzzles in one font; the tier is its name."""
    made = generate_puzzles(SIZE, draws.integers(CLUES[0], CLUES[1] + 1, n), int(draws.integers(2**62)), HELD_OUT)
    problems = []
    for cells, solution in zip(made.puzzles.tolist(), made.solutions.tolist(), strict=True):
        puzzle = Puzzle.of(cells, font, solution)
        pixels = draw(cells, HELD_OUT_STYLES[0], draws, fonts=[font])
        problems.append(PicturedPuzzle(font, puzzle.text, pixels, puzzle))
    return problems


def main(arguments: Sequence[str]) -> None:
    """Write a row for each font and for all. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    out = Path(given["out"])
    check(not out.exists(), f"{str(out)!r} is there already", "give a new file")
    check(given["n"] >= 2, f"n={given['n']}", "give at least 2")
    torch.set_num_threads(1)
    run = load(given["run"])
    problems = []
    for number, font in enumerate(HELD_OUT_FONTS):
        problems += pictures(font, given["n"], np.random.default_rng((given["seed"], number)))
    name = "one_pass_completed"
    ended = solve(run.model, run.task, load_sampler(name), problems, batch_size=40, seed=given["seed"])
    found = {
        "command": "python -m experiments.sudoku.picture.by_font " + " ".join(arguments),
        "date": time.strftime("%F"),
        "rows": summarise(name, ended, run.task, run.model),
    }
    out.write_text(json.dumps(found, indent=1) + "\n")
    for row in found["rows"]:
        print(row["tier"], row["n"], row["solved"], row["metrics"]["cells_read"], flush=True)


if __name__ == "__main__":
    command(main)
