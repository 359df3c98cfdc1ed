"""What is checked of a call before its first pass."""

from __future__ import annotations

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.memory import free_memory
from constrained_dg.model.images import Images, Pictures
from constrained_dg.model.vision import VisionTower
from constrained_dg.sampling.base import Denoiser
from constrained_dg.sampling.options import Options
from constrained_dg.shapes import BoolTensor
from constrained_dg.task import Batch


def check_constraint(constraint: Constraint, rows: int, length: int, vocab_size: int) -> None:
    """Raise InputError unless a constraint judges answers of this shape over these tokens."""
    check(
        constraint.length == length,
        f"the constraint judges {constraint.length} tokens, the answer has {length}",
        "build it for the whole answer",
    )
    check(
        constraint.rows in (1, rows), f"the constraint has {constraint.rows} rows, the batch {rows}", "make them equal"
    )
    check(
        vocab_size == constraint.vocab_size,
        f"the constraint is over {constraint.vocab_size} tokens, the model over {vocab_size}",
        "build the constraint over the model's tokens",
    )


def check_tokens(options: Options, vocab_size: int) -> None:
    """Raise InputError unless end and padding tokens lie in the vocabulary."""
    hint = f"give a token from 0 to {vocab_size - 1}"
    pad = options.pad
    check(is_count(pad) and pad < vocab_size, f"pad is {pad!r}", hint)
    odd = [token for token in options.eos if not (is_count(token) and token < vocab_size)]
    check(not odd, f"eos is {odd[0] if odd else None!r}", f"{hint}, or a list of such")


def check_images(model: Denoiser, batch: Batch) -> None:
    """Raise InputError unless every image token of the prompts has its soft token, and the model reads these."""
    if isinstance(batch.images, Pictures):
        batch.images.check(_tower(model), batch.prompt.shape[1])
        return
    images, pictured = batch.images, torch.zeros(len(batch.prompt), dtype=torch.bool, device=batch.prompt.device)
    prompt = batch.prompt
    if images is not None:
        pictured = images.present.any(-1)
    marks = torch.tensor(model.image_token_ids, dtype=prompt.dtype, device=prompt.device)
    present = marks[torch.isin(marks, prompt[~pictured])].tolist()
    check(not present, f"the prompt holds the image tokens {present}", "give images and vision, or text alone")
    if images is None:
        return
    if model.image_width is None:
        raise InputError(f"a {type(model).__name__} reads no images", "use a model of load_pretrained")
    size, index = images.soft.size, images.index
    check(size == model.image_width, f"soft tokens of size {size}", f"this model takes {model.image_width}")
    check(index.shape == prompt.shape, f"images index {tuple(index.shape)}", f"give {tuple(prompt.shape)}")
    lowest, highest = int(index.min()), int(index.max())
    check(
        lowest >= -1 and highest < images.soft.count,
        f"images index the soft tokens {lowest} to {highest}",
        f"there are {images.soft.count}; -1 stands for text",
    )
    bare = (torch.isin(prompt, marks[:1]) & ~images.present).any(-1).nonzero().flatten().tolist()
    check(not bare, f"the prompts {bare} hold image tokens without an image", "let Vision write the image tokens")


def _tower(model: Denoiser) -> VisionTower:
    """The tower that reads the pictures of a task. Raises InputError where the model has none."""
    if model.vision is None:
        raise InputError(f"a {type(model).__name__} without a vision tower", "use a model trained with pictures")
    return model.vision


def check_lengths(model: Denoiser | None, batch: Batch, options: Options) -> int:
    """The canvas length of a call that fits the model and the memory."""
    (rows, length), prompt = batch.answer.shape, batch.prompt.shape[1]
    if model is None:
        return min(length, options.canvas_length or length)
    trained, context = model.canvas_length, model.max_context
    canvas_length = min(length, options.canvas_length or trained or length)
    check(
        trained is None or canvas_length <= trained,
        f"canvases of {canvas_length} tokens are longer than the {trained} this model was trained for",
        "lower canvas_length",
    )
    check(
        context is None or prompt + length <= context,
        f"a prompt of {prompt} and an answer of {length} tokens do not fit a context of {context}",
        "shorten the prompt, or lower max_new_tokens",
    )
    more, images = {}, batch.images
    if isinstance(images, Images):
        more = {"pictures": images.soft.memory_needed}
    elif isinstance(images, Pictures):
        more = {"pictures": images.memory_needed(_tower(model))}
    needed = model.memory_needed(rows * options.candidates, prompt + length - canvas_length, canvas_length, **more)
    free = None if needed is None else free_memory(batch.answer.device)
    if needed is not None and free is not None:
        check(
            needed <= free,
            f"this call needs about {needed / 1e9:.2f} GB in addition to the weights, and {free / 1e9:.2f} GB are free",
            "lower the rows, candidates, canvas_length or max_new_tokens",
        )
    return canvas_length


def check_batch(batch: Batch, vocab_size: int) -> tuple[int, int]:
    """Rows and answer length of a batch whose tensors fit."""
    prompt, canvas, pinned = batch.prompt, batch.answer, batch.pinned
    check(
        prompt.dim() == 2 and canvas.dim() == 2 and len(prompt) == len(canvas) > 0 and canvas.shape[1] > 0,
        f"prompt {tuple(prompt.shape)} and canvas {tuple(canvas.shape)} do not fit",
        "give (B, S) and (B, T) with one row or more",
    )
    for name, tokens in (("prompt", prompt), ("canvas", canvas)):
        check(tokens.dtype == torch.int64, f"the {name} has type {tokens.dtype}", "give token ids as torch.int64")
    check(
        pinned.shape == canvas.shape and pinned.dtype == torch.bool,
        f"pinned has shape {tuple(pinned.shape)} and type {pinned.dtype}",
        f"give {tuple(canvas.shape)} of torch.bool",
    )
    noise, total = batch.noise, prompt.shape[1] + canvas.shape[1]
    pair = isinstance(noise, list | tuple) and len(noise) == 2 and all(isinstance(each, int) for each in noise)
    check(
        pair and 0 <= noise[0] < noise[1] <= vocab_size,
        f"noise cannot be drawn from {f'[{noise[0]}, {noise[1]})' if pair else repr(noise)}",
        f"give 0 <= low < high <= {vocab_size}",
    )
    if batch.mask is not None:
        check(
            batch.mask.shape == prompt.shape and batch.mask.dtype == torch.bool and bool(batch.mask.any(-1).all()),
            f"the mask has shape {tuple(batch.mask.shape)} and type {batch.mask.dtype}",
            f"give {tuple(prompt.shape)} of torch.bool, with a token in every row",
        )
        _check_padding(batch.mask)
    if batch.relations is not None:
        check(
            batch.relations.dim() == 4
            and len(batch.relations) in (1, len(prompt))
            and batch.relations.shape[2:] == (total, total),
            f"relations have shape {tuple(batch.relations.shape)}",
            f"give (1 or {len(prompt)}, R, {total}, {total}): prompt and answer",
        )
    for name, tokens in (("prompt", prompt), ("pinned", canvas[pinned])):
        check(
            bool(((tokens >= 0) & (tokens < vocab_size)).all()),
            f"a {name} token lies outside the vocabulary of {vocab_size}",
            f"tokens run from 0 to {vocab_size - 1}",
        )
    return len(canvas), canvas.shape[1]


def _check_padding(mask: BoolTensor) -> None:
    """Raise InputError where padding stands behind a token: positions would count it, and the answer would change."""
    holes = (mask[:, :-1] & ~mask[:, 1:]).any(-1)
    if bool(holes.any()):
        row = int(holes.nonzero()[0])
        shown = "".join("01"[seen] for seen in mask[row].tolist()[:40])
        hint = "pad prompts on the left: False ... False True ... True"
        check(False, f"the mask of prompt {row} has padding behind a token ({shown})", hint)
