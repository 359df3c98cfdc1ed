"""Processes of this machine that share work, joined by torch.distributed (gloo)."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

Value = TypeVar("Value")
#: Between two exchanges a process may solve problems for long; one that dies closes its connections, which others see.
_PATIENCE = timedelta(days=30)
#: Seconds in which a process must have started.
_START = 300


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that share work.

    Attributes:
        rank: 0-based; 0 is the process that the user started.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def takes(self, index: int) -> bool:
        """Whether the part of the work with this index is that of this process."""
        return index % self.size == self.rank

    def gathered(self, own: dict[int, Value]) -> dict[int, Value]:
        """The values of all processes, in each of them. All must call it.

        Raises:
            RuntimeError: another process has ended.
        """
        if self.size == 1:
            return own
        parts: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(parts, own)
        except RuntimeError as error:  # gloo tells of sockets
            raise RuntimeError("another process has ended; its message stands above") from error
        return {key: value for part in parts for key, value in part.items()}


@contextmanager
def started(size: int, work: Callable[..., None], *arguments: Any) -> Iterator[Ranks]:
    """This process as rank 0 of several; each other one calls `work(ranks, *arguments)`.

    Args:
        work: of a module, since the processes start afresh; `arguments` are pickled for them.

    Raises:
        RuntimeError: a process ended before it had begun.
    """
    if size == 1:
        yield Ranks()
        return
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store, others, ready = str(Path(folder) / "store"), [], []
        for rank in range(1, size):
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=_join, args=(there, Ranks(rank, size), store, work, arguments), daemon=True
            )
            process.start()
            there.close()
            others.append(process)
            ready.append(here)
        try:
            for rank, pipe in enumerate(ready, 1):
                if not pipe.poll(_START) or not _received(pipe):
                    raise RuntimeError(f"process {rank} of {size} did not start; its message stands above")
            with _joined(Ranks(0, size), store) as ranks:
                yield ranks
            for process in others:
                process.join(_START)
        finally:
            for process in others:
                process.kill()
                process.join()


def _received(pipe: Any) -> bool:
    try:
        return bool(pipe.recv())
    except EOFError:  # the process has ended
        return False


def _join(pipe: Any, ranks: Ranks, store: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; rank 0 ends the others
    pipe.send(True)
    with _joined(ranks, store):
        work(ranks, *arguments)


@contextmanager
def _joined(ranks: Ranks, store: str) -> Iterator[Ranks]:
    dist.init_process_group("gloo", f"file://{store}", _PATIENCE, ranks.size, ranks.rank)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
