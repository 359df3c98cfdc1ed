"""Rules on whole answers: judge, blame, allowed tokens, propagation and search."""

from constrained_dg.constraints.alphabet import Alphabet
from constrained_dg.constraints.automaton import Automaton, Forbidden, Regex, Required
from constrained_dg.constraints.base import Constraint, candidates_of, contradictory
from constrained_dg.constraints.check import check_constraint, probe
from constrained_dg.constraints.combine import All, ByRow
from constrained_dg.constraints.counting import Count, Sum, Window
from constrained_dg.constraints.different import AllDifferent, listing
from constrained_dg.constraints.edges import DifferentAcross
from constrained_dg.constraints.on import On
from constrained_dg.constraints.permutation import Permutation
from constrained_dg.constraints.pinned import Pinned
from constrained_dg.constraints.predicate import Predicate
from constrained_dg.constraints.search import Completion, complete
from constrained_dg.constraints.vocabulary import Vocabulary

__all__ = [
    "All",
    "AllDifferent",
    "Alphabet",
    "Automaton",
    "ByRow",
    "Completion",
    "Constraint",
    "Count",
    "DifferentAcross",
    "Forbidden",
    "On",
    "Permutation",
    "Pinned",
    "Predicate",
    "Regex",
    "Required",
    "Sum",
    "Vocabulary",
    "Window",
    "candidates_of",
    "check_constraint",
    "complete",
    "contradictory",
    "listing",
    "probe",
]
