"""Metrics of a set of designed sequences, {"value", "n", "ci95"}: how natural in residues and pairs, and how diverse.

Divergences are in bits, with intervals by bootstrap (Efron 1979): the value -+ 1.96 standard deviations over resamples
of the sequences with replacement, cut at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from constrained_dg.errors import check
from constrained_dg.intervals import mean, metric, resampled

from .natural import identical
from .residues import RESIDUES

#: Resamples of a bootstrap, and draws of a floor.
_RESAMPLES = 200
_MOST_PAIRS = 200


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence (Lin 1991) in bits of two distributions from counts (K); 0 if equal, 1 if disjoint."""
    p, q = one / one.sum(), other / other.sum()
    middle = (p + q) / 2
    return sum(float(np.sum(d[d > 0] * np.log2(d[d > 0] / middle[d > 0]))) for d in (p, q)) / 2


def residue_divergence(sequences: Sequence[str], natural: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Divergence of the residue frequencies from those of natural sequences; n counts the sequences.

    Even a sample of natural sequences has some divergence: see `sampling_floor`.

    Raises:
        InputError: a letter that is not a residue, or no residue.
    """
    return _divergence(_counts(sequences, 1), _counts(natural, 1), seed)


def pair_divergence(sequences: Sequence[str], natural: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """As `residue_divergence`, for pairs of neighbouring residues, 400 kinds; their floor is higher.

    Raises:
        InputError: a letter that is not a residue, or no pair.
    """
    return _divergence(_counts(sequences, 2), _counts(natural, 2), seed)


def sampling_floor(number: int, natural: Sequence[str], width: int, seed: int = 0) -> dict[str, Any]:
    """Mean divergence of `number` natural sequences from all of them, over 200 draws.

    "ci95" covers 95 % of the draws; n is `number`.

    Args:
        width: 1 for residues, 2 for pairs.

    Raises:
        InputError: `number` below 1, or as for `residue_divergence`.
    """
    check(number >= 1, f"{number} sequences", "give 1 or more")
    counts, draws = _counts(natural, width), np.random.default_rng(seed)
    drawn = draws.multinomial(number, np.ones(len(counts)) / len(counts), _RESAMPLES) @ counts
    values = [divergence(each, counts.sum(0)) for each in drawn if each.any()]
    return metric(float(np.mean(values)), number, np.percentile(values, [2.5, 97.5]).tolist())


def diversity(sequences: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Mean of 1 - identity over at most 200 random pairs; n counts the pairs.

    Identity is the equal residues of a global alignment (`natural.identical`) divided by the longer length. No sequence
    is in two pairs, so that pairs are independent. About 1 second for proteins of 250 residues.

    Raises:
        InputError: fewer than four sequences, or an empty one.
    """
    check(len(sequences) >= 4, f"{len(sequences)} sequences", "pairs with an interval need four or more")
    check(all(sequences), "an empty sequence has no identity", "leave it out")
    order = np.random.default_rng(seed).permutation(len(sequences))[: 2 * _MOST_PAIRS]
    # Of equally good alignments the first is taken; sorted pairs make it independent of the order.
    pairs = [sorted((sequences[i], sequences[j])) for i, j in zip(order[::2], order[1::2], strict=False)]
    return mean([1 - identical(*pair) / max(map(len, pair)) for pair in pairs])


def _counts(sequences: Sequence[str], width: int) -> np.ndarray:
    """(N, 20 ** width) counts of the stretches of 1 or 2 residues in each sequence."""
    strange = sorted(set("".join(sequences)) - set(RESIDUES))
    check(not strange, f"{''.join(strange)[:20]!r} are not residues", f"write {RESIDUES}")
    counts = np.zeros((len(sequences), 20**width))
    for row, sequence in zip(counts, sequences, strict=True):
        symbols = np.array([RESIDUES.index(letter) for letter in sequence], np.int64)
        row += np.bincount(symbols if width == 1 else symbols[:-1] * 20 + symbols[1:], minlength=20**width)
    check(counts.any(), "there is nothing to count", f"give sequences of {width} or more residues")
    return counts


def _divergence(designed: np.ndarray, natural: np.ndarray, seed: int) -> dict[str, Any]:
    draws = np.random.default_rng(seed)

    def resamples(counts: np.ndarray) -> np.ndarray:
        return draws.multinomial(len(counts), np.ones(len(counts)) / len(counts), _RESAMPLES) @ counts

    pairs = zip(resamples(designed), resamples(natural), strict=True)
    values = [divergence(one, other) for one, other in pairs if one.any() and other.any()]
    return resampled(divergence(designed.sum(0), natural.sum(0)), len(designed), values, lowest=0.0)
