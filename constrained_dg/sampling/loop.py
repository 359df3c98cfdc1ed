"""The loop: denoise, accept, re-noise, until a row stops or the passes run out (DiffusionGemma, 2026, with rules).

    canvas                     noise, pinned tokens written in
      -> denoise               logits, seen by the hook, masked by the guide
      -> settle                softmax(logits / temperature): arg-max, one draw, entropy
      -> accept                the most certain positions keep their sample
      -> re-noise              every other free position gets fresh uniform noise
      -> stop                  rows that are stable, or that the judge accepts, are finished

A position accepted in one pass may be re-noised in the next; only `Schedule` keeps accepted tokens. With `Sets`, the
free positions hold sets of living tokens instead, which only get smaller, and noise is drawn from them.

A pass never waits for the device. Between passes one flag is read: after every pass on a CPU, every READ_EVERY passes
on an accelerator. A row that finished in between is frozen and leaves the batch at the next read; its further passes
are not counted. So the interval changes no result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Protocol

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.guarded import judged
from constrained_dg.diffusion.sets import as_distribution
from constrained_dg.errors import check
from constrained_dg.sampling.accept import Acceptor
from constrained_dg.sampling.base import Denoiser, PassInfo, StepRecord
from constrained_dg.sampling.completer import Completer
from constrained_dg.sampling.ending import after_end
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.renoise import Accepted, Renoiser
from constrained_dg.sampling.sets import Sets
from constrained_dg.sampling.state import Answers, Live
from constrained_dg.sampling.stop import Stable
from constrained_dg.sampling.temperature import LinearTemperature
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Passes between two reads of the stop flag on an accelerator.
READ_EVERY = 4
#: The least logit: where a hook leaves -inf at all allowed tokens, these become equally likely instead of NaN.
_LEAST = -1e30


class Parts(Protocol):
    """What the loop needs of `Diffusion`; see there."""

    @property
    def guide(self) -> Guide: ...
    @property
    def temperature(self) -> LinearTemperature: ...
    @property
    def accept(self) -> Acceptor: ...
    @property
    def renoise(self) -> Renoiser: ...
    @property
    def stop(self) -> Stable: ...
    @property
    def sets(self) -> Sets | None: ...
    @property
    def self_conditioning(self) -> bool: ...
    @property
    def judge_stop(self) -> bool: ...
    @property
    def max_passes(self) -> int: ...
    @property
    def complete(self) -> Completer | None: ...


def reading_interval(device: torch.device, parts: Parts, options: Options, constraint: Constraint | None) -> int:
    """Passes between two reads of the stop flag: 1 where the host reads every pass anyway.

    It does on a CPU, with a record, a hook or a time limit, with a completer (which keeps the distribution of a row's
    last pass), with draws that depend on the batch, and where the judge is plain Python
    (`constraint.reads_every_pass`).
    """
    in_python = constraint is not None and constraint.reads_every_pass
    keeps = parts.complete is not None or options.class_log_probs
    host_looks = options.watched or keeps or not options.draws.rows_leave or in_python
    return 1 if device.type == "cpu" or host_looks else READ_EVERY


@torch.no_grad()
def denoise_canvas(
    model: Denoiser,
    live: Live,
    parts: Parts,
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
    #: The cache of the rows that entered, and where in it the rows are that are still denoised.
    cache, in_cache = live.cache, torch.arange(len(live.rows), device=live.canvas.device)
    if parts.sets is not None:
        live = replace(live, sets=parts.sets.start(live, span, noise, parts.guide.masks, options.lessons))
        narrowed = parts.guide.masks or options.lessons is not None
        signal = _signal(model, live, parts, None, noise) if narrowed else None
    for index in range(max_passes):
        # 1. Denoise, and mask what the rules forbid.
        logits = _logits(model, live, signal, options, span, index)
        conflict = torch.zeros_like(live.pinned)
        if live.sets is not None:
            likely = logits.softmax(-1)
            dead = torch.nn.functional.pad(~live.sets, (noise[0], logits.shape[-1] - noise[1]), value=True)
            logits.masked_fill_(dead & ~live.pinned[..., None], -torch.inf)
        elif live.constraint is not None and parts.guide.masks:
            if parts.guide.known_accepted or live.forbidden is None or live.conflict is None:
                live = _with_masks(live, parts, span)
            assert live.forbidden is not None and live.constraint is not None and live.conflict is not None
            logits, conflict = parts.guide(logits, live.forbidden, live.constraint), live.conflict

        # 2. Arg-max, sample and entropy of softmax(logits / temperature). Pinned positions hold their token, and so
        #    do accepted ones where the acceptor keeps them.
        settled = draws.settle(logits, parts.temperature(index, max_passes), live.seeds, start, index)
        free = ~live.pinned
        open_ = free & ~live.accepted if parts.accept.keeps else free
        best = torch.where(open_, settled.best, live.canvas)
        sample = torch.where(open_, settled.sample, live.canvas)

        by_class = answers.class_log_probs
        if index == 0 and by_class is not None and by_class.of_first and live.constraint is not None:
            by_class.write(live.rows, span, settled.probabilities, live.constraint)

        # 3. Accept positions, and take back those that break a rule; every other free position gets fresh noise.
        sets = None
        if parts.sets is not None:
            sets = parts.sets.narrow(live, likely, span, noise, parts.guide.masks, options.lessons)
            living = sets.sum(-1)
            accepted, conflict = free & (living == 1), free & (living == 0)
            canvas = parts.sets.redraw(sets, live, start, noise, index)
        else:
            taken = parts.accept(settled, free, (index + 1) / max_passes) & ~conflict
            answer = live.with_canvas(sample, span)
            accepted = parts.renoise(Accepted(taken, answer, live.known, span, live.constraint))
            fresh = draws.fresh(live.seeds, start, index, span.stop - start, noise)
            canvas = torch.where(accepted | live.pinned, sample, fresh)

        # 4. Which rows stop: stable ones, those that the judge accepts, the other candidates of their prompt, and those
        #    that are given up. With sets also rows with a conflict, or with one token left everywhere.
        stopped, history = parts.stop(best, settled, free, live.history)
        stopped, cut = _judged(live, best, stopped, parts, options, span)
        stopped = stopped | options.given_up(live.rows // options.candidates)
        log_best = settled.log_best
        if sets is not None:
            decided = (accepted | live.pinned).all(-1)
            # Where one token is left everywhere, these are the answer, unless the judge accepted the arg-max before.
            left = torch.where(free, noise[0] + sets.long().argmax(-1), best)
            best = torch.where((decided & ~stopped)[:, None], left, best)
            log_best = settled.probabilities.gather(-1, best[..., None])[..., 0].log()
            stopped = stopped | conflict.any(-1) | decided

        # 5. Update the state; rows that stopped before are frozen.
        going = ~live.stopped
        if emit is not None:
            renoised = free & ~accepted
            record = StepRecord(
                index, live.rows, live.canvas, best, settled.entropy, accepted, renoised, conflict, stopped, start, sets
            )
            _emit(record, going & ~live.silent, emit)
        broken = broken | (settled.entropy.isnan() & going[:, None]).any()
        live = replace(
            live,
            canvas=canvas,
            sets=sets,
            accepted=accepted,
            history=history,
            best=torch.where(going[:, None], best, live.best),
            log_best=torch.where(going[:, None], log_best, live.log_best),
            passes=live.passes + (going & ~live.silent),
            stopped=live.stopped | stopped,
            cut=live.cut | (going & cut),
        )

        # 6. Read the flags: rows that stopped leave the batch.
        conditioning = settled.probabilities
        last = index + 1 == max_passes
        if last or (index + 1) % interval == 0:
            *finished, nan = torch.cat([live.stopped, broken[None]]).tolist()  # the one wait
            check(not nan, f"the model returned NaN by pass {index}", "check its weights and its precision")
            if last or all(finished) or options.expired():
                answers.write(live, slice(None), conditioning, span)
                return
            if any(finished) and draws.rows_leave:
                keep = [row for row, done in enumerate(finished) if not done]
                answers.write(live, live.stopped.nonzero().flatten(), conditioning, span)
                staying = torch.tensor(keep, device=canvas.device)
                in_cache = in_cache[staying]
                live = replace(live, cache=cache)  # gives back that of the rows so far before the next one is made
                live = live.select(staying, in_cache)
                conditioning = _to_front(conditioning, keep)

        # 7. The next pass sees what this one predicted, or what it left alive.
        signal = _signal(model, live, parts, conditioning, noise)
        del logits, settled, conditioning  # of the size of the vocabulary: given back before the next pass


def _signal(
    model: Denoiser, live: Live, parts: Parts, probabilities: FloatTensor | None, noise: tuple[int, int]
) -> object:
    """Self-conditioning of the next pass: on the distribution (N, C, V) of the last one, or on the sets."""
    if live.sets is not None:
        return model.self_condition(*as_distribution(live.sets, live.canvas, live.pinned, noise[0], model.vocab_size))
    return model.self_condition(probabilities) if parts.self_conditioning and probabilities is not None else None


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
    return logits.float().clamp_(min=_LEAST)


def _with_masks(live: Live, parts: Parts, span: slice) -> Live:
    """The rows with their forbidden tokens. These change within a canvas only if accepted tokens count as known."""
    known = live.known.clone()
    if parts.guide.known_accepted:
        known[:, span] |= live.accepted
    answer = live.with_canvas(live.canvas, span)
    assert live.constraint is not None
    forbidden, conflict = parts.guide.forbidden(answer, known, span, live.constraint)
    return replace(live, forbidden=forbidden, conflict=conflict)


def _judged(
    live: Live, best: IntTensor, stopped: BoolTensor, parts: Parts, options: Options, span: slice
) -> tuple[BoolTensor, BoolTensor]:
    """(N), (N) of `Stable` -> rows that stop (N), with the judge's verdict on answers that are complete; and those
    among them (N) that stop only because another candidate of their prompt is accepted."""
    constraint, alone = live.constraint, options.candidates == 1
    last = constraint is not None and span.stop == constraint.length
    if constraint is None or not (parts.judge_stop or not alone) or not (last or options.eos):
        return stopped, torch.zeros_like(stopped)
    answer, complete = live.with_canvas(best, span), torch.ones_like(stopped)
    if options.eos:
        after, ended = after_end(best, options.eos)
        behind = ended[:, None].expand(-1, answer.shape[1] - span.stop)
        before = behind.new_zeros(len(behind), span.start)
        padding = torch.cat([before, after, behind], 1) & ~live.known
        answer, complete = answer.masked_fill(padding, options.pad), ended | last
    accepted = judged(constraint, answer) & complete
    if parts.judge_stop:
        stopped = stopped | accepted
    if alone:
        return stopped, torch.zeros_like(stopped)
    # Candidates of one prompt stop together, as soon as one that stops is accepted.
    same_prompt = live.rows[:, None] // options.candidates == live.rows // options.candidates
    won = (same_prompt & (accepted & stopped & ~live.stopped)).any(-1)
    return stopped | won, won & ~stopped


def _emit(record: StepRecord, counted: BoolTensor, emit: Callable[[StepRecord], None]) -> None:
    """Emit the rows (N) of a record that count, if any."""
    keep = counted.nonzero().flatten()
    if len(keep) == len(counted):
        emit(record)
    elif len(keep):
        values: dict[str, Any] = {each.name: getattr(record, each.name) for each in fields(record)}
        values |= {name: value[keep] for name, value in values.items() if isinstance(value, torch.Tensor)}
        emit(StepRecord(**values))


def _to_front(tensor: FloatTensor, rows: list[int]) -> FloatTensor:
    """These rows, ascending, moved to the front in place: (N, ...) -> (len(rows), ...)."""
    for to, row in enumerate(rows):
        if to != row:
            tensor[to].copy_(tensor[row])
    return tensor[: len(rows)]
