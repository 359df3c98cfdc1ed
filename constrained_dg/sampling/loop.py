"""The loop: denoise, accept, re-noise, until a row stops or the passes run out (DiffusionGemma, 2026, with rules).

    canvas                     noise, pinned tokens written in
      -> denoise               logits, seen by the hook, masked by the guide
      -> settle                softmax(logits / temperature): arg-max, one draw, entropy
      -> accept                the most certain positions keep their sample
      -> re-noise              every other free position gets fresh uniform noise
      -> stop                  rows that are stable, or that the judge accepts, are finished

Nothing is sticky: a position accepted in one pass may be re-noised in the next. Only with `Schedule` what is accepted
stays as it was.

A pass never waits for the device. Between passes one flag is read: after every pass on a CPU, every READ_EVERY passes
on an accelerator. A row that finished in between is frozen, its further passes are not counted, and it leaves the batch
at the read, so that the interval changes no result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from constrained_dg.constraints.base import Constraint, judged
from constrained_dg.errors import check
from constrained_dg.sampling.answers import Answers, after_end
from constrained_dg.sampling.base import Cache, Denoiser, PassInfo, StepRecord
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.renoise import Accepted
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

if TYPE_CHECKING:
    from constrained_dg.sampling.diffusion import Diffusion

#: Passes between two reads of the stop flag on an accelerator.
READ_EVERY = 4


@dataclass(frozen=True)
class Live:
    """Everything that belongs to the rows still being denoised. `select` keeps it in step.

    Attributes:
        rows: (N) indices in the batch, candidates counted as rows.
        seeds: (N).
        canvas: (N, C), what enters the next pass.
        pinned: (N, C) bool.
        answer: (N, T), finished canvases and pinned tokens; the span of this canvas is written as the loop goes.
        known: (N, T) bool, pinned and committed positions.
        cache, constraint, relations: as given; the latter two may be of one row for all, or None.
        accepted: (N, C) bool, positions that kept their sample in the last pass.
        history: (N, ...) what the stop rule keeps of the last passes.
        best: (N, C) arg-max canvas of the last pass that counts.
        log_best: (N, C) its log-probabilities.
        passes: (N) passes that count.
        stopped: (N) bool, finished rows that are still in the batch: frozen.
        silent: (N) bool, rows whose answer had ended before this canvas: nothing of them counts.
        forbidden, conflict: (N, C, A), (N, C), see `Guide.forbidden`; None where nothing is masked.
    """

    rows: IntTensor
    seeds: IntTensor
    canvas: IntTensor
    pinned: BoolTensor
    answer: IntTensor
    known: BoolTensor
    cache: Cache
    constraint: Constraint | None
    relations: BoolTensor | None
    accepted: BoolTensor
    history: torch.Tensor
    best: IntTensor
    log_best: FloatTensor
    passes: IntTensor
    stopped: BoolTensor
    silent: BoolTensor
    forbidden: BoolTensor | None = None
    conflict: BoolTensor | None = None

    def select(self, keep: IntTensor) -> Live:
        """The state of these rows (N)."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values |= {
            "cache": self.cache.select(keep),
            "constraint": select_rows(self.constraint, keep),
            "relations": select_relations(self.relations, keep),
        }
        done = ("cache", "constraint", "relations")
        return Live(**{k: v if k in done or v is None else v[keep] for k, v in values.items()})

    def with_canvas(self, canvas: IntTensor, span: slice) -> IntTensor:
        """(N, T) the answer with this canvas in its span."""
        answer = self.answer.clone()
        answer[:, span] = canvas
        return answer


def select_rows(constraint: Constraint | None, rows: IntTensor) -> Constraint | None:
    """The constraint of these rows; one row serves them all."""
    return constraint if constraint is None or constraint.rows == 1 else constraint.select(rows)


def select_relations(relations: BoolTensor | None, rows: IntTensor) -> BoolTensor | None:
    """The relations of these rows; one row serves them all."""
    return relations if relations is None or len(relations) == 1 else relations[rows]


def reading_interval(device: torch.device, parts: Diffusion, options: Options, constraint: Constraint | None) -> int:
    """Passes between two reads of the stop flag: 1 where the host looks at every pass anyway.

    It does on a CPU, with a record, a hook or a time limit, with a completer (which keeps the distribution of a row's
    last pass), with draws that depend on the batch, and where `constraint.reads_every_pass` says that its judge is
    plain Python.
    """
    rules = () if constraint is None else getattr(constraint, "parts", (constraint,))
    in_python = any(getattr(rule, "reads_every_pass", False) for rule in (constraint, *rules))
    keeps = parts.complete is not None or options.distribution
    host_looks = options.watched or keeps or not options.draws.rows_leave or in_python
    return 1 if device.type == "cpu" or host_looks else READ_EVERY


@torch.no_grad()
def denoise_canvas(
    model: Denoiser,
    live: Live,
    parts: Diffusion,
    options: Options,
    span: slice,
    noise: tuple[int, int],
    answers: Answers,
    emit: Callable[[StepRecord], None] | None = None,
) -> None:
    """Denoise one canvas of every live row and write it into the answers.

    Args:
        span: where the canvas lies in the answer.
        noise: (low, high), the half-open range of tokens that noise is drawn from.
        emit: called with the record of each pass.

    Raises:
        InputError: the model or the hook returns NaN, or logits that are not (N, C, V).
    """
    draws, start = options.draws, span.start
    max_passes = options.max_passes or parts.max_passes
    interval = reading_interval(live.canvas.device, parts, options, live.constraint)
    broken = torch.zeros((), dtype=torch.bool, device=live.canvas.device)
    signal = None
    for index in range(max_passes):
        logits = _logits(model, live, signal, options, span, index)
        temperature = parts.temperature(index, max_passes)
        conflict, told = torch.zeros_like(live.pinned), None
        if live.constraint is not None and parts.guide.masks:
            if parts.guide.known_accepted or live.forbidden is None:
                live = _with_masks(live, parts, span)
            logits, told = parts.guide(logits, live.forbidden, live.constraint)
            told, conflict = None if told is logits else told.div_(temperature).softmax(-1), live.conflict
        settled = draws.settle(logits, temperature, live.seeds, start, index, parts.accept.needs_margin)
        told = settled.probabilities if told is None else told

        free = ~live.pinned
        fresh = free & ~live.accepted if getattr(parts.accept, "keeps", False) else free
        best = torch.where(fresh, settled.best, live.canvas)
        sample = torch.where(fresh, settled.sample, live.canvas)
        taken = parts.accept(settled, free, (index + 1) / max_passes) & ~conflict
        whole = live.with_canvas(sample, span)
        accepted = parts.renoise(
            Accepted(taken, whole, live.known, span, live.constraint, live.seeds, index, max_passes)
        )
        canvas = torch.where(accepted | live.pinned, sample, parts.fresh(live, options, span, noise, index))
        stopped, history = parts.stop(best, settled, free, live.history)
        stopped = _judged(live, best, stopped, parts, options, span)

        going = ~live.stopped
        if emit is not None:
            renoised = free & ~accepted
            record = StepRecord(
                index, live.rows, live.canvas, best, settled.entropy, accepted, renoised, conflict, stopped, start
            )
            _emit(record, going & ~live.silent, emit)
        broken = broken | (settled.entropy.isnan() & going[:, None]).any()
        live = replace(
            live,
            canvas=canvas,
            accepted=accepted,
            history=history,
            best=torch.where(going[:, None], best, live.best),
            log_best=torch.where(going[:, None], settled.log_best, live.log_best),
            passes=live.passes + (going & ~live.silent),
            stopped=live.stopped | stopped,
        )
        last = index + 1 == max_passes
        if last or (index + 1) % interval == 0:
            *finished, nan = torch.cat([live.stopped, broken[None]]).tolist()  # the one wait
            check(not nan, f"the model returned NaN by pass {index}", "check its weights and its precision")
            if last or all(finished) or options.expired():
                answers.write(live, slice(None), settled.probabilities, span)
                return
            if any(finished) and draws.rows_leave:
                keep = [row for row, done in enumerate(finished) if not done]
                answers.write(live, live.stopped.nonzero().flatten(), settled.probabilities, span)
                live, told = live.select(torch.tensor(keep, device=canvas.device)), _to_front(told, keep)
                taken, accepted = taken[keep], accepted[keep]
        if parts.self_conditioning:
            if parts.guide.forget_violations and live.constraint is not None:
                told = _forgetting(told, taken & ~accepted, live, noise)
            signal = model.self_condition(told)


def _logits(model: Denoiser, live: Live, signal: object, options: Options, span: slice, index: int) -> FloatTensor:
    """(N, C, V) float32 of one pass, through the hook."""
    logits = model.denoise(live.canvas, live.cache, signal, live.relations)
    expected = (*live.canvas.shape, model.vocab_size)
    check(logits.shape == expected, f"the model returned logits {tuple(logits.shape)}", f"give {expected}")
    if options.logits_hook is not None:
        info = PassInfo(index, live.rows, live.with_canvas(live.canvas, span), span.start)
        logits = options.logits_hook(logits, info)
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        check(got == expected, f"logits_hook returned {got}", f"return logits {expected}")
    return logits.float()


def _forgetting(told: FloatTensor, where: BoolTensor, live: Live, noise: tuple[int, int]) -> FloatTensor:
    """(N, C, V) with all tokens of the noise range that are not forbidden equally likely at some positions (N, C)."""
    even = torch.zeros(told.shape[-1], device=told.device)
    even[slice(*noise)] = 1
    if live.forbidden is not None:
        even = even * ~live.constraint.of_tokens(live.forbidden)
    return torch.where(where[..., None], even / even.sum(-1, keepdim=True).clamp(min=1), told)


def _with_masks(live: Live, parts: Diffusion, span: slice) -> Live:
    """The rows with what the rules forbid now. Unless accepted tokens count as known it stays so for the canvas."""
    known = live.known.clone()
    if parts.guide.known_accepted:
        known[:, span] |= live.accepted
    answer = live.with_canvas(live.canvas, span)
    forbidden, conflict = parts.guide.forbidden(answer, known, span, live.constraint)
    return replace(live, forbidden=forbidden, conflict=conflict)


def _judged(
    live: Live, best: IntTensor, stopped: BoolTensor, parts: Diffusion, options: Options, span: slice
) -> BoolTensor:
    """(N), (N) of `Stable` -> rows that stop (N), with what the judge says of answers that are complete."""
    constraint, alone = live.constraint, options.candidates == 1
    last = constraint is not None and span.stop == constraint.length
    if constraint is None or not (parts.judge_stop or not alone) or not (last or options.eos):
        return stopped
    answer, whole = live.with_canvas(best, span), torch.ones_like(stopped)
    if options.eos:
        after, ended = after_end(best, options.eos)
        behind = ended[:, None].expand(-1, answer.shape[1] - span.stop)
        before = behind.new_zeros(len(behind), span.start)
        padding = torch.cat([before, after, behind], 1) & ~live.known
        answer, whole = answer.masked_fill(padding, options.pad), ended | last
    accepted = judged(constraint, answer) & whole
    if parts.judge_stop:
        stopped = stopped | accepted
    if alone:
        return stopped
    # Candidates of one prompt stop together, as soon as one that stops is accepted.
    same_prompt = live.rows[:, None] // options.candidates == live.rows // options.candidates
    return stopped | (same_prompt & (accepted & stopped & ~live.stopped)).any(-1)


def _emit(record: StepRecord, counted: BoolTensor, emit: Callable[[StepRecord], None]) -> None:
    """Hand on the rows (N) of a record that count, if there are any."""
    keep = counted.nonzero().flatten()
    if len(keep) == len(counted):
        emit(record)
    elif len(keep):
        values = {each.name: getattr(record, each.name) for each in fields(record)}
        emit(StepRecord(**{k: v[keep] if isinstance(v, torch.Tensor) else v for k, v in values.items()}))


def _to_front(tensor: FloatTensor, rows: list[int]) -> FloatTensor:
    """These rows, ascending, moved to the front in place: (N, ...) -> (len(rows), ...)."""
    for to, row in enumerate(rows):
        if to != row:
            tensor[to].copy_(tensor[row])
    return tensor[: len(rows)]
