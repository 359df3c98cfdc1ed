"""Proposals of the solver, and what is learned from those that a judge refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from constrained_dg.constraints import cpsat
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.guarded import cut_by, judged, lowered, wrote
from constrained_dg.constraints.lowering import FALSE, Lowering, Model
from constrained_dg.constraints.running import TimeIsUpError
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Integers that one unit of log-probability is scaled to.
SCALE = 2**16
#: The lowest log-probability: what the model rules out stays possible.
LOWEST = -1e6
#: Share of the budget for the likeliest answer.
_LIKELIEST = 0.1
#: Deterministic time that a refused proposal counts, since the solver does not see what judging costs.
_PROPOSAL = 0.001


@dataclass(frozen=True)
class Ended:
    """How proposals ended.

    Attributes:
        classes: (T) of the best accepted answer, or None.
        proved: none is better, or none exists.
        bound: on the sum of log-probabilities of satisfying answers, or None.
        work: deterministic time.
        branches: that the solver opened.
    """

    classes: IntTensor | None
    proved: bool
    bound: float | None
    work: float
    branches: int


class Proposals:
    """A model of one row, solved again and again until the judge accepts.

    With log-probabilities, the first tenth of the budget goes to the likeliest proposals: if the judge refuses one it
    is excluded, and the next likeliest is sought, so that the first that it accepts is proved the likeliest. If there
    is no answer by then, the rest goes to any that satisfies, more and more of them between two solves.

    Args:
        constraint: of one row.
        candidates: (T, A) bool.
        log_probs: (T, A).
        hint: (T) int64 classes.
        written: the tokens (T) of classes (T).
        nameless: whether the rule's `normal_form` may be stated where any answer will do.
    """

    def __init__(
        self,
        constraint: Constraint,
        candidates: BoolTensor,
        log_probs: FloatTensor,
        hint: IntTensor,
        written: Callable[[IntTensor], IntTensor],
        nameless: bool = False,
    ) -> None:
        self.constraint, self.written, self.hint, self.nameless = constraint, written, hint, nameless
        self.model = Model()
        self.root = self.model.root(candidates)
        lowered(constraint, self.root)
        self.bound_at = constraint.bound.nonzero().flatten().tolist()
        self.work, self.branches = 0.0, 0
        self.ceiling: float | None = None
        self.best: IntTensor | None = None
        self.best_value = 0
        self.seen: set[tuple[int, ...]] = set()
        # Each position's log-probabilities count from its highest: small numbers for the solver.
        scores = log_probs.double().clamp(min=LOWEST).masked_fill(~candidates, -torch.inf)
        top = scores.amax(-1, keepdim=True)
        self.weights = ((scores - top).masked_fill(~candidates, 0) * SCALE).round().long().numpy()
        self.highest = float(top.sum())
        self.open_positions = int((candidates.sum(-1) > 1).sum())

    def exclude(self, classes: IntTensor) -> None:
        """Not this answer (T), nor one that differs from it only where the rule does not look."""
        self.root.forbid((at, int(classes[at])) for at in self.bound_at)

    def search(self, budget: float) -> Ended:
        """Raises TimeIsUpError where time is up before any answer was accepted."""
        try:
            if self.weights.any():
                done = self._likeliest(budget)
            else:  # every answer has the same sum
                done, self.ceiling = self._any(budget) or self.best is not None, self.highest
        except TimeIsUpError:
            if self.best is None:
                raise
            done = False
        return Ended(self.best, done, self.ceiling, self.work, self.branches)

    def _likeliest(self, budget: float) -> bool:
        first = budget * _LIKELIEST
        while self.work < first:
            outcome = self._solve(first - self.work, self._objective(), most=1)
            if outcome.bound is not None:
                ceiling = self.highest + (outcome.bound + self.open_positions / 2) / SCALE
                self.ceiling = ceiling if self.ceiling is None else min(ceiling, self.ceiling)
            if outcome.proved and (outcome.values is None or self._is_best(outcome)):
                return True
            if not outcome.proved:
                break
        if self.best is None and self.work < budget:
            return self._any(budget) and self.best is None
        return False

    def _is_best(self, outcome: cpsat.Outcome) -> bool:
        return self.best is not None and outcome.bound is not None and self.best_value >= outcome.bound

    def _any(self, budget: float) -> bool:
        if self.nameless:
            wrote(self.constraint, "normal_form", self.root, lambda: self.constraint.normal_form(self.root))
        most = 1
        while self.work < budget and self.best is None:
            outcome = self._solve(budget - self.work, {}, most)
            if outcome.values is None and outcome.proved:
                return True
            most *= 2
        return False

    def _objective(self) -> dict[int, int]:
        some = self.root.literals != FALSE
        return dict(zip(self.root.literals[some].tolist(), self.weights[some].tolist(), strict=True))

    def _solve(self, budget: float, objective: dict[int, int], most: int) -> cpsat.Outcome:
        """One solve, which ends when an answer is accepted or `most` are refused; these are then excluded."""
        refused: list[list[int]] = []
        most_refused = max(1, int(budget / _PROPOSAL))

        def judge(solution: list[int]) -> bool:
            classes = self._classes(solution)
            key = tuple(classes.tolist())
            if judged(self.constraint, self.written(classes)[None]):
                value = int(self.weights[np.arange(len(key)), key].sum())
                if self.best is None or value > self.best_value:
                    self.best, self.best_value = classes, value
                return not objective
            refused.append(solution)
            return len(refused) >= (most_refused if objective else min(most, most_refused))

        outcome = cpsat.solve(
            self.model, objective, self._hints(), budget, judge, enumerate_all=most > 1 and not objective
        )
        self.branches += outcome.branches
        self.work += outcome.work + _PROPOSAL * len(refused)
        for solution in refused:
            self._learn(solution)
        return outcome

    def _classes(self, solution: list[int]) -> IntTensor:
        return torch.tensor(_held(self.root, solution))

    def _hints(self) -> dict[int, int]:
        hints = {}
        for literals, held in zip(self.root.literals.tolist(), self.hint.tolist(), strict=True):
            for at, literal in enumerate(literals):
                if literal > 0:
                    hints[literal] = int(at == held)
        return hints

    def _learn(self, solution: list[int]) -> None:
        key = tuple(_held(self.root, solution))
        again = key in self.seen
        self.seen.add(key)
        learned = False
        for rule, view in list(self.model.deferred):
            if all(cpsat.value_of(solution, each) for each in view.conditions):
                held = _held(view, solution)
                if -1 not in held:
                    learned = cut_by(rule, rule.tokens_of(torch.tensor(held)), view) or learned
        if again or not learned:
            self.exclude(torch.tensor(key))


def _held(view: Lowering, solution: list[int]) -> list[int]:
    """The class that each position of a view holds in a solution; -1 where none of its classes."""
    values = np.asarray(solution)
    literals = view.literals
    true = np.where(literals >= 0, values[np.maximum(literals, 0)], 1 - values[np.maximum(~literals, 0)]) > 0
    return np.where(true.any(1), true.argmax(1), -1).tolist()
