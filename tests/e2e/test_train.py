"""`train.py` as a stranger runs it: a whole run, a kill and a resume, signals, two processes, bad input."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from constrained_dg import load
from tests.training import TINY, at_step, refusal, run, same_weights, send, start, steps_of, stop, train_here, wait_for


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of ten steps, never interrupted."""
    out = tmp_path_factory.mktemp("train") / "unbroken"
    assert train_here(*TINY, "objective=rollouts", f"out={out}") == 0
    return out


def steps_logged(out: Path) -> list[int]:
    """The steps of the rows of solve rates, in their order."""
    rows = csv.DictReader((out / "log" / "metrics.csv").read_text().splitlines())
    return [int(row["step"]) for row in rows if row["solved/4x4"]]


@pytest.mark.slow
def test_a_run_leaves_a_usable_model_curves_and_a_table(unbroken: Path) -> None:
    trained = load(unbroken)
    assert trained.task.name == "sudoku" and trained.sampler.name == "sets"
    assert steps_of(unbroken) == (10, 10)
    rows = json.loads((unbroken / "final.json").read_text())["rows"]
    assert {row["tier"] for row in rows} == {"4x4", "all"} and all(row["n"] == 4 for row in rows)
    curves = (unbroken / "log" / "metrics.csv").read_text()
    assert "loss/diffusion" in curves and "solved/4x4" in curves and "experts/effective" in curves
    names = {path.name for path in unbroken.rglob("*") if path.is_file()}
    assert names == {"train.json", "last.ckpt", "metrics.csv", "model.safetensors", "run.json", "final.json"}


@pytest.mark.slow
def test_a_finished_run_is_trained_further_and_never_overwritten(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Size 9 is new to the model: its canvas grows."""
    out, state = tmp_path / "further", {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    options = ["objective=rollouts", "optimisation.steps=3", "report_per_tier=2"]
    sizes = ["task=sudoku", "debug=steps", "task.sizes={4:0.5,9:0.5}", "task.puzzles=40"]
    assert train_here(*sizes, f"model.run={unbroken}", *options, f"out={out}") == 0
    before, after = load(unbroken), load(out)
    assert (before.model.config.canvas_length, after.model.config.canvas_length) == (16, 81)
    assert after.description["training"]["run"] == str(unbroken) and not same_weights(unbroken, out)
    moved = max((a - b).abs().max() for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))
    assert moved < 0.5  # three steps from where it was, not from the start
    line = refusal([*TINY, f"model.run={unbroken}", "model.loops=3"], capsys)
    assert "model.loops together with model.run" in line
    assert "no run.json" in refusal([*TINY, "model.run=nowhere"], capsys)
    assert "holds a run already" in refusal([*TINY, f"out={unbroken}"], capsys)
    assert "is finished" in refusal([f"resume={unbroken}"], capsys)
    assert state == {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    # A model without the configuration of its training is one of ours, too.
    exported = tmp_path / "exported"
    exported.mkdir()
    for name in ("model.safetensors", "run.json"):
        shutil.copy(unbroken / name, exported)
    assert "is not empty" in refusal([*TINY, f"out={exported}"], capsys)
    assert same_weights(unbroken, exported)


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_signal_ends_a_run_with_checkpoint_and_weights_of_one_step(
    numbers: list[int],
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the third step of ten, before the first regular checkpoint. A moved run is resumed without repeating steps."""
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        at_step(patch, 2, send(*numbers))
        code = train_here(*TINY, "objective=rollouts", "validate.every=1", f"out={out}")
    assert code == 128 + numbers[0] and steps_of(out) == (3, 3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(numbers) and "ending after this step" in lines[0]
    assert steps_logged(out) == [1, 2]
    moved = out.rename(tmp_path / "moved")
    assert train_here(f"resume={moved}") == 0
    assert same_weights(unbroken, moved) and steps_of(moved) == (10, 10)
    assert steps_logged(moved) == list(range(1, 3)) + list(range(4, 11))
    assert [path.name for path in (moved / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_a_killed_run_continues_and_ends_with_the_same_weights(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "killed"
    stop(out, signal.SIGKILL, *TINY, "objective=rollouts", "checkpoint_every=2")
    assert not (out / "model.safetensors").exists()
    line = refusal([f"resume={out}", "optimisation.learning_rate=1.0"], capsys)
    assert "optimisation" in line and str(out) in line
    line = refusal([f"resume={out}", "trainer=ddp"], capsys)
    assert "1 x 8 rows" in line and "2 x 8" in line and "trainer=cpu" in line
    line = refusal([f"resume={out}", "+trainer.accumulate_grad_batches=2"], capsys)
    assert "trainer.accumulate_grad_batches" in line and "what may change" in line
    partial = out / "checkpoints" / ".last.ckpt.123.partial"
    partial.write_bytes(b"half")
    cut = shutil.copytree(out, tmp_path / "cut")
    whole = cut / "checkpoints" / "last.ckpt"
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "last.ckpt" in refusal([f"resume={cut}"], capsys)
    assert train_here(f"resume={out}", "logger=csv", "threads=1", "recompute=true") == 0  # the same gradients
    assert same_weights(unbroken, out) and not partial.exists()
    # Killed while the final table was made: only the table is made again.
    (out / "final.json").unlink()
    assert train_here(f"resume={out}") == 0
    assert same_weights(unbroken, out) and (out / "final.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_processes_stop_together_and_continue(trainer: str, unbroken: Path, tmp_path: Path) -> None:
    """With another logger, a process that prepares batches, and layers computed again: what is learned is the same."""
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    options = [*TINY, "objective=rollouts", f"trainer={trainer}", "sampler.max_passes=8", "report_per_tier=1"]
    run(*options, "validate.every=100", f"out={whole}")
    # Two processes learn from rows of their own, so their model is not that of one.
    assert not same_weights(unbroken, whole)
    output = stop(out, signal.SIGTERM, *options, "checkpoint_every=2", "logger=wandb", "workers=1")
    assert f"resume={out}" in output and "Traceback" not in output
    assert steps_of(out)[0] == steps_of(out)[1] < 10
    assert list(out.glob("wandb/offline-run-*/files/media/table/canvases*.json"))
    run(f"resume={out}", "validate.every=100", "recompute=true")
    assert same_weights(whole, out)


@pytest.mark.slow
def test_a_signal_before_the_first_step_leaves_one_line_and_no_process(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("task=sudoku", "debug=steps", "trainer=ddp", f"out={out}")
    wait_for(out / "train.json", process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    lines = [line for line in output.splitlines() if "parameters" not in line]
    assert process.returncode == 143 and lines == ["terminated before the first step"]
    with pytest.raises(ProcessLookupError):  # on a busy machine the second process may end a moment after the first
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
def test_each_run_of_a_sweep_has_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("-m", *TINY, "logger=wandb", "seed=0,1", "optimisation.steps=2", "report_per_tier=1")
    runs = sorted(Path("outputs", "sudoku").iterdir())
    assert len(runs) == 2 and all(list(folder.glob("wandb/offline-run-*/*.wandb")) for folder in runs)
    assert sorted(load(folder).description["training"]["seed"] for folder in runs) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "task"),
        (["task=sudokuu"], "sudokuu"),
        ([*TINY, "model.hidden_sized=3"], "hidden_sized"),
        ([*TINY, "+x=1"], "'x'"),
        ([*TINY, "+validate.x=1"], "validate.x"),
        ([*TINY, "+model.x=1"], "'x'"),
        ([*TINY, "sampler=plane"], "plane"),
        ([*TINY, "sampler=search"], "search"),
        ([*TINY, "optimisation.steps=0"], "steps"),
        ([*TINY, "optimisation.batch_size=1000000000000"], "batch_size"),
        ([*TINY, "model.loops=0"], "loops"),
        ([*TINY, "model.loops=10000000"], "model.loops is 10000000"),
        ([*TINY, "model.relations=5"], "model.relations is 5"),
        ([*TINY, "+model.hidden_size=1000000", "+model.num_experts=4000"], "GiB"),
        ([*TINY, "+model.num_hidden_layers=1000000000"], "num_hidden_layers"),
        ([*TINY, "task.minimal=2"], "minimal"),
        ([*TINY, "task._target_=5"], "task._target_"),
        ([*TINY, "validate.every=0"], "validate.every"),
        ([*TINY, "report_per_tier=1000000000000000"], "report_per_tier"),
        ([*TINY, "seed=4294967296"], "seed"),
        ([*TINY, "threads=x"], "threads"),
        ([*TINY, "threads=100000"], "threads"),
        ([*TINY, "workers=-1"], "workers"),
        ([*TINY, "compile=maybe"], "compile"),
        ([*TINY, "recompute=5"], "recompute"),
        ([*TINY, "logger=tensorbord"], "tensorbord"),
        ([*TINY, "objective.most_passes=1.5"], "most_passes"),
        ([*TINY, "trainer.precision=bf17"], "bf17"),
        ([*TINY, "+trainer.x=1"], "'x'"),
        (["resume=/nowhere"], "/nowhere"),
        ([*TINY, "out=/proc/run"], "/proc/run"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = not arguments or any(argument.startswith(("out=", "resume=")) for argument in arguments)
    out = [] if placed else [f"out={tmp_path / 'run'}"]
    assert named in refusal([*arguments, *out], capsys)
    assert not list(tmp_path.iterdir())
