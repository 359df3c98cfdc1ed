"""The front door: `generate(model, prompt, constraint)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check, is_count
from constrained_dg.sampling.base import Denoiser, Generation, PassInfo, Sampler, StepRecord
from constrained_dg.sampling.diffusion import Diffusion
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.renoise import Violations
from constrained_dg.sampling.request import Completer, known_of
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch

#: The samplers of conf/sampler/plain.yaml and validity.yaml: without rules, and with.
PLAIN = Diffusion()
VALIDITY = Diffusion("validity", Guide(True, True), renoise=Violations(), judge_stop=True)


def generate(
    model: Denoiser,
    prompt: IntTensor,
    constraint: Constraint | None = None,
    *,
    sampler: Sampler | None = None,
    mask: BoolTensor | None = None,
    canvas: IntTensor | None = None,
    pinned: BoolTensor | None = None,
    canvas_length: int | None = None,
    max_new_tokens: int | None = None,
    relations: BoolTensor | None = None,
    noise: tuple[int, int] | None = None,
    eos: int | Sequence[int] | None = None,
    pad: int | None = None,
    seeds: IntTensor | int = 0,
    candidates: int = 1,
    guarantee: bool = False,
    max_passes: int | None = None,
    time_limit: float | None = None,
    rng: str = "counter",
    logits_hook: Callable[[FloatTensor, PassInfo], FloatTensor] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    trace: bool = False,
) -> Generation:
    """Answer every prompt of a batch.

    The answer grows by canvases, each denoised and then committed before the next. Text is filled in or edited where it
    stands by giving it as `canvas` and pinning what stays; drafts reach `on_step` pass by pass.

    Args:
        model: the denoiser.
        prompt: (B, S) int64.
        constraint: over the whole answer; without one there is no status. Where an answer ends early, what it judges is
            the answer with its padding.
        sampler: one of conf/sampler, or your own. None: validity with a constraint, plain without.
        mask: (B, S) bool, False at padding of the prompt.
        canvas: (B, T) int64, of which the pinned tokens are read.
        pinned: (B, T) bool, tokens of `canvas` that stay.
        canvas_length: C, up to the one trained. None: the model's, or T where a canvas is given and the model has none.
        max_new_tokens: rounded up to whole canvases, as the reference does. None: as many as the constraint judges, or
            one canvas without.
        relations: (B or 1, R, S + T, S + T) bool over absolute positions.
        noise: (low, high), the half-open token range of the noise. None means the vocabulary.
        seeds: (B) int64, or one number from which the seeds of the rows are drawn.
        guarantee: search for what the passes leave unsolved, also with a sampler that does not: every status is then
            solved, proved unsatisfiable, or unsolved because a bound of the search was met.
        eos, pad, candidates, max_passes, time_limit, rng, logits_hook, on_step, trace: see `Options`.

    Returns:
        one answer for each prompt. With several candidates `passes` counts the passes of them all.

    Raises:
        InputError: something does not fit: shapes, ranges, the vocabulary, the context, the memory; before any pass.
            NaN logits; during it.
    """
    check(prompt.dim() == 2, f"the prompt has shape {tuple(prompt.shape)}", "give (B, S)")
    check((canvas is None) == (pinned is None), "canvas and pinned go together", "give both, or neither")
    canvas_length = known_of(model, "canvas_length") if canvas_length is None else canvas_length
    if canvas is None:
        length = _length(canvas_length, max_new_tokens, constraint)
        canvas = torch.zeros(len(prompt), length, dtype=torch.int64, device=prompt.device)
        pinned = torch.zeros_like(canvas, dtype=torch.bool)
    else:
        check(max_new_tokens is None, "max_new_tokens was given beside a canvas", "the canvas already has the length")
    sampler = sampler or (PLAIN if constraint is None else VALIDITY)
    if guarantee:
        check(constraint is not None, "guarantee was asked without a constraint", "give the rules to be met")
        check(hasattr(sampler, "complete"), f"sampler {sampler.name!r} cannot search", "use a diffusion sampler")
        sampler = sampler if sampler.complete is not None else replace(sampler, complete=Completer())
    return sampler.run(
        model,
        Batch(prompt, canvas, pinned, relations, (0, model.vocab_size) if noise is None else noise, mask),
        constraint,
        seeds,
        max_passes=max_passes,
        canvas_length=canvas_length,
        eos=eos,
        pad=pad,
        candidates=candidates,
        time_limit=time_limit,
        rng=rng,
        logits_hook=logits_hook,
        on_step=on_step,
        trace=trace,
    )


def _length(canvas_length: int | None, max_new_tokens: int | None, constraint: Constraint | None) -> int:
    """T where no canvas is given."""
    if max_new_tokens is None and constraint is not None:
        return constraint.length
    check(is_count(canvas_length, 1), f"canvas_length is {canvas_length!r}", "give the tokens a canvas holds")
    wanted = canvas_length if max_new_tokens is None else max_new_tokens
    check(is_count(wanted, 1), f"max_new_tokens is {wanted!r}", "give an integer of at least 1")
    return -(-wanted // canvas_length) * canvas_length
