"""A wheel works anywhere: commands, tasks, configurations and shipped runs are inside the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import evaluate
from constrained_dg import load, places
from constrained_dg.places import ROOT
from tests.e2e.test_missing_packages import PUZZLE

pytest.importorskip("hatchling", reason="building a wheel without network needs hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the wheel alone, as pip would unpack it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with nothing of the project."""
    return tmp_path_factory.mktemp("away")


def python(site: Path, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_holds_one_package_and_what_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"constrained_dg"}
    inside = {name.removeprefix("constrained_dg/bundled/") for name in names}
    tracked = subprocess.run(["git", "ls-files", "tasks", "conf"], capture_output=True, text=True, cwd=ROOT)
    expected = set(tracked.stdout.split()) if tracked.returncode == 0 else {"conf/train.yaml", "tasks/__init__.py"}
    expected = {name for name in expected if (ROOT / name).exists()}
    assert expected and expected <= inside
    runs = {path.relative_to(ROOT).as_posix() for path in places.shipped_runs().values()}
    assert len(runs) == 12 and {f"{run}/{name}" for run in runs for name in ("run.json", "model.safetensors")} <= inside
    page = {f"constrained_dg/viz/page/{name}" for name in ("page.html", "page.css", "page.js", "player.js")}
    assert page <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".ckpt"))]
    assert "constrained_dg/py.typed" in names or not (ROOT / "constrained_dg" / "py.typed").exists()
    [commands] = [name for name in names if name.endswith("entry_points.txt")]
    assert "constrained-dg = constrained_dg.__main__:main" in zipfile.ZipFile(wheel).read(commands).decode()


def test_a_shipped_run_is_used_from_anywhere(site: Path, away: Path) -> None:
    code = f"""
import sys, constrained_dg
run = constrained_dg.load("sudoku")
puzzle = run.task.parse({PUZZLE!r})
batch, rule = run.task.encode([puzzle]), run.task.constraint([puzzle])
answer = run.sampler.run(run.model, batch, rule, 0, symmetric=run.task.symmetric)
print(answer.status[0], answer.tokens[0].tolist())
print(constrained_dg.__file__, type(run.task).__module__)
print([name for name in sys.modules if name.partition(".")[0] == "tasks"])
print(constrained_dg.tasks(), constrained_dg.samplers(), constrained_dg.checkpoints(), constrained_dg.__version__)
for name in constrained_dg.checkpoints(): constrained_dg.load(name)
"""
    answer, origin, twice, lists = python(site, away, "-c", code).splitlines()
    run = load("sudoku")
    puzzle = run.task.parse(PUZZLE)
    batch, rule = run.task.encode([puzzle]), run.task.constraint([puzzle])
    here = run.sampler.run(run.model, batch, rule, 0, symmetric=run.task.symmetric)
    assert answer == f"solved {here.tokens[0].tolist()}"
    assert origin == f"{site / 'constrained_dg' / '__init__.py'} constrained_dg.bundled.tasks.sudoku.task"
    assert twice == "[]", "no task is imported under two names"
    assert "'graph/coloring'" in lists and "'restarts'" in lists and lists.endswith("'text/records_twin'] 0.2.0")


def test_the_commands_of_a_wheel(site: Path, away: Path) -> None:
    said = python(site, away, "-m", "constrained_dg", "evaluate", "run=sudoku", f"puzzle={PUZZLE}")
    assert "solved: passes" in said
    assert python(site, away, "-m", "constrained_dg", "--version") == "0.2.0\n"
    assert "constrained-dg train" in python(site, away, "-m", "constrained_dg")


@pytest.mark.slow
def test_runs_move_between_wheel_and_checkout(
    site: Path, away: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 1. Trained by the wheel, on two processes: Lightning starts the second with the same command.
    given = ("task=sudoku", "debug=steps", "trainer=ddp", "task.puzzles=400", "task.sizes={4:1.0,9:0.0,16:0.0}")
    given += ("logger=csv", "out=run")
    python(site, away, "-m", "constrained_dg", "train", *given)
    assert json.loads((away / "run" / "run.json").read_text())["task"]["_target_"] == "tasks.sudoku.Sudoku"
    # 2. Evaluated by the checkout.
    assert type(load(away / "run").task).__module__ == "tasks.sudoku.task"
    evaluate.main([f"run={away / 'run'}", "puzzle=1...............", "samplers=[plain]", "max_passes=2"])
    assert "passes 2" in capsys.readouterr().out
    # 3. And a run of the checkout by the wheel: the shipped one, by its path.
    run = ROOT / "experiments" / "sudoku" / "small"
    assert "solved: passes" in python(site, away, "-m", "constrained_dg", "evaluate", f"run={run}", f"puzzle={PUZZLE}")


def test_a_command_that_does_not_exist(site: Path, away: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "constrained_dg", "trian"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=away, env=environment)
    assert done.returncode == 2 and done.stderr == "error: no command 'trian'; did you mean train?\n"
