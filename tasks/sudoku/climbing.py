"""The local search for hard puzzles; `hard` says what it does and why.

What takes time is compiled. The loops around it are not: compiling them takes a minute and saves nothing.
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled, mix, next_random

from .generator import HELD_OUT, RESERVED, full_grid_of_side, shuffle
from .solver import search
from .symmetry import fingerprint

#: Most guesses of one run of the solver.
_MOST = 5000
#: Most solutions that are listed.
_LISTED = 400
#: Percentage of the steps that add clues of the solution; the others change the solution.
_ADDING = 30
#: Puzzles tried in each step.
_TRIES = 4
#: A puzzle may become easier than the hardest of its line, down to this percentage: in a climb, and in the last walk.
_CLIMB_KEEPS, _WALK_KEEPS = 95, 50
#: Most puzzles of one class of solution grids.
SAME_GRID = 4
#: Puzzles of one family differ in at least this many cells.
_APART = 4


@compiled
def effort(puzzle, orders, ofs, members, most):
    """Guesses to prove that a puzzle (N,) int64 has one solution, summed over the `cell_orders`; -1 if it has not.

    A run that needs more than `most` guesses counts as `most`.
    """
    fixed = np.zeros(1, np.uint64)
    ignored = np.empty((1, puzzle.size), np.int64)
    total = 0
    for run in range(len(orders)):
        count, nodes = search(puzzle[orders[run]], ofs[run], members[run], 2, most, -1, 0, fixed, ignored)
        if nodes >= 0 and count != 1:
            return -1
        total += nodes if nodes >= 0 else most
    return total


@compiled
def minimise(puzzle, of, members, most, order):
    """Remove clues in this order of the cells while the solution stays unique; whether any was removed.

    A clue stays if `most` guesses do not show whether it is needed.
    """
    fixed = np.zeros(1, np.uint64)
    ignored = np.empty((1, puzzle.size), np.int64)
    removed = False
    for cell in order:
        value = puzzle[cell]
        if value:
            puzzle[cell] = 0
            others, nodes = search(puzzle, of, members, 1, most, cell, value, fixed, ignored)
            if others > 0 or nodes < 0:
                puzzle[cell] = value
            else:
                removed = True
    return removed


@compiled
def exchange(puzzle, grid, solutions, state):
    """Add random clues that `grid` lacks until one of the solutions (K, N) int64 is left; its row, -1 without one.

    A clue that leaves one solution is taken where there is one, else one that leaves several.
    """
    size = round(puzzle.size**0.5)
    counts = np.empty((puzzle.size, size + 1), np.int64)
    alive = np.ones(len(solutions), np.bool_)
    left, last = len(solutions), -1
    while left > 1:
        counts[:] = 0
        for i in range(len(solutions)):
            if alive[i]:
                for cell in range(puzzle.size):
                    counts[cell, solutions[i, cell]] += 1
        picked, symbol = -1, 0
        for most in (1, left - 1):
            seen = 0
            for cell in range(puzzle.size):
                if puzzle[cell] == 0:
                    for value in range(1, size + 1):
                        if 0 < counts[cell, value] <= most and value != grid[cell]:
                            seen += 1
                            if next_random(state) % seen == 0:
                                picked, symbol = cell, value
            if picked >= 0:
                break
        if picked < 0:
            return -1
        puzzle[picked] = symbol
        left = 0
        for i in range(len(solutions)):
            alive[i] = alive[i] and solutions[i, picked] == symbol
            if alive[i]:
                left += 1
                last = i
    return last


def collect(puzzle, rating, mark, found, ratings, marks):
    """Put a puzzle among the `found` (K, N) of a family, where it is harder than one of these or than those like it.

    Args:
        mark: fingerprint of the solution.
        ratings: (K,) int64, -1 where there is none.
        marks: (K,) uint64.
    """
    like = (ratings >= 0) & ((found != puzzle).sum(axis=1) < _APART)
    if (ratings[like] >= rating).any():
        return
    same = (ratings >= 0) & ~like & (marks == np.uint64(mark))
    ratings[like] = -1
    worst = ratings.argmin()
    if same.sum() < SAME_GRID and ratings[worst] < rating:
        found[worst], ratings[worst], marks[worst] = puzzle, rating, mark


def climb(puzzle, grid, top, steps, keep, runs, of, members, side, state, found, ratings, marks):
    """Change a puzzle and its solution, (N,) int64 each, to the hardest met in `steps` steps; its rating.

    Args:
        top: rating of the puzzle.
        keep: a change is made where its rating is at least this percentage of the hardest.
        runs: `cell_orders` of the ratings.
        side: of the solutions, as in `generate_puzzles`.
        state: (1,) uint64 random state.
        found, ratings, marks: see `collect`; (0, N) to collect nothing.
    """
    orders, ofs, memberss = runs
    box = round(members.shape[1] ** 0.5)
    order = np.arange(puzzle.size)
    solutions = np.empty((_LISTED, puzzle.size), np.int64)
    blocked = np.zeros(puzzle.size, np.bool_)  # clues without which there are too many solutions
    here, best = puzzle.copy(), puzzle.copy()
    here_grid, best_grid = grid.copy(), grid.copy()
    if len(found):
        collect(puzzle, top, fingerprint(grid, box), found, ratings, marks)
    for _ in range(steps):
        base = here.copy()
        shuffle(order, state)
        adding = next_random(state) % 100 < _ADDING
        known = 0
        if not adding:
            count = 2 if next_random(state) % 4 == 0 else 1
            removed = order[(base[order] > 0) & ~blocked[order]][:count]
            if len(removed) < count:
                continue
            base[removed] = 0
            known, nodes = search(base, of, members, _LISTED, _MOST, -1, 0, state, solutions)
            if nodes < 0 or known == _LISTED:
                blocked[removed] |= count == 1
                continue
        for _ in range(_TRIES):
            new = base.copy()
            if adding:
                new_grid = here_grid.copy()
                more = 1 + next_random(state) % 3
                shuffle(order, state)
                added = order[new[order] == 0][:more]
                new[added] = new_grid[added]
                shuffle(order, state)
                minimise(new, of, members, _MOST, order)
            else:
                row = exchange(new, here_grid, solutions[:known], state)
                if row < 0:
                    continue
                new_grid = solutions[row].copy()
            if (new == here).all():
                continue
            # One run of the solver drops most candidates; clues that are not needed make a puzzle a little easier.
            least = top * keep
            if effort(new, orders[:1], ofs[:1], memberss[:1], _MOST) * len(orders) * 130 < least:
                continue
            rating = effort(new, orders, ofs, memberss, _MOST)
            if rating * 110 < least:
                continue
            mark = fingerprint(new_grid, box)
            if side >= 0 and (mark % RESERVED == 0) != (side == HELD_OUT):
                continue
            shuffle(order, state)
            if not adding and minimise(new, of, members, _MOST, order):
                rating = effort(new, orders, ofs, memberss, _MOST)
            if rating * 100 < least:
                continue
            here[:] = new
            here_grid[:] = new_grid
            blocked[:] = False
            if len(found):
                collect(new, rating, mark, found, ratings, marks)
            if rating > top:
                top = rating
                best[:] = new
                best_grid[:] = new_grid
    puzzle[:] = best
    grid[:] = best_grid
    return top


def family(of, members, runs, seed, index, starts, digs, steps, walk, side, found):
    """Fill found (K, N) int64 with the puzzles of one family; rows of blanks remain. Depends on its arguments alone."""
    orders, ofs, memberss = runs
    state = np.array([mix(np.uint64(mix(np.uint64(seed)) ^ index))], np.uint64)
    order = np.arange(found.shape[1])
    grid = np.empty(found.shape[1], np.int64)
    puzzles = np.zeros((starts, found.shape[1]), np.int64)
    grids = np.zeros((starts, found.shape[1]), np.int64)
    tops = np.full(starts, -1, np.int64)
    marks = np.zeros(len(found), np.uint64)
    ratings = np.full(len(found), -1, np.int64)
    for i in range(starts):
        for _ in range(digs):
            full_grid_of_side(grid, of, members, side, state)
            shuffle(order, state)
            puzzle = grid.copy()
            minimise(puzzle, of, members, _MOST, order)
            rating = effort(puzzle, orders, ofs, memberss, _MOST)
            if rating > tops[i]:
                tops[i] = rating
                puzzles[i] = puzzle
                grids[i] = grid
    while starts > 1:
        for i in range(starts):
            arguments = puzzles[i], grids[i], tops[i], steps, _CLIMB_KEEPS, runs, of, members, side, state
            tops[i] = climb(*arguments, found[:0], ratings[:0], marks[:0])
        starts //= 2
        steps *= 2
        best = np.argsort(-tops, kind="mergesort")[:starts]
        puzzles, grids, tops = puzzles[best], grids[best], tops[best]
    arguments = puzzles[0], grids[0], tops[0], walk, _WALK_KEEPS, runs, of, members, side, state
    climb(*arguments, found, ratings, marks)
    found[ratings < 0] = 0
