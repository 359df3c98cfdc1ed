"""Protocols and records of sampling: what a model must offer, and what a sampler returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from constrained_dg.model.images import Images, Pictures
from constrained_dg.model.vision import VisionTower
from constrained_dg.sampling.class_log_probs import ClassLogProbs
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


class Cache(Protocol):
    """Committed keys and values. `length` is S."""

    length: int

    def select(self, rows: IntTensor) -> Cache:
        """The cache of these rows (N), in this order."""

    def fork(self, copies: int) -> Cache:
        """Each row `copies` times, neighbours together, without a second prefill."""

    def reserve(self, tokens: int) -> None:
        """Make room for this many more tokens; a cache that grows on demand does nothing."""


@runtime_checkable
class Denoiser(Protocol):
    """A block-diffusion language model, as the sampling loop sees it.

    Subclass it to inherit the defaults below.
    `relations` is (B or 1, R, S + C, S + C) bool over absolute positions, or None.

    Attributes:
        vocab_size: V.
        canvas_length: the longest canvas it was trained for, in tokens; None for no bound.
        max_context: the most tokens, prompt and answer together; None for no bound.
        eos_token_ids: tokens that end an answer.
        pad_token_id: what follows the end.
        image_token_ids: tokens that mark images; a prompt that contains one without its image is refused. The first one
            stands where a soft token goes.
        makes_room: `prefill` takes a further keyword `room`, the tokens that will follow the prompt.
        vision: reads the `Pictures` of a task; None where the model was not trained with any.
        image_width: D of the soft tokens that `prefill` takes as a further keyword `images`; None where it takes none.
    """

    vocab_size: int
    canvas_length: int | None = None
    max_context: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0
    image_token_ids: tuple[int, ...] = ()
    makes_room: bool = False
    image_width: int | None = None
    vision: VisionTower | None = None

    def memory_needed(self, rows: int, committed: int, canvas: int, pictures: tuple[int, int] = (0, 0)) -> int | None:
        """Bytes that a call takes in addition to the weights; None where the model cannot say.

        Args:
            rows: B.
            committed: S at the last canvas.
            canvas: C.
            pictures: bytes of their soft tokens, and those that reading takes beside; given only where there are some.
        """
        return None

    def prefill(
        self,
        prompt: IntTensor,
        mask: BoolTensor | None = None,
        relations: BoolTensor | None = None,
        *,
        images: Images | Pictures | None = None,
    ) -> Cache:
        """Causal pass over the prompt (B, S); `mask` (B, S) is False at padding.

        `images` is given only where there are some, so that a model whose `image_width` is None need not know it. A
        batch with `Pictures` needs a model with a `vision` tower.
        """

    def denoise(
        self, canvas: IntTensor, cache: Cache, signal: Any = None, relations: BoolTensor | None = None
    ) -> FloatTensor:
        """Bidirectional pass over the canvas (B, C) -> fp32 logits (B, C, V). Never changes the cache.

        The loop overwrites the logits.
        """

    def self_condition(self, probabilities: FloatTensor, mask: BoolTensor | None = None) -> Any:
        """Signal for the next pass from the processed distribution (B, C, V); rows whose mask (B) is False get none.

        The argument is the distribution because a second softmax over V is expensive. The loop reuses its memory, so
        the signal must be computed here.
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
    """The pass in which a logits hook is called.

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
        sets: (N, C, K) bool, the living tokens of the noise range after the pass, for a sampler that denoises sets:
            there accepted positions have one, and empty sets are conflicts.
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
    sets: BoolTensor | None = None


@dataclass(frozen=True)
class Generation:
    """Answers of a batch, in the caller's order.

    Attributes:
        tokens: (B, T) int64, the arg-max canvas of each row's last pass with pinned cells written in. A row without
            a pass (contradictory clues) keeps its initial noise. Only padding follows the first EOS.
        status: a `Status` for each row, or None without a constraint.
        passes: (B) int64, denoise calls of each row, summed over its candidates; search nodes and commits do not count.
        free_tokens: (B) int64, tokens of the answer that were neither pinned nor padding.
        search_nodes: (B) int64, branches that the completer's solver opened, and moves of repairs; 0 without one.
        seeds: (B) int64, the seed of each answer: of the candidate that was chosen, or of the attempt. The sampler of
            one attempt, with one candidate and as many passes, draws the same numbers from it again and gives the same
            answer, unless floating-point kernels round differently in another batch shape. Seeds do not reproduce an
            answer with `rng="transformers"`, after a time limit, or for a moved attempt of `Symmetry`.
        log_probability: (B) float32, mean-field log-probability of the answer in the last pass of each canvas, over
            positions that are neither pinned nor padding; 0 for a row without a pass.
        padding: (B, T) bool, what follows the end of an answer.
        score: (B) float32, what the completer sums of its answer, see there; -inf where it gave none.
        bound: (B) float32, no answer that keeps the rules has a higher score; inf where this is unknown.
        proved: (B) bool, the completer's answer has the highest score, but for the rounding (`rounding_loss`).
        trace: the step records if requested, else empty.
        class_log_probs: of one pass of each canvas, if requested.
    """

    tokens: IntTensor
    status: list[Status | None]
    passes: IntTensor
    free_tokens: IntTensor
    search_nodes: IntTensor
    seeds: IntTensor
    log_probability: FloatTensor
    padding: BoolTensor
    score: FloatTensor
    bound: FloatTensor
    proved: BoolTensor
    trace: list[StepRecord] = field(default_factory=list)
    class_log_probs: ClassLogProbs | None = None

    @property
    def tokens_per_pass(self) -> FloatTensor:
        """(B) free tokens over passes; 0 without a pass."""
        return self.free_tokens / self.passes.clamp(min=1) * (self.passes > 0)
