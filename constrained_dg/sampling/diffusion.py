"""The diffusion sampler: canvases one after the other, each denoised by the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from constrained_dg.constraints.base import Constraint, judged
from constrained_dg.errors import check, is_count
from constrained_dg.sampling.accept import Confidence, EntropyBound, FixedCount, Margin, Schedule
from constrained_dg.sampling.answers import Answers, after_end
from constrained_dg.sampling.base import Cache, Denoiser, Generation, StepRecord
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.loop import Live, denoise_canvas, select_relations, select_rows
from constrained_dg.sampling.noise import AllowedToken, AnyToken
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.renoise import Blocks, Uniform, Violations
from constrained_dg.sampling.request import Completer, Request
from constrained_dg.sampling.stop import Change, Stable
from constrained_dg.sampling.temperature import LinearTemperature
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Diffusion:
    """Denoises canvases with a loop made of small parts. The defaults are the sampler of DiffusionGemma (2026).

    Args:
        name: as on the command line.
        guide, temperature, accept, renoise, noise, stop: the parts, one decision each.
        self_conditioning: tell each pass what the one before predicted; off only for models trained without.
        judge_stop: a row also stops as soon as the judge accepts its answer (in the last canvas, or one with an EOS).
        max_passes: denoise calls a canvas.
        complete: search for what the passes left unsolved, or None.
    """

    name: str = "plain"
    guide: Guide = field(default_factory=Guide)
    temperature: LinearTemperature = field(default_factory=LinearTemperature)
    accept: EntropyBound | Confidence | Margin | FixedCount | Schedule = field(default_factory=EntropyBound)
    renoise: Uniform | Violations | Blocks = field(default_factory=Uniform)
    noise: AnyToken | AllowedToken = field(default_factory=AnyToken)
    stop: Stable | Change = field(default_factory=Stable)
    self_conditioning: bool = True
    judge_stop: bool = False
    max_passes: int = 48
    complete: Completer | None = None
    needs_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(is_count(self.max_passes, 1), f"max_passes is {self.max_passes!r}", "give an integer of at least 1")
        for name in ("guide", "temperature", "accept", "renoise", "noise", "stop"):
            part = getattr(self, name)
            fits = callable(part) or (name == "noise" and isinstance(part, AnyToken))
            check(fits, f"{name} is {part!r}", "give a part of constrained_dg.sampling")

    @property
    def reads_rules(self) -> bool:
        """Whether any decision of a pass reads the constraint."""
        renoises = not isinstance(self.renoise, Uniform)
        return self.guide.masks or self.guide.forget_violations or renoises or self.noise.reads_rules

    @torch.no_grad()
    def run(
        self,
        model: Denoiser,
        batch: Batch,
        constraint: Constraint | None = None,
        seeds: IntTensor | int = 0,
        **options: Any,
    ) -> Generation:
        """See `Sampler.run`."""
        options = Options.of(model, options)
        asked = Request.of(model, batch, constraint, seeds, options)
        request, records = asked.candidates(), []
        answers = request.begin(self.complete)
        if not request.refused.all():
            self._fill(model, asked, request, answers, _listeners(options, records))
        return asked.conclude(answers, self.complete, records)

    def _fill(
        self,
        model: Denoiser,
        asked: Request,
        request: Request,
        answers: Answers,
        emit: Callable[[StepRecord], None] | None,
    ) -> None:
        """Denoise canvas after canvas: `asked` has a row for each prompt, `request` one for each candidate."""
        options, batch, length = request.options, request.batch, request.tokens.shape[1]
        cache = _prefill(model, asked, length)
        going = (~request.refused).nonzero().flatten()
        ended = torch.zeros_like(going, dtype=torch.bool)
        for start in range(0, length, request.canvas_length):
            if options.expired():
                answers.padding[going, start:] = True
                break
            span = slice(start, min(start + request.canvas_length, length))
            live = self._enter(request, answers, going, ended, cache, span)
            if len(live.rows):
                denoise_canvas(model, live, self, options, span, batch.noise, answers, emit)
            if not options.eos and span.stop == length:
                break
            after, now = after_end(answers.tokens[going, span], options.eos)
            ended = ended | now
            answers.padding[going, span] |= after
            answers.padding[going, span.stop :] |= ended[:, None]
            _pad(answers, request)
            if span.stop == length or bool(ended.all()):
                break
            if options.draws.rows_leave:
                staying = (~(ended | self._settled(request, answers, going, ended))).nonzero().flatten()
                if len(staying) == 0:
                    break
                if len(staying) < len(going):
                    going, ended, cache = going[staying], ended[staying], cache.select(staying)
            cache = model.commit(answers.tokens[going, span], cache, select_relations(batch.relations, going))
        _pad(answers, request)

    def _enter(
        self, request: Request, answers: Answers, going: IntTensor, ended: BoolTensor, cache: Cache, span: slice
    ) -> Live:
        """The rows that have something left to denoise in this canvas."""
        batch, constraint, device = request.batch, request.constraint, going.device
        entering = (~batch.pinned[going, span]).any(-1).nonzero().flatten()
        rows = going[entering]
        known, answer = batch.pinned[rows], answers.tokens[rows]
        known[:, : span.start] = True
        rule = constraint if len(rows) == len(request.tokens) else select_rows(constraint, rows)
        drawn = self._noise(
            request.options, request.seeds[rows], answer, known, span, batch.noise, rule, index=0, first=True
        )
        canvas = torch.where(batch.pinned[rows, span], batch.answer[rows, span], drawn)
        answer[:, span] = canvas
        return Live(
            rows=rows,
            seeds=request.seeds[rows],
            canvas=canvas,
            pinned=batch.pinned[rows, span],
            answer=answer,
            known=known,
            cache=cache if len(entering) == len(going) else cache.select(entering),
            constraint=rule,
            relations=select_relations(batch.relations, rows),
            accepted=torch.zeros_like(canvas, dtype=torch.bool),
            history=self.stop.start(canvas),
            best=canvas,
            log_best=torch.zeros(canvas.shape, device=device),
            passes=torch.zeros_like(rows),
            stopped=torch.zeros_like(rows, dtype=torch.bool),
            silent=ended[entering],
        )

    def fresh(self, live: Live, options: Options, span: slice, noise: tuple[int, int], index: int) -> IntTensor:
        """(N, C) what positions without a kept sample get after pass `index`."""
        return self._noise(
            options, live.seeds, live.answer, live.known, span, noise, live.constraint, index, first=False
        )

    def _noise(
        self,
        options: Options,
        seeds: IntTensor,
        answer: IntTensor,
        known: BoolTensor,
        span: slice,
        noise: tuple[int, int],
        constraint: Constraint | None,
        index: int,
        first: bool,
    ) -> IntTensor:
        draws, start, count = options.draws, span.start, span.stop - span.start
        if constraint is None or not self.noise.reads_rules:
            if first:
                return draws.canvas(seeds, start, count, noise)
            return draws.fresh(seeds, start, index, count, noise)
        may = constraint.of_tokens(constraint.allowed(answer, known, span))
        return self.noise(may, noise, draws.chances(seeds, start, index, count, first))

    @staticmethod
    def _settled(request: Request, answers: Answers, going: IntTensor, ended: BoolTensor) -> BoolTensor:
        """Rows (N) of prompts with a candidate that ended and that the judge accepts: no more is asked of them."""
        copies, constraint = request.options.candidates, select_rows(request.constraint, going)
        if copies == 1 or constraint is None or not bool(ended.any()):
            return torch.zeros_like(ended)
        won = judged(constraint, answers.tokens[going]) & ended
        return (won & (going[:, None] // copies == going // copies)).any(-1)


def _prefill(model: Denoiser, asked: Request, length: int) -> Cache:
    """The cache of every prompt that is not refused, with a copy for each candidate and room for the answer."""
    batch, rows = asked.batch, (~asked.refused).nonzero().flatten()
    mask, relations = None if batch.mask is None else batch.mask[rows], select_relations(batch.relations, rows)
    cache = model.prefill(batch.prompt[rows], mask, relations)
    if asked.options.candidates > 1:
        cache = cache.fork(asked.options.candidates)
    if hasattr(cache, "reserve"):  # once for all canvases
        cache.reserve(length)
    return cache


def _pad(answers: Answers, request: Request) -> None:
    answers.tokens.masked_fill_(answers.padding & ~request.batch.pinned, request.options.pad)


def _listeners(options: Options, records: list[StepRecord]) -> Callable[[StepRecord], None] | None:
    """What hears of each pass: the trace, the caller, or nobody."""
    heard = [listener for listener in (records.append if options.trace else None, options.on_step) if listener]

    def tell(record: StepRecord) -> None:
        for listener in heard:
            listener(record)

    return tell if heard else None
