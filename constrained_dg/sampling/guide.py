"""What the rules do to the model's distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


@dataclass(frozen=True)
class Guided:
    """Logits after the rules.

    Attributes:
        logits: (N, C, V), what is sampled, judged and measured.
        signal: (N, C, V), what goes back as self-conditioning.
        conflict: (N, C) bool, positions with an empty allowed set, where the mask was lifted.
    """

    logits: FloatTensor
    signal: FloatTensor
    conflict: BoolTensor


@dataclass(frozen=True)
class Guide:
    """Masks logits with what the constraint allows. With both masks off it does nothing: the plain sampler.

    Args:
        mask_logits: sample and emit allowed tokens only.
        mask_self_conditioning: the next pass is told the masked distribution instead of the unmasked one.
        known_accepted: tokens accepted in the pass before count as known beside the pinned ones. Masks then propagate
            by themselves, so results count as search, not as the model alone.
    """

    mask_logits: bool = False
    mask_self_conditioning: bool = False
    known_accepted: bool = False

    def __call__(
        self, logits: FloatTensor, answer: IntTensor, known: BoolTensor, window: slice, constraint: Constraint | None
    ) -> Guided:
        """Logits (N, C, V) beside the answer (N, T) of which `known` (N, T) is decided -> `Guided`."""
        if constraint is None or not (self.mask_logits or self.mask_self_conditioning):
            return Guided(logits, logits, torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device))
        allowed = constraint.allowed(answer, known, window)
        conflict = ~allowed.any(-1)
        masked = logits.masked_fill(~(allowed | conflict[..., None]), -torch.inf)
        return Guided(
            masked if self.mask_logits else logits, masked if self.mask_self_conditioning else logits, conflict
        )
