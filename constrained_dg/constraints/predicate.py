"""A plain Python function as the rule."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.running import report_fault
from constrained_dg.errors import InputError
from constrained_dg.shapes import BoolTensor, IntTensor

#: Whether a function that fails raises InputError instead of breaking the answer: before a run, not during one.
strict: ContextVar[bool] = ContextVar("strict", default=False)


@dataclass(frozen=True, eq=False, repr=False)
class Predicate(Constraint):
    """A rule that a function decides: a list of T tokens -> bool.

    A function that raises, or does not return a bool, counts as a broken answer, and `explain` says so; it never
    ends a run. Samplers try it on one answer first and refuse it there.

    Args:
        function: the judge. The same answer must always get the same verdict.
        length: T.
        num_classes: A.
        words: the sentence about a broken answer; None means the function's name and documentation.
        name: its name in sentences; the function's name by default.
    """

    function: Callable[[list[int]], object]
    length: int
    num_classes: int
    words: str | None = None
    name: str = ""
    #: Samplers wait for the device in every pass anyway, so they can also read when to stop.
    reads_every_pass = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or getattr(self.function, "__name__", type(self.function).__name__))

    def opposite(self) -> Predicate:
        """The negation; a function that fails breaks the answer here too."""
        function = self.function

        def opposite(answer: list[int]) -> object:
            said = function(answer)
            said = said.item() if hasattr(said, "item") else said  # numpy's and torch's bool
            return not said if isinstance(said, bool) else said

        return Predicate(opposite, self.length, self.num_classes, f"the rule {self.name} must not hold", self.name)

    def _verdict(self, answer: list[int]) -> tuple[bool, str]:
        """Whether one answer satisfies, and what to say where not."""
        fault = None
        try:
            said = self.function(list(answer))
            said = said.item() if hasattr(said, "item") else said  # numpy's and torch's bool
        except Exception as error:
            fault, cause = f"the rule {self.name} raised {type(error).__name__}: {error}", error
        else:
            if isinstance(said, bool):
                lines = (getattr(self.function, "__doc__", None) or "").strip().splitlines()
                return said, self.words or f"the rule {self.name} is broken" + (f": {lines[0]}" if lines else "")
            fault, cause = f"the rule {self.name} returned {said!r}, which is not a bool", None
        if strict.get():
            raise InputError(f"{fault}, on the answer {answer}", "return True or False for every answer") from cause
        report_fault(fault)
        return False, fault

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return torch.tensor([self._verdict(row)[0] for row in answer.tolist()], dtype=torch.bool, device=answer.device)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        self.check_answer(answer)
        verdicts = [self._verdict(row) for row in answer.tolist()]
        return [[] if satisfied else [sentence] for satisfied, sentence in verdicts]
