"""What the rules do to the model's distribution."""

from __future__ import annotations

from dataclasses import dataclass

from constrained_dg.constraints.base import Constraint, permitted
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


@dataclass(frozen=True)
class Guide:
    """Masks logits with what the constraint allows. With both masks off it does nothing: the plain sampler.

    Args:
        mask_logits: sample and emit allowed tokens only.
        mask_self_conditioning: the next pass is told the masked distribution instead of the unmasked one.
        known_accepted: tokens accepted in the pass before count as known beside the pinned ones. Masks then propagate
            by themselves, so results count as search, not as the model alone.
        forget_violations: where an accepted token was re-noised because it broke a rule, the next pass is told nothing:
            all that is allowed there is equally likely. Else the token tends to come straight back.
    """

    mask_logits: bool = False
    mask_self_conditioning: bool = False
    known_accepted: bool = False
    forget_violations: bool = False

    @property
    def masks(self) -> bool:
        return self.mask_logits or self.mask_self_conditioning

    def forbidden(
        self, answer: IntTensor, known: BoolTensor, span: slice, constraint: Constraint
    ) -> tuple[BoolTensor, BoolTensor]:
        """What the rules forbid beside the answer (N, T) of which `known` (N, T) is decided.

        Returns:
            (N, C, A) forbidden classes, and (N, C) conflicts: positions that would have nothing left, where the mask is
            lifted.
        """
        allowed = permitted(constraint, answer, known, span)
        conflict = ~allowed.any(-1)
        return ~(allowed | conflict[..., None]), conflict

    def __call__(
        self, logits: FloatTensor, forbidden: BoolTensor, constraint: Constraint
    ) -> tuple[FloatTensor, FloatTensor]:
        """Logits (N, C, V), overwritten -> what is sampled and judged, and what goes back as self-conditioning.

        The two are one tensor unless a single switch is on.
        """
        forbidden = constraint.of_tokens(forbidden)
        if self.mask_logits and self.mask_self_conditioning:
            masked = logits.masked_fill_(forbidden, float("-inf"))
            return masked, masked
        masked = logits.masked_fill(forbidden, float("-inf"))
        return (masked, logits) if self.mask_logits else (logits, masked)
