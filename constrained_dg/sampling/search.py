"""The control without a model: the completer alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check
from constrained_dg.sampling.base import Denoiser, Generation, StepRecord
from constrained_dg.sampling.request import Completer, Request
from constrained_dg.shapes import IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Search:
    """Searches from the pinned tokens with all tokens equally likely. It makes no pass and never calls the model.

    Args:
        name: as on the command line.
        complete: the bounds of the search.
    """

    name: str = "search"
    complete: Completer = field(default_factory=Completer)
    needs_model: ClassVar[bool] = False

    def run(
        self,
        model: Denoiser | None,
        batch: Batch,
        constraint: Constraint | None = None,
        seeds: IntTensor | int = 0,
        *,
        max_passes: int | None = None,
        canvas_length: int | None = None,
        eos: tuple[int, ...] = (),
        pad: int = 0,
        on_step: Callable[[StepRecord], None] | None = None,
        trace: bool = False,
    ) -> Generation:
        """See `Sampler.run`; only the pinned tokens, the noise range and the constraint are read.

        Raises:
            InputError: there is no constraint to search with.
        """
        check(constraint is not None, "search was given no constraint", "give one, or use another sampler")
        request = Request.of(batch, constraint, seeds, batch.canvas.shape[1], constraint.alphabet)
        passes = torch.zeros_like(request.seeds)
        return request.conclude(request.tokens, passes=passes, completer=self.complete)
