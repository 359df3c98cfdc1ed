"""How hard puzzles are: python -m experiments.sudoku.hard_base.measure data=DATA out=FILE

Ratings (`tasks.sudoku.hard.rating`) of random minimal puzzles, of the hard ones that ship, and of the files of
DATA/sudoku, each of which gives at most `limit` puzzles, evenly spread.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from constrained_dg.cli import ROOT
from constrained_dg.errors import check
from constrained_dg.report import new_header
from experiments.arguments import parse, run
from tasks.sudoku.files import read_puzzles
from tasks.sudoku.generator import MINIMAL, generate_puzzles
from tasks.sudoku.hard import SHIPPED, hard_puzzles, rating

SEED = 0
#: Random minimal puzzles of each size.
RANDOM = {9: 2000, 16: 20}


def row(name: str, puzzles: Sequence[Sequence[int]], limit: int) -> dict:
    """Median with its 95 % interval (from ranks: n / 2 -+ 0.98 sqrt(n)), quartiles and clues of at most `limit`."""
    taken = [puzzles[k] for k in np.linspace(0, len(puzzles) - 1, min(limit, len(puzzles))).round().astype(int)]
    ratings = sorted(map(rating, taken))
    n = len(ratings)
    low, high = max(0, int(n / 2 - 0.98 * n**0.5)), min(n - 1, int(n / 2 + 0.98 * n**0.5))
    quartiles = np.percentile(ratings, [25, 75]).round(1).tolist()
    found = {"value": round(float(np.median(ratings)), 1), "n": n, "ci95": [ratings[low], ratings[high]]}
    clues = round(float(np.mean([np.count_nonzero(cells) for cells in taken])), 1)
    made = {"set": name, "median": found, "quartiles": quartiles, "hardest": ratings[-1], "mean_clues": clues}
    print(made, flush=True)
    return made


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, {"data": None, "out": None, "limit": 1000})
    folder = Path(options["data"]) / "sudoku"
    check(folder.is_dir(), f"no folder {folder}", "give data=DATA, which has a folder sudoku")
    rows = []
    for size, count in RANDOM.items():
        random = generate_puzzles(size, np.full(count, MINIMAL), SEED).puzzles.tolist()
        rows.append(row(f"{size}x{size}: random minimal", random, count))
        if size in SHIPPED:
            ours = hard_puzzles(size).puzzles.tolist()
            rows.append(row(f"{size}x{size}: hard, ours", ours, len(ours)))
    for path in sorted([*folder.glob("train_*.csv.gz"), folder / "pkg_16x16.csv.gz"]):
        tiers = defaultdict(list)
        for puzzle in read_puzzles(str(path)):
            tiers[puzzle.tier if puzzle.size == 16 else ""].append(puzzle.cells)
        for tier, puzzles in sorted(tiers.items()):
            rows.append(row(f"{path.name.split('.')[0]} {tier}".strip(), puzzles, options["limit"]))
    header = new_header(ROOT, SEED, "cpu", limit=options["limit"])
    Path(options["out"]).write_text(json.dumps({"header": header, "rows": rows}, indent=1))


if __name__ == "__main__":
    run(main)
