"""Calls of the methods of a constraint that a user wrote: what they return is checked, and errors name the method."""

from __future__ import annotations

from typing import Any

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.running import StoppedError, TimeIsUpError
from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, IntTensor


def called(constraint: Constraint, method: str, *arguments: Any) -> Any:
    """Call a method; errors name the method and the answer. It must not write to its arguments."""
    before = [each.clone() if isinstance(each, torch.Tensor) else None for each in arguments]
    first = before[0][:3].tolist() if before and before[0] is not None and before[0].numel() < 1000 else None
    try:
        result = getattr(constraint, method)(*arguments)
    except (InputError, TimeIsUpError, StoppedError):  # no fault of the method
        raise
    except Exception as error:  # a user's code may raise anything
        on = "" if first is None else f", on {first}"
        raise InputError(
            f"{type(constraint).__name__}.{method} raised {type(error).__name__}: {error}{on}", "it must never raise"
        ) from error
    for old, new in zip(before, arguments, strict=True):
        check(old is None or torch.equal(old, new), f"{method} changes what it was given", "work on a clone")
    return result


def shaped(name: str, value: Any, shape: tuple[int, ...], letters: str) -> BoolTensor:
    """`value`, once it is a bool tensor of this shape."""
    is_tensor = isinstance(value, torch.Tensor)
    got = f"shape {tuple(value.shape)} and type {value.dtype}" if is_tensor else f"type {type(value).__name__}"
    good = is_tensor and value.shape == shape and value.dtype == torch.bool
    check(good, f"{name} has {got}", f"give {letters} = {shape} of torch.bool")
    return value


def judged(rule: Constraint, answer: IntTensor) -> BoolTensor:
    return shaped("is_satisfied", called(rule, "is_satisfied", answer), (len(answer),), "(B)")


def blamed_by(rule: Constraint, answer: IntTensor) -> BoolTensor:
    return shaped("violations", called(rule, "violations", answer), tuple(answer.shape), "(B, T)")


def allowed_by(rule: Constraint, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
    shape = (len(answer), len(range(rule.length)[span]), rule.num_classes)
    return shaped("allowed", called(rule, "allowed", answer, known, span), shape, "(B, C, A)")


def propagated(rule: Constraint, candidates: BoolTensor) -> BoolTensor:
    return shaped("propagate", called(rule, "propagate", candidates), tuple(candidates.shape), "(B, T, A)")
