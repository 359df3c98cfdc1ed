"""Lightning's trainer: where a run trains, what it logs, and the callbacks that make it ours."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger

from constrained_dg.errors import InputError, check
from constrained_dg.training.callbacks import SolveRate
from constrained_dg.training.checkpoints import Checkpoints, WholeFiles
from constrained_dg.training.curves import Curves
from constrained_dg.training.folder import Checkpoint, is_first_process
from constrained_dg.training.interrupts import Interrupts
from constrained_dg.training.progress import TrainingProgress
from constrained_dg.training.settings import Optimisation

#: Notices of Lightning that a user can do nothing about.
_NOTICES = (
    ".*does not have many workers.*",
    ".*is_leaf.*",
    ".*returned a view tensor.*",
    ".*callbacks used to create.*",
)


def quieten_lightning() -> None:
    """Only our own lines, and only from the first process."""
    if not is_first_process():
        logging.disable(logging.INFO)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOTICES:
        warnings.filterwarnings("ignore", message=message)


def new_trainer(cfg: dict[str, Any], optimisation: Optimisation, resumed: Checkpoint | None) -> L.Trainer:
    """A trainer without callbacks and loggers; `equip` adds them once the run has a folder.

    Raises:
        InputError: arguments that Lightning refuses, or another number of processes than the run had before.
    """
    try:
        trainer = L.Trainer(
            **trainer_arguments(cfg["trainer"]),
            logger=False,
            plugins=[WholeFiles()],
            max_steps=optimisation.steps,
            gradient_clip_val=optimisation.clip,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10,
        )
    except (TypeError, ValueError, KeyError, L.pytorch.utilities.exceptions.MisconfigurationException) as error:
        raise InputError(f"trainer: {error}", "see conf/trainer and Lightning's Trainer") from None
    if resumed is not None:
        before, now, rows = resumed.processes, trainer.world_size, optimisation.batch_size
        check(
            before == now,
            f"the run makes its steps with {before} x {rows} rows (processes x batch), trainer with {now} x {rows}",
            f"resume with as many processes: trainer={'cpu' if before == 1 else 'ddp'} trainer.devices={before}",
        )
    return trainer


def equip(
    trainer: L.Trainer,
    cfg: dict[str, Any],
    folder: Path,
    solve_rate: SolveRate,
    interrupts: Interrupts,
    steps_done: int,
    compiled: bool,
) -> None:
    """Add callbacks and the logger. The order matters: first the handling of signals, then what changes or reads the
    weights, at last the checkpoint."""
    interrupts.launcher = trainer.strategy.launcher
    trainer.callbacks += [  # type: ignore[attr-defined]
        interrupts,
        solve_rate.average,
        TrainingProgress(compiled, solve_rate),
        solve_rate,
        Checkpoints(folder, cfg["checkpoint_every"]),
    ]
    trainer.logger = Curves(folder, steps_done) if cfg["logger"] == "csv" else _wandb(folder, cfg)


def _wandb(folder: Path, cfg: dict[str, Any]) -> Logger:
    """Weights & Biases without account or network."""
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(
        name=folder.name, project="constrained_dg", save_dir=folder, offline=True, log_model=False, config=cfg
    )


@contextmanager
def cleaned_up() -> Iterator[None]:
    """Afterwards the process is as before, for the next run of a sweep: environment, process group, record of wandb."""
    before = set(os.environ)
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in set(os.environ) - before:
        del os.environ[name]


def trainer_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Lightning's arguments; `strategy: fsdp` means FSDP2 (fully_shard), since the classic one refuses a CPU."""
    arguments = dict(config)
    if arguments.get("precision") == "auto":
        arguments["precision"] = "bf16-mixed" if multiplies_bf16(arguments["accelerator"]) else "32-true"
    if arguments.get("strategy") == "fsdp":
        from lightning.pytorch.strategies import ModelParallelStrategy

        arguments["strategy"] = ModelParallelStrategy(
            data_parallel_size=arguments["devices"], tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return arguments


def multiplies_bf16(accelerator: str) -> bool:
    """Whether bf16 is fast: a CPU without instructions for it emulates them, five times slower than fp32."""
    known = torch.cpu.get_capabilities()
    return accelerator != "cpu" or bool(known.get("avx512_bf16") or known.get("amx_bf16"))
