"""The deadline of a search, and reports of judges that failed.

Both are context variables, because rules are nested (`All`, `On`, `Predicate`) and no method should need one more
argument for them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Limits below which Python collects no garbage: in a large process one collection takes 0.2 s.
_SHORT = 2.0

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
_faults: ContextVar[list[str] | None] = ContextVar("faults", default=None)


class TimeIsUpError(Exception):
    """Raised by `check_time` where `time_limit` has run out."""


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
    """
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
