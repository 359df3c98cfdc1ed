"""The diffusion sampler: canvases one after the other, each denoised by the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.guarded import judged
from constrained_dg.constraints.running import time_limit
from constrained_dg.errors import check, is_count
from constrained_dg.sampling.accept import Acceptor, EntropyBound
from constrained_dg.sampling.base import Cache, Denoiser, Generation, StepRecord
from constrained_dg.sampling.completer import Completer
from constrained_dg.sampling.ending import after_end
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.loop import denoise_canvas
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.renoise import Renoiser, Uniform
from constrained_dg.sampling.request import Request
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.sampling.sets import Sets
from constrained_dg.sampling.state import Answers, Live, prefilled, select_relations, select_rows
from constrained_dg.sampling.stop import Stable
from constrained_dg.sampling.temperature import LinearTemperature
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Diffusion(Sampler):
    """Denoises canvases with a loop of exchangeable parts. The defaults are the sampler of DiffusionGemma (2026).

    Args:
        name: as on the command line.
        guide, temperature, accept, renoise, stop: the parts, one decision each.
        sets: denoise sets of living tokens, or None. Then `accept`, `renoise` and `self_conditioning` are not used, and
            with `guide.masks` the rules are propagated on the sets.
        self_conditioning: condition each pass on the prediction before it; off only for models trained without.
        judge_stop: a row also stops as soon as the judge accepts its answer (in the last canvas, or one with an EOS).
        max_passes: denoise calls a canvas.
        complete: search for what the passes left unsolved, or None.
    """

    name: str = "plain"
    guide: Guide = field(default_factory=Guide)
    temperature: LinearTemperature = field(default_factory=LinearTemperature)
    accept: Acceptor = field(default_factory=EntropyBound)
    renoise: Renoiser = field(default_factory=Uniform)
    stop: Stable = field(default_factory=Stable)
    sets: Sets | None = None
    self_conditioning: bool = True
    judge_stop: bool = False
    max_passes: int = 48
    complete: Completer | None = None

    def __post_init__(self) -> None:
        check(is_count(self.max_passes, 1), f"max_passes is {self.max_passes!r}", "give an integer of at least 1")
        kinds = {
            "guide": Guide,
            "temperature": LinearTemperature,
            "accept": Acceptor,
            "renoise": Renoiser,
            "stop": Stable,
            "sets": Sets | None,
            "complete": Completer | None,
        }
        for name, kind in kinds.items():
            part = getattr(self, name)
            check(isinstance(part, kind), f"{name} is {part!r}", "give a part of constrained_dg.sampling")

    @property
    def reads_rules(self) -> bool:
        """Whether any decision of a pass reads the constraint."""
        return self.guide.masks or self.renoise.reads_rules

    @property
    def rule_uses(self) -> tuple[str, ...]:
        uses = {"guide": self.guide.masks, "renoise": self.renoise.reads_rules, "judge_stop": self.judge_stop}
        return tuple(name for name, used in {**uses, "complete": self.complete is not None}.items() if used)

    @property
    def inner(self) -> Diffusion:
        return self

    def with_search(self) -> Diffusion:
        return self if self.complete is not None else replace(self, complete=Completer())

    @torch.no_grad()
    def answer(
        self, model: Denoiser, batch: Batch, constraint: Constraint | None, seeds: IntTensor | int, options: Options
    ) -> Generation:
        """See `Sampler.run`."""
        counted = self.sets is None or options.draws.rows_leave
        check(counted, f"rng={options.rng!r} with a sampler that denoises sets", "use rng='counter'")
        prompts = Request.of(model, batch, constraint, seeds, options)
        request = prompts.candidates()
        records: list[StepRecord] = []
        answers = request.begin(self.complete)
        if not request.refused.all():
            with time_limit(options.remaining()):
                self._fill(model, prompts, request, answers, options.listener(records))
        return prompts.conclude(answers, self.complete, records)

    def _fill(
        self,
        model: Denoiser,
        prompts: Request,
        request: Request,
        answers: Answers,
        emit: Callable[[StepRecord], None] | None,
    ) -> None:
        """Denoise canvas after canvas: `prompts` has a row for each prompt, `request` one for each candidate."""
        options, batch, length = request.options, request.batch, request.tokens.shape[1]
        cache = _prefill(model, prompts, length)
        going = (~request.refused).nonzero().flatten()
        ended = torch.zeros_like(going, dtype=torch.bool)
        for start in range(0, length, request.canvas_length):
            if options.expired():
                answers.padding[going, start:] = True
                break
            span = slice(start, min(start + request.canvas_length, length))
            # 1. The rows that have something left to denoise in this canvas.
            entering = (~batch.pinned[going, span]).any(-1).nonzero().flatten()
            if len(entering):
                live = self._enter(request, answers, going, entering, ended, cache, span)
                denoise_canvas(model, live, self, options, span, batch.noise, answers, emit)
            if not options.eos and span.stop == length:
                break
            # 2. What follows the end of an answer is padding.
            after, now = after_end(answers.tokens[going, span], options.eos)
            ended = ended | now
            answers.padding[going, span] |= after
            answers.padding[going, span.stop :] |= ended[:, None]
            answers.pad(batch.pinned, options.pad)
            if span.stop == length or bool(ended.all()):
                break
            # 3. Rows that are done leave; the others commit the canvas.
            if options.draws.rows_leave:
                won, done = self._settled(request, answers, going, ended)
                answers.cut[going[done & ~won]] = True
                given_up = options.given_up(going // options.candidates)
                answers.padding[going[given_up], span.stop :] = True
                staying = (~(ended | done | given_up)).nonzero().flatten()
                if len(staying) == 0:
                    break
                if len(staying) < len(going):
                    going, ended, cache = going[staying], ended[staying], cache.select(staying)
            cache = model.commit(answers.tokens[going, span], cache, select_relations(batch.relations, going))
        answers.pad(batch.pinned, options.pad)

    def _enter(
        self,
        request: Request,
        answers: Answers,
        going: IntTensor,
        entering: IntTensor,
        ended: BoolTensor,
        cache: Cache,
        span: slice,
    ) -> Live:
        """The state of the rows that enter a canvas: `entering` (N) are indices into `going`, at least one."""
        batch, constraint, options = request.batch, request.constraint, request.options
        rows = going[entering]
        known, answer = batch.pinned[rows], answers.tokens[rows]
        known[:, : span.start] = True
        noise = options.draws.canvas(request.seeds[rows], span.start, span.stop - span.start, batch.noise)
        canvas = torch.where(batch.pinned[rows, span], batch.answer[rows, span], noise)
        answer[:, span] = canvas
        nothing = torch.zeros_like(rows, dtype=torch.bool)
        return Live(
            rows=rows,
            seeds=request.seeds[rows],
            canvas=canvas,
            pinned=batch.pinned[rows, span],
            answer=answer,
            known=known,
            cache=cache if len(entering) == len(going) else cache.select(entering),
            constraint=constraint if len(rows) == len(request.tokens) else select_rows(constraint, rows),
            relations=select_relations(batch.relations, rows),
            accepted=torch.zeros_like(canvas, dtype=torch.bool),
            history=self.stop.start(canvas),
            best=canvas,
            log_best=torch.zeros(canvas.shape, device=canvas.device),
            passes=torch.zeros_like(rows),
            stopped=nothing,
            cut=nothing,
            silent=ended[entering],
        )

    @staticmethod
    def _settled(
        request: Request, answers: Answers, going: IntTensor, ended: BoolTensor
    ) -> tuple[BoolTensor, BoolTensor]:
        """(N) candidates that ended and that the judge accepts, and (N) all candidates of their prompts, which are
        done."""
        copies, constraint = request.options.candidates, select_rows(request.constraint, going)
        if copies == 1 or constraint is None or not bool(ended.any()):
            return torch.zeros_like(ended), torch.zeros_like(ended)
        won = judged(constraint, answers.tokens[going]) & ended
        return won, (won & (going[:, None] // copies == going // copies)).any(-1)


def _prefill(model: Denoiser, prompts: Request, length: int) -> Cache:
    """The cache of every prompt that is not refused, with a copy for each candidate and room for the answer."""
    batch, rows = prompts.batch, (~prompts.refused).nonzero().flatten()
    cache = prefilled(model, batch, rows, batch.prompt.shape[1], length)
    if prompts.options.candidates > 1:
        cache = cache.fork(prompts.options.candidates)
    cache.reserve(length)  # once for all canvases
    return cache
