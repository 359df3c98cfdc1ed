"""The front door: `generate(model, prompt, constraint, sampler=...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check
from constrained_dg.sampling.base import Denoiser, Generation, Sampler, StepRecord
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch


def generate(
    model: Denoiser,
    prompt: IntTensor,
    constraint: Constraint | None = None,
    *,
    sampler: Sampler,
    canvas: IntTensor | None = None,
    pinned: BoolTensor | None = None,
    canvas_length: int | None = None,
    max_new_tokens: int | None = None,
    relations: BoolTensor | None = None,
    noise: tuple[int, int] | None = None,
    eos: int | Sequence[int] = (),
    pad: int = 0,
    max_passes: int | None = None,
    seeds: IntTensor | int = 0,
    on_step: Callable[[StepRecord], None] | None = None,
    trace: bool = False,
) -> Generation:
    """Answer every prompt of a batch.

    Args:
        model: the denoiser.
        prompt: (B, S) int64.
        constraint: over the whole answer; without one there is no status.
        sampler: one of conf/sampler, or your own.
        canvas: (B, T) int64, of which the pinned tokens are read.
        pinned: (B, T) bool, tokens of `canvas` that stay.
        canvas_length: C. None means T where a canvas is given.
        max_new_tokens: rounded up to whole canvases, as the reference does. None means one canvas.
        relations: (B or 1, R, S + T, S + T) bool over absolute positions.
        noise: (low, high), the half-open token range of the noise. None means the vocabulary.
        eos: token or tokens that end an answer.
        pad: what follows the end.
        max_passes: instead of the sampler's own.
        seeds: (B) int64, or one number from which the seeds of the rows are drawn.
        on_step: called with the record of every pass.
        trace: keep the records in the result.

    Raises:
        InputError: something does not fit; before any pass.
    """
    check(prompt.dim() == 2, f"the prompt has shape {tuple(prompt.shape)}", "give (B, S)")
    check((canvas is None) == (pinned is None), "canvas and pinned go together", "give both, or neither")
    if canvas is None:
        check(
            canvas_length is not None and canvas_length > 0,
            f"canvas_length is {canvas_length}",
            "give the tokens a canvas holds",
        )
        wanted = canvas_length if max_new_tokens is None else max_new_tokens
        check(wanted > 0, f"max_new_tokens is {wanted}", "give 1 or more")
        length = -(-wanted // canvas_length) * canvas_length
        canvas = torch.zeros(len(prompt), length, dtype=torch.int64, device=prompt.device)
        pinned = torch.zeros_like(canvas, dtype=torch.bool)
    else:
        check(max_new_tokens is None, "max_new_tokens was given beside a canvas", "the canvas already has the length")
    return sampler.run(
        model,
        Batch(prompt, canvas, pinned, relations, (0, model.vocab_size) if noise is None else noise),
        constraint,
        seeds,
        max_passes=max_passes,
        canvas_length=canvas_length,
        eos=(eos,) if isinstance(eos, int) else tuple(eos),
        pad=pad,
        on_step=on_step,
        trace=trace,
    )
