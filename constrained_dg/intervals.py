"""95 % intervals, and metrics that carry one: {"value", "n", "ci95": [low, high]}."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from constrained_dg.errors import check

#: Two-sided 95 % point of the normal distribution.
_Z = 1.959963984540054


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (1927); honest near 0 and 1, where the usual one has no width.

    Raises:
        InputError: not 0 <= successes <= n with n of at least 1.
    """
    check(n >= 1 and 0 <= successes <= n, f"{successes} of {n}", "a share needs 0 <= successes <= n and n >= 1")
    share, weight = successes / n, _Z**2 / n
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    # At the ends the bound is exact; rounding would leave it a little off.
    return (middle - half if successes else 0.0), (middle + half if successes < n else 1.0)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Normal 95 % interval of the mean of values that are not negative: mean -+ 1.96 s / sqrt(n), cut at 0.

    Raises:
        InputError: fewer than two values, which have no spread.
    """
    check(len(values) >= 2, f"{len(values)} values", "an interval of a mean needs two or more")
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = _Z * spread / math.sqrt(len(values))
    return max(0.0, mean - half), mean + half


def metric(value: float, n: int, interval: Sequence[float]) -> dict[str, Any]:
    """A metric as reports hold it; `interval` is (low, high)."""
    return {"value": value, "n": n, "ci95": list(interval)}


def share(successes: int, n: int) -> dict[str, Any]:
    """A share of n with Wilson's interval.

    Raises:
        InputError: not 0 <= successes <= n with n of at least 1.
    """
    interval = wilson(successes, n)
    return metric(successes / n, n, interval)


def mean(values: Sequence[float]) -> dict[str, Any]:
    """The mean of values that are not negative, two or more, with its normal interval.

    Raises:
        InputError: fewer than two values.
    """
    interval = mean_interval(values)
    return metric(sum(values) / len(values), len(values), interval)


def resampled(value: float, n: int, draws: Sequence[float], lowest: float = -math.inf) -> dict[str, Any]:
    """A value -+ 1.96 standard deviations of its resamples (bootstrap, Efron 1979), cut at `lowest`."""
    half = 1.96 * float(np.std(draws))
    return metric(value, n, (max(lowest, value - half), value + half))


def percentile_mean(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval (Efron 1979) of the mean of (N) values."""
    rows = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
    return float(low), float(high)
