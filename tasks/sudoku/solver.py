"""A bitmask solver: naked and hidden singles to a fixed point, then a guess in a cell with the fewest candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from constrained_dg.errors import check, is_count
from constrained_dg.numba_jit import compiled, next_random

from .codec import BOX, size_of

#: Guesses after which a puzzle counts as undecided (16x16: about a second).
DECIDED = 100_000


@lru_cache
def units(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The 3 * size units: rows, columns, boxes.

    Returns:
        of: (size * size, 3) int64, the row, column and box of each cell as unit numbers.
        members: (3 * size, size) int64, the cells of each unit in reading order.
    """
    box = BOX[size]
    row, column = np.divmod(np.arange(size * size), size)
    of = np.stack([row, size + column, 2 * size + row // box * box + column // box], axis=1)
    members = np.stack([np.flatnonzero((of == unit).any(axis=1)) for unit in range(3 * size)])
    return of.astype(np.int64), members.astype(np.int64)


@compiled
def search(cells, of, members, limit, max_nodes, banned_cell, banned_value, state, solution):
    """Count solutions up to `limit`.

    Args:
        cells: (N,) int64 clues, 0 for a blank.
        of, members: `units(size)`.
        limit: stop at this many solutions.
        max_nodes: give up after this many guesses.
        banned_cell, banned_value: this cell must not hold this value (cell -1: no ban); tests whether a clue is needed.
        state: (1,) uint64; 0 tries values in ascending order, other states in random order.
        solution: (K, N) int64, receives the last K solutions; solution i (from 0) is in row i % K.

    Returns:
        (solutions, guesses; -1 guesses when it gave up).
    """
    size = members.shape[1]
    total = size * size
    full = (1 << size) - 1
    used = np.zeros(3 * size, np.int64)
    grid = cells.copy()
    # The first `blanks` entries of `free` are the open cells; a filled one is swapped behind them, so that
    # `blanks += 1` undoes the last one.
    free = np.empty(total, np.int64)
    where = np.empty(total, np.int64)
    blanks = 0
    for cell in range(total):
        if grid[cell] == 0:
            free[blanks] = cell
            where[cell] = blanks
            blanks += 1
        else:
            bit = 1 << (grid[cell] - 1)
            for k in range(3):
                if used[of[cell, k]] & bit:
                    return 0, 0
                used[of[cell, k]] |= bit
    banned = ~0 if banned_cell < 0 else ~(1 << (banned_value - 1))
    shuffle = state[0] != 0
    guess_cell = np.empty(total, np.int64)
    guess_left = np.empty(total, np.int64)
    guess_blanks = np.empty(total, np.int64)
    once = np.empty(3 * size, np.int64)
    twice = np.empty(3 * size, np.int64)
    depth, solutions, nodes = 0, 0, 0
    place_cell, place_bit = -1, 0  # the placement to make before the next scan

    while True:
        conflict = False
        best_cell, best_count, best_mask = -1, 99, 0
        again = True
        while again:
            again = False
            best_count = 99
            once[:] = 0
            twice[:] = 0
            i = 0
            while i < blanks or place_cell >= 0:
                if place_cell >= 0:
                    cell = place_cell
                    mask = place_bit
                    place_cell = -1
                    i_here = where[cell]
                else:
                    cell = free[i]
                    i_here = i
                    mask = full & ~(used[of[cell, 0]] | used[of[cell, 1]] | used[of[cell, 2]])
                    if cell == banned_cell:
                        mask &= banned
                    if mask == 0:
                        conflict = True
                        break
                if mask & (mask - 1) == 0:
                    blanks -= 1
                    other = free[blanks]
                    free[i_here] = other
                    where[other] = i_here
                    free[blanks] = cell
                    where[cell] = blanks
                    used[of[cell, 0]] |= mask
                    used[of[cell, 1]] |= mask
                    used[of[cell, 2]] |= mask
                    value = 0
                    while mask:
                        mask >>= 1
                        value += 1
                    grid[cell] = value
                    again = True
                    continue
                for k in range(3):
                    unit = of[cell, k]
                    twice[unit] |= once[unit] & mask
                    once[unit] |= mask
                count = mask - ((mask >> 1) & 0x5555)
                count = (count & 0x3333) + ((count >> 2) & 0x3333)
                count = (count + (count >> 4)) & 0x0F0F
                count = (count + (count >> 8)) & 0x1F
                if count < best_count:
                    best_cell, best_count, best_mask = cell, count, mask
                i += 1
            if conflict:
                break
            if again or blanks == 0:
                continue
            # No naked single is left, so once and twice describe the current state.
            for unit in range(3 * size):
                if full & ~used[unit] & ~once[unit]:
                    conflict = True
                    break
                single = once[unit] & ~twice[unit]
                if single:
                    bit = single & -single
                    for k in range(size):
                        cell = members[unit, k]
                        if grid[cell] == 0:
                            mask = full & ~(used[of[cell, 0]] | used[of[cell, 1]] | used[of[cell, 2]])
                            if cell == banned_cell:
                                mask &= banned
                            if mask & bit:
                                place_cell, place_bit = cell, bit
                                break
                    again = True
                    break
            if conflict:
                break

        if not conflict and blanks == 0:
            solutions += 1
            solution[(solutions - 1) % len(solution)] = grid
            if solutions >= limit:
                return solutions, nodes
            conflict = True
        if not conflict:
            guess_cell[depth] = best_cell
            guess_left[depth] = best_mask
            guess_blanks[depth] = blanks
            depth += 1
        # Take the next untried value of the deepest guess that has one.
        while depth > 0 and guess_left[depth - 1] == 0:
            depth -= 1
        if depth == 0:
            return solutions, nodes
        if nodes >= max_nodes:
            return solutions, -1
        nodes += 1
        while blanks < guess_blanks[depth - 1]:
            cell = free[blanks]
            bit = ~(1 << (grid[cell] - 1))
            used[of[cell, 0]] &= bit
            used[of[cell, 1]] &= bit
            used[of[cell, 2]] &= bit
            grid[cell] = 0
            blanks += 1
        left = guess_left[depth - 1]
        bit = left & -left
        if shuffle:
            count = 0
            mask = left
            while mask:
                mask &= mask - 1
                count += 1
            mask = left
            for _ in range(next_random(state) % count):
                mask &= mask - 1
            bit = mask & -mask
        guess_left[depth - 1] = left & ~bit
        place_cell, place_bit = guess_cell[depth - 1], bit


def solve(cells: Sequence[int], max_nodes: int = 2**62) -> tuple[tuple[int, ...] | None, int, int]:
    """Solve a puzzle and say whether its solution is unique.

    Args:
        cells: 16, 81 or 256 values, 0 for a blank.
        max_nodes: give up after this many guesses.

    Returns:
        (a solution or None, number of solutions counted up to 2, number of guesses or -1 if it gave up).
    """
    size = size_of(len(cells))
    answer = np.zeros((1, size * size), np.int64)
    no_shuffle = np.zeros(1, np.uint64)
    count, nodes = search(np.array(cells, np.int64), *units(size), 2, max_nodes, -1, 0, no_shuffle, answer)
    return (tuple(answer[0].tolist()) if count else None), count, nodes


@dataclass(frozen=True)
class SolutionCount:
    """The result of `count_solutions`.

    Attributes:
        count: number of solutions met.
        complete: whether the search did not give up: there are no others, or `most` were met.
        most: where counting stops.
    """

    count: int
    complete: bool
    most: int

    def __str__(self) -> str:
        if not self.complete:
            known = f"{self.count or 'no'} known solution{'s' * (self.count != 1)}"
            return f"{known}, and perhaps more: the search gave up"
        if self.count == self.most:
            return f"at least {self.count} solution{'s' * (self.count != 1)}"
        return {0: "no solution", 1: "exactly one solution"}.get(self.count, f"exactly {self.count} solutions")


def count_solutions(cells: Sequence[int], most: int = 2, max_guesses: int = DECIDED) -> SolutionCount:
    """Count the solutions of a puzzle.

    Args:
        cells: 16, 81 or 256 values, 0 for a blank.
        most: stop at this many; 2 are enough to know whether a solution is unique.
        max_guesses: give up after this many.

    Raises:
        InputError: another length, or a number below 1.
    """
    size = size_of(len(cells))
    for name, value in (("most", most), ("max_guesses", max_guesses)):
        check(is_count(value, 1) and value < 2**62, f"{name}={value!r}", "use an integer of at least 1")
    answer, no_shuffle = np.zeros((1, size * size), np.int64), np.zeros(1, np.uint64)
    arguments = np.array(cells, np.int64), *units(size), most, max_guesses, -1, 0, no_shuffle, answer
    count, guesses = search(*arguments)
    return SolutionCount(count, guesses >= 0 or count >= most, most)
