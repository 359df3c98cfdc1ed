"""What the rules do to the model's distribution."""

from __future__ import annotations

from dataclasses import dataclass

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.guarded import permitted
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


@dataclass(frozen=True)
class Guide:
    """Masks logits with what the constraint allows. Without `masks` it does nothing: the plain sampler.

    Args:
        masks: only allowed tokens are sampled, judged, and shown to the next pass.
        known_accepted: tokens accepted in the pass before count as known, as pinned ones do. Masks then propagate
            by themselves, so results count as search, not as the model alone.
    """

    masks: bool = False
    known_accepted: bool = False

    def forbidden(
        self, answer: IntTensor, known: BoolTensor, span: slice, constraint: Constraint
    ) -> tuple[BoolTensor, BoolTensor]:
        """What the rules forbid, given the answer (N, T) of which `known` (N, T) is decided.

        Returns:
            (N, C, A) forbidden classes, and (N, C) conflicts: positions that would have nothing left, where the mask is
            lifted.
        """
        allowed = permitted(constraint, answer, known, span)
        conflict = ~allowed.any(-1)
        return ~(allowed | conflict[..., None]), conflict

    def __call__(self, logits: FloatTensor, forbidden: BoolTensor, constraint: Constraint) -> FloatTensor:
        """Logits (N, C, V), overwritten: -inf at tokens of forbidden classes (N, C, A)."""
        return logits.masked_fill_(constraint.of_tokens(forbidden), float("-inf"))
