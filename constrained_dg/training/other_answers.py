"""Another answer for a state that lost the one it was made from: many problems have more than one."""

from __future__ import annotations

import torch

from constrained_dg.constraints.base import Constraint, propagated
from constrained_dg.constraints.candidates import candidates_of
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
        # A class may stand where one of its tokens lives.
        member = torch.nn.functional.one_hot(rule.class_of(tokens), rule.num_classes).float()
        classes = rule.class_of(answer)
        candidates = candidates_of(classes[None], fixed[None], rule.num_classes)[0]
        candidates &= fixed[:, None] | (alive.float() @ member > 0)
        other = _found(rule, answer, fixed, candidates)
        if other is not None:
            # The token of a class that lives.
            living = torch.where(alive & (rule.class_of(tokens) == other[:, None]), tokens, high).amin(-1)
            answers[at], found[at] = torch.where(fixed, answer, living).to(answers.device), True
    return answers, found.to(rows.device)


def _found(rule: Constraint, answer: IntTensor, fixed: BoolTensor, candidates: BoolTensor) -> IntTensor | None:
    """The classes (T) of an answer among the candidates (T, A)."""
    candidates = propagated(rule, candidates[None])[0]
    if not bool(candidates.any(-1).all()):
        return None

    def written(classes: IntTensor) -> IntTensor:
        return torch.where(fixed, answer, rule.tokens_of(classes))

    with listening():
        return (
            Proposals(rule, candidates, torch.zeros(candidates.shape), rule.class_of(answer), written)
            .search(BUDGET)
            .classes
        )
