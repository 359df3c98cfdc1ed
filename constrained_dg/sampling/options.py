"""The keywords of one call of a sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from constrained_dg.errors import check, is_count, is_number
from constrained_dg.sampling.base import Denoiser, PassInfo, StepRecord
from constrained_dg.sampling.lessons import Lessons
from constrained_dg.sampling.randomness import DRAWS, Draws
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch, Symmetric


@dataclass(frozen=True)
class Options:
    """The keywords of `Sampler.run`, checked.

    Args:
        max_passes: denoise calls a canvas; overrides the sampler's.
        canvas_length: C; the last canvas is shorter where C does not divide T. None: T, or the length the
            model was trained for if that is less.
        eos: token or tokens that end an answer; what follows becomes `pad`. Rules judge the padded answer. None: the
            model's `eos_token_ids`, or none.
        pad: None: the model's `pad_token_id`, or 0.
        candidates: answers tried for each prompt, all from one prefill. Once the judge accepts one, the others stop
            and it is the answer; otherwise the answer is the one with the highest `log_probability`.
        time_limit: seconds for the call, checked between passes; the result then depends on the machine. Canvases that
            were not reached are padding.
        rng: "counter", where a row depends on its seed alone, or "transformers", which draws from torch's global
            generator as transformers does, ignores the seeds and keeps finished rows in the batch.
        logits_hook: called in each pass with the raw logits (N, C, V) and a `PassInfo`, before temperature and rules;
            its result replaces them. It may write into the logits. Where it leaves -inf at every token
            that the rules allow at a position, all allowed tokens are equally likely there.
        on_step: called with the record of every pass; `StepRecord.best` is the draft.
        leave: called between passes; the rows of the caller's batch that it returns are given up: they make no further
            pass and keep what they have. Other rows do not change. Not with draws that depend on the batch.
        trace: keep the records in the result.
        symmetric: `Task.symmetric`, for a sampler that solves moved versions of a problem.
        class_log_probs: keep the log-probabilities that a search sums in the result: of the "last" pass of each canvas
            (or True), or of the "first".
        tried: the rules were tried in an earlier call and need no second trial.
        lessons: kept by `Restarts` for a sampler that denoises sets.
    """

    max_passes: int | None = None
    canvas_length: int | None = None
    eos: tuple[int, ...] = ()
    pad: int = 0
    candidates: int = 1
    time_limit: float | None = None
    rng: str = "counter"
    logits_hook: Callable[[FloatTensor, PassInfo], FloatTensor] | None = None
    on_step: Callable[[StepRecord], None] | None = None
    leave: Callable[[], Collection[int]] | None = None
    trace: bool = False
    symmetric: Callable[[Batch, IntTensor], Symmetric | None] | None = None
    class_log_probs: bool | str = False
    tried: bool = False
    lessons: Lessons | None = None
    started: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        for name in ("max_passes", "canvas_length"):
            value = getattr(self, name)
            check(value is None or is_count(value, 1), f"{name} is {value!r}", "give an integer of at least 1")
        check(is_count(self.candidates, 1), f"candidates is {self.candidates!r}", "give an integer of at least 1")
        check(self.rng in DRAWS, f"rng is {self.rng!r}", f"give one of {', '.join(DRAWS)}")
        limit = self.time_limit
        check(limit is None or is_number(limit, above=0), f"time_limit is {limit!r}", "give seconds, or None")
        # Its type, not its text, which would read tensors of the device in every attempt.
        lessons = f"lessons are a {type(self.lessons).__name__}"
        check(isinstance(self.lessons, Lessons | None), lessons, "leave them out")
        for name in ("logits_hook", "on_step", "leave", "symmetric"):
            value = getattr(self, name)
            check(value is None or callable(value), f"{name} is {value!r}", "give a function, or None")
        alone = self.leave is None or self.draws.rows_leave
        check(alone, f"leave was given with rng={self.rng!r}", "use rng='counter'")

    @classmethod
    def of(cls, model: Denoiser | None, keywords: dict[str, Any], refused: Sequence[str] = ()) -> Options:
        """Options from the keywords of a call, with the model's eos and pad filled in.

        Args:
            refused: names that this sampler does not support.

        Raises:
            InputError: an unknown keyword, a value out of range, or a refused name with another value than its default.
        """
        known = [each.name for each in fields(cls) if each.init]
        unknown = sorted(keywords.keys() - set(known))
        check(not unknown, f"unknown options {', '.join(unknown)}", f"there are {', '.join(known)}")
        eos, pad = keywords.get("eos"), keywords.get("pad")
        if eos is None:
            eos = () if model is None else model.eos_token_ids
        if pad is None:
            pad = 0 if model is None else model.pad_token_id
        several = isinstance(eos, list | tuple | set | frozenset)
        options = cls(**{**keywords, "eos": tuple(eos) if several else (eos,), "pad": pad})
        default = cls()
        for name in refused:
            value = getattr(options, name)
            check(value == getattr(default, name), f"this sampler does not support {name}={value!r}", "leave it out")
        return options

    @property
    def draws(self) -> Draws:
        return DRAWS[self.rng]

    @property
    def watched(self) -> bool:
        """Whether the host reads every pass."""
        watchers = (self.time_limit, self.logits_hook, self.on_step, self.leave)
        return self.trace or any(watcher is not None for watcher in watchers)

    def listener(self, records: list[StepRecord]) -> Callable[[StepRecord], None] | None:
        """What hears of each pass: the trace (`records`), the caller, or nobody."""
        listeners = [each for each in (records.append if self.trace else None, self.on_step) if each]

        def emit(record: StepRecord) -> None:
            for listener in listeners:
                listener(record)

        return emit if listeners else None

    def remaining(self) -> float | None:
        """Seconds left, not below 0; None without a limit."""
        return None if self.time_limit is None else max(0.0, self.started + self.time_limit - time.monotonic())

    def expired(self) -> bool:
        return self.remaining() == 0

    def given_up(self, prompts: IntTensor) -> BoolTensor:
        """(N) bool, which of these rows (N) of the caller's batch are given up by now; see `leave`."""
        if self.leave is None:
            return torch.zeros_like(prompts, dtype=torch.bool)
        rows = torch.tensor(list(self.leave()), dtype=prompts.dtype, device=prompts.device)
        return torch.isin(prompts, rows)
