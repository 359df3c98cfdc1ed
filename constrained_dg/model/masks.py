"""Attention masks as pure functions: True = visible. Queries run down, keys run right.

A causal pass over 3 new tokens with nothing cached, full and with a window of 2:

    full   1 . .      window 2   1 . .
           1 1 .                 1 1 .
           1 1 1                 . 1 1

A canvas of 3 behind 4 committed tokens, full and with a window of 3 (every query sees the same last 2 of the cache):

    full   1 1 1 1 | 1 1 1      window 3   . . 1 1 | 1 1 1
           1 1 1 1 | 1 1 1                 . . 1 1 | 1 1 1
           1 1 1 1 | 1 1 1                 . . 1 1 | 1 1 1
"""

from __future__ import annotations

import torch

from constrained_dg.shapes import BoolTensor


def causal_mask(
    cached: int, new: int, window: int | None, device: torch.device | None = None, first: int = 0
) -> BoolTensor:
    """(new, cached + new - first): key j is visible to query i (absolute positions) iff i - window < j <= i.

    Keys start at position `first`; from `first_visible(cached, window)` on nothing visible is missing.
    """
    query = torch.arange(cached, cached + new, device=device)[:, None]
    key = torch.arange(first, cached + new, device=device)[None, :]
    visible = key <= query
    return visible if window is None else visible & (key > query - window)


def visible(
    causal: bool, lo: int, hi: int, first: int, window: int | None, seen: BoolTensor | None, device: torch.device
) -> BoolTensor | None:
    """Which keys [first, hi) the queries [lo, hi) of a pass see: (B or 1, N or 1, hi - first); None where they see all.

    Args:
        seen: (B, >= hi) bool, False at padding; None without padding.
    """
    real = None if seen is None else seen[:, None, first:hi]
    if not causal:
        return real
    see = causal_mask(lo, hi - lo, window, device, first)[None]
    if real is None:
        return see
    # A padded query sees itself: a softmax over no key would be NaN.
    itself = torch.eye(hi - lo, dtype=torch.bool, device=device)
    return (see & real) | torch.nn.functional.pad(itself, (lo - first, 0))


def first_visible(committed: int, window: int | None) -> int:
    """The oldest committed position that the tokens behind `committed` others see: 0 on full layers, the last
    `window - 1` tokens on sliding ones; for a canvas, and for the first token of a causal pass."""
    return 0 if window is None else max(0, committed - (window - 1))
