"""The rows of a call: what they have so far, and those that are being denoised."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.model.images import Pictures
from constrained_dg.sampling.base import Cache, Denoiser
from constrained_dg.sampling.class_log_probs import ClassLogProbs
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch


def select_rows(constraint: Constraint | None, rows: IntTensor) -> Constraint | None:
    """The constraint of these rows; one row serves them all."""
    return constraint if constraint is None or constraint.rows == 1 else constraint.select(rows)


def select_relations(relations: BoolTensor | None, rows: IntTensor) -> BoolTensor | None:
    """The relations of these rows; one row serves them all."""
    return relations if relations is None or len(relations) == 1 else relations[rows]


def prefilled(model: Denoiser, batch: Batch, rows: IntTensor, length: int, room: int | None = None) -> Cache:
    """The cache of the first `length` tokens of these prompts (N).

    Args:
        room: tokens that will follow. While a cache grows, it is in memory twice: a model that can makes room at once.
    """
    mask = None if batch.mask is None else batch.mask[rows, :length]
    relations, prompt = select_relations(batch.relations, rows), batch.prompt[rows, :length]
    more: dict[str, Any] = {}
    if room is not None and model.makes_room:
        more["room"] = room
    if batch.images is not None:
        images = batch.images.select(rows)
        more["images"] = images if isinstance(images, Pictures) else images.first(length)
    return model.prefill(prompt, mask, relations, **more)


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
        cut: (N) bool, rows that stopped only because another candidate of their prompt was accepted.
        silent: (N) bool, rows whose answer had ended before this canvas: nothing of them counts.
        forbidden, conflict: (N, C, A), (N, C), see `Guide.forbidden`; None where nothing is masked.
        sets: (N, C, K) the living tokens of the noise range, see `Sets`; None for a sampler without.
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
    cut: BoolTensor
    silent: BoolTensor
    forbidden: BoolTensor | None = None
    conflict: BoolTensor | None = None
    sets: BoolTensor | None = None

    def select(self, keep: IntTensor, cached: IntTensor | None = None) -> Live:
        """The state of these rows (N).

        Args:
            cached: (N) their rows in the cache; None where they are the same.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        chosen: dict[str, Any] = {
            "cache": self.cache.select(keep if cached is None else cached),
            "constraint": select_rows(self.constraint, keep),
            "relations": select_relations(self.relations, keep),
        }
        chosen |= {k: v if v is None else v[keep] for k, v in values.items() if k not in chosen}
        return Live(**chosen)

    def with_canvas(self, canvas: IntTensor, span: slice) -> IntTensor:
        """(N, T) the answer with this canvas in its span."""
        answer = self.answer.clone()
        answer[:, span] = canvas
        return answer


@dataclass(frozen=True)
class Answers:
    """The answers of a call while they grow; rows are written when they leave a canvas.

    Attributes:
        tokens: (B, T) int64.
        passes: (B) int64.
        log_best: (B, T) float32, log-probability of each token in the last pass of its canvas; 0 without one.
        padding: (B, T) bool, what follows the end of an answer.
        cut: (B) bool, rows that another candidate of their prompt stopped: their seed alone would make another answer.
        class_log_probs: for the completer, or None.
    """

    tokens: IntTensor
    passes: IntTensor
    log_best: FloatTensor
    padding: BoolTensor
    cut: BoolTensor
    class_log_probs: ClassLogProbs | None = None

    @classmethod
    def begin(cls, tokens: IntTensor, class_log_probs: ClassLogProbs | None) -> Answers:
        passes = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        log_best = torch.zeros(tokens.shape, device=tokens.device)
        padding = torch.zeros_like(log_best, dtype=torch.bool)
        return cls(tokens.clone(), passes, log_best, padding, padding[:, 0].clone(), class_log_probs)

    def write(self, live: Live, which: IntTensor | slice, probabilities: FloatTensor, span: slice) -> None:
        """Take over what these of the live rows hold in their canvas; (N, C, V) are all their distributions."""
        rows = live.rows[which]
        self.tokens[rows, span], self.log_best[rows, span] = live.best[which], live.log_best[which]
        self.passes[rows] += live.passes[which]
        self.cut[rows] |= live.cut[which]
        by_class = self.class_log_probs
        if by_class is not None and live.constraint is not None and not by_class.of_first:
            by_class.write(rows, span, probabilities[which], live.constraint)

    def select(self, rows: IntTensor) -> Answers:
        """The answers of these rows."""
        by_class = self.class_log_probs
        by_class = None if by_class is None else by_class.select(rows)
        chosen: dict[str, Any] = {each.name: getattr(self, each.name)[rows] for each in fields(self)[:-1]}
        return Answers(**chosen, class_log_probs=by_class)

    def pad(self, pinned: BoolTensor, token: int) -> None:
        """Write the padding token wherever the answer has ended; pinned tokens (B, T) stay."""
        self.tokens.masked_fill_(self.padding & ~pinned, token)

    def log_probability(self, pinned: BoolTensor) -> FloatTensor:
        """(B) over what is neither pinned nor padding."""
        return self.log_best.masked_fill(pinned | self.padding, 0).sum(-1)
