"""The deadline of a search, a flag that stops long work, and reports of judges that failed.

All are context variables, because rules are nested (`All`, `On`, `Predicate`) and no method should need one more
argument for them.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

Made = TypeVar("Made")

#: Limits below which Python collects no garbage: in a large process one collection takes 0.2 s.
_SHORT = 2.0

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
_faults: ContextVar[list[str] | None] = ContextVar("faults", default=None)
_stop: ContextVar[np.ndarray] = ContextVar("stop")
_NEVER = np.zeros(1, np.bool_)


class once(cached_property[Made]):
    """`functools.cached_property` without its lock, which until Python 3.12 all instances share: while one thread reads
    a large schema, no other could read any."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        made = instance.__dict__[self.attrname] = self.func(instance)
        return made


class TimeIsUpError(Exception):
    """Raised by `check_time` where `time_limit` has run out."""


class StoppedError(Exception):
    """Raised by `check_time` where nobody waits for the result any more."""


@contextmanager
def stopped_by(flag: np.ndarray) -> Iterator[None]:
    """Let `check_time` raise once another thread has set flag (1) bool."""
    token = _stop.set(flag)
    try:
        yield
    finally:
        _stop.reset(token)


def run_loop(loop: Callable[..., Any], *arguments: Any) -> Any:
    """What a compiled loop returns whose last argument is the flag that stops it.

    A loop that is stopped returns what it has instead of raising: numba would never free the arrays of the loop.

    Raises:
        StoppedError, TimeIsUpError: as `check_time`.
    """
    made = loop(*arguments, _stop.get(_NEVER))
    check_time()
    return made


def interruptible(work: Callable[[], Made]) -> Made:
    """What the work returns, ended at once by Ctrl-C.

    Python hears no signal while a compiled loop runs in its main thread, so the work is done in another thread, which
    ends by itself once its loops have seen the flag. Within `stopped_by` somebody else does that.
    """
    if _stop.get(None) is not None or threading.current_thread() is not threading.main_thread():
        return work()
    made: Future[Made] = Future()
    stop = np.zeros(1, np.bool_)

    def run() -> None:
        try:
            with stopped_by(stop):
                made.set_result(work())
        except BaseException as error:  # for the caller, whatever it is
            made.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
    try:
        return made.result()
    finally:
        stop[0] = True


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Let `check_time` raise after so many seconds; None sets no limit. An earlier limit around it stays.

    Within a limit of under two seconds Python collects no garbage.
    """
    outer = _deadline.get()
    inner = outer if seconds is None else time.monotonic() + seconds
    token = _deadline.set(inner if outer is None or inner is None else min(inner, outer))
    collects = gc.isenabled()
    if seconds is not None and seconds < _SHORT:
        gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        _deadline.reset(token)


def check_time() -> None:
    """Call this between the steps of loops that may take seconds.

    Raises:
        TimeIsUpError: the time limit of the search has run out.
        StoppedError: the flag of `stopped_by` is set.
    """
    if _stop.get(_NEVER)[0]:
        raise StoppedError
    deadline = _deadline.get()
    if deadline is not None and time.monotonic() >= deadline:
        raise TimeIsUpError


def remaining() -> float | None:
    """Seconds left of the time limit, not below 0; None without one."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collects the failures of judges (`report_fault`) that happen inside."""
    heard: list[str] = []
    token = _faults.set(heard)
    try:
        yield heard
    finally:
        _faults.reset(token)


def report_fault(message: str) -> None:
    """Report that a judge failed, so that its verdict "not satisfied" proves nothing."""
    heard = _faults.get()
    if heard is not None:
        heard.append(message)
