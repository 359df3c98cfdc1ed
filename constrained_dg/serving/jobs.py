"""The queue: rows that wait, and the one thread that solves them in batches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from constrained_dg.constraints.running import TimeIsUpError, time_limit
from constrained_dg.errors import InputError
from constrained_dg.sampling.base import Generation, Status
from constrained_dg.serving.metrics import Metrics
from constrained_dg.serving.refusals import Refused, internal, timed_out
from constrained_dg.serving.settings import Settings

log = logging.getLogger(__name__)
#: Seconds without a new row after which a batch begins, and most seconds that a row waits for others.
QUIET, MOST = 0.002, 0.1
#: Share of the last batch's time that the next one waits for as many rows: the clients it answered may ask again.
PATIENCE = 0.05
#: Seconds beyond a request's time limit for the last words of a batch: its answers are judged after the passes.
LAST_WORDS = 2.0


@dataclass(frozen=True)
class Draft:
    """A pass of a row, as an event: a pass of the page, and "text" and "labels" (`puzzles.as_draft`)."""

    values: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """How a row ended: its values, and what the queue counts of it."""

    values: dict[str, Any]
    status: Status | None
    passes: int
    tokens: int

    @classmethod
    def of(cls, generation: Generation, row: int, values: dict[str, Any]) -> Result:
        counts = (int(generation.passes[row]), int(generation.free_tokens[row]))
        return cls(values, generation.status[row], *counts)


class Kind(Protocol):
    """What solves jobs of one kind."""

    def answer(self, jobs: Sequence[Job], **options: Any) -> list[Result]:
        """A result for each of several jobs with equal keys. The options are those of a sampler."""


@dataclass(eq=False)
class Job:
    """One row of a batch to come.

    Attributes:
        key: jobs with equal keys can share a batch.
        work: what the kind solves.
        tell: called in the thread of the queue with drafts, and at last with a Result or a Refused. It must not block.
        deadline: of time.monotonic().
        gone: the client has gone, or has all that it needs.
    """

    kind: Kind
    key: tuple[object, ...]
    work: Any
    seed: int
    tell: Callable[[Any], None]
    deadline: float
    gone: bool = field(default=False)

    @property
    def late(self) -> bool:
        return time.monotonic() >= self.deadline


class Queue:
    """Solves jobs in one thread, in batches of equal keys, the oldest first.

    Rows depend on their seeds alone, so what shares a batch changes no answer. `close` ends it.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self._waiting: list[Job] = []
        self._closed = False
        self._last = (0, 0.0)  # rows and seconds of the last batch
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def put(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait, all or none.

        Raises:
            Refused: the queue is full, or closed.
        """
        with self._changed:
            if self._closed:
                raise _closing()
            if len(self._waiting) + len(jobs) > self.settings.queue:
                message = f"{len(self._waiting)} rows wait, and the queue holds {self.settings.queue}; ask again later"
                raise Refused(429, message, code="queue_full")
            self._waiting += jobs
            self._changed.notify()

    def give_up(self, jobs: Sequence[Job]) -> None:
        """Their client has gone: they leave the queue, or the batch that is running."""
        with self._changed:
            for job in jobs:
                job.gone = True
            self._waiting = [job for job in self._waiting if not job.gone]

    def close(self, seconds: float = 10.0) -> None:
        """Refuse what waits, give up what runs, and end the thread."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify()
        for job in waiting:
            job.tell(_closing())
        self._thread.join(seconds)

    def _work(self) -> None:
        while jobs := self._next():
            self.metrics.rows.observe(len(jobs))
            begun = time.monotonic()
            self._answer(jobs)
            self._last = (len(jobs), time.monotonic() - begun)

    def _next(self) -> list[Job]:
        """The oldest job and others of its key; none once the queue is closed."""
        with self._changed:
            while not self._closed:
                if not self._waiting:
                    self._changed.wait()
                    continue
                self._gather()
                if self._waiting:
                    key = self._waiting[0].key
                    chosen = [job for job in self._waiting if job.key == key][: self.settings.batch_size]
                    self._waiting = [job for job in self._waiting if job not in chosen]
                    self.metrics.waiting.set(len(self._waiting))
                    return chosen
            return []

    def _gather(self) -> None:
        """Wait as long as rows keep coming: requests that arrive together share a batch."""
        begun = time.monotonic()
        rows_before, seconds_before = self._last
        if rows_before <= 1 and self.metrics.open <= len(self._waiting):
            return  # nobody else is there to wait for
        while self._waiting and not self._closed and (waited := time.monotonic() - begun) < MOST:
            key = self._waiting[0].key
            rows = sum(job.key == key for job in self._waiting)
            if rows >= self.settings.batch_size:
                return
            more_expected = rows < rows_before and waited < PATIENCE * seconds_before
            if not self._changed.wait(QUIET) and not more_expected:
                return

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Solve a batch; where that fails, its halves, so that only rows that are at fault are refused."""
        left = max(job.deadline for job in jobs) - time.monotonic()
        try:
            with time_limit(max(left, 0) + LAST_WORDS):  # a judge may take minutes, and knows no other limit
                results = jobs[0].kind.answer(jobs, leave=lambda: self._leaving(jobs), time_limit=max(left, 1e-3))
        except Exception as error:  # a fault of one request must not end the server
            if len(jobs) > 1 and not isinstance(error, TimeIsUpError):
                self._answer(jobs[: len(jobs) // 2])
                self._answer(jobs[len(jobs) // 2 :])
            else:
                for job in jobs:
                    job.tell(self._refused(error))
            return
        for job, result in zip(jobs, results, strict=True):
            self.metrics.passes.inc(result.passes)
            self.metrics.tokens.inc(result.tokens)
            self.metrics.given_up.inc(job.gone)
            late = job.late and result.status not in (Status.SOLVED, Status.UNSATISFIABLE)
            job.tell(timed_out(self.settings.time_limit) if late else _closing() if self._closed else result)

    def _leaving(self, jobs: Sequence[Job]) -> list[int]:
        return [row for row, job in enumerate(jobs) if job.gone or job.late or self._closed]

    def _refused(self, error: Exception) -> Refused:
        if isinstance(error, Refused):
            return error
        if isinstance(error, InputError):
            return Refused(400, str(error), code="input")
        if isinstance(error, TimeIsUpError):
            return timed_out(self.settings.time_limit)
        log.error("a batch failed", exc_info=error)
        return internal()


def _closing() -> Refused:
    return Refused(503, "the server ends; ask another one", code="closing")
