"""Makes the hard puzzles that ship in tasks/sudoku, and compares: python -m experiments.sudoku.hard_base.make size=9

The file goes to OUT (out=FOLDER, else the current folder); the command ends with an error where it is not the shipped
one, byte for byte. workers=2 makes two families at a time, with the same result.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from constrained_dg.errors import check
from experiments.arguments import parse, run
from tasks.sudoku import hard
from tasks.sudoku.codec import to_text

log = logging.getLogger(__name__)

SEED = 0
#: Families of each size that ship.
FAMILIES = {9: 256, 16: 150}


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, {"size": 9, "out": ".", "workers": 1})
    size = options["size"]
    check(size in FAMILIES, f"size={size}", "give 9 or 16")
    check(options["workers"] > 0, "workers=0", "give 1 or more")
    families, count = [], FAMILIES[size]
    with multiprocessing.Pool(options["workers"]) as workers:
        for family in workers.imap(partial(hard.make_family, size, SEED), range(count)):
            families.append(family)
            if len(families) % 10 == 0:
                log.info("%d of %d families, %d puzzles", len(families), count, sum(map(len, families)))
    rows = [f"{to_text(puzzle)},{to_text(solution)}\n" for _, puzzle, solution in hard.select(size, families)]
    name = f"hard_{size}x{size}.csv"
    (Path(options["out"]) / name).write_text("puzzle,solution\n" + "".join(rows), "ascii")
    shipped = Path(hard.__file__).with_name(name).read_text("ascii")
    check("".join(["puzzle,solution\n", *rows]) == shipped, f"{name} is not the shipped one", "compare the two files")
    print(f"{len(rows)} puzzles, the shipped ones")


if __name__ == "__main__":
    run(main)
