"""The loop: denoise, accept, re-noise, until a row stops or the passes run out (DiffusionGemma, 2026, with rules).

    canvas                     noise, pinned tokens written in
      -> denoise               logits / temperature, masked by the guide
      -> best, sample          arg-max, and one draw from the distribution
      -> accept                the most certain positions keep their sample
      -> re-noise              every other free position gets fresh uniform noise
      -> stop                  rows that are stable, or that the judge accepts, leave the batch

Nothing is sticky: a position accepted in one pass may be re-noised in the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check
from constrained_dg.sampling.base import Cache, Denoiser, StepRecord
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

if TYPE_CHECKING:
    from constrained_dg.sampling.diffusion import Diffusion

#: Purposes of random draws: the last of the counters (start of the canvas, pass, purpose).
INITIAL, SAMPLE, NOISE = 0, 1, 2


@dataclass(frozen=True)
class Live:
    """Everything that belongs to the rows still being denoised. `select` keeps it in step.

    Attributes:
        rows: (N) indices in the caller's batch.
        seeds: (N).
        canvas: (N, C), what enters the next pass.
        pinned: (N, C) bool.
        answer: (N, T), finished canvases and pinned tokens; the window of this canvas is written as the loop goes.
        known: (N, T) bool, pinned and committed positions.
        cache, constraint, relations: as given; the latter two may be of one row for all, or None.
        accepted: (N, C) bool, positions that kept their sample in the last pass.
        history: (N, K, C) arg-max canvases of the last passes.
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
    history: IntTensor

    def select(self, keep: IntTensor) -> Live:
        """The state of these rows (N)."""
        shared = ("cache", "constraint", "relations")
        chosen = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name not in shared}
        return Live(
            cache=self.cache.select(keep),
            constraint=select_rows(self.constraint, keep),
            relations=select_relations(self.relations, keep),
            **chosen,
        )

    def with_canvas(self, canvas: IntTensor, window: slice) -> IntTensor:
        """(N, T) the answer with this canvas in its window."""
        answer = self.answer.clone()
        answer[:, window] = canvas
        return answer


def select_rows(constraint: Constraint | None, rows: IntTensor) -> Constraint | None:
    """The constraint of these rows; one row serves them all."""
    return constraint if constraint is None or constraint.rows == 1 else constraint.select(rows)


def select_relations(relations: BoolTensor | None, rows: IntTensor) -> BoolTensor | None:
    """The relations of these rows; one row serves them all."""
    return relations if relations is None or len(relations) == 1 else relations[rows]


def draw(probabilities: FloatTensor, uniform: FloatTensor) -> IntTensor:
    """One token for each position by the inverse of the cumulative distribution: (..., V), (...) -> (...)."""
    cumulative = probabilities.cumsum(-1)
    # The uniform is below 1, so some sum lies above the threshold; the first one that does has a probability above 0.
    threshold = uniform[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[..., 0].clamp(max=probabilities.shape[-1] - 1)


@dataclass(frozen=True)
class Step:
    """One pass: its record, and what the caller keeps of the distribution (N, C, V)."""

    record: StepRecord
    log_probs: FloatTensor


def denoise_canvas(
    model: Denoiser, live: Live, parts: Diffusion, window: slice, noise: tuple[int, int], max_passes: int
) -> Iterator[Step]:
    """Denoise one canvas of every live row; yields each pass after it was decided.

    Raises:
        InputError: the model returns NaN, or logits that are not (N, C, V).
    """
    signal, low_high = None, dict(zip(("low", "high"), noise, strict=True))
    length = live.canvas.shape[1]
    for index in range(max_passes):
        logits = model.denoise(live.canvas, live.cache, signal, live.relations)
        expected = (*live.canvas.shape, model.vocab_size)
        check(logits.shape == expected, f"the model returned logits {tuple(logits.shape)}", f"give {expected}")
        known = live.known.clone()
        if parts.guide.known_accepted:
            known[:, window] |= live.accepted
        before = live.with_canvas(live.canvas, window)
        guided = parts.guide(logits / parts.temperature(index, max_passes), before, known, window, live.constraint)

        log_probs = guided.logits.log_softmax(-1)
        probabilities = log_probs.exp()
        # 0 * log 0 = 0: the clamp keeps masked tokens from making a NaN.
        entropy = -(probabilities * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)
        best = torch.where(live.pinned, live.canvas, guided.logits.argmax(-1))
        drawn = draw(probabilities, rng.uniform(live.seeds, window.start, index, SAMPLE, count=length))
        sample = torch.where(live.pinned, live.canvas, drawn)

        accepted = parts.accept(entropy, ~live.pinned) & ~guided.conflict
        accepted = parts.renoise(accepted, live.with_canvas(sample, window), live.known, window, live.constraint)
        fresh = rng.integers(live.seeds, window.start, index, NOISE, count=length, **low_high)
        canvas = torch.where(accepted | live.pinned, sample, fresh)

        stopped, history = parts.stop(best, entropy, ~live.pinned, live.history)
        if parts.judge_stop and live.constraint is not None and window.stop == live.constraint.length:
            stopped = stopped | live.constraint.is_satisfied(live.with_canvas(best, window))
        renoised = ~(accepted | live.pinned)
        record = StepRecord(
            index, live.rows, live.canvas, best, entropy, accepted, renoised, guided.conflict, stopped, window.start
        )
        yield Step(record, log_probs)

        any_stopped, any_nan = torch.stack([stopped.any(), entropy.isnan().any()]).tolist()  # the one wait of a pass
        check(not any_nan, f"the model returned NaN in pass {index}", "check its weights and its precision")
        live, signal_logits = replace(live, canvas=canvas, accepted=accepted, history=history), guided.signal
        if any_stopped:
            keep = (~stopped).nonzero().flatten()
            if len(keep) == 0:
                return
            live, signal_logits = live.select(keep), signal_logits[keep]
        if parts.self_conditioning and index + 1 < max_passes:
            signal = model.self_condition(signal_logits.softmax(-1))
