"""Callbacks: weight average, solve rate during training, progress lines, a clean end on Ctrl-C."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from constrained_dg.evaluation import solve
from constrained_dg.intervals import wilson
from constrained_dg.sampling import Diffusion
from constrained_dg.task import Problem, Task

log = logging.getLogger(__name__)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered from all processes; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the device of another, sharded as that is."""
    tensor = tensor.to(other.device)
    return distribute_tensor(tensor, other.device_mesh, other.placements) if isinstance(other, DTensor) else tensor


def trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that are not frozen, detached."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


class WeightAverage(L.Callback):
    """Exponential moving average of the weights, saved in the checkpoint.

    The decay of step s is min(decay, (1 + s) / (10 + s)), so that the start of the run is forgotten. Frozen parameters
    are not copied; with a decay of 0 nothing is, and the weights stand for themselves.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        weights = trained(pl_module) if self.decay else {}
        if self.average:  # restored from a checkpoint
            self.average = {n: like(self.average[n], p) for n, p in weights.items()}
        else:
            self.average = {n: p.clone() for n, p in weights.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not self.average:
            return
        decay = min(self.decay, (1 + trainer.global_step) / (10 + trainer.global_step))
        torch._foreach_lerp_(list(self.average.values()), list(trained(pl_module).values()), 1 - decay)

    @contextmanager
    def swapped(self, pl_module: L.LightningModule) -> Iterator[None]:
        """The module holds the averaged weights inside this context."""
        raw = {n: p.clone() for n, p in trained(pl_module).items()} if self.average else {}
        self._write(pl_module, self.average)
        try:
            yield
        finally:
            self._write(pl_module, raw)

    @staticmethod
    @torch.no_grad()
    def _write(pl_module: L.LightningModule, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in trained(pl_module).items():
            if name in weights:
                parameter.copy_(weights[name])

    def state_dict(self) -> dict[str, Any]:
        return {"average": {n: whole(t) for n, t in self.average.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = state_dict["average"]


class SolveRate(L.Callback):
    """Solve rate on held-out problems every few steps, with the averaged weights; logs a table of canvases too.

    The first process solves them, or every process the same ones, in step, where the model is sharded.
    """

    def __init__(
        self, task: Task, sampler: Diffusion, problems: Sequence[Problem], every: int, average: WeightAverage
    ) -> None:
        self.task, self.sampler, self.problems = task, sampler, problems
        self.every, self.average = every, average

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.report(trainer, pl_module)

    def report(self, trainer: L.Trainer, pl_module: Any) -> None:
        model = pl_module.backbone
        if not (trainer.is_global_zero or isinstance(model, FSDPModule)):
            return
        with self.average.swapped(pl_module), torch.compiler.set_stance("force_eager"):
            outcomes = solve(
                model, self.task, self.sampler, self.problems, batch_size=64, seed=0, device=str(pl_module.device)
            )
        if not trainer.is_global_zero:
            return
        tiers: dict[str, list[bool]] = {}
        for outcome in outcomes:
            tiers.setdefault(outcome.problem.tier, []).append(outcome.solved)
        line = []
        for tier, solved in tiers.items():
            low, high = wilson(sum(solved), len(solved))
            line.append(f"{tier} {sum(solved) / len(solved):.1%} [{low:.1%}, {high:.1%}] n={len(solved)}")
            for logger in trainer.loggers:
                logger.log_metrics({f"solved/{tier}": sum(solved) / len(solved)}, step=trainer.global_step)
        log.info("step %d, %s solves: %s", trainer.global_step, self.sampler.name, "; ".join(line))
        some = outcomes[:: max(1, len(outcomes) // 8)]
        rows = [[o.problem.tier, o.problem.text, o.answer, str(o.status)] for o in some]
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):  # Weights & Biases has tables; CSV has not
                logger.log_table("canvases", columns=["tier", "puzzle", "answer", "status"], data=rows)


class ProgressLines(L.Callback):
    """One line every few seconds: steps, loss, rate, time left. Reads well in a terminal and in a file."""

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = seconds

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.begun = self.last = time.monotonic()
        self.first = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        now, step = time.monotonic(), trainer.global_step
        if now - self.last < self.seconds and step < trainer.max_steps:
            return
        self.last = now
        rate = (step - self.first) / (now - self.begun)
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")}
        shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        left = (trainer.max_steps - step) / max(rate, 1e-9)
        examples = rate * pl_module.optimisation.batch_size * trainer.world_size
        log.info(
            "step %d of %d  %s  %.0f examples/s  %.1f min left", step, trainer.max_steps, shown, examples, left / 60
        )


class StopOnInterrupt(L.Callback):
    """Ctrl-C ends the run after the current step: checkpoint and weights are written. A second one ends it at once.

    Processes that train together agree after each step, since a signal may reach one before the other.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.interrupted = False

        def stop(signum: int, frame: Any) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            log.info("interrupted: ending after this step, Ctrl-C again to end at once")

        self.previous = signal.signal(signal.SIGINT, stop)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.strategy.reduce_boolean_decision(self.interrupted, all=False):
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        signal.signal(signal.SIGINT, self.previous)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
