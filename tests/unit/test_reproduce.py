"""Tables of experiments/ know the commands that make them."""

from pathlib import Path

import pytest

from constrained_dg.errors import InputError
from experiments import reproduce
from experiments.arguments import parse

OUT = Path("OUT")


def test_every_kept_report_of_a_shipped_checkpoint_has_its_command():
    found = dict(reproduce.reports())
    assert {"graph/coloring/cold", "sudoku/plain/pkg_16x16", "amino_acid/design/held_out"} <= set(found)
    for name, header in found.items():
        if header.get("data") is None:
            command = reproduce.command_of(name, None, OUT)
            assert command[0] == "evaluate.py" and f"run=experiments/{Path(name).parent}" in command
            assert f"seed={header['seed']}" in command and f"out={OUT}" in command


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("graph/coloring/none", "no table 'graph/coloring/none'; there are amino_acid"),
        ("graph/coloring/cold", "needs data=DATA; see experiments/DATA.md"),
        ("samplers/passes", "needs data=DATA"),
    ],
)
def test_what_cannot_be_made_says_why(name, problem):
    with pytest.raises(InputError, match=problem):
        reproduce.command_of(name, None, OUT)


def test_fetched_files_are_found_in_the_folder_that_is_given(tmp_path):
    (tmp_path / "graph/dimacs_col").mkdir(parents=True)
    assert f"data={tmp_path / 'graph/dimacs_col'}" in reproduce.command_of("graph/coloring/cold", str(tmp_path), OUT)
    with pytest.raises(InputError, match=r"no .*pkg_16x16"):
        reproduce.command_of("sudoku/plain/pkg_16x16", str(tmp_path), OUT)


def test_rows_are_compared_by_what_does_not_depend_on_the_machine():
    row = {"sampler": "plain", "tier": "all", "n": 4, "solved": 0.5, "seconds": 1.0}
    assert reproduce.differences([row], [row | {"seconds": 2.0}, row | {"tier": "other", "n": 9}]) == []
    assert reproduce.differences([row], [row | {"solved": 0.75}]) == ["plain, all: solved 0.5 -> 0.75"]


def test_arguments_have_the_type_of_their_default():
    defaults = {"run": None, "limit": 3, "fast": False, "name": "x"}
    given = ["run=a", "limit=12", "fast=true"]
    assert parse(given, defaults) == {"run": "a", "limit": 12, "fast": True, "name": "x"}
    for bad, problem in (
        ("limit=4", "run missing"),
        ("run=a limit=x", "limit='x'"),
        ("run=a o=1", "unknown"),
    ):
        with pytest.raises(InputError, match=problem):
            parse(bad.split(), defaults)
