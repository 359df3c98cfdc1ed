"""Errors a user can act on: each names the value and what would work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input, refused before any long work.

    Args:
        problem: what is wrong, naming the value.
        hint: what would work instead; appended to the message.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(f"{problem}; {hint}" if hint else problem)


def is_count(value: object, low: int = 0) -> bool:
    """Whether a value is an integer (not a bool) of at least `low`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def check(condition: bool, problem: str, hint: str = "") -> None:
    """Raise `InputError(problem, hint)` unless the condition holds."""
    if not condition:
        raise InputError(problem, hint)


def is_number(value: object, above: float) -> bool:
    """Whether a value is a finite number (not a bool) above a bound."""
    return isinstance(value, int | float) and not isinstance(value, bool) and above < value < float("inf")


@contextmanager
def needs(package: str, purpose: str) -> Iterator[None]:
    """Raise InputError that names the package to install where an import in the block fails.

    Args:
        package: as pip knows it.
        purpose: what needs it, the subject of the message: "drawing graphs".
    """
    try:
        yield
    except ImportError as error:
        raise InputError(f"{purpose} needs the package {package} ({error})", f"pip install {package}") from None
