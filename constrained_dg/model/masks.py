"""Attention masks as pure functions: True = visible. Queries run down, keys run right.

A causal pass over 3 new tokens with nothing cached, full and with a window of 2:

    full   1 . .      window 2   1 . .
           1 1 .                 1 1 .
           1 1 1                 . 1 1

A canvas of 3 behind 4 committed tokens, full and with a window of 3 (every query sees the same last 2 of the cache):

    full   1 1 1 1 | 1 1 1      window 3   . . 1 1 | 1 1 1
           1 1 1 1 | 1 1 1                 . . 1 1 | 1 1 1
           1 1 1 1 | 1 1 1                 . . 1 1 | 1 1 1

A causal pass over 4 new tokens, of which the last 3 are one picture, with a window of 2 (`with_images`):

    all_layers   1 . . .      sliding_layers   1 . . .
                 1 1 1 1                       1 1 1 1
                 . 1 1 1                       . 1 1 1
                 . 1 1 1                       . . 1 1
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from constrained_dg.shapes import BoolTensor, IntTensor

if TYPE_CHECKING:
    from constrained_dg.model.images import Images


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
    causal: bool,
    lo: int,
    hi: int,
    first: int,
    window: int | None,
    seen: BoolTensor | None,
    device: torch.device,
    images: Images | None = None,
) -> BoolTensor | None:
    """Which keys [first, hi) the queries [lo, hi) of a pass see: (B or 1, N or 1, hi - first); None where they see all.

    Args:
        seen: (B, >= hi) bool, False at padding; None without padding.
        images: pictures among these positions, whose tokens see each other.
    """
    real = None if seen is None else seen[:, None, first:hi]
    if not causal:
        return real
    see = causal_mask(lo, hi - lo, window, device, first)[None]
    see = see if images is None else images.seen(see, window, lo, first)
    if real is None:
        return see
    # A padded query sees itself: a softmax over no key would be NaN.
    itself = torch.eye(hi - lo, dtype=torch.bool, device=device)
    return (see & real) | torch.nn.functional.pad(itself, (lo - first, 0))


def first_visible(committed: int, window: int | None) -> int:
    """The oldest committed position that the tokens behind `committed` others see: 0 on full layers, the last
    `window - 1` tokens on sliding ones; for a canvas, and for the first token of a causal pass."""
    return 0 if window is None else max(0, committed - (window - 1))


def with_images(
    causal: BoolTensor, query: IntTensor, key: IntTensor, window: int | None, attention: str, lo: int, first: int
) -> BoolTensor:
    """A causal mask (N, M) in which the tokens of one picture also see each other: (B, N, M).

    Args:
        query, key: (B, N) and (B, M), the pictures that queries and keys belong to; -1 at text.
        attention: "all_layers" shows a picture to itself on every layer, even beyond the window. "sliding_layers" does
            so within the window of sliding layers, and leaves full layers causal.
        lo, first: the positions of the first query and the first key.
    """
    together = (query[:, :, None] == key[:, None, :]) & (query[:, :, None] >= 0)
    if attention == "sliding_layers":
        if window is None:
            return causal[None]
        queries, keys = (torch.arange(n, device=query.device) for n in causal.shape)
        together = together & (first + keys[None, :] > lo + queries[:, None] - window)
    return causal | together


def uncut(start: int, stop: int, size: int, inside: Sequence[bool] | None) -> list[tuple[int, int]]:
    """Pieces [lo, hi) of the positions [start, stop), none of which ends within a picture of any row.

    They have `size` positions, or fewer where a picture would be cut, or more where one picture (or pictures of
    several rows that overlap) is longer than that.

    Args:
        inside: (stop or more) whether a piece that ends before this position cuts a picture; None without pictures.
    """
    if inside is None:
        return [(lo, min(lo + size, stop)) for lo in range(start, stop, size)]
    ends = [start]
    while ends[-1] < stop:
        end = min(ends[-1] + size, stop)
        back = next((at for at in range(end, ends[-1], -1) if at == stop or not inside[at]), None)
        ends.append(back or next(at for at in range(end, stop + 1) if at == stop or not inside[at]))
    return list(pairwise(ends))
