"""Numba compilation that survives a read-only installation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit` with the disk cache where one can be written, and without it where not.

    Numba raises RuntimeError at decoration when neither the source folder nor the user's cache folder is writable; a
    product installed read-only must still import, at the price of compiling in every process (a few seconds).
    """
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        return numba.njit(function)
