"""A rule on a part of a longer answer: a puzzle within a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor, tensor_of


@dataclass(frozen=True, eq=False, repr=False)
class On(Constraint):
    """What `Constraint.on` returns. Strength of `allowed` and `propagate`: those of the rule.

    A token that the rule does not have, at one of its positions, breaks it. The rule never sees such a token: `allowed`
    treats the position as unknown, and other positions are blamed only if they are blamed both with the first and with
    the last of the rule's tokens there.

    Args:
        rule: over R positions; its tokens are classes here.
        positions: see `Constraint.on`.
        classes: see `Constraint.on`.
        length: T of the whole answer.

    Raises:
        InputError: see `Constraint.on`.
    """

    rule: Constraint
    positions: IntTensor
    classes: TokenClasses = field()  # required, though the base class has None
    length: int = field()

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", tensor_of("positions", self.positions, torch.int64))
        rule, positions, classes = self.rule, self.positions, self.classes
        check(
            rule.classes is None,
            f"{type(rule).__name__} already uses classes of tokens",
            "apply `on` to the rule of plain tokens, and join with & afterwards",
        )
        check(
            positions.dtype == torch.int64 and positions.shape == (rule.length,),
            f"positions have shape {tuple(positions.shape)} and type {positions.dtype}",
            f"the rule has {rule.length} positions: give ({rule.length}) of torch.int64",
        )
        low, high = (int(end) for end in positions.aminmax())
        check(
            low >= 0 and high < self.length,
            f"positions run from {low} to {high}",
            f"an answer of length {self.length} has positions 0 to {self.length - 1}",
        )
        check(len(positions.unique()) == len(positions), "a position is given twice", "give each once")
        check(
            rule.num_classes in (classes.named, classes.size),
            f"{classes.named} classes do not fit a rule of {rule.num_classes} tokens",
            f"give {rule.num_classes} classes, one for each token",
        )

    @property
    def num_classes(self) -> int:
        return self.classes.size

    def __repr__(self) -> str:
        return f"<{self.rule!r} on {len(self.positions)} of {self.length} positions>"

    @property
    def rows(self) -> int:
        return self.rule.rows

    @property
    def bound(self) -> BoolTensor:
        bound = torch.zeros(self.length, dtype=torch.bool, device=self.positions.device)
        # Without `other`, all positions of the rule are bound, even those it does not read.
        bound[self.positions] = self.rule.bound if self.rule.num_classes == self.num_classes else True
        return bound

    @cached_property
    def _slot(self) -> IntTensor:
        """(T) the position of the rule at each position of the answer, or its length where it has none."""
        slot = self.positions.new_full((self.length,), self.rule.length)
        slot[self.positions] = torch.arange(self.rule.length, device=slot.device)
        return slot

    def _read(self, answer: IntTensor) -> tuple[IntTensor, BoolTensor]:
        """(B, R) twice: the rule's tokens at its positions (0 for unknown tokens), and where the unknown ones are."""
        self.check_answer(answer)
        tokens = self.class_of(answer[:, self.positions])
        foreign = tokens >= self.rule.num_classes
        return tokens.masked_fill(foreign, 0), foreign

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        tokens, foreign = self._read(answer)
        return self.rule.is_satisfied(tokens) & ~foreign.any(-1)

    def violations(self, answer: IntTensor) -> BoolTensor:
        tokens, foreign = self._read(answer)
        blamed = self.rule.violations(tokens) & self.rule.violations(
            tokens.masked_fill(foreign, self.rule.num_classes - 1)
        )
        blame = torch.zeros_like(answer, dtype=torch.bool)
        blame[:, self.positions] = foreign | blamed
        return blame

    def explain(self, answer: IntTensor) -> list[list[str]]:
        tokens, foreign = self._read(answer)
        positions = self.positions.tolist()
        rule = self.rule.renamed(positions)
        pairs = zip(rule.explain(tokens), rule.explain(tokens.masked_fill(foreign, rule.num_classes - 1)), strict=True)
        sentences = [[sentence for sentence in one if sentence in other] for one, other in pairs]
        for row, at in foreign.nonzero().tolist():
            token = int(answer[row, positions[at]])
            sentences[row].append(f"position {positions[at] + 1} holds token {token}, which the rule does not know")
        return sentences

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        tokens, foreign = self._read(answer)
        known = known[:, self.positions]
        may = self.rule.allowed(tokens, known & ~foreign, slice(0, self.rule.length))
        may = self._with_other(may & ~(known & foreign)[..., None])
        elsewhere = may.new_ones(len(may), 1, self.num_classes)
        return torch.cat([may, elsewhere], 1)[:, self._slot[span]]

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        smaller = candidates.clone()
        sets = candidates[:, self.positions, : self.rule.num_classes]
        smaller[:, self.positions] = self._with_other(self.rule.propagate(sets))
        return smaller

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        best, classes = log_probs.max(-1)
        best[:, self.positions] = 0
        classes[:, self.positions], exists = self.rule.most_likely(
            log_probs[:, self.positions, : self.rule.num_classes]
        )
        return classes, exists & best.isfinite().all(-1)

    def refuted(self, candidates: BoolTensor, thorough: bool) -> bool:
        return self.rule.refuted(candidates[self.positions, : self.rule.num_classes], thorough)

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        at, classes = self.positions, slice(0, self.rule.num_classes)
        repaired, moves = self.rule.repair(
            draft[at].clamp(max=self.rule.num_classes - 1), candidates[at, classes], log_probs[at, classes]
        )
        return None if repaired is None else draft.index_copy(0, at, repaired), moves

    def lower(self, into: Lowering) -> None:
        if self.rule.num_classes < self.num_classes:
            into.all_of(~into.literals[np.asarray(self.positions), self.rule.num_classes])
        self.rule.lower(into.at(self.positions, self.rule.num_classes))

    def lower_opposite(self, into: Lowering) -> None:
        broken = into.new_literal()
        foreign = into.literals[np.asarray(self.positions), self.rule.num_classes :]
        into.clause([broken, *foreign.flatten().tolist()])
        self.rule.lower_opposite(into.at(self.positions, self.rule.num_classes).given(broken))

    @property
    def has_most_likely(self) -> bool:
        return self.rule.has_most_likely

    @property
    def strength(self) -> str:
        return self.rule.strength

    @property
    def reads_every_pass(self) -> bool:
        return self.rule.reads_every_pass

    def _with_other(self, sets: BoolTensor) -> BoolTensor:
        """(B, R, tokens of the rule) -> (B, R, A): never `other`, unless the rule has it."""
        return torch.nn.functional.pad(sets, (0, self.num_classes - self.rule.num_classes), value=False)

    def renamed(self, positions: Sequence[int]) -> On:
        return replace(self, rule=self.rule.renamed([positions[at] for at in self.positions.tolist()]))

    def select(self, rows: IntTensor) -> On:
        return self._changed({"rule": self.rule.select(rows)})

    @classmethod
    def stack(cls, constraints: Sequence[On]) -> On:
        rule = type(constraints[0].rule).stack([part.rule for part in constraints])
        return super().stack([part._changed({"rule": rule}) for part in constraints])

    def to(self, device: torch.device | str) -> On:
        return super().to(device)._changed({"rule": self.rule.to(device)})


Constraint.operators["on"] = On
