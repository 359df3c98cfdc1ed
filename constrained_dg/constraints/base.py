"""The constraint protocol: a judge, blame, allowed tokens and propagation, batched over rows."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Self

import torch

from constrained_dg.constraints.candidates import candidates_of
from constrained_dg.constraints.counter import NO_BOUND, Counter
from constrained_dg.constraints.guarded import blamed
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.running import check_time
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return one == other


class Constraint(ABC):
    """A rule on whole answers, one row for each problem of a batch.

    Positions count over the whole answer (T), all canvases joined. A row of the constraint judges the same row of the
    answer; a constraint with `rows == 1` serves any B. Wrong shapes raise InputError (`check_answer`).

    An answer consists of tokens (V). `allowed` and `propagate` use classes of tokens (A). For most rules each token is
    one class and A = V; a rule on text (`on`) has far fewer classes. Replacing a token by another of its class changes
    no verdict, so `tokens_of` may write any token of a class.

    A subclass needs `length`, `num_classes` and `is_satisfied`. The other defaults are correct but rule out little.
    `check_constraint` tests a subclass. Rules are joined by `a & b`, `a | b`, `~a` and `a.implies(b)`.

    Attributes:
        length: T.
        num_classes: A.
        rows: B, or 1 where the rule is the same for every row.
        classes: the class of each token, or None where each token is one class.
        name: a name for people, such as "column 3"; see `named`.
        strength: how much `allowed` rules out, in one sentence.
        per_row: attributes with a first dimension of rows, which `select` and `stack` follow; all others are shared.
        machine: the automaton that decides the rule, if there is one; `a & b` sweeps machines together.
        counter: the sum that decides the rule, if there is one; `a & b` sweeps sums together with machines.
        parts: the rules that this one joins, if any.
        reads_every_pass: whether its judge is plain Python, so that a sampler waits for the device in every pass.
        blame_is_reason: whether every answer that agrees with a broken one wherever that is blamed is broken too.
    """

    length: int
    num_classes: int
    rows: int = 1
    classes: TokenClasses | None = None
    name: str = ""
    strength: str = "rules out only what the known tokens exclude"
    per_row: ClassVar[tuple[str, ...]] = ()
    machine: Machine | None = None
    counter: Counter | None = None
    parts: Sequence[Constraint] = ()
    reads_every_pass: bool = False
    blame_is_reason: bool = False
    #: What `&`, `|`, `~` and `on` return. The files that define it register it here, which avoids circular imports.
    operators: ClassVar[dict[str, Callable[..., Constraint]]] = {}

    def __init_subclass__(cls, **options: object) -> None:
        """Do not inherit `strength` where `allowed` or `propagate` is overridden."""
        super().__init_subclass__(**options)
        if {"allowed", "propagate"} & set(vars(cls)) and "strength" not in vars(cls):
            inherited = cls.strength
            if inherited == Constraint.strength:
                cls.strength = "as its class rules out: see `allowed` there"

    def __repr__(self) -> str:
        what = f" {self.name!r}" if self.name else ""
        rows = f", {self.rows} rows" if self.rows > 1 else ""
        return f"<{type(self).__name__}{what}: {self.length} positions, {self.num_classes} tokens{rows}>"

    @property
    def vocab_size(self) -> int:
        """V, the number of tokens."""
        return self.num_classes if self.classes is None else self.classes.vocab_size

    @property
    def bound(self) -> BoolTensor:
        """(T) True where the rule reads a position. Other positions change no verdict and are never blamed."""
        return torch.ones(self.length, dtype=torch.bool)

    def is_on(self, device: torch.device | str) -> bool:
        """Whether all its tensors, and those of its parts, are on the device."""
        for value in self._own().values():
            for each in value if isinstance(value, tuple | list) else [value]:
                if isinstance(each, Constraint):
                    there = each.is_on(device)
                elif isinstance(each, torch.Tensor | Machine | TokenClasses):
                    there = each.device == torch.device(device)
                else:
                    continue
                if not there:
                    return False
        return True

    def class_of(self, tokens: IntTensor) -> IntTensor:
        """The class of each token: (...) in [0, V) -> (...) in [0, A)."""
        return tokens if self.classes is None else self.classes.table[tokens]

    def of_tokens(self, by_class: torch.Tensor) -> torch.Tensor:
        """Values by class, copied to each token: (..., A) -> (..., V)."""
        return by_class if self.classes is None else by_class[..., self.classes.table]

    def tokens_of(self, classes: IntTensor, log_probs: FloatTensor | None = None) -> IntTensor:
        """A token of each class: (...) in [0, A) -> (...) in [0, V).

        The most likely one by log_probs (..., V) where given, else the first of the class.
        """
        if self.classes is None:
            return classes
        if log_probs is None:
            return self.classes.first[classes]
        return self.likeliest(log_probs)[1].gather(-1, classes[..., None])[..., 0]

    def likeliest(self, log_probs: FloatTensor) -> tuple[FloatTensor, IntTensor]:
        """Log-probabilities (..., V) by class: each class's highest, and the token that has it, both (..., A).

        `complete` needs no more, and this takes far less memory.
        """
        if self.classes is not None:
            return self.classes.likeliest(log_probs)
        return log_probs, torch.arange(self.num_classes, device=log_probs.device).expand(log_probs.shape)

    def partition(self) -> IntTensor:
        """(V) labels: the judge treats tokens with equal labels alike. Default: the classes."""
        return torch.arange(self.vocab_size) if self.classes is None else self.classes.table

    def in_classes(self, classes: TokenClasses) -> Constraint:
        """The rule over these coarser classes, which separate whatever `partition` separates; `self` if it has no
        such form."""
        return self

    def renamed(self, positions: Sequence[int]) -> Constraint:
        """A copy whose sentences call position k `positions[k]`; `self` if it has names for them."""
        return self

    def named(self, name: str) -> Self:
        """A copy of that name: used in its repr, and in sentences unless they have a better word."""
        return self._changed({"name": name})

    def check_answer(self, answer: IntTensor) -> None:
        """Raise InputError unless `answer` is (B, T) int64 with rows that match."""
        check(
            answer.dim() == 2 and answer.shape[1] == self.length and answer.dtype == torch.int64,
            f"{type(self).__name__} got an answer of shape {tuple(answer.shape)} and type {answer.dtype}",
            f"give (rows, {self.length}) of torch.int64",
        )
        check(
            self.rows in (1, answer.shape[0]),
            f"{type(self).__name__} of {self.rows} rows got an answer of {answer.shape[0]} rows",
            "select, stack or repeat it to the rows of the answer",
        )

    @abstractmethod
    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        """The judge: (B, T) -> (B). Only this decides what counts as solved."""

    def violations(self, answer: IntTensor) -> BoolTensor:
        """Blame: (B, T) -> (B, T), True where a position takes part in a broken rule.

        A row has no True exactly when it is satisfied. Default: every bound position.
        """
        return ~self.is_satisfied(answer)[:, None] & self.bound.to(answer.device)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        """For each row one sentence per broken rule, e.g. "row 3 holds 7 twice, at columns 2 and 8".

        Default: its name, or else the first line of its class's documentation.
        """
        lines = (type(self).__doc__ or type(self).__name__).strip().splitlines()
        broken = f"broken: {self.name or lines[0]}"
        return [[] if satisfied else [broken] for satisfied in self.is_satisfied(answer).tolist()]

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        """Classes that each position of the span may still hold: (B, T), (B, T) -> (B, C, A).

        Sound: every satisfying answer that agrees with `answer` wherever `known` is allowed at every position.
        Monotone: knowing more never allows more. Tokens at unknown positions are not read. Each class states its
        `strength`; default: known tokens stay, and other positions may hold anything.
        """
        self.check_answer(answer)
        return candidates_of(self.class_of(answer[:, span]), known[:, span], self.num_classes)

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        """The satisfying answer with the highest sum of log-probabilities, exactly, by dynamic programming.

        Args:
            log_probs: (B, T, A), -inf for classes that are not permitted.

        Returns:
            (B, T) int64 classes, and (B) bool, False in rows without any satisfying answer of finite log-probability
            (ignore their classes).

        Raises:
            InputError: `has_most_likely` is False.
        """
        raise InputError(f"{type(self).__name__} has no exact most_likely", "use complete, a bounded search")

    @property
    def has_most_likely(self) -> bool:
        """Whether `most_likely` can be called."""
        return False

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        """Shrink candidate sets (B, T, A) to a fixed point, for search. Sound; never grows a set.

        Default: `allowed`, taking positions with one candidate as known, until nothing changes.
        """
        while True:
            check_time()
            known = candidates.sum(-1) == 1
            answer = self.tokens_of(candidates.to(torch.uint8).argmax(-1))
            smaller = candidates & self.allowed(answer, known, slice(0, self.length))
            if torch.equal(smaller, candidates):
                return candidates
            candidates = smaller

    def lower(self, into: Lowering) -> None:
        """Write the rule, of one row, into the model of a constraint solver: what every satisfying answer fulfils.

        A rule that cannot write all of itself calls `into.defer(self)`, so that its judge is asked as well. Statements
        must hold for `into` alone: views, conditions and the other rules are the model's affair.

        Default: its machine or its counter, if that decides it; else its judge.
        """
        if self.counter is not None:
            if not into.counter(self.counter):
                into.defer(self)
        elif self.machine is not None:
            into.machine(self.machine)
        else:
            into.defer(self)

    def lower_opposite(self, into: Lowering) -> None:
        """Write that the rule does not hold; `lower` of `~rule`.

        Default: as `lower`, by the machine or the counter; else by the judge.
        """
        if self.counter is not None and self.counter.decides:
            low, high = into.new_literal(), into.new_literal()
            into.clause([low, high])
            below = into.given(low).counter(replace(self.counter, low=-NO_BOUND, high=self.counter.low - 1))
            above = into.given(high).counter(replace(self.counter, low=self.counter.high + 1, high=NO_BOUND))
            if not (below and above):
                into.defer(~self)
        elif self.machine is not None:
            into.machine(self.machine.complement())
        else:
            into.defer(~self)

    def cut(self, answer: IntTensor, into: Lowering) -> None:
        """Write what a refused proposal teaches: it must exclude this answer (T), and no satisfying one.

        Called for rules that `lower` defers. Default: not these classes at the blamed positions if blame is a reason,
        else not at the bound positions.
        """
        reason = self.bound
        if self.blame_is_reason:
            blame = blamed(self, answer[None])[0]
            reason = blame if bool(blame.any()) else reason
        at = reason.nonzero().flatten()
        into.forbid(zip(at.tolist(), self.class_of(answer[at]).tolist(), strict=True))

    def normal_form(self, into: Lowering) -> None:
        """Write what holds of at least one answer in each class of answers that the rule does not tell apart.

        Called where any answer will do, no position is known, and this is the only rule: then what it excludes changes
        no verdict. Default: nothing.
        """
        return

    def refuted(self, candidates: BoolTensor, thorough: bool) -> bool:
        """Whether a proof of the rule's own shows that no answer satisfies it. One row.

        Default: none.

        Args:
            candidates: (T, A) bool, what `propagate` left at each position.
            thorough: whether it may cost as much as a repair; `complete` asks so only where `repair` fails.
        """
        return False

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        """A local search or projection that `complete` tries before it branches. One row.

        Default: none.

        Args:
            draft: (T) int64 classes, from the denoising passes.
            candidates: (T, A) bool, what `propagate` left at each position.
            log_probs: (T, A) of the model; equal where there is none.

        Returns:
            (T) classes among the candidates, or None; and the number of moves, which count as nodes. The judge still
            checks the answer.
        """
        return None, 0

    def select(self, rows: IntTensor) -> Self:
        """The constraint of these rows (N) int64, in this order; rows may repeat.

        Default: select in the tensors of `per_row`.
        """
        check(
            bool(self.per_row) or self.rows == 1,
            f"{type(self).__name__} of {self.rows} rows cannot select some",
            "name the tensors that have rows in per_row, or write select",
        )
        return self._changed({name: getattr(self, name)[rows] for name in self.per_row})

    @classmethod
    def stack(cls, constraints: Sequence[Self]) -> Self:
        """Join constraints along the rows; they may differ only in the tensors of `per_row`.

        Raises:
            InputError: they differ in something else.
        """
        first, *others = (
            {"length": constraint.length} | {k: v for k, v in constraint._own().items() if not callable(v)}
            for constraint in constraints
        )
        for other in others:
            odd = [name for name in first if name not in cls.per_row and not _equal(first[name], other.get(name))]
            check(not odd, f"cannot stack rules of different {', '.join(odd)}", "stack rows of one layout only")
        joined = {name: torch.cat([getattr(c, name) for c in constraints]) for name in cls.per_row}
        return constraints[0]._changed(joined)

    def to(self, device: torch.device | str) -> Self:
        """The same constraint with its tensors on a device."""
        moved = {name: v.to(device) for name, v in self._own().items() if isinstance(v, torch.Tensor | TokenClasses)}
        return self._changed(moved)

    def _own(self) -> dict[str, object]:
        """Its attributes without cached values (`cached_property`)."""
        cached = {
            name for kind in type(self).__mro__ for name, v in vars(kind).items() if isinstance(v, cached_property)
        }
        return {name: value for name, value in vars(self).items() if name not in cached}

    def _changed(self, values: Mapping[str, object]) -> Self:
        """A copy with other values; cached values are dropped."""
        if not values:
            return self
        changed = copy.copy(self)
        changed.__dict__.clear()
        changed.__dict__.update({**self._own(), **values})
        return changed

    def repeat(self, times: int) -> Self:
        """Each row `times` times, neighbours together: rows (0, 0, ..., 1, 1, ...)."""
        return self.select(torch.arange(self.rows).repeat_interleave(times))

    def on(self, positions: IntTensor, classes: TokenClasses, length: int) -> Constraint:
        """The same rule on a part of a longer answer, such as the cells of a puzzle within a text.

        Args:
            positions: int64, the position of the answer for each position of this rule, in order.
            classes: class k is token k of this rule. If the rule has one token more, that is `other`; else no position
                of the rule may hold `other`.
            length: T of the whole answer, in tokens of the classes' vocabulary. Other positions may hold anything.

        Raises:
            InputError: positions or classes do not fit, or this rule already uses classes.
        """
        return self.operators["on"](self, positions, classes, length)

    def __and__(self, other: Constraint) -> Constraint:
        return self.operators["and"]([self, other])

    def __or__(self, other: Constraint) -> Constraint:
        return self.operators["or"]([self, other])

    def __invert__(self) -> Constraint:
        return self.operators["not"](self)

    def implies(self, other: Constraint) -> Constraint:
        """Where this rule holds, the other must hold too: `~self | other`."""
        return ~self | other
