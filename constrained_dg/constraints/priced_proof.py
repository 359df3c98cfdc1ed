"""A proof that no answer meets several sums at once: prices on the sums (Lagrange multipliers).

An answer x that keeps all rules has w_j(x) - low_j >= 0 and high_j - w_j(x) >= 0 for every sum j. If some prices, none
of them negative, make the priced total of these differences negative for every x that an automaton and the candidates
permit, there is no such answer (the dual of a linear program: Farkas, 1902). One sweep of the automaton finds the
highest priced total. The prices follow from the point nearest to the permitted side among mixtures of the answers seen,
improved answer by answer (Frank and Wolfe, 1956; Wolfe, 1976, with all answers kept).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from constrained_dg.constraints.counter import NO_BOUND, Counter
from constrained_dg.constraints.product import Product
from constrained_dg.constraints.running import check_time

#: Sweeps for prices, by how thorough a proof is wanted.
QUICK, THOROUGH = 12, 100
#: Steps that find the nearest mixture after each sweep.
_STEPS = 300
#: A distance from the permitted side, in the largest differences that a token can make, that counts as none.
_NONE = 1e-4


def refuted(product: Product | None, counters: Sequence[Counter], candidates: np.ndarray, sweeps: int) -> bool:
    """Whether no answer within the candidates that the product's automaton accepts meets all sums: True is a proof.

    Args:
        product: of an automaton, without sums; None accepts everything.
        counters: sums that every satisfying answer keeps within bounds.
        candidates: (T, A) bool.
        sweeps: for prices, at most.
    """
    weights, bounds = _sides(counters)
    if not len(bounds) or not candidates.any(1).all():
        return False
    # 1. Comparable units: the largest difference that a token can make.
    unit = np.maximum(np.ptp(weights, axis=2).max(1), 1.0)
    at, seen = np.arange(len(candidates)), np.empty((0, len(bounds)))
    share, prices = np.empty(0), np.ones(len(bounds))
    for _ in range(sweeps):
        check_time()
        values = np.where(candidates, np.tensordot(prices / unit, weights, 1), -np.inf)
        # 2. A proof does not depend on how the prices were found.
        if _below(product, values, prices / unit, weights, bounds):
            return True
        # 3. The answer of the highest priced total, and the nearest mixture with it.
        classes, exists = (values.argmax(1), True) if product is None else product.best(values.astype(np.float32))
        if not exists:
            return True
        met = (weights[:, at, classes].sum(1) - bounds) / unit
        if (met >= 0).all():
            return False
        if not len(seen) or not (met == seen).all(1).any():
            seen, share = np.concatenate([seen, met[None]]), np.append(share, 0.0 if len(seen) else 1.0)
        share = _nearest(seen, share)
        prices = np.maximum(-(share @ seen), 0)
        if prices.max() < _NONE:
            return False
        prices = prices / prices.max()
    return False


def _sides(counters: Sequence[Counter]) -> tuple[np.ndarray, np.ndarray]:
    """Weights (J, T, A) and bounds (J), float64, of sums that must be at least their bound."""
    weights, bounds = [], []
    for each in counters:
        for sign, bound in ((1, each.low), (-1, each.high)):
            if abs(bound) < NO_BOUND:
                weights.append(sign * each.weights.numpy().astype(np.float64))
                bounds.append(sign * float(bound))
    return np.array(weights), np.array(bounds)


def _below(
    product: Product | None, values: np.ndarray, prices: np.ndarray, weights: np.ndarray, bounds: np.ndarray
) -> bool:
    """Whether the highest priced total is below the priced bounds by more than float64 can err."""
    size = float(np.tensordot(prices, np.abs(weights), 1).max(1).sum() + prices @ np.abs(bounds))
    error = (len(values) + 2 * len(bounds) + 10) * 2.0**-51 * size
    highest = float(values.max(1).sum()) if product is None else product.highest(values)
    return highest < float(prices @ bounds) - error


def _nearest(seen: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Shares of the answers seen (N, J) whose mixture is nearest to having no negative part: steps from one answer to
    another, each as long as it pays (pairwise Frank-Wolfe)."""
    for _ in range(_STEPS):
        negative = np.minimum(share @ seen, 0)
        gains = seen @ negative  # half the slope of the squared distance, by answer
        to, away = int(gains.argmin()), int(np.where(share > 0, gains, -np.inf).argmax())
        if gains[away] - gains[to] < 1e-12:
            break
        step = seen[to] - seen[away]
        length = min(share[away], (gains[away] - gains[to]) / float(step @ step))
        share = share.copy()
        share[to] += length
        share[away] = share[away] - length if length < share[away] else 0.0
    return share
