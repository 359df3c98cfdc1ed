"""The base class of samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import InputError, check
from constrained_dg.sampling.base import Denoiser, Generation
from constrained_dg.sampling.completer import Completer
from constrained_dg.sampling.options import Options
from constrained_dg.shapes import IntTensor
from constrained_dg.task import Batch


class Sampler(ABC):
    """A way to turn prompts into answers. A subclass needs `name` and `answer`.

    Attributes:
        name: as on the command line.
        needs_model: False where `run` never calls the model, so that None may be given.
        uses_symmetry: it solves moved versions of a problem, and needs the option `symmetric` for them.
        uses_pictures: it changes the pictures of the prompts, and needs a batch that has some.
        refuses: names of `Options` that it does not support.
        complete: the search for what is left unsolved, or None.
    """

    name: str
    needs_model: ClassVar[bool] = True
    uses_symmetry: ClassVar[bool] = False
    uses_pictures: ClassVar[bool] = False
    refuses: ClassVar[tuple[str, ...]] = ()
    complete: Completer | None = None

    @property
    def rule_uses(self) -> tuple[str, ...]:
        """The parts that read the rules while answering; empty if only the final judge reads them."""
        return ()

    @property
    def inner(self) -> Sampler | None:
        """The sampler that makes the passes of one attempt or candidate, perhaps `self`; None for samplers
        without canvases."""
        return None

    def with_search(self) -> Sampler:
        """The same sampler with a search for what it leaves unsolved.

        Raises:
            InputError: it cannot have one.
        """
        raise InputError(f"sampler {self.name!r} cannot search", "use a diffusion sampler, such as restarts")

    def run(
        self,
        model: Denoiser | None,
        batch: Batch,
        constraint: Constraint | None = None,
        seeds: IntTensor | int = 0,
        **options: Any,
    ) -> Generation:
        """Answer every row of the batch. Only its prompt, mask, pinned tokens, relations and noise range are read.

        Args:
            model: the denoiser.
            batch: `batch.answer` (B, T) may hold several canvases; free cells of it are not read.
            constraint: over the T positions of the answer; of B rows or one.
            seeds: (B) int64, or one number from which the seeds of the rows are drawn.
            options: keywords of `Options`.

        Raises:
            InputError: shapes, ranges, values or the memory do not fit, or a keyword is unknown; before the first pass.
                NaN logits; during it.
        """
        if self.needs_model:
            check_model(model)
        given = model if self.needs_model else None
        return self.answer(given, batch, constraint, seeds, Options.of(given, options, self.refuses))

    @abstractmethod
    def answer(
        self,
        model: Denoiser | None,
        batch: Batch,
        constraint: Constraint | None,
        seeds: IntTensor | int,
        options: Options,
    ) -> Generation:
        """See `run`, which checks the options."""


def check_model(model: object) -> None:
    """Raise InputError unless an object has all that `Denoiser` declares."""
    hint = "give the model itself (of a run: run.model), or one that has all of sampling.Denoiser"
    check(isinstance(model, Denoiser), f"a {type(model).__name__} is not a denoiser", hint)
