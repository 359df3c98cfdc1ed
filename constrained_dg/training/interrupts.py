"""Ctrl-C (SIGINT) and SIGTERM, handled in one place.

Before the first training step and after the last one no work can be lost: the process prints one line and ends.
Otherwise the run ends after the current step, with a checkpoint and weights of that step. Exit codes follow the
shell: 130 for SIGINT, 143 for SIGTERM.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

from constrained_dg.training.folder import PARENT_VARIABLE, is_first_process

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interrupts(L.Callback):
    """A thread reads the signals, so that they work while the main thread waits for another process or compiles.

    Processes that train together agree after each step, since a signal may reach one before the other.

    Attributes:
        received: the number of the signal that ends the run, 0 without one.
        training: whether a step was taken and its weights are not written yet.
        finished: whether training is over; a signal then ends the main thread by SystemExit, so that loggers can close.
        launcher: Lightning's launcher of further processes, or None.
    """

    def __init__(self) -> None:
        self.received = 0
        self.training = self.finished = False
        self.launcher: Any = None
        self._count = 0
        self._parent = int(os.environ.get(PARENT_VARIABLE, os.getpid()))

    @contextmanager
    def handled(self) -> Iterator[Interrupts]:
        """Signals are handled inside; an error there also ends the further processes of the run."""
        listen, send = socket.socketpair()
        send.setblocking(False)
        previous = {number: signal.signal(number, self._in_main_thread) for number in SIGNALS}
        before = signal.set_wakeup_fd(send.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(listen,), daemon=True).start()
        try:
            yield self
            for child in self.launcher.procs if self.launcher is not None else ():
                child.wait()
        except BaseException:
            self.end_children()
            raise
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in previous.items():
                # One more signal must not end the process while it leaves.
                signal.signal(number, signal.SIG_IGN if self.received else handler)
            send.close()  # ends the thread

    def end_children(self) -> None:
        """End the further processes. Clear the list first: Lightning's observer of it would also end this process."""
        if self.launcher is not None:
            children = list(self.launcher.procs)
            self.launcher.procs.clear()
            for child in children:
                child.kill()
                child.wait()

    def _in_main_thread(self, number: int, frame: Any) -> None:
        if self.finished:
            self.received = number
            self._say(NAMES[signal.Signals(number)])
            sys.exit(128 + number)

    def _watch(self, listen: socket.socket) -> None:
        """Read signals until the other end is closed; a further process also ends when the first one is gone."""
        listen.settimeout(1.0)
        first = is_first_process()
        while True:
            try:
                data = listen.recv(1)
            except TimeoutError:
                if not first and self._parent not in (os.getpid(), os.getppid()):
                    os._exit(0)
                continue
            if not data:
                listen.close()
                return
            if data[0] in SIGNALS and not self.finished:
                self._on_signal(data[0])

    def _on_signal(self, number: int) -> None:
        self._count += 1
        name = NAMES[signal.Signals(number)]
        if not self.training:
            self._say(f"{name} before the first step")
            self._end_now(number)
        self.received = self.received or number
        if self._count == 1:
            self._say(f"{name}: ending after this step with a checkpoint and weights")
        elif self._count == 2:
            self._say("the checkpoint is being written; a third signal ends at once")
        else:
            self._end_now(number)

    def _say(self, text: str) -> None:
        if is_first_process():
            print(text, file=sys.stderr, flush=True)

    def _end_now(self, number: int) -> None:
        self.end_children()
        # A further process that ends with another code makes Lightning kill the first one.
        os._exit(128 + number if is_first_process() else 0)

    # -- as a callback ------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning has just set its handler for SIGTERM, which waits for other processes inside the handler.
        for number in SIGNALS:
            signal.signal(number, self._in_main_thread)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.training = True
        if trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            trainer.should_stop = True
