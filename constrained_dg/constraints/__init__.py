"""Rules on whole answers: judge, blame, allowed tokens, propagation and search."""

from constrained_dg.constraints.all_different import AllDifferent
from constrained_dg.constraints.automaton import Automaton, Forbidden, Required
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.by_row import ByRow
from constrained_dg.constraints.candidates import candidates_of
from constrained_dg.constraints.checking import check_constraint, probe
from constrained_dg.constraints.combine import All
from constrained_dg.constraints.counts import Count
from constrained_dg.constraints.different_across import DifferentAcross
from constrained_dg.constraints.grammar import Grammar
from constrained_dg.constraints.guarded import contradictory
from constrained_dg.constraints.holes import Holes
from constrained_dg.constraints.json_rule import Json, json_text
from constrained_dg.constraints.logic import Either, Negation
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.marginals import marginals
from constrained_dg.constraints.part import On
from constrained_dg.constraints.permutation import Permutation
from constrained_dg.constraints.pinned import Pinned
from constrained_dg.constraints.predicate import Predicate
from constrained_dg.constraints.regex import Regex
from constrained_dg.constraints.search import AnswerCount, Completion, complete, count_answers, rounding_loss
from constrained_dg.constraints.sums import RealSum, Sum
from constrained_dg.constraints.text_rule import TextRule
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.constraints.vocabulary import Vocabulary
from constrained_dg.constraints.words import listing

__all__ = [
    "All",
    "AllDifferent",
    "AnswerCount",
    "Automaton",
    "ByRow",
    "Completion",
    "Constraint",
    "Count",
    "DifferentAcross",
    "Either",
    "Forbidden",
    "Grammar",
    "Holes",
    "Json",
    "Lowering",
    "Negation",
    "On",
    "Permutation",
    "Pinned",
    "Predicate",
    "RealSum",
    "Regex",
    "Required",
    "Sum",
    "TextRule",
    "TokenClasses",
    "Vocabulary",
    "candidates_of",
    "check_constraint",
    "complete",
    "contradictory",
    "count_answers",
    "json_text",
    "listing",
    "marginals",
    "probe",
    "rounding_loss",
]
