"""The control without a model: the completer alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.search import BUDGET
from constrained_dg.errors import check
from constrained_dg.sampling.base import Denoiser, Generation
from constrained_dg.sampling.completer import Completer
from constrained_dg.sampling.ending import after_end
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.request import Request
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.shapes import IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Search(Sampler):
    """Searches from the pinned tokens with all tokens equally likely. It makes no pass and never calls the model.

    Of the options it uses the time limit and the end tokens, and ignores those that only concern canvases.

    Args:
        name: as on the command line.
        complete: the bounds of the search.
    """

    name: str = "search"
    complete: Completer = field(default_factory=Completer)
    needs_model: ClassVar[bool] = False
    refuses: ClassVar[tuple[str, ...]] = ("candidates", "rng", "logits_hook")

    @property
    def rule_uses(self) -> tuple[str, ...]:
        return ("complete",)

    def with_search(self) -> Search:
        return self

    def answer(
        self,
        model: Denoiser | None,
        batch: Batch,
        constraint: Constraint | None,
        seeds: IntTensor | int,
        options: Options,
    ) -> Generation:
        """See `Sampler.run`.

        Raises:
            InputError: as there, and without a constraint to search with.
        """
        check(constraint is not None, "search was given no constraint", "give one, or use another sampler")
        request = Request.of(None, batch, constraint, seeds, options)
        answers = request.begin(self.complete)
        # The noise is judged first, and may hold an end.
        answers = replace(answers, padding=after_end(answers.tokens, options.eos)[0])
        answers.pad(batch.pinned, options.pad)
        return request.conclude(answers, self.complete)


def solve(
    constraint: Constraint,
    canvas: IntTensor | None = None,
    pinned: torch.Tensor | None = None,
    *,
    budget: float = BUDGET,
    time_limit: float | None = None,
) -> Generation:
    """An answer that a constraint accepts, by search alone, without a model.

        answer = solve(AllDifferent(...))                       # .tokens (1, T), .status [Status.SOLVED]
        answer = solve(rules, canvas=tokens, pinned=given)      # given tokens (B, T) stay

    Args:
        constraint: of B rows, or one.
        canvas: (B, T) int64, or (T), of which the pinned tokens are read.
        pinned: (B, T) or (T) bool, tokens of `canvas` that stay.
        budget: deterministic time of the solver for a row, about seconds.
        time_limit: seconds for all rows.

    Returns:
        for each row an answer, with its status: solved, unsatisfiable (proved), or unsolved (a bound was met).

    Raises:
        InputError: shapes or values do not fit.
    """
    check((canvas is None) == (pinned is None), "canvas and pinned go together", "give both, or neither")
    if canvas is None or pinned is None:
        canvas = torch.zeros(constraint.rows, constraint.length, dtype=torch.int64)
        pinned = torch.zeros_like(canvas, dtype=torch.bool)
    canvas, pinned = (torch.atleast_2d(torch.as_tensor(each)) for each in (canvas, pinned))
    prompt = torch.zeros(len(canvas), 0, dtype=torch.int64)
    batch = Batch(prompt, canvas, pinned, None, (0, constraint.vocab_size))
    return Search(complete=Completer(budget)).run(None, batch, constraint, time_limit=time_limit)
