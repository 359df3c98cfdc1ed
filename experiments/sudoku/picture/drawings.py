"""The same puzzle in every style, as it is drawn and as it is read.

python -m experiments.sudoku.picture.drawings out=FILE.png seed=2
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from constrained_dg.errors import check
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.sudoku.picture_task import SIDE
from tasks.sudoku.pictures import STYLES, draw
from tasks.sudoku.pictures.straighten import straightened
from tasks.sudoku.task import EXAMPLE

KEYS: dict[str, Any] = {"out": None, "seed": 0}


def main(arguments: Sequence[str]) -> None:
    """Write the picture: a column for each style. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    out = Path(given["out"])
    check(not out.exists(), f"{str(out)!r} is there already", "give a new file")
    cells = [0 if sign == "." else int(sign) for sign in EXAMPLE]
    drawn = [draw(cells, style, np.random.default_rng(given["seed"]), SIDE) for style in STYLES]
    rows = [drawn, [straightened(each, SIDE) for each in drawn]]
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(out)


if __name__ == "__main__":
    command(main)
