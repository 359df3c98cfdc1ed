"""The baseline: the same backbone, left to right, one token a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check
from constrained_dg.sampling.base import Denoiser, Generation, StepRecord
from constrained_dg.sampling.ending import after_end
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.loop import READ_EVERY
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.request import Request
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.sampling.state import Answers, prefilled, select_relations, select_rows
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Autoregressive(Sampler):
    """Emits the likeliest token, one after the other, from the causal logits; pinned cells are forced.

    A pass is one `next_token` call, so an answer of T tokens takes T passes, for any `max_passes`. Its record is that
    of a canvas of one token, which one pass finishes. Options of canvases are ignored.

    Args:
        name: as on the command line.
        guide: with its masks, each token is one of those that the rules allow behind what stands before it; where they
            allow none, any. Without, it reads no rule. Whatever it writes counts as known.
    """

    name: str = "autoregressive"
    guide: Guide = field(default_factory=Guide)
    refuses: ClassVar[tuple[str, ...]] = ("candidates", "rng", "logits_hook")

    def __post_init__(self) -> None:
        check(isinstance(self.guide, Guide), f"guide is {self.guide!r}", "give a Guide")

    @property
    def rule_uses(self) -> tuple[str, ...]:
        return ("guide",) if self.guide.masks else ()

    @torch.no_grad()
    def answer(
        self, model: Denoiser, batch: Batch, constraint: Constraint | None, seeds: IntTensor | int, options: Options
    ) -> Generation:
        """See `Sampler.run`.

        Raises:
            InputError: as there, or a prompt that is too short.
        """
        request = Request.of(model, batch, constraint, seeds, options)
        check(
            batch.prompt.shape[1] > 1,
            "the prompt has fewer than 2 tokens",
            "the first token is predicted from the last one",
        )
        answers = request.begin(None)
        records: list[StepRecord] = []
        if not request.refused.all():
            self._fill(model, request, answers, options.listener(records))
        return request.conclude(answers, trace=records)

    def _fill(
        self, model: Denoiser, request: Request, answers: Answers, emit: Callable[[StepRecord], None] | None
    ) -> None:
        options, batch, length = request.options, request.batch, request.tokens.shape[1]
        going = (~request.refused).nonzero().flatten()
        relations = select_relations(batch.relations, going)
        cache = prefilled(model, batch, going, batch.prompt.shape[1] - 1, length)
        cache.reserve(length)
        last, ended = batch.prompt[going, -1:], torch.zeros_like(going, dtype=torch.bool)
        broken = torch.zeros((), dtype=torch.bool, device=going.device)
        interval = 1 if going.device.type == "cpu" or emit is not None else READ_EVERY
        for at in range(length):
            if options.expired():
                answers.padding[going, at:] = True
                break
            logits = model.next_token(last, cache, relations)
            logits, conflict = self._masked(logits, request, answers, going, at, ended)
            log_probs = logits.log_softmax(-1)
            broken = broken | (log_probs.isnan().any(-1) & ~ended).any()
            # An answer that has ended waits, all padding, until it leaves.
            chosen = torch.where(ended, options.pad, log_probs.argmax(-1))
            chosen = torch.where(batch.pinned[going, at], batch.answer[going, at], chosen)
            if emit is not None:
                emit(_record(request, going, at, chosen, log_probs, conflict))
            answers.passes[going] += ~ended
            answers.tokens[going, at], answers.padding[going, at] = chosen, ended
            answers.log_best[going, at] = log_probs.gather(-1, chosen[:, None])[:, 0]
            last = chosen[:, None]
            if options.eos:
                ended = ended | after_end(last, options.eos)[1]
            leaving = ended | options.given_up(going)
            if (at + 1) % interval == 0 and bool(leaving.any()):
                answers.padding[going, at + 1 :] |= leaving[:, None]
                staying = (~leaving).nonzero().flatten()
                if len(staying) == 0:
                    break
                going, ended, last, cache = going[staying], ended[staying], last[staying], cache.select(staying)
                relations = select_relations(batch.relations, going)
        check(not bool(broken), "the model returned NaN", "check its weights and its precision")
        answers.pad(batch.pinned, options.pad)

    def _masked(
        self, logits: FloatTensor, request: Request, answers: Answers, going: IntTensor, at: int, ended: BoolTensor
    ) -> tuple[FloatTensor, BoolTensor]:
        """The logits (N, V) of position `at` without what the rules forbid there, and (N) where they allow nothing."""
        conflict = torch.zeros_like(ended)
        if not self.guide.masks or request.constraint is None:
            return logits, conflict
        # Without end tokens no answer ends, and to ask for those that did would wait for the device.
        every = torch.arange(len(ended), device=ended.device)
        rows = (~ended).nonzero().flatten() if request.options.eos else every
        if len(rows) == 0:
            return logits, conflict
        rule = select_rows(request.constraint, going[rows])
        assert rule is not None
        known = request.batch.pinned[going[rows]].clone()
        known[:, :at] = True
        forbidden, lifted = self.guide.forbidden(answers.tokens[going[rows]], known, slice(at, at + 1), rule)
        logits = logits.clone()
        logits[rows] = self.guide(logits[rows], forbidden[:, 0], rule)
        conflict[rows] = lifted[:, 0]
        return logits, conflict


def _record(
    request: Request, rows: IntTensor, at: int, chosen: IntTensor, log_probs: FloatTensor, conflict: BoolTensor
) -> StepRecord:
    """The pass that wrote the tokens (N) of position `at`, from log-probabilities (N, V)."""
    pinned = request.batch.pinned[rows, at]
    return StepRecord(
        pass_index=0,
        rows=rows,
        canvas=request.tokens[rows, at : at + 1],
        best=chosen[:, None],
        entropy=torch.special.entr(log_probs.exp()).sum(-1, keepdim=True),
        accepted=~pinned[:, None],
        renoised=torch.zeros_like(pinned)[:, None],
        conflict=(conflict & ~pinned)[:, None],
        stopped=torch.ones_like(pinned),
        start=at,
    )
