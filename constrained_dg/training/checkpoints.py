"""Checkpoints to resume from: one file, replaced atomically, so that a killed process leaves the previous one."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from constrained_dg.files import write_whole
from constrained_dg.training.folder import CHECKPOINTS, LAST


class WholeFiles(TorchCheckpointIO):
    """Writes into the folder of the checkpoint. Lightning writes into the system's temporary folder and moves the file,
    which copies it where that is another file system, and fails where that is full."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getbuffer())


class Checkpoints(L.Callback):
    """Saves every few steps, and at the step after which the run ends. It comes after callbacks that change state.

    Args:
        folder: of the run.
        every: steps.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path, self.every = folder / CHECKPOINTS / LAST, every

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        ends = trainer.should_stop or trainer.global_step >= trainer.max_steps
        if not (ends or trainer.global_step % self.every == 0):
            return
        trainer.save_checkpoint(self.path)
        if trainer.is_global_zero:
            # Earlier versions kept the step in the name.
            for old in set(self.path.parent.glob("*.ckpt")) - {self.path}:
                with suppress(OSError):
                    os.unlink(old)
