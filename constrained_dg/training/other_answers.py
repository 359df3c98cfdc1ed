"""Another answer for a state that lost the one it was made from: many problems have more than one."""

from __future__ import annotations

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.candidates import candidates_of, classes_of
from constrained_dg.constraints.guarded import propagated
from constrained_dg.constraints.proposals import Proposals
from constrained_dg.constraints.running import listening
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch

#: Deterministic time of the solver for one row: a graph of 64 nodes needs a hundredth of it.
BUDGET = 0.1


def other_answers(rules: Constraint, batch: Batch, sets: BoolTensor, rows: IntTensor) -> tuple[IntTensor, BoolTensor]:
    """For rows (N) an answer that the sets still allow; the solver begins at the answer of the batch.

    Args:
        rules: of all rows of the batch.
        sets: (B, C, K) living tokens.

    Returns:
        (N, T) answers, those of the batch where there is no other within `BUDGET`; and (N) whether there is one.
    """
    low, high = batch.noise
    tokens = torch.arange(low, high)
    answers, found = batch.answer[rows].clone(), torch.zeros(len(rows), dtype=torch.bool)
    for at, row in enumerate(rows.tolist()):
        rule = rules.select(torch.tensor([row], device=rows.device)).to("cpu")
        answer, fixed, alive = (each[row].cpu() for each in (batch.answer, batch.pinned, sets))
        other = _found(rule, answer, fixed, alive, tokens)
        if other is not None:
            answers[at], found[at] = other.to(answers.device), True
    return answers, found.to(rows.device)


def _found(
    rule: Constraint, answer: IntTensor, fixed: BoolTensor, alive: BoolTensor, tokens: IntTensor
) -> IntTensor | None:
    """An answer (T) of living tokens (T, K), which are `tokens` (K) where they are alive."""
    drafted, of_token = rule.class_of(answer), rule.class_of(tokens)
    candidates = candidates_of(drafted, fixed, rule.num_classes)
    candidates &= fixed[:, None] | classes_of(alive, of_token, rule.num_classes)
    candidates = propagated(rule, candidates[None])[0]
    if not bool(candidates.any(-1).all()):
        return None

    def written(classes: IntTensor) -> IntTensor:
        first = (alive & (of_token == classes[:, None])).to(torch.uint8).argmax(-1)
        return torch.where(fixed, answer, tokens[first])

    with listening():
        ended = Proposals(rule, candidates, torch.zeros(candidates.shape), drafted, written).search(BUDGET)
    return None if ended.classes is None else written(ended.classes)
