"""Integer sums that must lie between two bounds, and the grids on which they are swept.

`sums.RealSum` rounds real weights to multiples of a very small step, so that no sum depends on the order of addition.

On a coarse grid each token is off by a little, and that adds up. So there are two windows of grid sums: the widened one
contains the grid sum of every satisfying answer, and every answer whose grid sum lies in the narrowed one satisfies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from constrained_dg.shapes import IntTensor

#: Largest absolute sum of weights, and the value that means "no bound". Twice of each fits into 64 bits.
LARGEST = 2**61
NO_BOUND = 2**62


@dataclass(frozen=True, eq=False)
class Counter:
    """A sum that must lie between two numbers.

    Attributes:
        weights: (T, A) int64, what each class adds at each position; absolute sums are at most `LARGEST`.
        low, high: bounds, both inclusive, -NO_BOUND and NO_BOUND for none.
        decides: whether an answer satisfies its rule exactly when its sum lies between the bounds; else this is only
            necessary.
    """

    weights: IntTensor
    low: int
    high: int
    decides: bool = True

    def over(self, coarser: IntTensor) -> Counter:
        """The same over finer classes (A'), each of which is class coarser[a] here."""
        return replace(self, weights=self.weights[:, coarser])

    @property
    def divisor(self) -> int:
        """The largest number that divides all differences at a position; 1 if all weights there are equal."""
        apart = (self.weights - self.weights.amin(-1, keepdim=True)).unique().numpy()
        return max(1, int(np.gcd.reduce(apart)))

    @property
    def spread(self) -> int:
        """The largest difference at one position."""
        return int((self.weights.amax(-1) - self.weights.amin(-1)).max())

    @property
    def is_whole(self) -> bool:
        """Whether it counts in units large enough to be swept exactly; real weights as a rule do not."""
        return self.spread // self.divisor < 2**32

    @property
    def reach(self) -> float:
        """How far a partial sum can go, in its largest difference of weights."""
        weights = self.weights.double()
        return float((weights.amax(-1) - weights.amin(-1)).sum() / (weights.amax() - weights.amin()).clamp(min=1e-12))

    def grids(self) -> Iterator[Gridded]:
        """Grids from fine to coarse: the exact one, then those where rounding errs least. Skips
        grids too coarse to rule anything out."""
        spread = self.spread
        yield Gridded.of(self, self.divisor)
        centred = (self.weights - self.weights.amin(-1, keepdim=True)).double().numpy()
        most = 64
        while spread and most >= 4:
            steps = range(most // 2 + 1, most + 1)
            grain = round(spread / min(steps, key=lambda k: _rounding_error(centred, spread / k)))
            if grain > 0 and self.high - self.low >= grain:
                yield Gridded.of(self, grain)
            most //= 2


def _rounding_error(centred: np.ndarray, grain: float) -> float:
    return float(np.abs(centred - np.rint(centred / grain) * grain).mean())


@dataclass(frozen=True, eq=False)
class Gridded:
    """A counter on a grid.

    Attributes:
        counter: the counter.
        steps: (T, A) int64, its weights in steps of the grid, less the smallest of each position.
        grain: one step.
        base: the sum of these smallest weights.
        least, most: bounds of the true sum less the grid sum; both 0 where the grid is exact.
    """

    counter: Counter
    steps: np.ndarray
    grain: int
    base: int
    least: int
    most: int

    @classmethod
    def of(cls, counter: Counter, grain: int) -> Gridded:
        weights = counter.weights.numpy()
        smallest = weights.min(1, keepdims=True)
        steps = np.rint((weights - smallest) / grain).astype(np.int64)
        rest = weights - smallest - steps * grain
        least, most = int(rest.min(1).sum()), int(rest.max(1).sum())
        return cls(counter, steps, grain, int(smallest.sum()), least, most)

    def interval(self, least: int, most: int) -> tuple[int, int]:
        """Grid sums (low, high) whose true sum lies within the bounds if it is `least` to `most` more than on the
        grid."""
        top = int(self.steps.max(1).sum())
        low, high = self.counter.low - self.base - least, self.counter.high - self.base - most
        return min(max(-(-low // self.grain), -1), top + 1), min(max(high // self.grain, -1), top + 1)

    @property
    def widened(self) -> tuple[int, int]:
        return self.interval(self.most, self.least)

    @property
    def narrowed(self) -> tuple[int, int]:
        return self.interval(self.least, self.most)

    @property
    def exact(self) -> bool:
        """Whether an answer satisfies the rule exactly when its grid sum lies in the window."""
        return self.counter.decides and self.least == self.most == 0


def boxes(steps: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The partial sums that matter before each position and at the end: first and number, (T + 1) each.

    Zero where none does: then no answer has a sum in the window.
    """
    least = np.concatenate([[0], steps.min(1).cumsum()])
    most = np.concatenate([[0], steps.max(1).cumsum()])
    first = np.maximum(least, low - (most[-1] - most))
    last = np.minimum(most, high - (least[-1] - least))
    return first, np.maximum(last - first + 1, 0)
