"""Numba compilation that survives a read-only installation, and the random numbers that compiled code draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import numba
except ModuleNotFoundError:  # a machine that only samples: the same functions, uncompiled and slow
    numba = None  # type: ignore[assignment]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit` with the disk cache where one can be written, and without it where not.

    Other threads go on while the function runs: a server answers while it builds a rule, and a thread can set a flag
    that stops the loop of another one.

    Numba raises RuntimeError at decoration when neither the source folder nor the user's cache folder is writable; a
    product installed read-only must still import, at the price of compiling in every process (a few seconds).
    """
    if numba is None:
        return function
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


@compiled
def mix(x):
    """One step of splitmix64 (Steele, Lea, Flood 2014): uint64 -> uint64, a bijection whose bits depend on all bits."""
    x += np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def next_random(state):
    """The next 63 random bits of a splitmix64 counter, state (1,) uint64."""
    bits = mix(state[0])
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    return np.int64(bits >> np.uint64(1))
