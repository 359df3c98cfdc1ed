"""What every sampler shares: checking the input, the canvas to start from, and the verdict at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint, contradictory, judged
from constrained_dg.constraints.checking import probe
from constrained_dg.constraints.search import complete
from constrained_dg.errors import check, is_count
from constrained_dg.memory import free_memory
from constrained_dg.sampling.answers import Answers
from constrained_dg.sampling.base import Generation, Status, StepRecord
from constrained_dg.sampling.class_log_probs import ClassLogProbs
from constrained_dg.sampling.loop import select_relations, select_rows
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.randomness import DRAWS, candidate_seeds
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Completer:
    """Hands rows that are not solved to a bounded search, ordered by the model's probabilities.

    Args:
        node_budget: branches the search may open for a row.
        time_limit: seconds a row, or None. With a limit the outcome depends on the machine.
    """

    node_budget: int = 10_000
    time_limit: float | None = None

    def __post_init__(self) -> None:
        check(is_count(self.node_budget), f"node_budget is {self.node_budget!r}", "give an integer of at least 0")
        check(
            self.time_limit is None or self.time_limit > 0, f"time_limit is {self.time_limit}", "give seconds, or None"
        )


@dataclass(frozen=True)
class Request:
    """A checked batch, its seeds, and the canvas every row starts from.

    Attributes:
        batch: (B, T) canvas.
        constraint: of B rows or one, or None.
        seeds: (B) int64.
        tokens: (B, T) the pinned tokens, and noise elsewhere.
        refused: (B) bool, rows whose pinned tokens already contradict the constraint.
        canvas_length: C.
        options: of the call.
    """

    batch: Batch
    constraint: Constraint | None
    seeds: IntTensor
    tokens: IntTensor
    refused: BoolTensor
    canvas_length: int
    options: Options

    @classmethod
    def of(
        cls, model: Any, batch: Batch, constraint: Constraint | None, seeds: IntTensor | int, options: Options
    ) -> Request:
        """Check everything that can be checked before the first pass.

        Args:
            model: or None for a sampler without one; then the constraint gives the vocabulary.

        Raises:
            InputError: naming what does not fit.
        """
        vocab_size = constraint.vocab_size if model is None else model.vocab_size
        rows, length = _check_batch(batch, vocab_size)
        _check_text_alone(model, batch.prompt)
        canvas_length = _check_lengths(model, batch, options)
        check(0 <= options.pad < vocab_size, f"pad is {options.pad}", f"give a token from 0 to {vocab_size - 1}")
        device = batch.answer.device
        if constraint is not None:
            constraint = constraint.to(device)
            check(
                constraint.length == length,
                f"the constraint judges {constraint.length} tokens, the answer has {length}",
                "build it for the whole answer",
            )
            check(
                constraint.rows in (1, rows),
                f"the constraint has {constraint.rows} rows, the batch {rows}",
                "make them equal",
            )
            check(
                vocab_size == constraint.vocab_size,
                f"the constraint speaks of {constraint.vocab_size} tokens, the model of {vocab_size}",
                "build the constraint over the model's tokens",
            )
        seeds = (rng.row_seeds(seeds, rows) if isinstance(seeds, int) else seeds).to(device)
        check(
            seeds.shape == (rows,) and seeds.dtype == torch.int64,
            f"seeds have shape {tuple(seeds.shape)} and type {seeds.dtype}",
            f"give one number, or ({rows},) of torch.int64",
        )
        tokens = _start(batch, seeds, canvas_length)
        refused = torch.zeros(rows, dtype=torch.bool, device=device)
        if constraint is not None:
            probe(constraint, tokens)
            refused = contradictory(constraint, tokens, batch.pinned)
        return cls(batch, constraint, seeds, tokens, refused, canvas_length, options)

    def candidates(self) -> Request:
        """The request with each row once for each candidate, neighbours together, and seeds of their own."""
        copies = self.options.candidates
        if copies == 1:
            return self
        rows = torch.arange(len(self.tokens), device=self.tokens.device).repeat_interleave(copies)
        mask, relations = self.batch.mask, select_relations(self.batch.relations, rows)
        chosen = {name: getattr(self.batch, name)[rows] for name in ("prompt", "answer", "pinned")}
        batch = replace(self.batch, **chosen, relations=relations, mask=None if mask is None else mask[rows])
        constraint, seeds = select_rows(self.constraint, rows), candidate_seeds(self.seeds, copies)
        tokens = _start(batch, seeds, self.canvas_length)
        return replace(self, batch=batch, constraint=constraint, seeds=seeds, tokens=tokens, refused=self.refused[rows])

    def begin(self, completer: Completer | None) -> Answers:
        """The answers before any pass."""
        if self.constraint is None or (completer is None and not self.options.distribution):
            return Answers.begin(self.tokens, None)
        by_class = ClassLogProbs.before_any_pass(self.constraint, len(self.tokens), self.tokens.device)
        return Answers.begin(self.tokens, by_class)

    def conclude(
        self, answers: Answers, completer: Completer | None = None, trace: Sequence[StepRecord] = ()
    ) -> Generation:
        """Choose among candidates, complete what may be completed, let the judge speak, and count.

        Args:
            answers: of every candidate of every row.
            completer: or None.
        """
        pinned = self.batch.pinned
        copies, seeds, passes = self.options.candidates, self.seeds, answers.passes
        if copies > 1:
            seeds = candidate_seeds(seeds, copies)
            score = answers.log_probability(pinned.repeat_interleave(copies, 0)).masked_fill(passes == 0, -torch.inf)
            if self.constraint is not None:
                rules = self.constraint if self.constraint.rows == 1 else self.constraint.repeat(copies)
                score = score.masked_fill(judged(rules, answers.tokens), torch.inf)
            first = torch.arange(0, len(seeds), copies, device=seeds.device)
            chosen = first + score.view(-1, copies).argmax(-1)
            answers, seeds, passes = answers.select(chosen), seeds[chosen], passes.view(-1, copies).sum(-1)
        tokens, padding = answers.tokens, answers.padding
        status = [None] * len(tokens)
        if self.constraint is not None:
            pairs = zip(judged(self.constraint, tokens).tolist(), self.refused.tolist(), strict=True)
            # The judge speaks first: a faulty proof never hides an answer that it accepts.
            status = [Status.SOLVED if s else Status.UNSATISFIABLE if r else Status.UNSOLVED for s, r in pairs]
        made = Generation(
            tokens=tokens,
            status=status,
            passes=passes,
            free_tokens=(~(pinned | padding)).sum(-1),
            search_nodes=torch.zeros_like(passes),
            seeds=seeds,
            log_probability=answers.log_probability(pinned),
            padding=padding,
            trace=list(trace),
            distribution=answers.by_class,
        )
        if completer is not None and self.constraint is not None:
            made = completed(made, self.constraint, pinned, completer, self.options)
        return made if self.options.distribution else replace(made, distribution=None)


def completed(
    made: Generation, constraint: Constraint, pinned: BoolTensor, completer: Completer, options: Options
) -> Generation:
    """Search, row by row, for what is unsolved: it ends solved, unsatisfiable (all was searched) or unsolved still.

    Args:
        made: with its distribution, or the search takes all tokens as equally likely.
        constraint: of the rows of `made`, or one.
        pinned: (B, T) bool.
        options: of the call, whose time limit holds here too.
    """
    values = {name: getattr(made, name).clone() for name in ("tokens", "padding", "log_probability", "search_nodes")}
    status, by_class = list(made.status), made.distribution
    if by_class is None:
        by_class = ClassLogProbs.before_any_pass(constraint, len(made.tokens), made.tokens.device)
    for row, known in enumerate(pinned):
        limits = [limit for limit in (completer.time_limit, options.remaining()) if limit is not None]
        if status[row] is not Status.UNSOLVED or 0 in limits:
            continue
        tokens = values["tokens"][row]
        found = complete(
            select_rows(constraint, torch.tensor([row], device=tokens.device)).to("cpu"),
            tokens.cpu(),
            known.cpu(),
            log_probs=by_class.log_probs[row].cpu(),
            tokens=by_class.tokens[row].cpu(),
            node_budget=completer.node_budget,
            time_limit=min(limits, default=None),
        )
        values["search_nodes"][row] += found.nodes
        if found.exhausted:
            status[row] = Status.UNSATISFIABLE
        if found.answer is not None:  # the judge of `complete` has accepted it
            status[row], whole = Status.SOLVED, found.answer.to(tokens.device)
            values["padding"][row] &= whole == tokens
            tokens.copy_(whole)
            gained = by_class.log_probs[row].gather(-1, constraint.class_of(whole)[:, None])[:, 0]
            values["log_probability"][row] = gained.masked_fill(known | values["padding"][row], 0).sum()
    free = (~(pinned | values["padding"])).sum(-1)
    return replace(made, **values, status=status, free_tokens=free)


def known_of(model: Any, name: str, in_config: str | None = None) -> Any:
    """What a model says of itself: its attribute, or that of its config, or None."""
    return getattr(model, name, getattr(getattr(model, "config", None), in_config or name, None))


def _start(batch: Batch, seeds: IntTensor, canvas_length: int) -> IntTensor:
    """(B, T) pinned tokens, and noise elsewhere."""
    length, draws = batch.answer.shape[1], DRAWS["counter"]
    starts = range(0, length, canvas_length)
    noise = [draws.canvas(seeds, start, min(canvas_length, length - start), batch.noise) for start in starts]
    return torch.where(batch.pinned, batch.answer, torch.cat(noise, 1))


def _check_text_alone(model: Any, prompt: IntTensor) -> None:
    images = torch.tensor(getattr(model, "image_token_ids", ()), dtype=prompt.dtype, device=prompt.device)
    found = images[torch.isin(images, prompt)].tolist()
    check(not found, f"the prompt holds the image tokens {found}", "images are not read: give text alone")


def _check_lengths(model: Any, batch: Batch, options: Options) -> int:
    """The canvas length of a call that fits the model and the memory."""
    (rows, length), prompt = batch.answer.shape, batch.prompt.shape[1]
    trained, context = known_of(model, "canvas_length"), known_of(model, "max_context", "max_position_embeddings")
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
    estimate = getattr(model, "memory_needed", None)
    free = None if estimate is None else free_memory(batch.answer.device)
    if free is not None:
        needed = estimate(rows * options.candidates, prompt + length - canvas_length, canvas_length)
        check(
            needed <= free,
            f"this call needs about {needed / 1e9:.2f} GB beside the weights, and {free / 1e9:.2f} GB are free",
            "lower the rows, candidates, canvas_length or max_new_tokens",
        )
    return canvas_length


def _check_batch(batch: Batch, vocab_size: int) -> tuple[int, int]:
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
    (low, high), total = batch.noise, prompt.shape[1] + canvas.shape[1]
    check(
        0 <= low < high <= vocab_size,
        f"noise cannot be drawn from [{low}, {high})",
        f"give 0 <= low < high <= {vocab_size}",
    )
    if batch.mask is not None:
        check(
            batch.mask.shape == prompt.shape and batch.mask.dtype == torch.bool and bool(batch.mask.any(-1).all()),
            f"the mask has shape {tuple(batch.mask.shape)} and type {batch.mask.dtype}",
            f"give {tuple(prompt.shape)} of torch.bool, with a token in every row",
        )
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
