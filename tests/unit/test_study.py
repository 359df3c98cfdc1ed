"""The sampler study: its statistics beside slow twins, refusals, and a rehearsal that is cut short and goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from constrained_dg.cli import ROOT
from constrained_dg.errors import InputError
from constrained_dg.metrics import wilson
from experiments.samplers import study
from experiments.samplers.statistics import difference, resampled, share

RUN = str(ROOT / "experiments" / "sudoku" / "small")


def test_intervals_are_clustered_by_puzzle():
    """A hundred seeds of a puzzle that is always or never solved say no more than one."""
    once = np.array([[1], [0]] * 20)
    often = once.repeat(100, axis=1)
    assert share(once) == share(often)
    mean, low, high = share(once)
    assert mean == 0.5 and 0.3 < low < 0.4 and 0.6 < high < 0.7


def test_the_bootstrap_is_that_of_a_slow_twin():
    values = np.random.default_rng(3).random(30)
    draws = np.random.default_rng(0).integers(30, size=(2000, 30))
    means = sorted(sum(values[at] for at in row) / 30 for row in draws)
    low, high = resampled(values)
    assert means[48] <= low <= means[51] and means[1948] <= high <= means[1951]


def test_where_all_puzzles_are_alike_the_bootstrap_is_not_believed():
    assert share(np.ones((300, 10)))[1:] == wilson(300, 300)
    assert share(np.zeros((300, 10)))[1:] == wilson(0, 300)
    assert difference(np.ones((300, 2)), np.ones((300, 10))) == (0.0, -0.01, 0.01)


def test_differences_are_paired():
    """One sampler solves a tenth more of every puzzle: puzzles vary, the difference does not."""
    theirs = np.random.default_rng(1).random((200, 1)) * 0.5
    mean, low, high = difference(theirs + 0.1 + 0.01 * np.arange(200)[:, None] / 200, theirs)
    assert 0.1 < low < mean < high < 0.11


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run=x"], "data, out missing"),
        ([f"run={RUN}", "data=x", "out=y", "seed=3"], r"unknown keys \['seed'\]"),
        ([f"run={RUN}", "data=x", "out=y", "jobs=best"], r"no jobs \['best'\]"),
        ([f"run={RUN}", "data=x", "out=y", "limit=-1"], "limit is '-1'"),
        (["run=nowhere", "data=x", "out=y"], "no run.json"),
        ([f"run={RUN}", "data=nowhere.csv", "out=y"], "no file nowhere.csv"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, words):
    with pytest.raises(InputError, match=words):
        study.main(arguments)


@pytest.mark.slow
def test_a_rehearsal_that_is_cut_short_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    puzzles = ["53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"]
    lines = [f"{puzzle},{tier}" for puzzle in puzzles for tier in ("clue17", "easy")]
    data = tmp_path / "puzzles.csv"
    data.write_text("\n".join(["puzzle,source", *lines]) + "\n")
    arguments = [f"run={RUN}", f"data={data}", f"out={tmp_path / 'out'}", "most=1", "passes=4"]
    with pytest.raises(InputError, match="no cells"):
        study.main([*arguments, "jobs=none"])
    study.main([*arguments, "jobs=search"])
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    assert len(cells) == 1
    study.main([*arguments, "jobs=search,guaranteed"])
    assert all(path.stat().st_mtime_ns == before for path, before in cells.items())  # nothing is solved twice
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {row["sampler"] for row in table["rows"]} == {"search", "guaranteed"}
    assert all(row["solved"] == 1 and row["n"] == 1 for row in table["rows"])
    assert "guaranteed solves everything: met" in table["verdicts"]
    assert (tmp_path / "out" / "solve_rate_by_passes.png").stat().st_size > 1000
    assert "| guaranteed | 100.0 (20.7-100.0)" in capsys.readouterr().out
