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


def first_visible(committed: int, window: int | None) -> int:
    """The oldest committed position that the tokens behind `committed` others see: 0 on full layers, the last
    `window - 1` tokens on sliding ones; for a canvas, and for the first token of a causal pass."""
    return 0 if window is None else max(0, committed - (window - 1))
