"""Progress of a training run: a bar in a terminal, lines in a log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Collection
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

log = logging.getLogger(__name__)


class TrainingProgress(L.Callback):
    """Steps, loss, examples a second and time left; before the first step, what the run waits for.

    The time left is counted from steps that compiled nothing, plus the solve rates still to come.

    Args:
        compiled: whether the first step compiles.
        slow: a callback that takes long every few steps.
        seconds: between two lines.
    """

    def __init__(self, compiled: bool, slow: SlowEvery, seconds: float = 20.0) -> None:
        self.compiled, self.slow, self.seconds = compiled, slow, seconds
        self.console = Console(stderr=True)
        self.first_step = "compiling the training step (a minute or more)" if compiled else "making the first step"
        self.waiting: Waiting | None = None
        self.bar: Progress | None = None
        self.steps_timed, self.seconds_timed = 0, 0.0

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if trainer.is_global_zero:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                console=self.console,
                transient=True,
                disable=not self.console.is_terminal,
            )
            self.line = self.bar.add_task("preparing examples", total=trainer.max_steps)
            self.bar.start()
            self._redirect_lines()
            self._wait_for("preparing examples")

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.waiting is not None:
            self._wait_for(self.first_step)
            if self.compiled:
                log.info("%s ...", self.first_step)
        self.begun, self.graphs = time.monotonic(), _graphs()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Called before the solve rate, so that the time of a step excludes it."""
        now, step = time.monotonic(), trainer.global_step
        if self.waiting is not None:
            self.waiting.done()
            self.waiting, self.last = None, now
        if _graphs() == self.graphs:
            self.steps_timed, self.seconds_timed = self.steps_timed + 1, self.seconds_timed + now - self.begun
        if self.bar is None:
            return
        if self.console.is_terminal:
            self.bar.update(self.line, completed=step, description=self._shown(trainer, pl_module, ("loss",)))
        elif now - self.last >= self.seconds or step >= trainer.max_steps:
            self.last = now
            log.info("step %d of %d  %s", step, trainer.max_steps, self._shown(trainer, pl_module))

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _shown(self, trainer: L.Trainer, pl_module: Any, names: Collection[str] | None = None) -> str:
        """Metrics (all, or those of these names), speed and time left."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")}
        parts = [f"{name} {value:.3f}" for name, value in metrics.items() if names is None or name in names]
        if self.steps_timed:
            each = self.seconds_timed / self.steps_timed
            parts.append(f"{pl_module.optimisation.batch_size * trainer.world_size / each:.0f} examples/s")
            parts.append(f"{self._seconds_left(trainer, each) / 60:.1f} min left")
        return "  ".join(parts)

    def _seconds_left(self, trainer: L.Trainer, each: float) -> float:
        left = (trainer.max_steps - trainer.global_step) * each
        every = self.slow.every
        return left + self.slow.seconds * (trainer.max_steps // every - trainer.global_step // every)

    def _wait_for(self, what: str) -> None:
        if self.waiting is not None:
            self.waiting.done()
        self.waiting = Waiting(what, self.seconds, lines=not self.console.is_terminal)
        if self.bar is not None:
            self.bar.update(self.line, description=what)

    def _close(self) -> None:
        if self.waiting is not None:
            self.waiting.done()
        if self.bar is not None:
            self.bar.stop()
            self._redirect_lines()
        self.waiting = self.bar = None

    def _redirect_lines(self) -> None:
        """Log lines to the present sys.stdout: rich replaces it by one that prints above the bar."""
        if self.console.is_terminal:
            for handler in logging.getLogger().handlers:
                if type(handler) is logging.StreamHandler:
                    handler.setStream(sys.stdout)


class SlowEvery(L.Callback):
    """A callback that takes `seconds` every `every` steps, for the time left; 0 seconds before the first time."""

    every: int
    seconds: float = 0.0


class Waiting:
    """Logs from a thread, every few seconds, that something still runs, until `done`."""

    def __init__(self, what: str, seconds: float, lines: bool) -> None:
        self._over, begun = threading.Event(), time.monotonic()

        def say() -> None:
            while not self._over.wait(seconds):
                log.info("%s: %.0f s so far", what, time.monotonic() - begun)

        if lines:
            threading.Thread(target=say, daemon=True).start()

    def done(self) -> None:
        self._over.set()


def _graphs() -> int:
    """The number of graphs that torch.compile has compiled in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]
