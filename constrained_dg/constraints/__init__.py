"""Rules on whole answers: judge, blame, allowed tokens, propagation and search."""

from constrained_dg.constraints.alphabet import Alphabet
from constrained_dg.constraints.base import Constraint, candidates_of, contradictory
from constrained_dg.constraints.combine import All
from constrained_dg.constraints.different import AllDifferent, listing
from constrained_dg.constraints.on import On
from constrained_dg.constraints.pinned import Pinned
from constrained_dg.constraints.search import Completion, complete

__all__ = [
    "All",
    "AllDifferent",
    "Alphabet",
    "Completion",
    "Constraint",
    "On",
    "Pinned",
    "candidates_of",
    "complete",
    "contradictory",
    "listing",
]
