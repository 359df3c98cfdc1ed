"""Heuristic answers where an automaton and its sums are too large to be swept together: prices, then small moves.

Every sum outside the sweep gets a price on its weights (a Lagrange multiplier), raised while the best answer has too
much of it and lowered while it has too little. Prices alone can jump over a narrow window; the last steps
change one or two tokens at a time. This proves nothing: it finds an answer or not, and the judge checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

import numpy as np

from constrained_dg.constraints.counter import Counter
from constrained_dg.constraints.product import Product
from constrained_dg.constraints.running import check_time

#: Sweeps for a best answer; rounds of small moves, proposals in each, and proposals judged.
_SWEEPS, _ROUNDS, _PROPOSALS, _JUDGED = 24, 400, 512, 16
#: Each with different noise.
_ATTEMPTS = 3


def priced(
    product: Product,
    counters: Sequence[Counter],
    log_probs: np.ndarray,
    judge: Callable[[np.ndarray], np.ndarray],
    other: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray | None, int]:
    """Classes (T) that the judge accepts, or None; and how many sweeps and moves that took.

    Args:
        product: sweeps the automaton, and some of the sums or none.
        counters: all sums that must hold, including those of `product`.
        log_probs: (T, A), -inf where a class may not stand.
        judge: (N, T) -> (N) whether all rules hold.
        other: (N, T) -> (N) whether all rules but the sums hold.
    """
    finite, moves = log_probs[np.isfinite(log_probs)], 0
    for attempt in range(_ATTEMPTS):
        scores = log_probs
        # With equal scores the best answer repeats one token, at the end of every sum; Gumbel noise makes it a random
        # draw. Later attempts add it too.
        if attempt or np.ptp(finite) == 0:
            noise = np.random.default_rng(attempt).gumbel(size=log_probs.shape)
            scores = log_probs + noise.astype(log_probs.dtype)
        answer, more = _attempted(product, counters, scores, judge, other)
        moves += more
        if answer is not None:
            break
    return answer, moves


def _attempted(
    product: Product,
    counters: Sequence[Counter],
    log_probs: np.ndarray,
    judge: Callable[[np.ndarray], np.ndarray],
    other: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray | None, int]:
    """One attempt of `priced`."""
    # 1. Sums, their bounds, and the unit of each price.
    weights = np.stack([counter.weights.numpy() for counter in counters])  # (J, T, A)
    low, high = (np.array([getattr(counter, name) for counter in counters]) for name in ("low", "high"))
    # Prices in units of log-probability for the largest difference that a token can make.
    unit = np.maximum((weights.max(2) - weights.min(2)).max(1), 1e-9)
    at = np.arange(weights.shape[1])
    swept = [counters.index(each.counter) for each in product.sums]
    priced_sums = [j for j in range(len(counters)) if j not in swept]

    def total(classes: np.ndarray) -> np.ndarray:
        return weights[:, at, classes].sum(-1)

    def missing(totals: np.ndarray) -> np.ndarray:
        return np.maximum(np.maximum(low[:, None] - totals, totals - high[:, None]), 0) / unit[:, None]

    finite = np.where(np.isfinite(log_probs), log_probs, -1e3)
    chances = np.exp(finite - finite.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    gap = [_expected_gap(each, chances) for each in product.sums]
    price, under, over = np.zeros(len(counters)), np.full(len(counters), -np.inf), np.full(len(counters), np.inf)
    nearest, least = np.zeros(len(at), np.int64), np.inf
    for sweep in range(1, _SWEEPS + 1):
        check_time()
        # 2. The best answer at these prices, in the sweep's windows or wider.
        scores = (log_probs - np.tensordot(price / unit, weights, 1)).astype(np.float32)
        windows = [each.interval(round(rest), round(rest)) for each, rest in zip(product.sums, gap, strict=True)]
        classes, exists = product.best(scores, windows)
        if not exists:
            classes, exists = product.best(scores, [each.widened for each in product.sums])
        if not exists:
            return None, sweep
        # 3. How far the sums are off; keep the nearest answer.
        totals = total(classes)
        short = missing(totals[:, None])[:, 0]
        if short.sum() < least:
            nearest, least = classes, short.sum()
        if least == 0 and judge(classes[None])[0]:
            return classes, sweep
        for k, each in enumerate(product.sums):
            gap[k] = totals[swept[k]] - each.base - each.grain * each.steps[at, classes].sum()
        # 4. New prices: doubled until both sides are seen, then halved between them.
        before = price.copy()
        for j in priced_sums:
            if totals[j] > high[j]:
                under[j] = price[j]
            elif totals[j] < low[j]:
                over[j] = price[j]
            else:
                continue
            if isfinite(under[j]) and isfinite(over[j]):
                if over[j] - under[j] < 1e-4:  # the other prices have changed: widen the bracket
                    under[j], over[j] = under[j] - 0.1, over[j] + 0.1
                price[j] = (under[j] + over[j]) / 2
            else:
                step = max(0.25, abs(price[j]))
                price[j] += step if totals[j] > high[j] else -step
        if sweep > 3 and (before == price).all() and not any(short[j] > 0 for j in priced_sums):
            break  # only rounding error still changes; it does not converge
    return _moved(nearest, weights, missing, log_probs, judge, other, sweep)


def _expected_gap(each, chances: np.ndarray) -> float:
    rest = each.counter.weights.numpy() - each.counter.weights.numpy().min(1, keepdims=True) - each.steps * each.grain
    return 0.0 if each.exact else float((chances * rest).sum())


def _moved(
    classes: np.ndarray,
    weights: np.ndarray,
    missing: Callable[[np.ndarray], np.ndarray],
    log_probs: np.ndarray,
    judge: Callable[[np.ndarray], np.ndarray],
    other: Callable[[np.ndarray], np.ndarray],
    moves: int,
) -> tuple[np.ndarray | None, int]:
    """Change one or two tokens at a time, towards what is missing; of equally good changes the likelier."""
    draws = np.random.default_rng(0)
    open_ = np.flatnonzero(np.isfinite(log_probs).sum(1) > 1)
    if len(open_) == 0:
        return None, moves
    # The classes permitted at each position, filled up by repeating.
    choices = [np.flatnonzero(np.isfinite(row)) for row in log_probs]
    table = np.stack([np.resize(choice, max(map(len, choices))) for choice in choices])
    at = np.arange(len(classes))
    current = classes.copy()
    totals = weights[:, at, current].sum(-1)
    short = missing(totals[:, None]).sum()
    for _ in range(_ROUNDS):
        check_time()
        if short == 0 and judge(current[None])[0]:
            return current, moves
        # 1. Proposals: one or two positions, and what to write there.
        positions = draws.choice(open_, (_PROPOSALS, 2))
        positions[::3, 1] = positions[::3, 0]
        fresh = table[positions, draws.integers(table.shape[1], size=positions.shape)]
        fresh[:, 1] = np.where(positions[:, 0] == positions[:, 1], fresh[:, 0], fresh[:, 1])
        changed = np.repeat(current[None], _PROPOSALS, 0)
        np.put_along_axis(changed, positions, fresh, 1)
        # 2. The other rules check the best few of those that are nearer, the likelier first.
        new = weights[:, at, changed].sum(-1)  # (J, N)
        left = missing(new).sum(0)
        gained = log_probs[at, changed].sum(1)
        better = np.flatnonzero(left < short - 1e-12)
        better = better[np.lexsort((-gained[better], np.round(left[better], 3)))][:_JUDGED]
        if len(better) == 0:
            continue
        fine = better[other(changed[better])]
        if len(fine):
            current, short, moves = changed[fine[0]], left[fine[0]], moves + 1
    return (current, moves) if short == 0 and judge(current[None])[0] else (None, moves)
