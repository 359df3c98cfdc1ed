"""The task of one's own of docs/tasks.md: its one file and one yaml train and are evaluated as it says."""

from __future__ import annotations

import csv
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import evaluate
import train
from constrained_dg.cli import ROOT
from constrained_dg.errors import InputError
from constrained_dg.runs import build
from constrained_dg.task import Task

SECTION = (ROOT / "docs" / "tasks.md").read_text().partition("## A task of your own\n")[2].partition("\n## ")[0]
#: Few steps and passes: what is learned is not asked for here.
TINY = ["debug=steps", "optimisation.steps=3", "validate.every=100", "report_per_tier=1", "sampler.max_passes=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, where it says."""
    here = tmp_path_factory.mktemp("own")
    [code] = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
    [choice] = re.findall(r"```yaml\n(.*?)```", SECTION, flags=re.DOTALL)
    (here / "mine" / "task").mkdir(parents=True)
    (here / "mine" / "my_tasks.py").write_text(code)
    (here / "mine" / "task" / "latin.yaml").write_text(choice)
    return here


@pytest.fixture
def my_tasks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, for this test alone."""
    monkeypatch.setitem(sys.modules, "my_tasks", None)  # so that it is forgotten afterwards
    monkeypatch.delitem(sys.modules, "my_tasks")
    monkeypatch.syspath_prepend(str(folder / "mine"))
    return importlib.import_module("my_tasks")


def command(script: str) -> list[str]:
    """The first command of the page with this script, after `python`."""
    return shlex.split(re.findall(rf"^    python ({script}\.py .*)$", SECTION, flags=re.MULTILINE)[0])


def completes(answer: str, problem: str, size: int) -> bool:
    """The rules of Latin squares, written without the library."""
    rows = [answer[k : k + size] for k in range(0, size * size, size)]
    lines = [*rows, *("".join(line) for line in zip(*rows, strict=True))]
    kept = all(given in ("0", symbol) for given, symbol in zip(problem, answer, strict=True))
    return kept and len(rows) == size and all(sorted(line) == list("1234567"[:size]) for line in lines)


def renamed(symbols: str) -> tuple[int, ...]:
    """Symbols numbered by their first places: equal where two squares differ in the names of symbols alone."""
    return tuple(-1 if symbol == "0" else symbols.index(symbol) for symbol in symbols)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The run folder that the command of the page leaves."""
    script, *options = command("train")
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *options, *TINY],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "mine", "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    [out] = [option.removeprefix("out=") for option in options if option.startswith("out=")]
    return folder / out


@pytest.mark.slow
def test_the_commands_of_the_readme_train_and_evaluate_it(
    run: Path, folder: Path, my_tasks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (run / "model.safetensors").is_file() and (run / "final.json").is_file()
    monkeypatch.chdir(folder)
    chosen = ["samplers=[restarts,guaranteed]", "limit=2", "max_passes=4", "out=report"]
    monkeypatch.setattr(sys, "argv", [*command("evaluate"), *chosen])
    evaluate.main()
    with (folder / "report" / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["tier"] for row in rows} == {"9 given", "15 given", "24 given"} and len(rows) == 12
    for row in rows:
        assert (row["status"] == "solved") == completes(row["answer"], row["problem"], 6), row
        assert row["status"] == "solved" or row["sampler"] == "restarts"
    assert (folder / "report" / "answers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "beyond"),
    [
        ("resume={}", "last.ckpt cannot be read"),
        ("task=latin --config-dir=mine task.size=5 out=further model.run={}", "has vocab_size 7"),
    ],
)
def test_a_run_goes_on_where_its_package_is_named(
    run: Path,
    folder: Path,
    how: str,
    beyond: str,
    my_tasks: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is refused next, a broken checkpoint or another vocabulary, tells that the package was let in."""
    cut = shutil.copytree(run, tmp_path / "cut", symlinks=True)
    (cut / "final.json").unlink()
    (cut / "checkpoints" / "last.ckpt").resolve().write_bytes(b"cut")
    monkeypatch.chdir(folder)
    for named, message in (([], "'my_tasks.LatinSquares' lies outside"), (["packages=[my_tasks]"], beyond)):
        monkeypatch.setattr(sys, "argv", ["train.py", *how.format(cut).split(), *named])
        with pytest.raises(SystemExit):
            train.main()
        assert message in capsys.readouterr().err
    assert not (folder / "further").exists()


def test_what_is_held_out_never_trains_whatever_the_symbols_are_called(my_tasks: ModuleType) -> None:
    """At side 4 there are so few squares and problems that chance alone would bring them together."""
    some, whole = (my_tasks.LatinSquares(size=4, given=[given], seed=3) for given in (4, 16))
    batches = [some.train_batch(step, 32) for step in range(20)]
    problems, squares = (
        {renamed(some.decode(None, cells)) for batch in batches for cells in getattr(batch, part)}
        for part in ("prompt", "answer")
    )
    held_problems, held_squares = ({renamed(held.text) for held in task.held_out(40, 0)} for task in (some, whole))
    assert len(held_problems) > 20 and len(problems) > 300 and not held_problems & problems
    assert held_squares and not held_squares & squares
    assert len(held_squares | squares) == 24  # all that have 1234 as their first row
    for batch in batches:
        for problem, square in zip(batch.prompt, batch.answer, strict=True):
            assert completes(some.decode(None, square), some.decode(None, problem), 4)


def test_a_batch_depends_on_seed_step_and_rank_alone(my_tasks: ModuleType) -> None:
    task, again, other = (my_tasks.LatinSquares(size=4, given=[4, 9], seed=seed) for seed in (1, 1, 2))
    first = task.train_batch(5, 8).answer
    assert torch.equal(first, again.train_batch(5, 8).answer)
    for batch in (task.train_batch(6, 8), task.train_batch(5, 8, rank=1), other.train_batch(5, 8)):
        assert not torch.equal(first, batch.answer)


def test_relations_say_which_positions_bind_which(my_tasks: ModuleType) -> None:
    task = my_tasks.LatinSquares(size=4, given=[4])
    row, column, cell, every = task.train_batch(0, 2).relations[0]
    for one in range(32):
        for other in range(32):
            (r, c), (s, d) = divmod(one % 16, 4), divmod(other % 16, 4)
            related = row[one, other], column[one, other], cell[one, other], every[one, other]
            assert [bool(each) for each in related] == [r == s, c == d, (r, c) == (s, d), True]


def test_defaults_of_a_task_read_draw_and_tell_shapes(my_tasks: ModuleType, tmp_path: Path) -> None:
    task = my_tasks.LatinSquares(size=4, given=[3])
    square = "1...2........3.."
    path = tmp_path / "squares.txt"
    path.write_text(f"\n{square}\n  {square.replace('.', '0')}\n")
    problem, same = task.read(str(path))
    assert problem == same == task.parse(square) and problem.tier == "3 given"
    assert task.shape_of(problem) == (16, 16)
    for content, part in (
        (f"{square}\n{square[1:]}\n", "line 2"),
        ("\n", "no problems"),
        (b"\xff", "cannot be read"),
    ):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=part) as refused:
            task.read(str(path))
        assert str(path) in str(refused.value)
    with pytest.raises(InputError, match="no file"):
        task.read(str(tmp_path / "nowhere.txt"))

    answer, marks = torch.ones(16, dtype=torch.int64), torch.tensor([False, True] * 8)
    assert task.draw(problem, answer, marks) == "\n".join(["1 1!1 1!"] * 4)
    assert task.draw(problem, None).startswith("1 . . . \n2 ")
    assert Task.draw(task, problem, answer, marks) == "1" * 16 + "\n! at 2, 4, 6, 8, 10, 12, 14, 16"
    assert Task.draw(task, problem, None) == problem.text


@pytest.mark.parametrize("values", [{"size": 3}, {"size": 8}, {"given": [0, 9]}, {"size": 4, "given": [17]}])
def test_values_out_of_range_are_refused(my_tasks: ModuleType, values: dict) -> None:
    with pytest.raises(InputError, match="use"):
        build({"_target_": "my_tasks.LatinSquares", **values})
