"""What every sampler shares: checking the input, the canvas to start from, and the verdict at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint, contradictory
from constrained_dg.constraints.search import complete
from constrained_dg.errors import check, is_count
from constrained_dg.sampling.base import Generation, Status, StepRecord
from constrained_dg.sampling.loop import INITIAL, select_rows
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
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
    """

    batch: Batch
    constraint: Constraint | None
    seeds: IntTensor
    tokens: IntTensor
    refused: BoolTensor

    @classmethod
    def of(
        cls, batch: Batch, constraint: Constraint | None, seeds: IntTensor | int, canvas_length: int, vocab_size: int
    ) -> Request:
        """Check everything that can be checked before the first pass.

        Raises:
            InputError: naming what does not fit.
        """
        rows, length = _check_batch(batch, vocab_size)
        check(
            canvas_length > 0 and length % canvas_length == 0,
            f"canvases of {canvas_length} tokens do not fill an answer of {length}",
            "give a length that divides it",
        )
        device = batch.canvas.device
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
                vocab_size == constraint.alphabet,
                f"the constraint's alphabet is {constraint.alphabet}, the model's vocabulary {vocab_size}",
                "build the constraint over the model's tokens",
            )
        seeds = (rng.row_seeds(seeds, rows) if isinstance(seeds, int) else seeds).to(device)
        check(
            seeds.shape == (rows,) and seeds.dtype == torch.int64,
            f"seeds have shape {tuple(seeds.shape)} and type {seeds.dtype}",
            f"give one number, or ({rows},) of torch.int64",
        )
        low, high = batch.noise
        noise = [
            rng.integers(seeds, start, 0, INITIAL, count=canvas_length, low=low, high=high)
            for start in range(0, length, canvas_length)
        ]
        tokens = torch.where(batch.pinned, batch.canvas, torch.cat(noise, 1))
        refused = torch.zeros(rows, dtype=torch.bool, device=device)
        if constraint is not None:
            refused = contradictory(constraint, tokens, batch.pinned)
        return cls(batch, constraint, seeds, tokens, refused)

    def conclude(
        self,
        tokens: IntTensor,
        *,
        passes: IntTensor,
        padding: BoolTensor | None = None,
        log_probability: FloatTensor | None = None,
        log_probs: FloatTensor | None = None,
        completer: Completer | None = None,
        trace: list[StepRecord] | None = None,
    ) -> Generation:
        """Complete what may be completed, let the judge speak, and count.

        Args:
            tokens: (B, T) the answers.
            passes: (B).
            padding: (B, T) bool, what follows the end of an answer.
            log_probability: (B), see `Generation`.
            log_probs: (B, T, V) of the last pass, to order the search; None for equal ones.
            completer: or None.
        """
        nodes, refused, status = torch.zeros_like(passes), self.refused.clone(), [None] * len(tokens)
        if log_probability is None:
            log_probability = torch.zeros(len(tokens), device=tokens.device)
        if self.constraint is not None:
            solved = self.constraint.is_satisfied(tokens)
            if completer is not None:
                tokens = tokens.clone()
                for row in (~solved & ~refused).nonzero().flatten().tolist():
                    rule = select_rows(self.constraint, torch.tensor([row], device=tokens.device)).to("cpu")
                    found = complete(
                        rule,
                        tokens[row].cpu(),
                        self.batch.pinned[row].cpu(),
                        log_probs=None if log_probs is None else log_probs[row].cpu(),
                        node_budget=completer.node_budget,
                        time_limit=completer.time_limit,
                    )
                    nodes[row], refused[row] = found.nodes, found.exhausted
                    if found.answer is not None:
                        tokens[row] = found.answer.to(tokens.device)
                        if log_probs is not None:
                            chosen = log_probs[row].gather(-1, tokens[row, :, None])[:, 0]
                            log_probability[row] = chosen.masked_fill(self.batch.pinned[row], 0).sum()
                solved = self.constraint.is_satisfied(tokens)
            pairs = zip(solved.tolist(), refused.tolist(), strict=True)
            # The judge speaks first: a faulty proof never hides an answer that it accepts.
            status = [Status.SOLVED if s else Status.UNSATISFIABLE if r else Status.UNSOLVED for s, r in pairs]
        free = ~self.batch.pinned if padding is None else ~(self.batch.pinned | padding)
        return Generation(
            tokens=tokens,
            status=status,
            passes=passes,
            free_tokens=free.sum(-1),
            search_nodes=nodes,
            seeds=self.seeds,
            log_probability=log_probability,
            trace=trace or [],
        )


def after_end(tokens: IntTensor, eos: tuple[int, ...]) -> tuple[BoolTensor, BoolTensor]:
    """(B, C) -> positions after the first EOS (B, C), and rows that have one (B)."""
    ends = torch.isin(tokens, torch.tensor(eos, device=tokens.device, dtype=tokens.dtype))
    return (ends.cumsum(-1) - ends.long()) > 0, ends.any(-1)


def _check_batch(batch: Batch, vocab_size: int) -> tuple[int, int]:
    """Rows and answer length of a batch whose tensors fit."""
    prompt, canvas, pinned = batch.prompt, batch.canvas, batch.pinned
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
