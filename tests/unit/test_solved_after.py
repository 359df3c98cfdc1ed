"""Solve rate against passes: more passes continue what fewer left open; operations counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

from constrained_dg.model import preset
from constrained_dg.runs import load
from experiments.samplers.passes import _solved_after
from experiments.sudoku.sets.equal import operations

PUZZLES = (
    "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79",
    ".......1.4.........2...........5.4.7..8...3....1.9....3..4..2...5.1........8.6...",
    "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..",
)


def test_more_passes_solve_again_only_what_fewer_left_open(tmp_path: Path) -> None:
    run = load("sudoku/plain")
    problems = [run.task.parse(text) for text in PUZZLES]
    at_once = _solved_after(tmp_path / "at_once", "symmetry", "t", problems, run, run.model, 24)
    few = _solved_after(tmp_path / "twice", "symmetry", "t", problems, run, run.model, 2)
    assert few["solved_after"].count(None) in (1, 2) and any(each for each in few["solved_after"])
    more = _solved_after(tmp_path / "twice", "symmetry", "t", problems, run, run.model, 24)
    assert more["solved_after"] == at_once["solved_after"] != few["solved_after"]
    assert more["seconds"] > few["seconds"]


def test_a_finished_cell_is_not_solved_again(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    cell = {"solved_after": [7], "seconds": 1.0}
    (tmp_path / "cells" / "symmetry_t_24_1.json").write_text(json.dumps(cell))
    assert _solved_after(tmp_path, "symmetry", "t", [None], None, None, 24) == cell


def test_operations_are_those_of_the_matrix_products() -> None:
    """By hand for one layer that is full: weights in use, scores and their sums, self-conditioning, logits."""
    config = preset("tiny", num_hidden_layers=1, loops=3)
    heads, head, size, canvas, prompt = 4, 16, 32, 10, 7
    projections = size * head * (heads + 1) + heads * head * size  # queries, keys = values; output
    weights = projections + 3 * size * 48 + size * 4 + 2 * 3 * size * 16
    scores = 2 * heads * head * (canvas + prompt)
    once = 2 * (2 * 64 * size + 3 * size * 48)
    assert operations(config, canvas, prompt) == canvas * (3 * (2 * weights + 2 * scores) + once)


def test_a_sliding_layer_sees_its_window_alone() -> None:
    config = preset("tiny", loops=1, sliding_window=6)
    more, most = (operations(config, 10, prompt) for prompt in (100, 101))
    assert most - more == 10 * 4 * 4 * 16  # the one full layer of three
    within = operations(config, 10, 5) - operations(config, 10, 4)
    assert (
        within == most - more + 2 * 10 * 4 * 4 * 8
        and operations(config, 10, 6) - operations(config, 10, 5) == most - more
    )
