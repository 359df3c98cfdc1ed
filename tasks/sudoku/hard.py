"""Hard minimal puzzles: a local search that starts from random ones.

The rating of a puzzle is the number of guesses of `solver.search` until it has proved that there is one solution: naked
and hidden singles, then a guess in a cell with the fewest candidates. The whole tree is searched, so the order of the
values does not matter; only the choice between cells with equally many candidates does, which random orders of the
cells average out. Random minimal 9x9 puzzles need 3 guesses, these more than 100 (medians).

A family starts from several independent random puzzles. Each climbs by small changes, and the easier half is dropped
after each round; a walk around the last one then collects the hardest puzzles that it meets, at most 4 of a solution
grid. The two changes are long known from public searches for hard and 17-clue puzzles:

- add 1 to 3 clues of the solution, then remove clues in random order while the solution stays unique;
- remove 1 or 2 clues, list all solutions, then add clues of another one until it is the only one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from constrained_dg.errors import check

from .canonical import canonical
from .climbing import SAME_GRID, effort, family, minimise
from .codec import BOX, from_text, size_of
from .generator import TRAINING, Generated
from .solver import solve, units
from .symmetry import fingerprint

#: Orders of the cells that a rating is the mean of. The search itself has `_CLIMB` others: its luck does not count.
ORDERS = {9: 16, 16: 2}
_CLIMB = 4
#: Most guesses of one run of the solver in a rating; more count as this many.
MOST_GUESSES = {9: 100_000, 16: 20_000}


@dataclass(frozen=True)
class Plan:
    """How much work a family is.

    Attributes:
        starts: independent starts, a power of 2.
        digs: random puzzles for each, of which the hardest is taken.
        steps: of each start in the first round; twice as many after each halving.
        walk: steps of the last one.
        found: most puzzles of a family.
        least: puzzles with a lower rating are dropped.
    """

    starts: int
    digs: int
    steps: int
    walk: int
    found: int
    least: int


#: Sizes whose puzzles ship.
SHIPPED = (9, 16)
PLANS = {9: Plan(8, 20, 40, 400, 8, 40), 16: Plan(1, 1, 0, 10, 4, 1000)}


@lru_cache
def cell_orders(size: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` random orders of the cells, (K, N) int64, and the `units` of cells in each of these orders."""
    of, members = units(size)
    generator = np.random.default_rng((seed, size))
    orders = np.stack([generator.permutation(size * size) for _ in range(count)])
    return orders, of[orders], np.argsort(orders, axis=1)[:, members]


def make_family(size: int, seed: int, index: int) -> np.ndarray:
    """The puzzles of one family, (K, N) int64; K is 0 to `Plan.found`. A pure function of its arguments."""
    plan = PLANS[size]
    found = np.zeros((plan.found, size * size), np.int64)
    runs = cell_orders(size, _CLIMB, 2)
    family(*units(size), runs, seed, index, plan.starts, plan.digs, plan.steps, plan.walk, TRAINING, found)
    return found[found.any(axis=1)]


def rating(cells: Sequence[int]) -> float:
    """Mean number of guesses to prove that a 9x9 or 16x16 puzzle has one solution; see the top of this module.

    Raises:
        InputError: 4x4, or another number of solutions.
    """
    size = size_of(len(cells))
    check(size in PLANS, f"a rating of a {size}x{size} puzzle", "rate 9x9 or 16x16 puzzles")
    guesses = effort(np.array(cells, np.int64), *cell_orders(size, ORDERS[size], 1), MOST_GUESSES[size])
    check(guesses >= 0, "a rating of a puzzle without a unique solution", "count its solutions first")
    return guesses / ORDERS[size]


def _shape(cells: Sequence[int]) -> Hashable:
    """Equal for all symmetric versions of a puzzle; 16x16: its clue counts, so puzzles that differ may agree."""
    size = size_of(len(cells))
    if size < 16:
        return canonical(cells)
    grid = np.array(cells).reshape(size, size)
    lines = sorted(tuple(sorted((grid > 0).sum(axis=axis).tolist())) for axis in (0, 1))
    return *lines, tuple(sorted(np.bincount(grid.ravel(), minlength=size + 1)[1:].tolist()))


def select(size: int, families: Iterable[np.ndarray]) -> list[tuple[float, tuple[int, ...], tuple[int, ...]]]:
    """Rating, puzzle and solution of the puzzles of families that are kept, hardest first.

    At least `Plan.least` hard, no two equal up to symmetry, at most `SAME_GRID` of a class of solution grids.
    """
    kept: dict[Hashable, tuple[float, tuple[int, ...], tuple[int, ...]]] = {}
    classes: Counter[int] = Counter()
    for cells in (cells for found in families for cells in found):
        minimise(cells, *units(size), MOST_GUESSES[size], np.arange(size * size))
        puzzle, hard, shape = tuple(cells.tolist()), rating(cells), _shape(cells.tolist())
        solution, _, _ = solve(puzzle)
        assert solution is not None
        mark = int(fingerprint(np.array(solution), BOX[size]))
        if hard >= PLANS[size].least and shape not in kept and classes[mark] < SAME_GRID:
            kept[shape] = hard, puzzle, solution
            classes[mark] += 1
    return sorted(kept.values(), key=lambda one: (-one[0], one[1]))


@lru_cache
def hard_puzzles(size: int) -> Generated:
    """The hard puzzles of a size of `SHIPPED`, hardest first; experiments/sudoku/hard_base makes the file."""
    lines = Path(__file__).with_name(f"hard_{size}x{size}.csv").read_text("ascii").split()[1:]
    cells = np.array([[from_text(part) for part in line.split(",")] for line in lines], np.uint8)
    return Generated(cells[:, 0], cells[:, 1])
