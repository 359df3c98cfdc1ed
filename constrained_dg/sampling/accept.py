"""Which positions keep their sample in a pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor


@dataclass(frozen=True)
class EntropyBound:
    """The most certain positions whose entropies add up to at most `bound`, not counting their own.

    With entropies in ascending order, the j-th is accepted when sum_{i<j} H_(i) <= bound. The first always is. The sum
    without the largest bounds what sampling in parallel ignores (Ben-Hamu et al., arXiv 2505.24857, 2025).

    Args:
        bound: in nats.
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        check(self.bound > 0, f"entropy bound is {self.bound}", "give a number above 0, in nats")

    def __call__(self, entropy: FloatTensor, free: BoolTensor) -> BoolTensor:
        """(B, C), (B, C) -> (B, C) accepted. Positions that are not free take no part and are not accepted."""
        order = entropy.masked_fill(~free, torch.inf).argsort(dim=-1, stable=True)
        ascending = entropy.masked_fill(~free, 0).gather(-1, order)
        within = ascending.cumsum(-1) - ascending <= self.bound
        return torch.zeros_like(free).scatter(-1, order, within) & free
