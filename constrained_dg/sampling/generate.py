"""The main function: `generate(model, prompt, constraint)`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.text_rule import TextRule
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.model.images import Images, Pictures
from constrained_dg.sampling.base import Denoiser, Generation, PassInfo, StepRecord
from constrained_dg.sampling.named import PLAIN, VALIDITY, named
from constrained_dg.sampling.prompts import Rows, placed_prompt
from constrained_dg.sampling.sampler import Sampler, check_model
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor, tensor_of
from constrained_dg.task import Batch, Symmetric
from constrained_dg.text import Tokenizer
from constrained_dg.vision import Vision


def generate(
    model: Denoiser,
    prompt: IntTensor | Rows | str | Sequence[str],
    constraint: Constraint | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    sampler: Sampler | str | None = None,
    mask: BoolTensor | Rows | None = None,
    images: Sequence[Any] | Images | Pictures | None = None,
    vision: Vision | None = None,
    canvas: IntTensor | Rows | None = None,
    pinned: BoolTensor | Rows | None = None,
    canvas_length: int | None = None,
    max_new_tokens: int | None = None,
    relations: BoolTensor | None = None,
    noise: tuple[int, int] | None = None,
    eos: int | Sequence[int] | None = None,
    pad: int | None = None,
    seeds: IntTensor | Sequence[int] | int = 0,
    candidates: int = 1,
    guarantee: bool = False,
    max_passes: int | None = None,
    time_limit: float | None = None,
    rng: str = "counter",
    logits_hook: Callable[[FloatTensor, PassInfo], FloatTensor] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    leave: Callable[[], Collection[int]] | None = None,
    symmetric: Callable[[Batch, IntTensor], Symmetric | None] | None = None,
    trace: bool = False,
) -> Generation:
    """Answer every prompt of a batch.

    The answer grows by canvases, each denoised and then committed before the next. To fill in or
    edit a text, give it as `canvas` and pin the tokens to keep. `on_step` receives the drafts.

    Args:
        model: the denoiser.
        prompt: (B, S) int64, or lists of tokens; lists of several lengths are padded on the left. Lists are taken as
            tensors on the CPU, here and below. With a tokenizer also a text, or several: what a user says. Texts are
            padded to a multiple of 32 tokens, as tasks pad them.
        constraint: over all T positions; without one there is no status. An answer that ends early is judged with its
            padding. A rule on text without texts of its own, such as `Json(schema)`, takes those of the tokenizer.
        tokenizer: of the model's checkpoint. Its ends and its padding are those of the answer, unless others are given.
        sampler: a name, such as "restarts" (see `sampling.sampler_names()`), or a sampler. None: validity with
            a constraint, plain without.
        mask: (B, S) bool, False at padding of the prompt, which is on the left.
        images: with `vision`: for each prompt a list of its pictures and `vision.Video`s, in the order of its <|image|>
            and <|video|>; for a single text that list alone. A picture is a path, bytes, pixels (H, W, 3) uint8 or an
            image of Pillow. Without: `model.images.Images` that fit the prompt, or the `images` of a task's batch.
        vision: what reads pictures: `vision.Vision.load(FOLDER)`.
        canvas: (B, T) int64, of which the pinned tokens are read.
        pinned: (B, T) bool, tokens of `canvas` to keep.
        canvas_length: C, up to the one trained. None: the model's, or T where a canvas is given and the model has none.
        max_new_tokens: rounded up to full canvases, as in transformers. None: the constraint's length, or one canvas.
        relations: (B or 1, R, S + T, S + T) bool over absolute positions.
        noise: (low, high), the half-open token range of the noise. None means the vocabulary.
        seeds: (B) int64, or one number from which the seeds of the rows are drawn.
        guarantee: search for what the passes leave unsolved, with any sampler. Every status is then solved, proved
            unsatisfiable, or unsolved because the search reached a bound.
        eos, pad, candidates, max_passes, time_limit, rng, logits_hook, on_step, leave, symmetric, trace: see
            `Options`.

    Returns:
        one answer for each prompt. With several candidates `passes` sums over them.

    Raises:
        InputError: something does not fit: shapes, ranges, the vocabulary, the context, the memory; before any pass.
            NaN logits; during it.
    """
    # 1. Plain lists and names become tensors and a sampler; text becomes tokens.
    check_model(model)
    if tokenizer is not None:
        eos, pad = tokenizer.ends if eos is None else eos, tokenizer.pad_id if pad is None else pad
    sampler = named(sampler) if isinstance(sampler, str) else sampler or (PLAIN if constraint is None else VALIDITY)
    check(isinstance(sampler, Sampler), f"sampler is {sampler!r}", "give a name, or a subclass of sampling.Sampler")
    padding = model.pad_token_id if pad is None else pad
    prompt, mask, placed = placed_prompt(prompt, mask, tokenizer, padding, images, vision)
    canvas, pinned = tensor_of("canvas", canvas, torch.int64), tensor_of("pinned", pinned, torch.bool)
    check((canvas is None) == (pinned is None), "canvas and pinned go together", "give both, or neither")

    # 2. The length of the answer.
    canvas_length = model.canvas_length if canvas_length is None else canvas_length
    if canvas is None:
        waits = isinstance(constraint, TextRule) and constraint.waits
        length = _length(canvas_length, max_new_tokens, None if waits else constraint)
        canvas = torch.zeros(len(prompt), length, dtype=torch.int64, device=prompt.device)
        pinned = torch.zeros_like(canvas, dtype=torch.bool)
    else:
        check(max_new_tokens is None, "max_new_tokens was given with a canvas", "the canvas already has the length")
    if isinstance(constraint, TextRule) and constraint.waits:
        if tokenizer is None:
            raise InputError(f"{constraint.what} has no texts", "give a tokenizer, or texts and length to the rule")
        ends = [eos] if isinstance(eos, int) else list(eos or ())
        constraint = constraint.over(tokenizer.texts(), canvas.shape[1], (ends, int(pad or 0)) if ends else None)
    # 3. The answers.
    if guarantee:
        check(constraint is not None, "guarantee is set without a constraint", "give the rules to be met")
        sampler = sampler.with_search()
    return sampler.run(
        model,
        Batch(prompt, canvas, pinned, relations, (0, model.vocab_size) if noise is None else noise, mask, placed),
        constraint,
        seeds if isinstance(seeds, int) else tensor_of("seeds", seeds, torch.int64),
        max_passes=max_passes,
        canvas_length=canvas_length,
        eos=eos,
        pad=pad,
        candidates=candidates,
        time_limit=time_limit,
        rng=rng,
        logits_hook=logits_hook,
        on_step=on_step,
        leave=leave,
        symmetric=symmetric,
        trace=trace,
    )


def _length(canvas_length: int | None, max_new_tokens: int | None, constraint: Constraint | None) -> int:
    """T where no canvas is given."""
    if max_new_tokens is None and constraint is not None:
        return constraint.length
    if canvas_length is None or not is_count(canvas_length, 1):
        raise InputError(f"canvas_length is {canvas_length!r}", "give the tokens a canvas holds")
    wanted = canvas_length if max_new_tokens is None else max_new_tokens
    check(is_count(wanted, 1), f"max_new_tokens is {wanted!r}", "give an integer of at least 1")
    return -(-wanted // canvas_length) * canvas_length
