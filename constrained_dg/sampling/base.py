"""Protocols and records of the sampler: what the loop asks of a model, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from constrained_dg.constraints.base import Constraint
from constrained_dg.sampling.class_log_probs import ClassLogProbs
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch


class Cache(Protocol):
    """Committed keys and values. `length` is S."""

    length: int

    def select(self, rows: IntTensor) -> Cache:
        """The cache of these rows (N), in this order."""

    def fork(self, copies: int) -> Cache:
        """Each row `copies` times, neighbours together, without a second prefill."""


class Denoiser(Protocol):
    """A block-diffusion language model, as the sampling loop sees it.

    `relations` is (B or 1, R, S + C, S + C) bool over absolute positions, or None.

    A model may also have these; where one is missing, nothing is assumed:

        canvas_length: int, the longest canvas it was trained for (or `config.canvas_length`).
        max_context: int, the most tokens, prompt and answer together (or `config.max_position_embeddings`).
        eos_token_ids: tuple of int, tokens that end an answer.
        pad_token_id: int, what follows the end.
        image_token_ids: tuple of int, tokens that stand for images; a prompt that holds one is refused.
        memory_needed(rows, committed, canvas): bytes that a call takes beside the weights, for B rows, S committed
            tokens at the last canvas and C tokens of canvas.
    """

    vocab_size: int

    def prefill(self, prompt: IntTensor, mask: BoolTensor | None = None, relations: BoolTensor | None = None) -> Cache:
        """Causal pass over the prompt (B, S); `mask` (B, S) is False at padding."""

    def denoise(
        self, canvas: IntTensor, cache: Cache, signal: Any = None, relations: BoolTensor | None = None
    ) -> FloatTensor:
        """Bidirectional pass over the canvas (B, C) -> fp32 logits (B, C, V). Never changes the cache.

        The logits are the caller's from then on: the loop overwrites them.
        """

    def self_condition(self, probabilities: FloatTensor, mask: BoolTensor | None = None) -> Any:
        """Signal for the next pass from the processed distribution (B, C, V); rows whose mask (B) is False get none.

        The distribution, not its logits: the loop has made it already, and a second softmax over V costs a pass. Its
        memory is used again; what the signal needs of it must be computed here.
        """

    def commit(self, canvas: IntTensor, cache: Cache, relations: BoolTensor | None = None) -> Cache:
        """Causal pass over a finished canvas (B, C); returns the cache, C tokens longer."""

    def next_token(self, tokens: IntTensor, cache: Cache, relations: BoolTensor | None = None) -> FloatTensor:
        """Causal pass over new tokens (B, N), committed to the cache -> fp32 logits (B, V) of the one that follows."""


class Status(StrEnum):
    """How one answer ended. Without a constraint there is no status (None)."""

    SOLVED = "solved"
    UNSOLVED = "unsolved"
    UNSATISFIABLE = "unsatisfiable"


@dataclass(frozen=True)
class PassInfo:
    """Where a logits hook stands.

    Attributes:
        pass_index: 0-based count of denoise calls in this canvas.
        rows: (N) indices of the rows in the caller's batch; with K candidates the prompt is rows // K.
        answer: (N, T) int64, finished canvases, then the canvas that entered this pass, then pinned tokens and noise.
        start: position of the canvas in the answer.
    """

    pass_index: int
    rows: IntTensor
    answer: IntTensor
    start: int


@dataclass(frozen=True)
class StepRecord:
    """What one pass saw and decided, for the rows that were still live.

    Attributes:
        pass_index: 0-based count of denoise calls in this canvas.
        rows: (N) indices of the live rows in the caller's batch; with K candidates the prompt is rows // K.
        canvas: (N, C) the canvas that entered the pass.
        best: (N, C) arg-max of the processed logits, pinned cells written in: the answer so far.
        entropy: (N, C) in nats, of the processed distribution.
        accepted: (N, C) bool, positions that keep their sample.
        renoised: (N, C) bool, free positions that got fresh noise.
        conflict: (N, C) bool, positions whose allowed set was empty, so that the mask was lifted there.
        stopped: (N) bool, rows that stop after this pass.
        start: position of the canvas in the answer.
    """

    pass_index: int
    rows: IntTensor
    canvas: IntTensor
    best: IntTensor
    entropy: FloatTensor
    accepted: BoolTensor
    renoised: BoolTensor
    conflict: BoolTensor
    stopped: BoolTensor
    start: int = 0


@dataclass(frozen=True)
class Generation:
    """Answers of a batch, in the caller's order.

    Attributes:
        tokens: (B, T) int64, the arg-max canvas of each row's last pass with pinned cells written in. A row that made
            no pass (contradictory clues) keeps the noise it started from. After the first EOS stands only padding.
        status: a `Status` for each row, or None without a constraint.
        passes: (B) int64, denoise calls of each row (search nodes and commits are not passes); with several candidates
            those of all of them.
        free_tokens: (B) int64, tokens of the answer that were neither pinned nor padding.
        search_nodes: (B) int64, branches the completer opened; 0 without one.
        seeds: (B) int64, the seed of each answer; with one candidate it makes the same answer again.
        log_probability: (B) float32, mean-field log-probability of the answer in the last pass of each canvas, over
            positions that are neither pinned nor padding; 0 for a row without a pass.
        padding: (B, T) bool, what follows the end of an answer.
        trace: the step records when they were asked for, else empty.
        distribution: of the last passes, by class, when it was asked for.
    """

    tokens: IntTensor
    status: list[Status | None]
    passes: IntTensor
    free_tokens: IntTensor
    search_nodes: IntTensor
    seeds: IntTensor
    log_probability: FloatTensor
    padding: BoolTensor
    trace: list[StepRecord] = field(default_factory=list)
    distribution: ClassLogProbs | None = None

    @property
    def tokens_per_pass(self) -> FloatTensor:
        """(B) free tokens over passes; 0 where no pass was made."""
        return self.free_tokens / self.passes.clamp(min=1) * (self.passes > 0)


@runtime_checkable
class Sampler(Protocol):
    """A way to turn prompts into answers. `Diffusion`, `Autoregressive` and `Search` are the three kinds.

    Attributes:
        name: as on the command line; a yaml in conf/sampler.
        needs_model: False where `run` never calls the model, so that None may be given.
    """

    name: str
    needs_model: bool

    def run(
        self,
        model: Denoiser | None,
        batch: Batch,
        constraint: Constraint | None = None,
        seeds: IntTensor | int = 0,
        **options: Any,
    ) -> Generation:
        """Answer every row of the batch. Only its prompt, mask, pinned tokens, relations and noise range are read.

        Args:
            model: the denoiser.
            batch: `batch.answer` (B, T) may hold several canvases; free cells of it are not read.
            constraint: over the whole answer, T long; of B rows or one.
            seeds: (B) int64, or one number from which the seeds of the rows are drawn.
            options: keywords of `Options`.

        Raises:
            InputError: shapes, ranges, values or the memory do not fit, or a keyword is unknown; before the first pass.
                NaN logits; during it.
        """
