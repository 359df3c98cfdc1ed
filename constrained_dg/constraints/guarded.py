"""The methods of rules, called so that an error in a user's rule never ends a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from constrained_dg.constraints.candidates import candidates_of
from constrained_dg.constraints.lowering import Lowering, ModelError
from constrained_dg.constraints.running import TimeIsUpError, report_fault
from constrained_dg.errors import InputError
from constrained_dg.shapes import BoolTensor, IntTensor

if TYPE_CHECKING:
    from constrained_dg.constraints.base import Constraint

log = logging.getLogger(__name__)


def contradictory(constraint: Constraint, answer: IntTensor, known: BoolTensor) -> BoolTensor:
    """(B) True where propagation alone proves that no satisfying answer agrees with the known tokens."""
    candidates = candidates_of(constraint.class_of(answer), known, constraint.num_classes)
    return ~propagated(constraint, candidates).any(-1).all(-1)


def judged(constraint: Constraint, answer: IntTensor) -> BoolTensor:
    """`is_satisfied` that never ends a run: (B, T) -> (B), False and a warning for an answer on which it raises."""
    return _guarded(constraint, "is_satisfied", answer)


def blamed(constraint: Constraint, answer: IntTensor) -> BoolTensor:
    """`violations` that never ends a run: (B, T) -> (B, T), no blame and a warning where it raises."""
    return _guarded(constraint, "violations", answer)


def permitted(constraint: Constraint, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
    """`allowed` that never ends a run: (B, T), (B, T) -> (B, C, A), nothing ruled out and a warning where it raises."""
    try:
        return constraint.allowed(answer, known, span)
    except (InputError, TimeIsUpError):
        raise
    except Exception as error:  # a user's code: anything
        if len(answer) > 1:
            alone = [(_row_of(constraint, row), row) for row in torch.arange(len(answer)).split(1)]
            return torch.cat([permitted(rule, answer[row], known[row], span) for rule, row in alone])
        _warn(constraint, "allowed", error, "it rules nothing out here")
        return candidates_of(constraint.class_of(answer[:, span]), known[:, span], constraint.num_classes)


def propagated(constraint: Constraint, candidates: BoolTensor) -> BoolTensor:
    """`propagate` that never ends a search: the candidates (B, T, A) as they are, and a warning, where it raises."""
    try:
        return constraint.propagate(candidates)
    except (InputError, TimeIsUpError):
        raise
    except Exception as error:  # a user's code: anything
        _warn(constraint, "propagate", error, "it rules nothing out here")
        return candidates


def lowered(constraint: Constraint, into: Lowering) -> None:
    """`lower` that never ends a search: where it raises, its judge decides, and a warning says so."""
    mark = into.model.mark()
    try:
        constraint.lower(into)
    except (TimeIsUpError, ModelError):
        raise
    except Exception as error:  # a user's code: anything; or sums that overflow
        into.model.reset(mark)
        log.warning("%s.lower raised %s: %s; its judge decides", type(constraint).__name__, type(error).__name__, error)
        into.defer(constraint)


def cut_by(constraint: Constraint, answer: IntTensor, into: Lowering) -> bool:
    """Whether the rule refuses this answer (T) and has written something that excludes it."""
    return not judged(constraint, answer[None]) and wrote(constraint, "cut", into, lambda: constraint.cut(answer, into))


def wrote(constraint: Constraint, method: str, into: Lowering, write: Callable[[], None]) -> bool:
    """Let a rule write more than `lower`; False, nothing written and a warning where it raises."""
    mark = into.model.mark()
    try:
        write()
    except (TimeIsUpError, ModelError):
        raise
    except Exception as error:  # a user's code: anything
        into.model.reset(mark)
        _warn(constraint, method, error, "what it would write is left out")
        return False
    return True


def _guarded(constraint: Constraint, method: str, answer: IntTensor) -> BoolTensor:
    try:
        return getattr(constraint, method)(answer)
    except (InputError, TimeIsUpError):
        raise
    except Exception as error:  # a user's code: anything
        if len(answer) > 1:
            alone = [(_row_of(constraint, row), row) for row in torch.arange(len(answer)).split(1)]
            return torch.cat([_guarded(rule, method, answer[row]) for rule, row in alone])
        _warn(constraint, method, error, "the answer counts as unsolved")
        shape = answer.shape if method == "violations" else answer.shape[:1]
        return torch.zeros(shape, dtype=torch.bool, device=answer.device)


def _row_of(constraint: Constraint, row: IntTensor) -> Constraint:
    return constraint if constraint.rows == 1 else constraint.select(row)


def _warn(constraint: Constraint, method: str, error: Exception, consequence: str) -> None:
    what = f"{type(constraint).__name__}.{method} raised {type(error).__name__}: {error}"
    report_fault(what)
    log.warning("%s; %s", what, consequence)
