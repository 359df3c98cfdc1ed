"""The sampler study: statistics compared with slow versions, refusals, and an interrupted rehearsal that continues."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from constrained_dg.cli import ROOT
from constrained_dg.errors import InputError
from constrained_dg.intervals import percentile_mean, wilson
from experiments.samplers import study
from experiments.samplers.statistics import difference, share

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
    low, high = percentile_mean(values)
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
        ([f"run={RUN}", "data=nowhere.csv", "out=y"], "no file 'nowhere.csv'"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, words):
    with pytest.raises(InputError, match=words):
        study.main(arguments)


def column(sampler: str, solved: list[list[int]], nodes: list[list[int]], **job: int) -> study.Column:
    """Puzzles 0, 1, ... of one tier, clue17, and the seeds of each."""
    held = {"solved": np.array(solved), "nodes": np.array(nodes)} | dict.fromkeys(
        ("passes", "tokens"), np.array(solved)
    )
    held["seconds"] = np.array(solved, float)
    made = study.Job(sampler, **{"seeds": 1, **job})
    return study.Column(made, np.array(["clue17"] * len(solved)), np.arange(len(solved)), held)


def test_rows_are_named_after_what_is_there() -> None:
    assert column("plain", [[1]], [[0]]).name == "plain"
    assert column("eager", [[1]], [[0]], passes=1024).name == "eager 1024"
    assert column("plain", [[1, 0, 1]], [[0, 0, 0]], seeds=10).name == "plain, 3 seeds"  # seven are still to be solved


def test_several_seeds_stand_beside_several_of_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed of plain solves all, ten solve half: the difference of ten seeds is to the ten."""
    some = [[1, 0], [0, 1], [1, 0], [0, 1]]
    found = [
        column("plain", [[1]] * 4, [[0]] * 4),
        column("plain", some, [[0, 0]] * 4, seeds=10),
        column("restarts", [[1, 1]] * 4, [[0, 0]] * 4, seeds=10),
        column("restarts", [[0]] * 4, [[0]] * 4),
    ]
    monkeypatch.setattr(study, "columns", lambda given, limit: found)

    class Clue:
        tier = "clue17"

    given = study.KEYS | {"run": RUN, "data": "puzzles.csv", "out": str(tmp_path)}
    table = study.report(given, [Clue()] * 4, tmp_path, 0)
    differences = {row["sampler"]: row["difference"][0] for row in table["rows"] if "difference" in row}
    assert differences == {"restarts, 2 seeds": 0.5, "restarts": -1.0}
    assert any(line.startswith("better than plain on clue17: met (+50.0 points") for line in table["verdicts"])


def test_search_nodes_are_compared_on_the_puzzles_that_all_were_given() -> None:
    found = [
        column("guaranteed", [[1]] * 3, [[2], [4], [900]]),
        column("guaranteed@untrained", [[1]] * 2, [[6], [6]]),
        column("search", [[1]] * 3, [[8], [9], [900]]),
    ]
    sentence = study.shared_nodes(found, "clue17")
    assert sentence.startswith("search nodes on the same 2 puzzles of clue17: guaranteed 3.0 (2.0-4.0)")
    assert "guaranteed@untrained 6.0 (6.0-6.0), search 8.5 (8.0-9.0)" in sentence
    assert study.shared_nodes(found[:2], "clue17") == study.shared_nodes(found, "easy") == ""


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
