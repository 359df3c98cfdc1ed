"""Answers read as probabilities: yes or no, a choice among labels, a score, or several of them under a rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.model.images import Images, Pictures
from constrained_dg.sampling.base import Denoiser
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.prompts import Rows, placed_prompt
from constrained_dg.sampling.randomness import DRAWS, candidate_seeds
from constrained_dg.sampling.request import Request
from constrained_dg.sampling.sampler import check_model
from constrained_dg.sampling.slots import InText, Label, Positions, Slots, layers_of, parts_of, present
from constrained_dg.sampling.state import prefilled
from constrained_dg.sampling.template import Template, layout
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor, tensor_of
from constrained_dg.task import Batch
from constrained_dg.text import Tokenizer
from constrained_dg.vision import Vision


@dataclass(frozen=True)
class Reading:
    """What `read` found. S slots, K labels at most, N passes.

    Attributes:
        labels: of each slot.
        by_pass: (N, B, S, K) float64, the probabilities of each pass; 0 where a slot has fewer labels.
        log_total: (N, B) float64, the log-probability that a pass gives to all answers that fit together.
        best: (B, S) int64, numbers of labels: those that keep the rule and of which most are expected to be right.
    """

    labels: tuple[tuple[Label, ...], ...]
    by_pass: FloatTensor
    log_total: FloatTensor
    best: IntTensor

    @property
    def probabilities(self) -> FloatTensor:
        """(B, S, K) the mean of the passes."""
        return self.by_pass.mean(0)

    @property
    def answers(self) -> list[list[Label]]:
        """The labels of `best`, for each row."""
        return [[self.labels[slot][label] for slot, label in enumerate(row)] for row in self.best.tolist()]

    @property
    def confidence(self) -> FloatTensor:
        """(B, S) the probability of the answer in each slot. The model is calibrated where, of answers of confidence p,
        a share of p is right."""
        return self.probabilities.gather(-1, self.best[..., None])[..., 0]

    @property
    def spread(self) -> FloatTensor:
        """(B, S) the standard error of the confidence, from the differences between passes; NaN after one pass."""
        each = self.by_pass.gather(-1, self.best[None, ..., None].expand(len(self.by_pass), -1, -1, 1))[..., 0]
        return each.std(0) / len(each) ** 0.5 if len(each) > 1 else torch.full_like(each[0], torch.nan)

    @property
    def means(self) -> FloatTensor:
        """(B, S) the mean of a score; NaN for slots whose labels are no whole numbers."""
        values = torch.full(self.by_pass.shape[2:], 0.0, dtype=torch.float64)
        for slot, labels in enumerate(self.labels):
            for number, label in enumerate(labels):
                values[slot, number] = label if isinstance(label, int) else torch.nan
        return (self.probabilities * values).sum(-1)


@torch.no_grad()
def read(
    model: Denoiser,
    prompt: IntTensor | Rows | str | Sequence[str],
    slots: Slots,
    rule: Constraint | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    passes: int = 1,
    seeds: IntTensor | Sequence[int] | int = 0,
    mask: BoolTensor | Rows | None = None,
    canvas: IntTensor | Rows | None = None,
    pinned: BoolTensor | Rows | None = None,
    canvas_length: int | None = None,
    relations: BoolTensor | None = None,
    noise: tuple[int, int] | None = None,
    images: Sequence[Any] | Images | Pictures | None = None,
    vision: Vision | None = None,
) -> Reading:
    """The probabilities of labels, from one pass over noise, or the mean of several.

    A pass gives each position of the canvas probabilities of its own. An answer has the product of those of its
    tokens, divided by the sum over all answers that fit: the given text with a label in each slot, in any tokens,
    whose labels keep the rule. The sums are exact.

    Args:
        model, prompt, mask, relations, noise, images, vision: see `generate`.
        slots: with a tokenizer the answer in order: given text as str, and slots, each as its labels: several str, or
            whole numbers such as `range(1, 6)` for a score. Labels of as many tokens each are read best, since all
            given text then stands still. Without one {position in the canvas: tokens to choose from}.
        rule: over S positions, one for each slot in order; its class k is label k. None: any labels.
        tokenizer: of the model's checkpoint.
        passes: N, each from other noise.
        seeds: (B) int64, or one number from which the seeds of the rows are drawn.
        canvas, pinned: without a tokenizer, (B, T) int64 and the tokens of it to keep, bool.
        canvas_length: T, with a tokenizer; None: the model's.

    Returns:
        probabilities, answers and their confidence for each row.

    Raises:
        InputError: something does not fit, no choice of labels keeps the rule, or the text needs more tokens than the
            canvas holds; before any pass. NaN logits; during it.
    """
    # 1. The slots, and what a rule says of their labels.
    check_model(model)
    check(is_count(passes, 1), f"passes is {passes!r}", "give a number of at least 1")
    parts, at = parts_of(slots, tokenizer)
    labels = tuple(tuple(parts[part]) for part in at)
    may = present(labels)
    layers = layers_of(rule, may)
    # 2. The canvas.
    pad = model.pad_token_id if tokenizer is None else tokenizer.pad_id
    prompt, mask, placed = placed_prompt(prompt, mask, tokenizer, pad, images, vision)
    canvas, pinned = tensor_of("canvas", canvas, torch.int64), tensor_of("pinned", pinned, torch.bool)
    texts = [[str(each) for each in part] for part in parts]
    if tokenizer is None:
        check(canvas is not None and pinned is not None, "canvas or pinned is missing", "give both, or a tokenizer")
    else:
        check(canvas is None and pinned is None, "a canvas was given with a tokenizer", "give its text in slots")
        length = model.canvas_length if canvas_length is None else canvas_length
        if length is None or not is_count(length, 1):
            raise InputError(f"canvas_length is {length!r}", "give the tokens a canvas holds")
        canvas, pinned = (
            each.to(prompt.device).expand(len(prompt), -1) for each in layout(texts, at, tokenizer, length)
        )
    noise = (0, model.vocab_size) if noise is None else noise
    batch = Batch(prompt, canvas, pinned, relations, noise, mask, placed)
    seeds = seeds if isinstance(seeds, int) else tensor_of("seeds", seeds, torch.int64)
    request = Request.of(model, batch, None, seeds, Options.of(model, {}))
    length = canvas.shape[1]
    check(request.canvas_length == length, f"the answer has {length} tokens", "read one canvas at once")
    # 3. The passes.
    way: Positions | InText
    if tokenizer is None:
        way = Positions.of(slots, labels, layers, may, pinned.cpu(), model.vocab_size)
    else:
        way = InText.of(Template([[each.encode() for each in part] for part in texts], at, layers), tokenizer, request)
    found = [way.read(log_probs) for log_probs in _passes(model, request, passes, way.tokens)]
    by_pass, log_total = torch.stack([each for each, _ in found]), torch.stack([total for _, total in found])
    return Reading(labels, by_pass, log_total, layers.best(by_pass.mean(0).masked_fill(~may, -torch.inf)))


def _passes(model: Denoiser, request: Request, passes: int, tokens: IntTensor) -> Iterator[FloatTensor]:
    """The log-probabilities (B, T, F) float64 of some tokens (F), pass by pass; those of pinned tokens are 0."""
    batch = request.batch
    rows = torch.arange(len(batch.prompt), device=batch.prompt.device)
    cache = prefilled(model, batch, rows, batch.prompt.shape[1])
    cache.reserve(request.canvas_length)
    seeds = candidate_seeds(request.seeds, passes).view(-1, passes)
    for number in range(passes):
        noise = DRAWS["counter"].canvas(seeds[:, number], 0, request.canvas_length, batch.noise)
        canvas = torch.where(batch.pinned, batch.answer, noise)
        logits = model.denoise(canvas, cache, None, batch.relations)
        expected = (*canvas.shape, model.vocab_size)
        check(logits.shape == expected, f"the model returned logits {tuple(logits.shape)}", f"give {expected}")
        log_probs = logits.float().log_softmax(-1)[..., tokens.to(logits.device)].double()
        check(not bool(log_probs.isnan().any()), f"the model returned NaN in pass {number}", "check its weights")
        given = torch.where(batch.answer[..., None] == tokens.to(canvas.device), 0.0, -torch.inf).to(log_probs)
        yield torch.where(batch.pinned[..., None], given, log_probs).cpu()
