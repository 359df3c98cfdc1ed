"""Training runs for tests: in this process, which saves the seconds of the imports, or in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from constrained_dg.cli import ROOT
from constrained_dg.training.module import DiffusionModule

TINY = ("task=sudoku", "debug=steps", "task.sizes={4:1.0,9:0.0}", "task.puzzles=200")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def train_here(*arguments: str) -> int:
    """Run train.py in this process, on one CPU; returns its exit code. Signal handlers are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        train.main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr with which train.py refuses these arguments."""
    capsys.readouterr()
    code = train_here(*arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1, lines
    return lines[0]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something at the beginning of a training step of a run in this process."""
    original = DiffusionModule.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            action()
        return original(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", training_step)


def send(*numbers: int) -> Callable[[], None]:
    """Sends signals to this process, one after the other."""

    def action() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.1)  # for the thread that reads them

    return action


def start(*arguments: str) -> subprocess.Popen[str]:
    """A run in processes of its own, which form a group."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str) -> str:
    """A whole run in processes of its own; its output. A process that torch's own code crashes (seen once, while gloo
    gathered a sharded model) was killed like any other: the run is continued, once."""
    process = start(*arguments)
    output, _ = process.communicate(timeout=240)
    out = next((argument for argument in arguments if argument.startswith("out=")), None)
    if process.returncode == -signal.SIGSEGV and out is not None:
        return run(out.replace("out=", "resume="))
    assert process.returncode == 0, output
    return output


def stop(out: Path, number: int, *arguments: str) -> str:
    """Start a run, slowed by a validation at every step, send a signal to its first process (a kill: to all) once it
    has a checkpoint, and wait for its end; its output."""
    process = start(*arguments, f"out={out}", "validate.every=1")
    wait_for(out / "checkpoints" / "last.ckpt", process)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), output
    return output


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def steps_of(out: Path) -> tuple[int, int]:
    """Steps of the checkpoint, and of the weights."""
    from constrained_dg import load

    checkpoint = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["global_step"], load(out).description["training"]["steps_done"]


def same_weights(first: Path, second: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
