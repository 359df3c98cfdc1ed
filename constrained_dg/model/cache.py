"""Keys and values of committed tokens."""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import torch

from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Keys and values, (B, N, G, K) each.
KeysValues = tuple[FloatTensor, FloatTensor]

#: The type that stores a key or value in 8 bits: 4 of exponent, 3 of mantissa (OCP 8-bit floating point, 2023).
#: Rounding changes a number by 1/16 of itself at most. Keys and values have passed an RMS norm, so no scale is needed.
FP8 = torch.float8_e4m3fn


def as_stored(x: FloatTensor, dtype: torch.dtype) -> FloatTensor:
    """Numbers in the type of a cache; those beyond the largest one become that one (torch would make NaN of them)."""
    if dtype != FP8:
        return x
    most = torch.finfo(FP8).max
    return x.clamp(-most, most).to(FP8)


class Entry(NamedTuple):
    """What one causal loop of one layer stores for a token: G heads of K numbers, as keys and as values.

    `window` is the sliding window W, of which W - 1 committed tokens are kept, or None where all are.
    """

    groups: int
    head_dim: int
    window: int | None


class Cache:
    """Keys (after norm and rotation) and values (after norm) of each causal loop and layer.

    Without gradients every entry is one preallocated buffer (B, slots, G, K). Committed tokens come first; the
    slots behind them are scratch that a canvas pass overwrites with its own keys and values, so that a pass reads one
    contiguous view and copies nothing:

        full      [ committed 0 .. S-1 | scratch ]
        sliding   [ committed `slid` .. S-1 | scratch ]     at most W - 1 + canvas slots, however long the context

    When the scratch of the sliding entries is used up, the last W - 1 tokens move to the front; with W - 1 or more
    spare slots in the canvas that is once a canvas. With gradients an entry is a plain tensor (B, S, G, K) that
    autograd can follow, sliding ones included, and each pass concatenates.

    Args:
        entries: causal loop by causal loop, layer by layer; all sliding ones have the same window.
        rows: B.
        capacity: tokens that fit, canvas scratch included; grows (by copying once) when more are needed.
        scratch: longest canvas, in tokens.
        like: a tensor that gives dtype and device.
        narrow: keep the entries without a window in 8 bits (`FP8`); with gradients it has no effect.

    Attributes:
        length: S, committed tokens.
        mask: (B, S) bool, False at padding, or None when no row has padding.
        buffered: whether entries are preallocated buffers (no gradients) or plain tensors.
        slid: the absolute position that the first slot of sliding entries holds.
    """

    def __init__(
        self, entries: list[Entry], rows: int, capacity: int, scratch: int, like: FloatTensor, narrow: bool = False
    ) -> None:
        self.entries, self.scratch, self.dtype = entries, scratch, like.dtype
        self.length = self.slid = 0
        self.mask: BoolTensor | None = None
        self.buffered = not torch.is_grad_enabled()
        #: W - 1, the committed tokens that sliding entries keep; 0 without sliding entries.
        self.reach = next((entry.window - 1 for entry in entries if entry.window is not None), 0)
        self.first_sliding = next((i for i, entry in enumerate(entries) if entry.window is not None), None)
        slots = [self.slots(entry, capacity) if self.buffered else 0 for entry in entries]
        kinds = [FP8 if narrow and self.buffered and entry.window is None else like.dtype for entry in entries]
        self.keys = [
            like.new_empty(rows, n, *entry[:2], dtype=kind)
            for n, entry, kind in zip(slots, entries, kinds, strict=True)
        ]
        self.values = [torch.empty_like(keys) for keys in self.keys]

    def slots(self, entry: Entry, capacity: int) -> int:
        """Tokens for which an entry has slots, when the cache is to hold `capacity`."""
        return capacity if entry.window is None else min(capacity, self.reach + self.scratch)

    @property
    def rows(self) -> int:
        return self.keys[0].shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values occupy, scratch included."""
        return sum(store.nbytes for store in (*self.keys, *self.values))

    def committed(self, entry: int) -> KeysValues:
        """Committed keys and values (B, N, G, K): all S on full layers, the last min(S, W - 1) on sliding ones."""
        window = self.entries[entry].window
        (keys, values), _ = self.view(entry, 0 if window is None else max(0, self.length - self.reach), 0)
        return keys, values

    def view(self, entry: int, first: int, new: int) -> tuple[KeysValues, bool]:
        """Keys and values of an entry from absolute position `first` on, and whether scratch is part of them.

        With scratch they are (B, S - first + new, G, K), the last `new` positions being for the caller to fill.
        Without, they are (B, S - first, G, K): with gradients, with `new` 0, or when a sliding entry has no slots for
        that many.
        """
        start = self.slid if self.buffered and self.entries[entry].window is not None else 0
        keys, values = self.keys[entry], self.values[entry]
        end = self.length - start
        in_place = self.buffered and not torch.is_grad_enabled() and 0 < new <= keys.shape[1] - end
        end += new if in_place else 0
        keys, values = keys[:, first - start : end], values[:, first - start : end]
        if keys.dtype == FP8 and torch.is_grad_enabled():  # autograd knows no products of 8 bits
            keys, values = keys.to(self.dtype), values.to(self.dtype)
        return (keys, values), in_place

    def reserve(self, new: int) -> None:
        """Make room for `new` tokens behind the committed ones.

        Sliding entries drop tokens outside every window if needed; more new tokens than fit into the scratch are not
        stored there (see `view`). A cache that grows for one canvas gets room for the next one with it.
        """
        if not self.buffered:
            return
        stored, needed = self.length - self.slid, self.length + new
        kept = stored
        slots = [keys.shape[1] for keys, entry in zip(self.keys, self.entries, strict=True) if entry.window is not None]
        if slots and stored + new > slots[0]:
            kept = min(stored, self.reach)
        for index, entry in enumerate(self.entries):
            if entry.window is None:
                start, used, want = 0, self.length, needed
                most = needed + (self.scratch if new <= self.scratch else 0)
            else:
                start, used, most = stored - kept, kept, self.reach + self.scratch
                want = min(kept + new, most)
            for store in (self.keys, self.values):
                old = store[index]
                if want > old.shape[1]:
                    store[index] = old.new_empty(old.shape[0], min(want + self.scratch, most), *old.shape[2:])
                    store[index][:, :used] = old[:, start : start + used]
                elif start:
                    old[:, :used] = old[:, start : start + used].clone()  # the two regions may overlap
        self.slid += stored - kept

    def append(self, entry: int, keys: FloatTensor, values: FloatTensor, in_place: bool) -> None:
        """Commit new keys and values (B, N, G, K) of one entry; scratch that a pass filled `in_place` holds them."""
        if in_place:
            return
        for stores, fresh in ((self.keys, keys), (self.values, values)):
            stores[entry] = self._appended(stores[entry], fresh, self.entries[entry].window is not None)

    def _appended(self, store: FloatTensor, fresh: FloatTensor, sliding: bool) -> FloatTensor:
        if not self.buffered:
            return torch.cat([store, fresh], dim=1)
        fresh, end = as_stored(fresh.detach(), store.dtype), self.length - (self.slid if sliding else 0)
        if end + fresh.shape[1] > store.shape[1]:  # a sliding entry with fewer slots: the window is all that matters
            fresh = fresh[:, max(0, fresh.shape[1] - self.reach) :]
            old = min(end, self.reach - fresh.shape[1])
            store[:, :old] = store[:, end - old : end].clone()
            end = old
        store[:, end : end + fresh.shape[1]] = fresh
        return store

    def advance(self, new: int, mask: BoolTensor | None) -> None:
        """Count `new` more tokens as committed; `mask` (B, new) is False at padding, None where there is none."""
        if mask is not None or self.mask is not None:
            self.mask = self.seen(new, mask)
        sliding = self.keys[self.first_sliding] if self.buffered and self.first_sliding is not None else None
        # `append` kept the last ones where there were too few slots.
        if sliding is not None and self.length - self.slid + new > sliding.shape[1]:
            self.slid = self.length + new - min(self.length + new, self.reach)
        self.length += new

    def seen(self, new: int, mask: BoolTensor | None) -> BoolTensor | None:
        """(B, S + new): `mask` (B, new) of new tokens behind that of the committed ones; None without padding."""
        if mask is None and self.mask is None:
            return None
        device = self.keys[0].device
        past = torch.ones(self.rows, self.length, dtype=torch.bool, device=device) if self.mask is None else self.mask
        fresh = torch.ones(self.rows, new, dtype=torch.bool, device=device) if mask is None else mask
        return torch.cat([past, fresh], dim=1)

    def select(self, rows: IntTensor) -> Cache:
        """The cache of these rows (N) int64, in this order; rows may repeat."""
        chosen = copy(self)
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
