"""Callbacks: the weight average, and solve rates during training."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from constrained_dg.evaluation import Outcome, solve
from constrained_dg.intervals import wilson
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.task import Problem, Task
from constrained_dg.training.interrupts import Interrupts
from constrained_dg.training.progress import SlowEvery

log = logging.getLogger(__name__)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor, gathered from all processes; others unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The tensor on the device of another, and sharded as that one is."""
    tensor = tensor.to(other.device)
    if not isinstance(other, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements)


def trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that are not frozen, detached."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


class WeightAverage(L.Callback):
    """Exponential moving average of the weights, saved in the checkpoint.

    The decay of step s is min(decay, (1 + s) / (10 + s)), so that early weights lose their influence. Frozen parameters
    are not copied; with a decay of 0 there is no average.
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
                parameter.copy_(like(weights[name], parameter))

    def state_dict(self) -> dict[str, Any]:
        return {"average": {n: gathered(t) for n, t in self.average.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = state_dict["average"]


class SolveRate(SlowEvery):
    """Solve rate on held-out problems every few steps, with the averaged weights; logs some answers as a table too.

    The first process solves them; where the model is sharded, all processes solve the same ones together.
    """

    def __init__(
        self,
        task: Task,
        sampler: Sampler,
        problems: Sequence[Problem],
        every: int,
        average: WeightAverage,
        interrupts: Interrupts,
    ) -> None:
        self.task, self.sampler, self.problems = task, sampler, problems
        self.every, self.average, self.interrupts = every, average, interrupts

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0 and not trainer.should_stop:
            begun = time.monotonic()
            with suppress(_Interrupted):
                self.report(trainer, pl_module)
            self.seconds = time.monotonic() - begun

    def report(self, trainer: L.Trainer, pl_module: Any) -> None:
        model = pl_module.backbone
        sharded = isinstance(model, FSDPModule)
        if not (trainer.is_global_zero or sharded):
            return

        def after_batch(outcomes: Sequence[Outcome]) -> None:
            # All processes of a sharded model must continue together.
            if self.interrupts.received and not sharded:
                raise _Interrupted

        # 1. Solve.
        with self.average.swapped(pl_module), torch.compiler.set_stance("force_eager"):
            outcomes = solve(
                model,
                self.task,
                self.sampler,
                self.problems,
                batch_size=64,
                seed=0,
                device=str(pl_module.device),
                progress=after_batch,
            )
        if not trainer.is_global_zero:
            return
        # 2. Rates by tier.
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
        # 3. Some of the answers, where the logger has tables.
        some = outcomes[:: max(1, len(outcomes) // 8)]
        rows = [[o.problem.tier, o.problem.text, o.answer, str(o.status)] for o in some]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table("canvases", columns=["tier", "puzzle", "answer", "status"], data=rows)


class _Interrupted(Exception):
    """A signal came while problems were solved: the run ends."""
