"""Answers that end early: after the first end token stands padding, and what is judged is the padded answer."""

from __future__ import annotations

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.lowering import FALSE, TRUE, Lowering
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Ends that `Ended.most_likely` tries at once.
_AT_ONCE = 32


def after_end(tokens: IntTensor, eos: tuple[int, ...]) -> tuple[BoolTensor, BoolTensor]:
    """(B, C) -> positions after the first EOS (B, C), and rows that have one (B)."""
    ends = _ends(tokens, eos)
    return (ends.cumsum(-1) - ends.long()) > 0, ends.any(-1)


def _ends(tokens: IntTensor, eos: tuple[int, ...]) -> BoolTensor:
    ends = torch.zeros_like(tokens, dtype=torch.bool)
    for token in eos:
        ends |= tokens == token
    return ends


class Ended(Constraint):
    """A rule of one row, judged on padded answers: for a search over answers that may end early.

    The search may choose a class of which all tokens are ends: then only padding may follow. In a class with ends and
    other tokens, one of the others is written (`reopened`), since the rule treats them alike and the answer then goes
    on.

    Args:
        rule: of one row.
        eos, pad: the tokens that end an answer, and the one that follows.
        answer: (T) int64, only the known tokens are read.
        known: (T) bool.
    """

    def __init__(self, rule: Constraint, eos: tuple[int, ...], pad: int, answer: IntTensor, known: BoolTensor) -> None:
        self.rule, self.eos, self.pad_token, self.known = rule, eos, pad, known
        self.length, self.num_classes, self.classes = rule.length, rule.num_classes, rule.classes
        tokens = torch.arange(rule.vocab_size)
        ends, classes = _ends(tokens, eos), rule.class_of(tokens)
        #: (A) classes whose tokens are all ends.
        self.ending = torch.ones(rule.num_classes, dtype=torch.bool).index_fill_(0, classes[~ends], False)
        #: (A) for each class its first token that does not end; the first of the class if all are ends.
        other = torch.full((rule.num_classes,), rule.vocab_size)
        other = other.scatter_reduce(0, classes[~ends], tokens[~ends], "amin")
        self.other = torch.where(self.ending, rule.tokens_of(torch.arange(rule.num_classes)), other)
        self.padding = torch.arange(rule.num_classes) == rule.class_of(torch.tensor(pad))
        self.free = ~known & rule.bound
        self.after_known_end = after_end(answer.masked_fill(~known, _no_end(eos)), eos)[0]

    @property
    def bound(self) -> BoolTensor:
        return self.rule.bound

    def padded(self, answer: IntTensor) -> IntTensor:
        """(B, T) with padding behind the first end; known tokens stay."""
        return answer.masked_fill(after_end(answer, self.eos)[0] & ~self.known, self.pad_token)

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return self.rule.is_satisfied(self.padded(answer))

    def reopened(self, draft: IntTensor, log_probs: FloatTensor, tokens: IntTensor) -> tuple[IntTensor, IntTensor]:
        """The draft (T) and the token to write for each class (T, A) without ends that the search could not move.

        Arguments as for `complete`.
        """
        tokens = torch.where(_ends(tokens, self.eos) & ~self.ending, self.other, tokens)
        last = int(self.free.nonzero().max()) if bool(self.free.any()) else 0
        classes = self.rule.class_of(draft)
        fixed = ~self.rule.bound | ~self.ending[classes]
        moved = _ends(draft, self.eos) & ~self.known & fixed & (torch.arange(self.length) < last)
        # Finite first: where the model rules out all that do not end, one of these is written all the same.
        likeliest = log_probs.clamp(min=-1e30).masked_fill(self.ending, -torch.inf).argmax(-1)
        classes = torch.where(self.ending[classes], likeliest, classes)
        return torch.where(moved, tokens.gather(-1, classes[:, None])[:, 0], draft), tokens

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        while True:
            candidates = self.rule.propagate(candidates)
            # 1. Behind an end that is certain, only padding.
            certain = ~(candidates & ~self.ending).any(-1) & self.free
            behind = ((certain.cumsum(-1) - certain.long()) > 0) | self.after_known_end
            smaller = candidates & (self.padding | ~(behind & self.free)[..., None])
            # 2. No end before a position that cannot be padding.
            needed = ~(smaller & self.padding).any(-1) & self.free
            later = needed.flip(-1).cumsum(-1).flip(-1) - needed.long() > 0
            smaller = smaller & ~((later & self.free)[..., None] & self.ending)
            if torch.equal(smaller, candidates):
                return candidates
            candidates = smaller

    @property
    def has_most_likely(self) -> bool:
        return self.rule.has_most_likely

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        """See `Constraint.most_likely`; of one row. If more than padding follows the end of the best answer, every end
        is tried."""
        best, exists = self.rule.most_likely(log_probs)
        if not bool(exists.all()) or self._fits(best[0]):
            return best, exists
        places = [at for at in self.free.nonzero().flatten().tolist() if bool(self.ending.any())]
        answers: list[tuple[float, IntTensor]] = []
        for some in torch.tensor([*places, self.length]).split(_AT_ONCE):
            at = torch.arange(self.length)
            before, behind = at < some[:, None], (at > some[:, None]) | self.after_known_end
            may = torch.where(before[..., None], ~self.ending, self.ending)
            may = torch.where(behind[..., None], self.padding, may) | ~self.free[:, None]
            scores = log_probs.masked_fill(~may, -torch.inf)
            classes, there = self.rule.most_likely(scores)
            totals = scores.gather(-1, classes[..., None])[..., 0].sum(-1)
            answers += [(float(totals[row]), classes[row]) for row in there.nonzero().flatten().tolist()]
        if not answers:
            return best, torch.zeros_like(exists)
        return max(answers, key=lambda each: each[0])[1][None], exists

    def _fits(self, classes: IntTensor) -> bool:
        """Whether the free positions behind the first end are padding: (T) classes."""
        ends = self.ending[classes] & self.free
        behind = ((ends.cumsum(-1) - ends.long()) > 0) | self.after_known_end
        return not bool((behind & self.free & ~self.padding[classes]).any())

    def lower(self, into: Lowering) -> None:
        """Only padding follows an end, and the rule judges the padded answer."""
        after = FALSE
        for at in range(self.length):
            if self.after_known_end[at]:
                after = TRUE
            if not self.free[at]:
                continue
            pads, ends = (into.any_of(at, each.nonzero().flatten()) for each in (self.padding, self.ending))
            into.clause([~after, pads])
            if ends != FALSE and after != TRUE:
                # True from the first end on: the solver may not say so without one.
                before, after = after, into.new_literal()
                into.clause([~before, after])
                into.clause([~ends, after])
                into.clause([~after, before, ends])
        self.rule.lower(into)

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        return self.rule.repair(draft, candidates, log_probs)


def _no_end(eos: tuple[int, ...]) -> int:
    """A number that is no end token."""
    return min(eos, default=0) - 1
