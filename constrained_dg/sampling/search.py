"""The control without a model: the completer alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check
from constrained_dg.sampling.base import Denoiser, Generation
from constrained_dg.sampling.options import Options
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
        **options: Any,
    ) -> Generation:
        """See `Sampler.run`; of the options it uses the time limit, and lets those pass that only concern canvases.

        Raises:
            InputError: there is no constraint to search with, or an option asks for something it cannot do.
        """
        check(constraint is not None, "search was given no constraint", "give one, or use another sampler")
        options = Options.of(None, options, refused=("candidates", "rng", "logits_hook"))
        request = Request.of(None, batch, constraint, seeds, options)
        return request.conclude(request.begin(self.complete), self.complete)
