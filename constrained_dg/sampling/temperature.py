"""How sharp the model's distribution is made in each pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.errors import check, is_number
from constrained_dg.shapes import FloatTensor


@dataclass(frozen=True)
class LinearTemperature:
    """T = t_min + (t_max - t_min) * n / N, n = N in the first pass and 1 in the last, so that t_min is never reached.

    Computed in float32 (DiffusionGemma in transformers 5.23, 2026).
    """

    t_max: float = 0.8
    t_min: float = 0.4

    def __post_init__(self) -> None:
        check(
            is_number(self.t_min, above=0) and is_number(self.t_max, above=self.t_min),
            f"t_min {self.t_min} and t_max {self.t_max} do not fit",
            "give 0 < t_min < t_max",
        )

    def __call__(self, pass_index: int, max_passes: int) -> FloatTensor:
        """() float32 for a 0-based pass; on the CPU, so that it reaches any device as a plain number."""
        remaining = torch.tensor(max_passes - pass_index, dtype=torch.int32) / max_passes
        return self.t_min + (self.t_max - self.t_min) * remaining
