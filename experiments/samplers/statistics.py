"""Shares and paired differences with intervals clustered by puzzle: seeds of one puzzle are not independent puzzles."""

from __future__ import annotations

import numpy as np

from constrained_dg.intervals import percentile_mean, wilson


def share(solved: np.ndarray) -> tuple[float, float, float]:
    """The mean of (N puzzles, K seeds) and its interval: bootstrap, or Wilson's on N puzzles if all are equal."""
    of_puzzles = solved.mean(1)
    mean = float(of_puzzles.mean())
    if np.all(of_puzzles == of_puzzles[0]):
        return mean, *wilson(round(mean * len(solved)), len(solved))
    return mean, *percentile_mean(of_puzzles)


def difference(solved: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Mean of solved - reference, (N, K) each over the same puzzles, and its interval.

    If all puzzles are equal, the bootstrap has no spread; then the interval is that of the rule of three.
    """
    of_puzzles = solved.mean(1) - reference.mean(1)
    mean = float(of_puzzles.mean())
    if np.all(of_puzzles == of_puzzles[0]):
        return mean, mean - 3 / len(of_puzzles), mean + 3 / len(of_puzzles)
    return mean, *percentile_mean(of_puzzles)
