"""`train.py` as a stranger runs it: a whole run, a kill and a resume, Ctrl-C, two processes, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from constrained_dg import load
from constrained_dg.cli import ROOT

TINY = ["task=sudoku", "debug=steps", "task.sizes={4:1.0,9:0.0}", "task.puzzles=200"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def run(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of ten steps with carried canvases, never interrupted."""
    out = tmp_path_factory.mktemp("train") / "unbroken"
    done = run(*TINY, "objective=own_canvas", f"out={out}")
    assert done.returncode == 0, done.stderr
    return out


def finish(out: Path, *arguments: str) -> None:
    """Run to the end. A process that torch's own code crashes (seen once, while gloo gathered a sharded model) was
    killed like any other: the run is continued, once."""
    done = run(*arguments)
    if done.returncode == -signal.SIGSEGV:
        print(f"crashed, continued:\n{done.stderr}")
        done = run(f"resume={out}")
    assert done.returncode == 0, done.stderr


def same_weights(first: Path, second: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_run_leaves_a_usable_model_curves_and_a_table(unbroken: Path) -> None:
    trained = load(unbroken)
    assert trained.task.name == "sudoku" and trained.sampler.name == "plain"
    assert trained.description["training"]["steps_done"] == 10
    rows = json.loads((unbroken / "final.json").read_text())["rows"]
    assert {row["tier"] for row in rows} == {"4x4", "all"} and all(row["n"] == 4 for row in rows)
    curves = (unbroken / "log" / "metrics.csv").read_text()
    assert "loss/diffusion" in curves and "solved/4x4" in curves and "experts/effective" in curves
    assert (unbroken / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_a_finished_run_is_trained_further_with_the_canvases_of_a_sampler(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Size 9 is new to the model: its canvas grows. The sampler reads the rules of each batch."""
    out = tmp_path / "further"
    options = ["objective=own_canvas", "sampler=validity", "optimisation.steps=3", "report_per_tier=2"]
    sizes = ["task=sudoku", "debug=steps", "task.sizes={4:0.5,9:0.5}", "task.puzzles=40"]
    done = run(*sizes, f"model.run={unbroken}", *options, f"out={out}")
    assert done.returncode == 0, done.stderr
    before, after = load(unbroken), load(out)
    assert (before.model.config.canvas_length, after.model.config.canvas_length) == (16, 81)
    assert after.description["training"]["run"] == str(unbroken) and not same_weights(unbroken, out)
    moved = max((a - b).abs().max() for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))
    assert moved < 0.5  # three steps from where it was, not from the start
    told = refusal(["train.py", *TINY, f"model.run={unbroken}", "model.loops=3"], monkeypatch, capsys)
    assert "model.loops together with model.run" in told
    assert "no run.json" in refusal(["train.py", *TINY, "model.run=nowhere"], monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp", "fsdp"])
def test_a_killed_run_continues_and_ends_with_the_same_weights(
    trainer: str,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, options = tmp_path / "killed", [*TINY, "objective=own_canvas", f"trainer={trainer}"]
    kill(out, *options)
    assert not (out / "model.safetensors").exists()
    if trainer == "cpu":
        other = refusal(["train.py", f"resume={out}", "optimisation.learning_rate=1.0"], monkeypatch, capsys)
        assert "optimisation" in other and str(out) in other
        cut = shutil.copytree(out, tmp_path / "cut")
        whole = (cut / "checkpoints" / "last.ckpt").resolve()
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        assert "last.ckpt" in refusal(["train.py", f"resume={cut}"], monkeypatch, capsys)
    finish(out, f"resume={out}")
    assert load(out).description["training"]["steps_done"] == 10
    if trainer != "cpu":
        one, unbroken = unbroken, tmp_path / "unbroken"
        finish(unbroken, *options, f"out={unbroken}")
        # Two processes learn from rows of their own, so their model is not that of one.
        assert not same_weights(one, unbroken)
    assert same_weights(unbroken, out)


@pytest.mark.slow
def test_an_interrupt_leaves_a_usable_model_and_a_run_to_continue(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    # Another logger and a process that prepares batches: neither may change what is learned.
    interrupt(out, *TINY, "objective=own_canvas", "logger=wandb", "workers=1")
    assert 4 <= load(out).description["training"]["steps_done"] < 10
    assert list(out.glob("wandb/offline-run-*/files/media/table/canvases*.json"))
    done = run(f"resume={out}")
    assert done.returncode == 0, done.stderr
    assert same_weights(unbroken, out)


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run with a checkpoint, slowed by a validation at every step so that there is time to end it before the next."""
    process = subprocess.Popen(
        command(*arguments, f"out={out}", "validate.every=1"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for(out / "checkpoints" / "last.ckpt", process)
    return process


def kill(out: Path, *arguments: str) -> None:
    """Start a run and kill all its processes."""
    process = start(out, *arguments)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)


def interrupt(out: Path, *arguments: str) -> None:
    """Start a run and press Ctrl-C: it ends well and says how to go on."""
    process = start(out, *arguments)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f"resume={out}" in output and "Traceback" not in output, output


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_is_never_overwritten(
    unbroken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()}
    assert "holds a run already" in refusal(["train.py", *TINY, f"out={unbroken}"], monkeypatch, capsys)
    assert "is finished" in refusal(["train.py", f"resume={unbroken}"], monkeypatch, capsys)
    assert before == {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()}


def refusal(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr with which train.py refuses these arguments."""
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit) as ended:
        train.main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert ended.value.code == 2 and len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "task"),
        (["task=sudokuu"], "sudokuu"),
        ([*TINY, "model.hidden_sized=3"], "hidden_sized"),
        ([*TINY, "sampler=plane"], "plane"),
        ([*TINY, "sampler=search"], "search"),
        ([*TINY, "optimisation.steps=0"], "steps"),
        ([*TINY, "model.loops=0"], "loops"),
        ([*TINY, "task.minimal=2"], "minimal"),
        ([*TINY, "validate.every=0"], "validate.every"),
        ([*TINY, "threads=x"], "threads"),
        ([*TINY, "workers=-1"], "workers"),
        ([*TINY, "compile=maybe"], "compile"),
        ([*TINY, "logger=tensorbord"], "tensorbord"),
        ([*TINY, "objective.own_canvas_passes=1.5"], "own_canvas_passes"),
        ([*TINY, "trainer.precision=bf17"], "bf17"),
        (["resume=/nowhere"], "/nowhere"),
        ([*TINY, "out=/proc/run"], "/proc/run"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    placed = not arguments or any(argument.startswith(("out=", "resume=")) for argument in arguments)
    out = [] if placed else [f"out={tmp_path / 'run'}"]
    assert named in refusal(["train.py", *arguments, *out], monkeypatch, capsys)
    assert not list(tmp_path.iterdir())
