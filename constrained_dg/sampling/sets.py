"""The part of a sampler that denoises sets of living tokens, see `constrained_dg.diffusion.sets`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.candidates import candidates_of, classes_of
from constrained_dg.constraints.guarded import propagated
from constrained_dg.diffusion.sets import (
    doubt,
    draw_canvas,
    eliminated,
    full_sets,
    most_certain,
    pinned_at,
    pure_noise,
    unless_noise,
    within_range,
)
from constrained_dg.errors import check, is_count, is_number
from constrained_dg.sampling.lessons import Lessons
from constrained_dg.sampling.randomness import NOISE
from constrained_dg.sampling.state import Live
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: How much more careful each failed attempt makes elimination, see `Sets`.
CARE = 0.5


@dataclass(frozen=True)
class Sets:
    """What a pass does to the sets: it eliminates tokens that the model calls unlikely, then pins undecided positions,
    those first of which the model is most certain.

    A pass on pure noise shows the model no sets, so that it cannot tell clues from noise in the canvas: nothing is
    pinned then. Only the unlikeliest token is eliminated, and the next pass sees sets.

    A set that becomes empty is a conflict: an earlier step was wrong, by the model's own word. Then the row stops, and
    a sampler around this one starts it again. A model that was trained to say that a state has no answer
    (`objective.conflict`) makes all sets empty.

    A model that is sure of a wrong token would pin it first in every attempt. So `Restarts` remembers the first pins of
    attempts that failed (`Lessons`), and later ones prefer others. They start from what the pass on pure noise left.
    Each failure makes elimination more careful, too: after f of them a token leaves below `below / (1 + f / 2)`.

    Args:
        below: a token leaves its set where the model gives it less probability than this.
        pins: undecided positions that each pass pins to their likeliest living token.
        conflict: a row has a conflict where `doubt` is above this.
        fade: where positions are pinned, the probability of a token is multiplied by this for each failed attempt that
            began by pinning it there; 1 remembers nothing.
    """

    below: float = 0.01
    pins: int = 4
    conflict: float = 0.5
    fade: float = 0.5

    def __post_init__(self) -> None:
        good = is_number(self.below, above=0) and self.below < 1
        check(good, f"sets.below is {self.below!r}", "give a probability above 0 and below 1")
        check(is_count(self.pins, 1), f"sets.pins is {self.pins!r}", "give an integer of at least 1")
        good = is_number(self.conflict, above=0) and self.conflict <= 1
        check(good, f"sets.conflict is {self.conflict!r}", "give a probability above 0; 1 turns it off")
        good = is_number(self.fade, above=0) and self.fade <= 1
        check(good, f"sets.fade is {self.fade!r}", "give a factor above 0; 1 remembers nothing")

    def start(
        self, live: Live, span: slice, noise: tuple[int, int], propagates: bool, lessons: Lessons | None = None
    ) -> BoolTensor:
        """(N, C, K) the sets before the first pass.

        Args:
            propagates: whether the rules rule out tokens.
            lessons: of earlier attempts.

        Raises:
            InputError: the noise range is too wide, see `full_sets`.
        """
        sets = full_sets(live.canvas, live.pinned, noise)
        if lessons is not None:
            sets &= lessons.start[live.rows, span] | live.pinned[..., None]
        return propagate(sets, live, span, noise) if propagates else sets

    def narrow(
        self,
        live: Live,
        probabilities: FloatTensor,
        span: slice,
        noise: tuple[int, int],
        propagates: bool,
        lessons: Lessons | None = None,
    ) -> BoolTensor:
        """The sets (N, C, K) after a pass; empty ones are conflicts.

        Args:
            probabilities: (N, C, V) of all tokens.
            lessons: of earlier attempts; the first pins of this one are noted there.
        """
        assert live.sets is not None
        probabilities, outside = within_range(probabilities, noise)
        below = self.below if lessons is None else self.below / (1 + CARE * lessons.failures[live.rows, None, None])
        kept = eliminated(live.sets, probabilities, live.pinned, below)
        trusted = probabilities if lessons is None else probabilities * lessons.trust(live.rows, span, self.fade)
        best, sets = trusted.masked_fill(~kept, -1).argmax(-1), kept
        for _ in range(self.pins):
            at, some = most_certain(sets, trusted, live.pinned)
            sets = pinned_at(sets, at, best.gather(1, at[:, None])[:, 0], some)
        dead = doubt(outside, live.pinned) > self.conflict
        sets = unless_noise(live.sets, sets & ~(dead[:, None] & ~live.pinned)[..., None], probabilities, live.pinned)
        if lessons is not None:
            goes_on = sets.any(-1).all(-1) & ~pure_noise(live.sets, live.pinned)
            pins = sets & (sets != kept).any(-1)[..., None] & goes_on[:, None, None]
            lessons.note(live.rows, span, pins, live.sets)
        return propagate(sets, live, span, noise) if propagates else sets

    def redraw(self, sets: BoolTensor, live: Live, start: int, noise: tuple[int, int], index: int) -> IntTensor:
        """(N, C) the canvas of the next pass."""
        uniform = rng.uniform(live.seeds, start, index, NOISE, count=sets.shape[1])
        return draw_canvas(sets, live.canvas, live.pinned, noise[0], uniform)


def propagate(sets: BoolTensor, live: Live, span: slice, noise: tuple[int, int]) -> BoolTensor:
    """The sets (N, C, K) without what the rules rule out; all empty in a row that is proved to have no answer."""
    constraint: Constraint | None = live.constraint
    if constraint is None:
        return sets
    candidates = candidates_of(constraint.class_of(live.answer), live.known, constraint.num_classes)
    classes = constraint.class_of(torch.arange(*noise, device=sets.device))
    free = ~live.pinned[..., None]
    candidates[:, span] &= ~free | classes_of(sets, classes, constraint.num_classes)
    return sets & (propagated(constraint, candidates)[:, span][..., classes] | ~free)
