"""Uniquely solvable puzzles: a random full grid, then clues removed in random order while one solution remains.

Measured on one core of an AMD EPYC, after 10 s of compilation on the first use:

| puzzles | a second |
|---|---|
| 9x9 minimal (24.4 clues on average) | 1,900 |
| 9x9 with 22, 24, 30, 40 clues | 100; 1,400; 11,000; 24,000 |
| 16x16 minimal (93 clues), with 100, 120, 160 clues | 13; 60; 780; 2,600 |
| 4x4 minimal, with 6 clues | 130,000; 230,000 |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constrained_dg.errors import InputError, check
from constrained_dg.numba_jit import compiled, mix, next_random

from .codec import BOX
from .solver import search, units
from .symmetry import fingerprint

#: The clue count of a request for a minimal puzzle, in which every clue is needed.
MINIMAL = 0
#: One grid class in this many is kept for held-out puzzles.
RESERVED = 16
ANY, TRAINING, HELD_OUT = -1, 0, 1
#: Fewest clues that can be requested: random digging reaches them within `TRIES` grids.
FEWEST = {4: 4, 9: 22, 16: 100}
TRIES = 2000
#: Puzzles generated in one call of compiled code, which Ctrl-C cannot interrupt.
_STRETCH = {4: 2000, 9: 200, 16: 2}
#: Most guesses to check whether a clue can be removed; without a result it stays. Matters for 16x16 only.
MAX_NODES = 200


@compiled
def shuffle(values, state):
    """Fisher-Yates in place."""
    for i in range(values.size - 1, 0, -1):
        j = next_random(state) % (i + 1)
        values[i], values[j] = values[j], values[i]


@compiled
def full_grid(grid, of, members, state):
    """Fill `grid` (N,) int64 at random: shuffled boxes on the diagonal, the rest by search with random values."""
    size = members.shape[1]
    box = round(size**0.5)
    start = np.empty(size * size, np.int64)
    symbols = np.arange(1, size + 1)
    while True:
        start[:] = 0
        for diagonal in range(box):
            shuffle(symbols, state)
            for k in range(size):
                start[members[2 * size + diagonal * (box + 1), k]] = symbols[k]
        solvable, _ = search(start, of, members, 1, 500, -1, 0, state, grid.reshape((1, size * size)))
        if solvable:
            return


@compiled
def full_grid_of_side(grid, of, members, side, state):
    """As `full_grid`; with a `side`, until the fingerprint is in (HELD_OUT) or outside (TRAINING) the reserved share.

    Returns the fingerprint (uint64), 0 without a side.
    """
    box = round(members.shape[1] ** 0.5)
    full_grid(grid, of, members, state)
    if side < 0:
        return np.uint64(0)
    mark = fingerprint(grid, box)
    while (mark % np.uint64(RESERVED) == 0) != (side == HELD_OUT):
        full_grid(grid, of, members, state)
        mark = fingerprint(grid, box)
    return mark


@compiled
def first_grids(of, members, start, seed, side, marks, grids):
    """The first full grid of each puzzle of `generate`, (M, N) uint8, and its fingerprint (M,) uint64.

    These are the solutions of minimal puzzles, which always come from their first grid.
    """
    state = np.zeros(1, np.uint64)
    grid = np.empty(grids.shape[1], np.int64)
    for i in range(len(marks)):
        state[0] = mix(mix(np.uint64(seed)) ^ np.uint64(start + i))
        marks[i] = full_grid_of_side(grid, of, members, side, state)
        grids[i] = grid


@compiled
def generate(of, members, clues, start, seed, side, tries, puzzles, solutions):
    """Fill puzzles and solutions, (M, N) uint8, with puzzles of `clues` (M,) int64 clues; 0 asks for minimal.

    Puzzle i depends on (seed, clues[i], side, start + i) alone. Returns the first i for which `tries` grids were not
    enough, or M.
    """
    size = members.shape[1]
    total = size * size
    state = np.zeros(1, np.uint64)
    fixed = np.zeros(1, np.uint64)
    grid = np.empty(total, np.int64)
    ignored = np.empty((1, total), np.int64)
    order = np.arange(total)
    for i in range(clues.size):
        state[0] = mix(mix(np.uint64(seed)) ^ np.uint64(start + i))
        order[:] = np.arange(total)
        done = False
        for _ in range(tries):
            full_grid_of_side(grid, of, members, side, state)
            puzzle = grid.copy()
            shuffle(order, state)
            left = total
            for cell in order:
                if left <= clues[i]:
                    break
                value = puzzle[cell]
                puzzle[cell] = 0
                others, nodes = search(puzzle, of, members, 1, MAX_NODES, cell, value, fixed, ignored)
                if others > 0 or nodes < 0:
                    puzzle[cell] = value
                else:
                    left -= 1
            if clues[i] == 0 or left == clues[i]:
                done = True
                break
        if not done:
            return i
        for cell in range(total):
            puzzles[i, cell] = puzzle[cell]
            solutions[i, cell] = grid[cell]
    return clues.size


@dataclass(frozen=True)
class Generated:
    """Puzzles and their solutions, (M, N) uint8 each; 0 is a blank."""

    puzzles: np.ndarray
    solutions: np.ndarray


def generate_puzzles(size: int, clues: np.ndarray, seed: int, side: int = ANY) -> Generated:
    """Uniquely solvable puzzles with these clue counts; a pure function of its arguments.

    Args:
        size: 4, 9 or 16.
        clues: (M,) clue counts, from `FEWEST` to the full grid, or MINIMAL. A minimal 16x16 puzzle may keep clues whose
            need was not decided in 200 guesses.
        seed: not negative.
        side: ANY, or TRAINING or HELD_OUT, which have no common solution grid up to symmetry (9x9 and 16x16 only).

    Raises:
        InputError: a clue count that random digging does not reach.
    """
    clues = np.asarray(clues, dtype=np.int64)
    check(size in BOX, f"size {size}", "use 4, 9 or 16")
    check(seed >= 0, f"seed {seed}", "use a number that is not negative")
    assert side == ANY or size > 4, "4x4 has two grid classes only: split puzzles instead"
    hint = f"a {size}x{size} puzzle takes {FEWEST[size]} to {size * size} clues, or {MINIMAL} for a minimal one"
    for count in clues[(clues != MINIMAL) & ((clues < FEWEST[size]) | (clues > size * size))][:1]:
        raise InputError(f"{count} clues for the {size}x{size} generator", hint)
    puzzles = np.empty((clues.size, size * size), np.uint8)
    generated = Generated(puzzles, np.empty_like(puzzles))
    for start in range(0, clues.size, _STRETCH[size]):
        here = slice(start, start + _STRETCH[size])
        buffers = generated.puzzles[here], generated.solutions[here]
        reached = start + generate(*units(size), clues[here], start, seed, side, TRIES, *buffers)
        if reached < min(here.stop, clues.size):
            raise InputError(f"no puzzle of {clues[reached]} clues within {TRIES} {size}x{size} grids", hint)
    return generated
