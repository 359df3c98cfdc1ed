"""Training batches as a stream that can start at any step."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from constrained_dg.task import Batch, Task


class Steps(IterableDataset):
    """The batches of steps first, first + 1, ...: each a pure function of the step, so nothing needs to be restored."""

    def __init__(self, task: Task, first: int, batch_size: int, rank: int) -> None:
        self.task, self.first, self.batch_size, self.rank = task, first, batch_size, rank

    def __iter__(self) -> Iterator[Batch]:
        # Workers take turns, so worker w of n makes every n-th step.
        worker = get_worker_info()
        step, stride = (self.first, 1) if worker is None else (self.first + worker.id, worker.num_workers)
        while True:
            yield self.task.train_batch(step, self.batch_size, self.rank)
            step += stride


class TaskData(L.LightningDataModule):
    """Lightning's view of a task. After a resume the stream starts at the trainer's step.

    Args:
        workers: processes that prepare batches; 0 prepares them in the training process.
    """

    def __init__(self, task: Task, batch_size: int, workers: int = 0) -> None:
        super().__init__()
        self.task, self.batch_size, self.workers = task, batch_size, workers

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        steps = Steps(self.task, self.trainer.global_step, self.batch_size, self.trainer.global_rank)
        return DataLoader(steps, batch_size=None, num_workers=self.workers, worker_init_fn=_leave_signals)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)


def _leave_signals(worker: int) -> None:
    """Ctrl-C reaches workers, too; the training process handles it and ends them."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
