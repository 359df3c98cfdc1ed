"""Hard puzzles: the search for them, the files that ship, training on them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from tasks.sudoku import Puzzle, Sudoku, climbing, count_solutions, hard, solve
from tasks.sudoku.canonical import canonical
from tasks.sudoku.codec import BOX
from tasks.sudoku.generator import RESERVED, generate_puzzles
from tasks.sudoku.hard import Plan, hard_puzzles, make_family, rating, select
from tasks.sudoku.solver import search, units
from tasks.sudoku.symmetry import apply_symmetry, fingerprint, random_symmetry
from tests.unit.test_sudoku_generator import INKALA, is_valid

OF, MEMBERS = units(9)
seeds = st.integers(0, 2**32)


def is_minimal(cells):
    """In plain words: without any clue there are several solutions."""
    clues = np.flatnonzero(cells)
    without = [[0 if at == clue else value for at, value in enumerate(cells)] for clue in clues]
    return all(count_solutions(fewer).count == 2 for fewer in without)


def mark_of(solution, size):
    return int(fingerprint(np.array(solution, np.int64), BOX[size]))


def singles_solve(cells):
    """In plain words: naked and hidden singles fill the grid."""
    grid = list(cells)
    peers = [set(MEMBERS[OF[cell]].ravel()) for cell in range(81)]

    def options(cell):
        return {grid[cell]} if grid[cell] else set(range(1, 10)) - {grid[peer] for peer in peers[cell]}

    for _ in range(81):
        candidates = [options(cell) for cell in range(81)]
        for unit in MEMBERS:
            for value in range(1, 10):
                homes = [cell for cell in unit if value in candidates[cell]]
                if len(homes) == 1:
                    grid[homes[0]] = value
        for cell in range(81):
            if len(options(cell)) == 1:
                grid[cell] = next(iter(options(cell)))
    return 0 not in grid


@settings(max_examples=5)
@given(seeds)
def test_a_rating_is_0_exactly_where_singles_solve_the_puzzle(seed):
    for cells in generate_puzzles(9, np.array([0, 26]), seed).puzzles.tolist():
        found = rating(cells)
        # A guess has two values or more, and all of them are tried.
        assert found == 0 if singles_solve(cells) else found >= 2


def test_a_rating_is_a_mean_over_the_same_orders_of_the_cells():
    cells = Puzzle.of([int(value) if value.isdigit() else 0 for value in INKALA]).cells
    assert rating(cells) == rating(cells) > 50
    assert rating(cells) * hard.ORDERS[9] == int(rating(cells) * hard.ORDERS[9])
    with pytest.raises(InputError, match="without a unique solution"):
        rating([0] * 81)
    with pytest.raises(InputError, match="4x4"):
        rating([0] * 16)


@settings(max_examples=10)
@given(seeds)
def test_clues_that_are_not_needed_are_removed_and_no_others(seed):
    made = generate_puzzles(9, np.array([40]), seed)
    puzzle = made.puzzles[0].astype(np.int64)
    order = np.random.default_rng(seed).permutation(81)
    assert climbing.minimise(puzzle, OF, MEMBERS, 10_000, order)
    assert ((puzzle == 0) | (puzzle == made.puzzles[0])).all()
    assert solve(puzzle.tolist())[0] == tuple(made.solutions[0].tolist()) and is_minimal(puzzle.tolist())
    assert not climbing.minimise(puzzle, OF, MEMBERS, 10_000, order)


@settings(max_examples=20)
@given(seeds)
def test_exchanged_clues_lead_to_another_solution_alone(seed):
    made = generate_puzzles(9, np.array([30]), seed)
    generator = np.random.default_rng(seed)
    puzzle, grid = made.puzzles[0].astype(np.int64), made.solutions[0].astype(np.int64)
    puzzle[generator.choice(np.flatnonzero(puzzle), 6, replace=False)] = 0
    before, solutions = puzzle.copy(), np.empty((400, 81), np.int64)
    known, _ = search(puzzle, OF, MEMBERS, 400, 10_000, -1, 0, np.zeros(1, np.uint64), solutions)
    row = climbing.exchange(puzzle, grid, solutions[: min(known, 399)], np.ones(1, np.uint64))
    if known == 1:
        assert row == -1 and np.array_equal(puzzle, before)
    elif known < 400 and row >= 0:
        added = puzzle != before
        assert (before[added] == 0).all() and (puzzle[added] != grid[added]).all()
        answer, count, _ = solve(puzzle.tolist())
        assert count == 1 and answer == tuple(solutions[row].tolist()) != tuple(grid.tolist())


@given(seeds)
def test_a_family_keeps_hard_puzzles_that_differ(seed):
    generator = np.random.default_rng(seed)
    found, ratings, marks = np.zeros((4, 12), np.int64), np.full(4, -1), np.zeros(4, np.uint64)
    given_ratings = {}
    for _ in range(60):
        puzzle, score = generator.integers(2, size=12), int(generator.integers(100))
        hardest = ratings.max()
        climbing.collect(puzzle, score, mark := int(generator.integers(2)), found, ratings, marks)
        given_ratings[tuple(puzzle.tolist()), score] = mark
        assert ratings.max() >= hardest
    kept = found[ratings >= 0]
    assert len(kept) and all((one != other).sum() >= climbing._APART for one, other in combinations(kept, 2))
    assert all(
        (tuple(cells.tolist()), score) in given_ratings
        for cells, score in zip(kept, ratings[ratings >= 0], strict=True)
    )
    assert max(Counter(marks[ratings >= 0].tolist()).values()) <= climbing.SAME_GRID


@pytest.mark.parametrize(("size", "plan"), [(9, Plan(2, 1, 3, 20, 3, 0)), (16, Plan(1, 1, 0, 0, 1, 0))])
def test_a_family_is_pure_and_its_puzzles_are_minimal_and_not_reserved(size, plan, monkeypatch):
    monkeypatch.setitem(hard.PLANS, size, plan)
    found = make_family(size, 5, 3)
    assert 1 <= len(found) <= plan.found
    rows = select(size, [found.copy(), found.copy()])
    assert 1 <= len(rows) <= len(found) and [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True)
    for score, puzzle, solution in rows:
        assert solve(puzzle)[:2] == (solution, 1) and is_valid(solution, size)
        assert mark_of(solution, size) % RESERVED and score == rating(puzzle)
        assert size == 16 or is_minimal(list(puzzle))
    if size == 9:
        assert np.array_equal(make_family(9, 5, 3), found) and not np.array_equal(make_family(9, 6, 3), found)


def test_easy_puzzles_and_crowded_classes_are_left_out(monkeypatch):
    ours = hard_puzzles(9).puzzles[-8:].astype(np.int64)
    turned = apply_symmetry(ours, *random_symmetry(np.random.default_rng(0), len(ours), 9))
    assert [row[1] for row in select(9, [ours, turned])] == [row[1] for row in select(9, [ours])]
    monkeypatch.setitem(hard.PLANS, 9, Plan(1, 1, 1, 1, 1, 10**6))
    assert select(9, [ours]) == []


@pytest.mark.parametrize("size", hard.SHIPPED)
def test_the_shipped_puzzles_are_unique_minimal_not_reserved_and_differ(size):
    ours = hard_puzzles(size)
    assert len(ours.puzzles) >= {9: 1000, 16: 300}[size]
    assert ((ours.puzzles == 0) | (ours.puzzles == ours.solutions)).all()
    alike = {}
    for puzzle, solution in zip(ours.puzzles.tolist(), ours.solutions.tolist(), strict=True):
        alike.setdefault(mark_of(solution, size), []).append(puzzle)
    assert all(mark % RESERVED for mark in alike)
    assert max(map(len, alike.values())) <= climbing.SAME_GRID
    # Puzzles that are equal up to symmetry have solutions of one class. Counts of clues tell some of 16x16 apart.
    groups = [group for group in alike.values() if len(group) > 1]
    shape = canonical if size == 9 else hard._shape
    assert groups and all(len(set(map(shape, group))) == len(group) for group in groups[::25])
    sample = range(0, len(ours.puzzles), 50)
    ratings = [rating(ours.puzzles[k].tolist()) for k in sample]
    assert ratings == sorted(ratings, reverse=True) and ratings[-1] >= hard.PLANS[size].least
    for k in sample:
        puzzle = ours.puzzles[k].astype(np.int64)
        assert is_valid(ours.solutions[k], size)
        assert solve(puzzle.tolist())[:2] == (tuple(ours.solutions[k].tolist()), 1)
        # 16x16: a clue may stay where the search to show that it is needed was given up.
        assert size == 16 or not climbing.minimise(puzzle, *units(size), 5000, np.arange(size * size))


def test_the_shipped_puzzles_come_from_their_seed():
    # Family 12 takes two seconds.
    made = [cells for cells in make_family(9, 0, 12).tolist() if rating(cells) >= hard.PLANS[9].least]
    shipped = set(map(tuple, hard_puzzles(9).puzzles.tolist()))
    assert made and all(tuple(cells) in shipped for cells in made)


def test_training_draws_the_hard_share_as_it_is():
    shipped = set(map(tuple, hard_puzzles(9).puzzles.tolist()))

    def share(**settings):
        batch = Sudoku(puzzles=8, augment=False, **settings).train_batch(0, 400)
        return np.mean([tuple((row - 2).tolist()) in shipped for row in batch.prompt])

    assert share() == share(hard=0.0) == 0 and share(hard=1.0) == 1
    assert 0.2 < share(hard=0.3) < 0.4 and share(hard=0.3) == share(hard={"9": 0.3})


@pytest.mark.parametrize("size", hard.SHIPPED)
def test_hard_examples_are_moved_with_their_solutions(size):
    task = Sudoku({size: 1.0}, puzzles=2, hard={size: 1.0})
    batch = task.train_batch(3, 8)
    assert task.rules(batch).is_satisfied(batch.answer).all()
    assert torch.equal(batch.answer[batch.pinned], batch.prompt[batch.pinned])
    assert len({tuple(row.tolist()) for row in batch.prompt}) == 8


@pytest.mark.parametrize("size", hard.SHIPPED)
def test_overlap_counts_hard_puzzles_where_they_train(size):
    cells = hard_puzzles(size).puzzles[-1:].astype(np.int64)
    moved = Puzzle.of(apply_symmetry(cells, *random_symmetry(np.random.default_rng(1), 1, size))[0].tolist())
    for share, expected in ((0.0, []), (0.1, [0])):
        assert Sudoku({size: 1.0}, puzzles=3, hard={size: share}).overlap([moved]) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hard": 1.5}, "hard=1.5; use a share from 0 to 1"),
        ({"hard": "x"}, "hard='x'"),
        ({"hard": 0.5, "sizes": {4: 1.0}}, r"hard=0.5 for sizes \[4\]; hard puzzles of 9x9 need size 9"),
        ({"hard": {16: 0.5}}, r"for sizes \[9\]; hard puzzles of 16x16 need size 16"),
        ({"hard": {4: 0.5}}, "hard for size 4; hard puzzles are 9x9 or 16x16"),
        ({"hard": {9: 1.5}}, r"hard=\{9: 1.5\}; use a share"),
        ({"hard": 0.5, "sizes": {4: 1.0, 9: 0.0}}, r"hard=0.5 for sizes \[4\]"),
    ],
)
def test_a_hard_share_out_of_range_is_refused(settings, words):
    with pytest.raises(InputError, match=words):
        Sudoku(**settings)
