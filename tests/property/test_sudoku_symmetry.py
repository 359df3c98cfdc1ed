"""Symmetries keep validity, canonical forms and fingerprints; different classes stay apart."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from tasks.sudoku import solve
from tasks.sudoku.canonical import canonical
from tasks.sudoku.codec import BOX
from tasks.sudoku.generator import generate_puzzles
from tasks.sudoku.pool import is_reserved
from tasks.sudoku.symmetry import apply_symmetry, fingerprint, random_symmetry
from tests.unit.test_sudoku_generator import is_valid

seeds = st.integers(0, 2**32)
GRIDS = {size: generate_puzzles(size, np.full(20, size * size), 7).solutions.astype(np.int64) for size in BOX}


def moved(cells, seed, size):
    cells = np.array([cells])
    return apply_symmetry(cells, *random_symmetry(np.random.default_rng(seed), 1, size))[0].tolist()


def smallest_of_4x4(cells):
    """The twin: all 128 arrangements times all 24 relabellings."""
    square = np.array(cells).reshape(4, 4)
    lines = [[*a, *b] for a, b in product(permutations((0, 1)), permutations((2, 3)))]
    lines += [[*b, *a] for a, b in product(permutations((0, 1)), permutations((2, 3)))]
    versions = {
        tuple(grid[np.ix_(rows, columns)].ravel().tolist())
        for grid in (square, square.T)
        for rows in lines
        for columns in lines
    }
    return min(
        tuple((0, *names)[cell] for cell in version) for version in versions for names in permutations((1, 2, 3, 4))
    )


@given(st.sampled_from(sorted(BOX)), seeds)
def test_symmetries_keep_grids_valid_and_are_undone_by_their_inverse(size, seed):
    order, relabel = random_symmetry(np.random.default_rng(seed), 3, size)
    grids = GRIDS[size][:3]
    images = apply_symmetry(grids, order, relabel)
    assert all(is_valid(image, size) for image in images)
    assert relabel[:, 0].tolist() == [0] * 3
    back = apply_symmetry(images, order.argsort(axis=1), relabel.argsort(axis=1))
    assert np.array_equal(back, grids)


@given(seeds, st.integers(22, 60))
def test_symmetries_move_the_solution_with_the_puzzle(seed, clues):
    made = generate_puzzles(9, np.array([clues]), seed)
    order, relabel = random_symmetry(np.random.default_rng(seed), 1, 9)
    puzzle, solution = (apply_symmetry(cells, order, relabel)[0] for cells in (made.puzzles, made.solutions))
    assert solve(puzzle.tolist())[:2] == (tuple(solution.tolist()), 1)


def test_every_symmetry_of_4x4_is_drawn():
    order, relabel = random_symmetry(np.random.default_rng(0), 5000, 4)
    assert len({tuple(row) for row in order.tolist()}) == 128
    assert len({tuple(row) for row in relabel.tolist()}) == 24


@given(seeds, st.sampled_from([0, 30, 81]))
def test_canonical_form_is_invariant_and_a_version_of_the_puzzle(seed, clues):
    puzzle = generate_puzzles(9, np.array([clues]), seed % 1000).puzzles[0].tolist()
    form = canonical(puzzle)
    assert canonical(moved(puzzle, seed, 9)) == form
    assert canonical(form) == form
    assert form <= tuple(moved(puzzle, seed + 1, 9))
    assert solve(form)[1] == 1


@given(st.lists(st.sampled_from([0, 0, 0, *range(1, 10)]), min_size=81, max_size=81), seeds)
def test_canonical_form_of_any_cells_is_invariant(cells, seed):
    assert canonical(moved(cells, seed, 9)) == canonical(cells)


@given(seeds)
def test_canonical_form_tells_a_changed_clue(seed):
    puzzle = generate_puzzles(9, np.array([0]), seed % 1000).puzzles[0]
    clue = np.random.default_rng(seed).choice(np.flatnonzero(puzzle))
    fewer = puzzle.copy()
    fewer[clue] = 0
    assert canonical(fewer.tolist()) != canonical(puzzle.tolist())
    # Equal clue patterns, yet another class: the symbol moves to one with another number of occurrences.
    changed = puzzle.copy()
    changed[clue] = puzzle[clue] % 9 + 1
    counts = [sorted(np.bincount(cells, minlength=10)[1:].tolist()) for cells in (puzzle, changed)]
    assume(counts[0] != counts[1])
    assert canonical(changed.tolist()) != canonical(puzzle.tolist())


@given(st.lists(st.integers(0, 4), min_size=16, max_size=16))
def test_canonical_4x4_is_the_smallest_of_all_versions(cells):
    assert canonical(cells) == smallest_of_4x4(cells)


def test_canonical_4x4_finds_the_known_number_of_minimal_puzzles():
    """13, 22 and 1 essentially different minimal puzzles of 4, 5 and 6 clues (Wikipedia, Mathematics of Sudoku)."""
    forms = {canonical(cells) for cells in generate_puzzles(4, np.zeros(4000), 0).puzzles.tolist()}
    assert np.bincount([sum(cell > 0 for cell in form) for form in forms])[4:].tolist() == [13, 22, 1]


def test_no_canonical_form_for_16x16():
    with pytest.raises(InputError, match="16x16"):
        canonical([0] * 256)


@given(st.sampled_from(sorted(BOX)), seeds)
def test_fingerprint_is_invariant(size, seed):
    grid = GRIDS[size][seed % 20]
    assert fingerprint(np.array(moved(grid, seed, size)), BOX[size]) == fingerprint(grid, BOX[size])


@pytest.mark.parametrize("size", [9, 16])
def test_fingerprint_tells_random_grids_apart(size):
    assert len({int(fingerprint(grid, BOX[size])) for grid in GRIDS[size]}) == 20


def test_fingerprint_and_canonical_form_agree_on_grid_classes():
    """The two 4x4 classes: 288 grids fall into orbits of 96 and 192."""
    grids = generate_puzzles(4, np.full(300, 16), 1).solutions.astype(np.int64)
    pairs = {(int(fingerprint(grid, 2)), canonical(grid.tolist())) for grid in grids}
    assert len(pairs) == len({form for _, form in pairs}) == 2


@given(seeds)
def test_the_reserved_share_of_4x4_is_invariant(seed):
    puzzle = generate_puzzles(4, np.array([6]), seed % 100).puzzles[0]
    assert is_reserved(np.array(moved(puzzle, seed, 4))) == is_reserved(puzzle)
