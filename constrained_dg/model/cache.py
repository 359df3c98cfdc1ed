"""Keys and values of committed tokens."""

from __future__ import annotations

import torch

from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


class Cache:
    """Keys (after norm and rotation) and values (after norm) of each causal loop and layer.

    Without gradients every entry is one preallocated buffer (B, capacity, G, K): committed tokens stand in front,
    the region behind them is scratch that a canvas pass overwrites with its own keys and values, so that a pass reads
    one contiguous view and copies nothing. With gradients an entry is a plain tensor (B, S, G, K) that autograd can
    follow, and each pass concatenates.

    Args:
        shapes: (G, K) of each entry.
        rows: B.
        capacity: tokens that fit, canvas scratch included; grows (by copying once) when more are needed.
        like: a tensor that gives dtype and device.

    Attributes:
        length: S, committed tokens.
        mask: (B, S) bool, False at padding, or None when no row has padding.
        buffered: whether entries are preallocated buffers (no gradients) or plain tensors.
    """

    def __init__(self, shapes: list[tuple[int, int]], rows: int, capacity: int, like: FloatTensor) -> None:
        self.length = 0
        self.mask: BoolTensor | None = None
        self.buffered = not torch.is_grad_enabled()
        width = capacity if self.buffered else 0
        self.keys = [like.new_empty(rows, width, *shape) for shape in shapes]
        self.values = [like.new_empty(rows, width, *shape) for shape in shapes]

    @property
    def rows(self) -> int:
        return self.keys[0].shape[0]

    def view(self, entry: int, first: int, new: int) -> tuple[FloatTensor, FloatTensor]:
        """Keys and values of an entry from absolute position `first` on.

        Buffered: (B, S - first + new, G, K), the last `new` positions being scratch for the caller to fill.
        Otherwise: (B, S - first, G, K).
        """
        end = self.length + new if self.buffered else self.length
        return self.keys[entry][:, first:end], self.values[entry][:, first:end]

    def reserve(self, new: int) -> None:
        """Make room for `new` tokens behind the committed ones."""
        needed = self.length + new
        if not self.buffered or needed <= self.keys[0].shape[1]:
            return
        for store in (self.keys, self.values):
            for entry, old in enumerate(store):
                store[entry] = old.new_empty(old.shape[0], needed, *old.shape[2:])
                store[entry][:, : self.length] = old[:, : self.length]

    def append(self, entry: int, keys: FloatTensor, values: FloatTensor) -> None:
        """Commit new keys and values (B, N, G, K) of one entry; a buffer already holds them in its scratch region."""
        if not self.buffered:
            self.keys[entry] = torch.cat([self.keys[entry], keys], dim=1)
            self.values[entry] = torch.cat([self.values[entry], values], dim=1)

    def advance(self, new: int, mask: BoolTensor | None) -> None:
        """Count `new` more tokens as committed; `mask` (B, new) is False at padding, None where there is none."""
        if mask is not None or self.mask is not None:
            device = self.keys[0].device
            seen = torch.ones(self.rows, self.length, dtype=torch.bool, device=device)
            fresh = torch.ones(self.rows, new, dtype=torch.bool, device=device)
            self.mask = torch.cat(
                [seen if self.mask is None else self.mask, fresh if mask is None else mask], dim=1
            )
        self.length += new

    def select(self, rows: IntTensor) -> Cache:
        """The cache of these rows (N) int64, in this order; rows may repeat."""
        chosen = object.__new__(Cache)
        chosen.length = self.length
        chosen.buffered = self.buffered
        chosen.mask = None if self.mask is None else self.mask[rows]
        chosen.keys = [k[rows] for k in self.keys]
        chosen.values = [v[rows] for v in self.values]
        return chosen

    def fork(self, copies: int) -> Cache:
        """Each row `copies` times, neighbours together, without a second prefill.

        Raises:
            InputError: copies below 1.
        """
        check(copies >= 1, f"cannot fork a cache into {copies} copies", "use at least 1")
        return self.select(torch.arange(self.rows, device=self.keys[0].device).repeat_interleave(copies))
