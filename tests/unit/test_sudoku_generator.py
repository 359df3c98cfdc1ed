"""The solver against a slow twin; generated puzzles against the rules."""

from __future__ import annotations

import numpy as np
import pytest

from constrained_dg import numba_jit
from constrained_dg.errors import InputError
from tasks.sudoku import count_solutions, solve
from tasks.sudoku.codec import BOX, from_text
from tasks.sudoku.generator import HELD_OUT, RESERVED, TRAINING, generate_puzzles
from tasks.sudoku.solver import units
from tasks.sudoku.symmetry import fingerprint

INKALA = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."


def is_valid(grid, size):
    """All rows, columns and boxes hold every symbol: in plain words, no shared code."""
    box = round(size**0.5)
    square = np.asarray(grid).reshape(size, size)
    every = set(range(1, size + 1))
    boxes = [square[r : r + box, c : c + box].ravel() for r in range(0, size, box) for c in range(0, size, box)]
    return all(set(unit.tolist()) == every for unit in [*square, *square.T, *boxes])


def slow_count(cells, size, limit):
    """The twin: plain backtracking over sets, without singles; counts solutions up to `limit`."""
    box = round(size**0.5)
    peers = [
        {
            other
            for other in range(size * size)
            if other != cell
            and (
                other // size == cell // size
                or other % size == cell % size
                or (other // size // box, other % size // box) == (cell // size // box, cell % size // box)
            )
        }
        for cell in range(size * size)
    ]
    grid = list(cells)
    if any(grid[a] and grid[a] == grid[b] for a in range(size * size) for b in peers[a]):
        return 0

    def options(cell):
        return set(range(1, size + 1)) - {grid[peer] for peer in peers[cell]}

    def count(left):
        blanks = [cell for cell in range(size * size) if not grid[cell]]
        if not blanks:
            return 1
        cell = min(blanks, key=lambda blank: len(options(blank)))
        found = 0
        for value in options(cell):
            grid[cell] = value
            found += count(left - found)
            grid[cell] = 0
            if found >= left:
                break
        return found

    return count(limit)


@pytest.mark.parametrize("size", [4, 9])
def test_solver_counts_as_the_slow_twin(size):
    generator = np.random.default_rng(size)
    verdicts = set()
    for cells in generate_puzzles(size, np.full(20 if size == 9 else 100, 0 if size == 4 else 25), 5).puzzles.tolist():
        for change in ("none", "drop", "wrong"):
            cells = list(cells)
            clue = generator.choice(np.flatnonzero(cells))
            if change == "drop":
                cells[clue] = 0
            if change == "wrong":
                cells[clue] = cells[clue] % size + 1
            _, count, nodes = solve(cells)
            assert count == slow_count(cells, size, 2)
            assert nodes >= 0
            verdicts.add(count)
            if size == 4:
                most = int(generator.integers(1, 9))
                assert count_solutions(cells, most).count == slow_count(cells, size, most)
    assert verdicts == {0, 1, 2}


def test_solver_returns_a_solution_of_the_clues():
    solution, count, nodes = solve(from_text(INKALA))
    assert count == 1 and nodes > 10 and is_valid(solution, 9)
    assert all(clue in (0, value) for clue, value in zip(from_text(INKALA), solution, strict=True))


def test_singles_need_no_guess_and_empty_grids_have_many_solutions():
    easy = generate_puzzles(9, np.full(20, 60), 0).puzzles.tolist()
    assert {solve(cells)[1:] for cells in easy} == {(1, 0)}
    for size in BOX:
        solution, count, nodes = solve([0] * size**2)
        assert count == 2 and nodes > 0 and is_valid(solution, size)


def test_contradicting_clues_have_no_solution():
    assert solve([1, 1] + [0] * 79) == (None, 0, 0)


def test_units_are_rows_columns_and_boxes():
    of, members = units(4)
    assert of[6].tolist() == [1, 4 + 2, 8 + 1]
    assert members[[0, 4, 9]].tolist() == [[0, 1, 2, 3], [0, 4, 8, 12], [2, 3, 6, 7]]


@pytest.mark.parametrize(
    ("size", "clues"), [(4, 4), (4, 9), (4, 16), (9, 22), (9, 30), (9, 80), (9, 81), (16, 100), (16, 160)]
)
def test_clue_counts_are_met_with_one_solution(size, clues):
    made = generate_puzzles(size, np.full(4, clues), 1)
    for puzzle, solution in zip(made.puzzles.tolist(), made.solutions.tolist(), strict=True):
        assert sum(cell > 0 for cell in puzzle) == clues
        assert is_valid(solution, size)
        found, count, _ = solve(puzzle)
        assert count == 1 and found == tuple(solution)
    assert len({tuple(puzzle) for puzzle in made.puzzles.tolist()}) == 4


@pytest.mark.parametrize("size", [4, 9])
def test_minimal_puzzles_need_every_clue(size):
    for puzzle in generate_puzzles(size, np.zeros(10), 2).puzzles.tolist():
        for clue in np.flatnonzero(puzzle):
            assert solve([0 if cell == clue else value for cell, value in enumerate(puzzle)])[1] == 2


def test_generation_is_a_function_of_the_seed_and_the_index():
    one, same, other = (generate_puzzles(9, np.full(6, 30), seed).puzzles for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not (one == other).all(axis=1).any()
    # Puzzle i does not depend on how many are made.
    assert np.array_equal(generate_puzzles(9, np.full(2, 30), 3).puzzles, one[:2])


@pytest.mark.parametrize("side", [TRAINING, HELD_OUT])
@pytest.mark.parametrize("size", [9, 16])
def test_a_side_keeps_to_its_grid_classes(size, side):
    grids = generate_puzzles(size, np.full(40, size * size), 0, side).solutions.astype(np.int64)
    assert {int(fingerprint(grid, BOX[size])) % RESERVED == 0 for grid in grids} == {side == HELD_OUT}


@pytest.mark.parametrize(
    ("size", "clues", "seed", "words"),
    [
        (9, 17, 0, "17 clues for the 9x9 generator; a 9x9 puzzle takes 22 to 81 clues, or 0 for a minimal one"),
        (9, 82, 0, "82 clues"),
        (9, -1, 0, "-1 clues"),
        (16, 99, 0, "100 to 256"),
        (4, 3, 0, "4 to 16"),
        (25, 100, 0, "size 25; use 4, 9 or 16"),
        (9, 30, -1, "seed -1"),
    ],
)
def test_what_cannot_be_generated_is_refused(size, clues, seed, words):
    with pytest.raises(InputError, match=words):
        generate_puzzles(size, np.array([40 if size == 9 else 200 if size > 9 else 8, clues]), seed)


def test_a_read_only_installation_still_compiles(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    assert numba_jit.compiled(lambda x: x + 1)(2) == 3
