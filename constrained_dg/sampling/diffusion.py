"""The diffusion sampler: canvases one after the other, each denoised by the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check, is_count
from constrained_dg.sampling.accept import EntropyBound
from constrained_dg.sampling.base import Denoiser, Generation, StepRecord
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.loop import Live, denoise_canvas, select_relations, select_rows
from constrained_dg.sampling.renoise import Uniform, Violations
from constrained_dg.sampling.request import Completer, Request, after_end
from constrained_dg.sampling.stop import Stable
from constrained_dg.sampling.temperature import LinearTemperature
from constrained_dg.shapes import IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Diffusion:
    """Denoises canvases with a loop made of small parts. The defaults are the sampler of DiffusionGemma (2026).

    Args:
        name: as on the command line.
        guide, temperature, accept, renoise, stop: the parts, one decision each.
        self_conditioning: tell each pass what the one before predicted; off only for models trained without.
        judge_stop: a row also stops as soon as the judge accepts its arg-max canvas (the last one of an answer).
        max_passes: denoise calls a canvas.
        complete: search for what the passes left unsolved, or None.
    """

    name: str = "plain"
    guide: Guide = field(default_factory=Guide)
    temperature: LinearTemperature = field(default_factory=LinearTemperature)
    accept: EntropyBound = field(default_factory=EntropyBound)
    renoise: Uniform | Violations = field(default_factory=Uniform)
    stop: Stable = field(default_factory=Stable)
    self_conditioning: bool = True
    judge_stop: bool = False
    max_passes: int = 48
    complete: Completer | None = None
    needs_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_passes(self.max_passes)
        for name in ("guide", "temperature", "accept", "renoise", "stop"):
            part = getattr(self, name)
            check(callable(part), f"{name} is {part!r}", "give a part of constrained_dg.sampling")

    @torch.no_grad()
    def run(
        self,
        model: Denoiser,
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
        """See `Sampler.run`."""
        max_passes = self.max_passes if max_passes is None else max_passes
        _check_passes(max_passes)
        (rows, length), device = batch.canvas.shape, batch.canvas.device
        canvas_length = length if canvas_length is None else canvas_length
        request = Request.of(batch, constraint, seeds, canvas_length, model.vocab_size)

        tokens, records = request.tokens.clone(), []
        passes = torch.zeros(rows, dtype=torch.int64, device=device)
        log_probability = torch.zeros(rows, device=device)
        padding = torch.zeros_like(batch.pinned)
        log_probs = torch.zeros(rows, length, model.vocab_size, device=device) if self.complete else None

        going = (~request.refused).nonzero().flatten()
        cache = (
            model.prefill(batch.prompt[going], relations=select_relations(batch.relations, going))
            if len(going)
            else None
        )
        for start in range(0, length, canvas_length):
            if len(going) == 0:
                break
            window = slice(start, start + canvas_length)
            live = self._enter(request, tokens, going, cache, window)
            of_canvas = torch.zeros_like(log_probability)
            steps = denoise_canvas(model, live, self, window, batch.noise, max_passes) if len(live.rows) else ()
            for step in steps:
                record = step.record
                tokens[record.rows, window] = record.best
                passes[record.rows] += 1
                chosen = step.log_probs.gather(-1, record.best[..., None])[..., 0]
                of_canvas[record.rows] = chosen.masked_fill(batch.pinned[record.rows, window], 0).sum(-1)
                if log_probs is not None:
                    log_probs[record.rows, window] = step.log_probs
                if on_step is not None:
                    on_step(record)
                if trace:
                    records.append(record)
            log_probability += of_canvas
            if window.stop == length and not eos:
                break
            after, ended = after_end(tokens[going, window], eos)
            padding[going, window] = after
            padding[going, window.stop :] = ended[:, None]
            unfinished = (~ended).nonzero().flatten()
            if len(unfinished) and window.stop < length:
                cache = cache if len(unfinished) == len(going) else cache.select(unfinished)
                going = going[unfinished]
                relations = select_relations(batch.relations, going)
                cache = model.commit(tokens[going, window], cache, relations)
            else:
                break
        tokens = torch.where(padding & ~batch.pinned, pad, tokens)
        return request.conclude(
            tokens,
            passes=passes,
            padding=padding,
            log_probability=log_probability,
            log_probs=log_probs,
            completer=self.complete,
            trace=records,
        )

    def _enter(self, request: Request, tokens: IntTensor, going: IntTensor, cache: object, window: slice) -> Live:
        """The rows that have something left to denoise in this canvas."""
        batch = request.batch
        known = batch.pinned.clone()
        known[:, : window.start] = True
        entering = (~batch.pinned[going, window]).any(-1).nonzero().flatten()
        rows = going[entering]
        canvas = tokens[rows, window]
        return Live(
            rows=rows,
            seeds=request.seeds[rows],
            canvas=canvas,
            pinned=batch.pinned[rows, window],
            answer=tokens[rows],
            known=known[rows],
            cache=cache if len(entering) == len(going) else cache.select(entering),
            constraint=constraint_of(request, rows),
            relations=select_relations(batch.relations, rows),
            accepted=torch.zeros_like(canvas, dtype=torch.bool),
            history=self.stop.start(canvas),
        )


def _check_passes(max_passes: int) -> None:
    check(is_count(max_passes, 1), f"max_passes is {max_passes!r}", "give an integer of at least 1")


def constraint_of(request: Request, rows: IntTensor) -> Constraint | None:
    """The constraint of these rows of a request."""
    same = len(rows) == len(request.tokens)
    return request.constraint if same else select_rows(request.constraint, rows)
