"""The rule of colorings: joined nodes differ, and every node holds a color."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from constrained_dg.constraints.different_across import DifferentAcross
from constrained_dg.constraints.running import check_time
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

from . import tabu


@dataclass(frozen=True, eq=False, kw_only=True)
class ProperColoring(DifferentAcross):
    """`DifferentAcross` in which every node needs a color, also one without edges; with a repair.

    The repair is tabu search from the draft with at most `MOVES` moves, a pure function of its arguments.

    Args:
        real: (1 or B, T) bool, the positions that are nodes; others are padding.
    """

    real: BoolTensor
    per_row = ("edges", "real")

    MOVES: ClassVar[int] = 1_000_000
    #: Moves between two looks at the clock; the tabu list then begins anew.
    PIECE: ClassVar[int] = 50_000

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = (len(self.edges), self.length)
        check(self.real.shape == shape, f"real has shape {tuple(self.real.shape)}", f"give {shape}")

    @property
    def _restricted(self) -> BoolTensor:
        return self.real

    def _check_possible(self) -> None:
        """Nothing is refused: a problem without an answer gets a verdict, as the others of its batch do."""

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        low, high = self.tokens
        may = candidates[:, low:high]
        if not bool(may.any(-1).all()):
            return None, 0
        # A draft color that is not allowed is replaced by the likeliest allowed one.
        likeliest = log_probs[:, low:high].masked_fill(~may, -torch.inf).argmax(-1)
        drafted = (draft - low).clamp(0, high - low - 1)
        kept = may.gather(-1, drafted[:, None])[:, 0] & (draft >= low) & (draft < high)
        colors = torch.where(kept, drafted, likeliest).numpy().copy()
        state = np.zeros(1, np.uint64)
        joined, moves, conflicts = self._joined[0].bool().numpy(), 0, 1
        while conflicts and moves < self.MOVES:
            check_time()
            conflicts, more = tabu.repair(joined, may.numpy(), colors, min(self.PIECE, self.MOVES - moves), state)
            moves += more
        return (None if conflicts else torch.from_numpy(colors) + low), moves
