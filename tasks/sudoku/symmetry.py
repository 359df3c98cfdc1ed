"""Symmetries of Sudoku: relabelling, permutations of and within bands and stacks, transposition."""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled, mix

from .codec import BOX


def random_symmetry(generator: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` symmetries, uniform over the group.

    Returns:
        order: (count, size * size) int64; the new cell i is the old cell order[i].
        relabel: (count, size + 1) int64; the new value of v is relabel[v]; blanks stay blank.
    """
    box = BOX[size]

    def lines() -> np.ndarray:
        bands = generator.random((count, box)).argsort(axis=1)
        within = generator.random((count, box, box)).argsort(axis=2)
        return (bands[:, :, None] * box + within).reshape(count, size)

    rows, columns = lines()[:, :, None], lines()[:, None, :]
    transposed = generator.random((count, 1, 1)) < 0.5
    order = np.where(transposed, columns * size + rows, rows * size + columns).reshape(count, size * size)
    relabel = np.zeros((count, size + 1), dtype=np.int64)
    relabel[:, 1:] = generator.random((count, size)).argsort(axis=1) + 1
    return order, relabel


def apply_symmetry(cells: np.ndarray, order: np.ndarray, relabel: np.ndarray) -> np.ndarray:
    """Apply one symmetry to each row: (B, N) values -> (B, N) int64."""
    moved = np.take_along_axis(cells, order, axis=1).astype(np.int64)
    return np.take_along_axis(relabel, moved, axis=1)


@compiled
def fingerprint(grid, box):
    """A number (uint64) that is equal for all symmetric versions of a complete grid (N,) int64.

    Two rows of a full grid define a permutation of the symbols (one above the other). Its cycle lengths do not change
    under relabelling and permutations of columns; sums over pairs of rows (separate for pairs of one band) do not
    depend on the order of rows, and the sum with the same for columns does not change under transposition. Grids that
    differ may also agree (rarely, for 9x9 and 16x16).
    """
    size = box * box
    total = np.uint64(0)
    above = np.empty(size + 1, np.int64)
    for transposed in range(2):
        across = size if transposed else 1
        down = 1 if transposed else size
        lines = np.uint64(0)
        for a in range(size):
            line = np.uint64(0)
            for b in range(size):
                if a == b:
                    continue
                for k in range(size):
                    above[grid[a * down + k * across]] = grid[b * down + k * across]
                cycles = np.uint64(1) if a // box == b // box else np.uint64(2)
                seen = 0
                for first in range(1, size + 1):
                    length = 0
                    symbol = first
                    while not (seen >> symbol) & 1:
                        seen |= 1 << symbol
                        symbol = above[symbol]
                        length += 1
                    if length:
                        cycles += mix(np.uint64(length))
                line += mix(cycles)
            lines += mix(line)
        total += mix(lines)
    return mix(total)
