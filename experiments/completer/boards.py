"""Sudoku boards of any box: a grid of patterns, shuffled, from which cells are taken away at random."""

from __future__ import annotations

import numpy as np
import torch

#: Rows and columns of a box, by size.
BOXES = {6: (2, 3), 12: (3, 4), 25: (5, 5), 36: (6, 6)}
#: Share of cells that stay.
GIVEN = {6: 0.3, 12: 0.4, 25: 0.45, 36: 0.35}


def groups(size: int, box: tuple[int, int]) -> torch.Tensor:
    """(3 * size, size) rows, columns and boxes."""
    cells = np.arange(size * size).reshape(size, size)
    high, wide = box
    boxes = cells.reshape(size // high, high, size // wide, wide).transpose(0, 2, 1, 3).reshape(size, size)
    return torch.from_numpy(np.concatenate([cells, cells.T, boxes]))


def boards(size: int, count: int, seed: int) -> list[np.ndarray]:
    """(size, size) arrays, 0 where nothing is given; each has a solution, perhaps several."""
    draws = np.random.default_rng(seed)
    high, wide = BOXES[size]
    made = []
    for _ in range(count):
        base = np.array([[(wide * (r % high) + r // high + c) % size for c in range(size)] for r in range(size)])
        rows = np.concatenate([band * high + draws.permutation(high) for band in draws.permutation(size // high)])
        columns = np.concatenate([stack * wide + draws.permutation(wide) for stack in draws.permutation(size // wide)])
        grid = draws.permutation(size)[base[rows][:, columns]] + 1
        made.append(np.where(draws.random(grid.shape) < GIVEN[size], grid, 0))
    return made
