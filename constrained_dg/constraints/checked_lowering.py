"""Tests of what a rule writes for a constraint solver, and of its own proofs, against answers that its judge knows."""

from __future__ import annotations

import torch

from constrained_dg.constraints import cpsat
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.candidates import one_hot
from constrained_dg.constraints.checked_calls import called
from constrained_dg.constraints.lowering import Lowering, Model
from constrained_dg.errors import check
from constrained_dg.shapes import IntTensor

#: Literals of a model up to which it is tested, and entries of all models that one test may hand to the solver.
_LITERALS, _ENTRIES = 2**14, 2**19


def check_lowering(
    rule: Constraint, good: IntTensor, bad: IntTensor, every: bool, examples: int, draws: torch.Generator
) -> None:
    """What the rule writes agrees with its judge.

    Args:
        rule: of one row.
        good, bad: (N, T) answers that satisfy it, and that do not.
        every: whether these are all answers.
        examples: answers of each kind that are tried one by one, at most.

    Raises:
        InputError: a method writes something that an answer contradicts; the message names both.
    """
    if rule.length * rule.num_classes > _LITERALS:
        return
    methods = [("lower", good, bad)]
    if _own(rule, "lower_opposite"):
        methods.append(("lower_opposite", bad, good))
    for method, kept, excluded in methods:
        root = _root(rule)
        called(rule, method, root)
        _keeps(rule, method, root, _few(kept, root, examples, draws))
        if not root.model.deferred:
            _excludes(rule, method, root, _few(excluded, root, examples, draws), kept if every else None)
    if _own(rule, "cut") or rule.blame_is_reason:
        root = _root(rule)
        for answer in _few(bad, root, examples, draws):
            called(rule, "cut", answer, root)
        _keeps(rule, "cut", root, _few(good, root, examples, draws))
    if _own(rule, "normal_form") and every and len(good):
        root = _root(rule)
        called(rule, "normal_form", root)
        some = any(_possible(rule, root, answer) for answer in good)
        check(
            some, "normal_form is unsound: no answer that satisfies has that form", "write what one of each class has"
        )
    if _own(rule, "refuted"):
        for answer in _few(good, _root(rule), examples, draws):
            candidates = one_hot(rule.class_of(answer), rule.num_classes)
            candidates |= torch.rand(candidates.shape, generator=draws) < torch.rand(1, generator=draws)
            for thorough in (False, True):
                check(
                    not called(rule, "refuted", candidates, thorough),
                    f"refuted is unsound: {answer.tolist()} satisfies and lies within the candidates",
                    "return True only with a proof",
                )


def _own(rule: Constraint, method: str) -> bool:
    return getattr(type(rule), method) is not getattr(Constraint, method)


def _root(rule: Constraint) -> Lowering:
    return Model().root(torch.ones(rule.length, rule.num_classes, dtype=torch.bool))


def _few(answers: IntTensor, root: Lowering, examples: int, draws: torch.Generator) -> IntTensor:
    count = min(examples, max(4, _ENTRIES // (root.model.entries + root.literals.size)))
    return answers[torch.randperm(len(answers), generator=draws)[:count]]


def _possible(rule: Constraint, root: Lowering, answer: IntTensor) -> bool:
    """Whether what is written admits the answer (T), as far as the solver can tell."""
    mark = root.model.mark()
    root.all_of(root.literals[range(rule.length), rule.class_of(answer).numpy()])
    outcome = cpsat.solve(root.model, {}, {}, budget=10)
    root.model.reset(mark)
    return outcome.values is not None or not outcome.proved


def _keeps(rule: Constraint, method: str, root: Lowering, answers: IntTensor) -> None:
    verdict = "does not satisfy" if method == "lower_opposite" else "satisfies"
    for answer in answers:
        check(
            _possible(rule, root, answer),
            f"{method} is unsound: {answer.tolist()} {verdict}, and what it writes excludes it",
            "write only what every such answer fulfils",
        )


def _excludes(rule: Constraint, method: str, root: Lowering, answers: IntTensor, others: IntTensor | None) -> None:
    """No answer but the others is possible; where these are not known, none of the given answers is."""
    if others is not None:
        for answer in others:
            root.forbid(enumerate(rule.class_of(answer).tolist()))
        outcome = cpsat.solve(root.model, {}, {}, budget=10)
        if outcome.values is None:
            return
        held = [[cpsat.value_of(outcome.values, each) for each in row] for row in root.literals.tolist()]
        answers = rule.tokens_of(torch.tensor(held).argmax(-1))[None]
    verdict = "satisfies" if method == "lower_opposite" else "does not satisfy"
    for answer in answers:
        check(
            others is None and not _possible(rule, root, answer),
            f"{method} is incomplete: {answer.tolist()} {verdict}, and what it writes does not exclude it",
            "write all of it, or call into.defer",
        )
