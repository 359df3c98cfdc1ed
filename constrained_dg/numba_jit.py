"""Numba compilation that survives a read-only installation, and the random numbers that compiled code draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import numba
except ModuleNotFoundError:  # a machine that only samples: the same functions, uncompiled and slow
    numba = None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit` with the disk cache where one can be written, and without it where not.

    Numba raises RuntimeError at decoration when neither the source folder nor the user's cache folder is writable; a
    product installed read-only must still import, at the price of compiling in every process (a few seconds).
    """
    if numba is None:
        return function
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        return numba.njit(function)


@compiled
def next_random(state):
    """The next 63 random bits of a splitmix64 counter, state (1,) uint64 (Steele, Lea, Flood 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(1))
