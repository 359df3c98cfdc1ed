"""Which positions keep their sample in a pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from constrained_dg.errors import check, is_number
from constrained_dg.sampling.distribution import Distribution
from constrained_dg.shapes import BoolTensor, IntTensor


class Acceptor(ABC):
    """Chooses the positions that keep their sample. Subclass it for another choice.

    Attributes:
        keeps: a position that was accepted in one pass keeps its token in all later ones of the canvas.
    """

    keeps: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, settled: Distribution, free: BoolTensor, done: float = 0.0) -> BoolTensor:
        """(B, C) free -> (B, C) accepted. Positions that are not free are ignored and not accepted.

        `done` is the share of the passes that will be over with this one.
        """


@dataclass(frozen=True)
class EntropyBound(Acceptor):
    """The most certain positions whose entropies add up to at most `bound`, the largest not counted.

    With entropies in ascending order, the j-th is accepted when sum_{i<j} H_(i) <= bound. The first always is. The sum
    without the largest bounds the error of sampling in parallel (Ben-Hamu et al., arXiv 2505.24857, 2025).

    Args:
        bound: in nats.
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        check(is_number(self.bound, above=0), f"entropy bound is {self.bound!r}", "give a number above 0, in nats")

    def __call__(self, settled: Distribution, free: BoolTensor, done: float = 0.0) -> BoolTensor:
        """See `Acceptor`."""
        order = settled.entropy.masked_fill(~free, torch.inf).argsort(dim=-1, stable=True)
        ascending = settled.entropy.masked_fill(~free, 0).gather(-1, order)
        within = ascending.cumsum(-1) - ascending <= self.bound
        return torch.zeros_like(free).scatter(-1, order, within) & free


@dataclass(frozen=True)
class Schedule(Acceptor):
    """A share of the free positions that grows linearly to all in the last pass, in a fixed order.

    After pass n of N the canvas holds samples at a share n / N and noise elsewhere, as training
    corrupts it: the reverse process (Austin et al., 2107.03006, 2021). For texts with high entropy everywhere, where
    a bound on entropy accepts almost nothing. Accepted tokens are kept; drawn again in every pass they would drift to
    the most likely ones. The order is scattered (van der Corput) and the same for all rows, so that neighbors are
    accepted in different passes.
    """

    keeps: ClassVar[bool] = True

    def __call__(self, settled: Distribution, free: BoolTensor, done: float = 0.0) -> BoolTensor:
        """See `Acceptor`."""
        order = _scattered(free.shape[1], free.device).masked_fill(~free, 2**62)
        rank = order.argsort(dim=-1).argsort(dim=-1)
        wanted = torch.ceil(free.sum(-1, keepdim=True) * done - 1e-6).clamp(min=1)
        return (rank < wanted) & free


@lru_cache(maxsize=64)
def _scattered(length: int, device: torch.device) -> IntTensor:
    """(C) int64 the bits of each position in reverse; sorting by it separates neighbors."""
    return torch.tensor([int(f"{at:030b}"[::-1], 2) for at in range(length)], device=device)
