"""Randomness by counter: every draw is a pure function of (row seed, counters, position).

Draws from a stateful generator would depend on the other rows and on earlier draws. Here a row gets the same numbers
alone, in any batch, in any order, on any device, and after a restart. The
function is the finaliser of splitmix64 (Steele, Lea and Flood, 2014) applied once per counter. int64 arithmetic wraps
in torch exactly as unsigned arithmetic does, so only the shift to the right needs a mask.
"""

from __future__ import annotations

import torch

from constrained_dg.errors import check
from constrained_dg.shapes import FloatTensor, IntTensor


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(bits: IntTensor, places: int) -> IntTensor:
    """Logical shift to the right; torch's own copies the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: IntTensor) -> IntTensor:
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)


def random_bits(seeds: IntTensor, *counters: int | IntTensor, count: int) -> IntTensor:
    """64 random bits for each row and position.

    Args:
        seeds: (B) int64, one for each row.
        counters: what the draw is for (canvas, pass, purpose, ...); other counters give independent draws. A tensor (B)
            gives each row its number.
        count: positions.

    Returns:
        (B, count) int64.
    """
    state = _mix(seeds + _GOLDEN)
    for counter in counters:
        step = (counter + 1) * _GOLDEN
        state = _mix(state + (_signed(step) if isinstance(step, int) else step))
    positions = torch.arange(1, count + 1, device=seeds.device)
    return _mix(state[:, None] + positions * _GOLDEN)


def uniform(seeds: IntTensor, *counters: int, count: int) -> FloatTensor:
    """(B, count) float32 uniform in the open interval (0, 1): midpoints of 2^23 cells. Arguments as `random_bits`."""
    return (_shift(random_bits(seeds, *counters, count=count), 41).to(torch.float32) + 0.5) * 2.0**-23


def integers(seeds: IntTensor, *counters: int, count: int, low: int, high: int) -> IntTensor:
    """(B, count) int64 uniform in [low, high). Arguments as `random_bits`.

    Raises:
        InputError: the range is empty or wider than 2^31.
    """
    check(
        0 < high - low <= 1 << 31, f"nothing can be drawn from [{low}, {high})", "give low < high, at most 2^31 apart"
    )
    return ((_shift(random_bits(seeds, *counters, count=count), 32) * (high - low)) >> 32) + low


def row_seeds(seed: int, rows: int) -> IntTensor:
    """(rows) int64 seeds in [0, 2^53), so that they survive JSON; row i depends on (seed, i) alone."""
    return _shift(random_bits(torch.tensor([_signed(seed)]), count=rows)[0], 11)
