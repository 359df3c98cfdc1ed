"""Several rules at once: `a & b`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Self

import numpy as np
import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.by_row import ByRow
from constrained_dg.constraints.candidates import candidates_of, likeliest_alone, without_dead_rows
from constrained_dg.constraints.counter import Counter
from constrained_dg.constraints.guarded import judged, lowered
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.machine import TABLE, Machine
from constrained_dg.constraints.pinned import Pinned
from constrained_dg.constraints.priced_proof import QUICK, THOROUGH, refuted
from constrained_dg.constraints.priced_repair import priced
from constrained_dg.constraints.product import Product
from constrained_dg.constraints.running import check_time
from constrained_dg.constraints.sweep_plan import SweepPlan
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.constraints.vocabulary import Vocabulary
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


@dataclass(frozen=True, eq=False, repr=False)
class Joined(Constraint):
    """Rules over the same answers, in common classes: the base of `All` and `logic.Either`.

    Where parts use different classes of tokens, this uses the coarsest classes that separate whatever one of them
    separates: a rule on 9 digits and 40 given tokens need about 50, for any vocabulary.

    Args:
        parts: rules of equal length and vocabulary; each has one row or the same number of rows. Parts of this class
            are replaced by their parts.
        classes: None to compute them. `select` keeps them, so that values by class for one row fit another.

    Raises:
        InputError: lengths, vocabularies or rows do not fit.
    """

    parts: Sequence[Constraint]
    classes: TokenClasses | None = None

    def __post_init__(self) -> None:
        check(len(self.parts) > 0, f"{type(self).__name__} got no constraint", "give one or more")
        odd = [part for part in self.parts if not isinstance(part, Constraint)]
        check(not odd, f"{type(self).__name__} got {odd}", "join rules with rules alone")
        flat = [leaf for part in self.parts for leaf in (part.parts if type(part) is type(self) else [part])]
        object.__setattr__(self, "parts", tuple(flat))
        for name, words in (("length", "length"), ("vocab_size", "vocabulary")):
            values = [getattr(part, name) for part in flat]
            check(len(set(values)) == 1, f"constraints of {words} {values} cannot be joined", f"make the {words} equal")
        rows = [part.rows for part in flat]
        check(len({*rows} - {1}) < 2, f"constraints of {rows} rows cannot be joined", "give each one row or equal rows")
        if self.classes is None and any(part.classes for part in flat):
            same = len({part.classes for part in flat}) == 1
            classes = flat[0].classes if same else TokenClasses.refining([part.partition() for part in flat])
            object.__setattr__(self, "classes", classes)

    def __repr__(self) -> str:
        name = f"{self.name!r}: " if self.name else ""
        return f"{type(self).__name__}({name}{', '.join(map(repr, self.parts))})"

    @property
    def length(self) -> int:
        return self.parts[0].length

    @property
    def num_classes(self) -> int:
        return self.parts[0].num_classes if self.classes is None else self.classes.size

    @property
    def rows(self) -> int:
        return max(part.rows for part in self.parts)

    @property
    def bound(self) -> BoolTensor:
        return torch.stack([part.bound for part in self.parts]).any(0)

    @property
    def reads_every_pass(self) -> bool:
        return any(part.reads_every_pass for part in self.parts)

    @cached_property
    def by_class(self) -> list[tuple[Constraint, IntTensor | None]]:
        """Each part with the map from these classes to those of the part, (A) int64; None where they are the same."""
        if self.classes is None:
            return [(part, None) for part in self.parts]
        parts = [part.in_classes(self.classes) for part in self.parts]
        return [(part, None if part.classes == self.classes else part.class_of(self.classes.first)) for part in parts]

    def partition(self) -> IntTensor:
        return TokenClasses.refining([part.partition() for part in self.parts]).table

    def in_classes(self, classes: TokenClasses) -> Self:
        return type(self)([part.in_classes(classes) for part in self.parts], classes)

    def renamed(self, positions: Sequence[int]) -> Self:
        return type(self)([part.renamed(positions) for part in self.parts], self.classes)

    def select(self, rows: IntTensor) -> Self:
        shared = self.rows > 1
        parts = [part if shared and part.rows == 1 else part.select(rows) for part in self.parts]
        return type(self)(parts, self.classes)._changed({"name": self.name} if self.name else {})

    @classmethod
    def stack(cls, constraints: Sequence[Constraint]) -> Constraint:
        """Rows of one layout; a `ByRow` where a part differs in more than its `per_row` tensors."""
        kinds = [[type(part) for part in constraint.parts] for constraint in constraints]
        check(all(kind == kinds[0] for kind in kinds), "cannot stack different rules", "keep one order of parts")
        columns = [type(column[0]).stack(column) for column in zip(*(c.parts for c in constraints), strict=True)]
        if not any(isinstance(column, ByRow) for column in columns):
            return cls(columns)
        rows = [
            constraint if constraint.rows == 1 else constraint.select(torch.tensor([row]))
            for constraint in constraints
            for row in range(constraint.rows)
        ]
        if len({row.classes for row in rows}) > 1:
            classes = TokenClasses.refining([part.partition() for row in rows for part in row.parts])
            rows = [cls(row.parts, classes) for row in rows]
        return ByRow(rows)

    def to(self, device: torch.device | str) -> Self:
        """`self` if it is there already: its sweep cache is expensive."""
        if self.is_on(device):
            return self
        moved = type(self)([part.to(device) for part in self.parts], self.classes and self.classes.to(device))
        return moved._changed({"name": self.name} if self.name else {})

    def views(self, into: Lowering) -> list[tuple[Lowering, Constraint]]:
        """Each part with what it writes to."""
        return [(into.merged(coarser, part.num_classes), part) for part, coarser in self.by_class]


class All(Joined):
    """Every part must hold. `allowed` is the intersection of the parts' sets; `propagate` repeats them to a fixed
    point.

    Parts that a `Machine` decides (automata, counts, sums) and that share positions are swept as one product, whose
    `allowed`, `propagate` and `most_likely` are exact, as long as its tables have at most `machine.TABLE` entries. Up
    to three sums and counts that no longer fit are swept together with the automata (`product`), exactly or,
    where that is too large or their weights are real numbers, on a grid: sound. Rules that do not fit, or share few
    positions with the others, are swept separately (`sweep_plan`). Pinned and permitted tokens are part of every sweep.
    """

    @cached_property
    def _plan(self) -> SweepPlan:
        return SweepPlan.of(self.by_class, self.length, self.num_classes)

    @property
    def strength(self) -> str:
        plan = self._plan
        exact = [product for product in plan.products if isinstance(product, Machine) or product.exact]
        sentences = [f"{part.strength} ({type(part).__name__})" for part, _ in plan.rest]
        if len(exact) == len(plan.products) == 1:
            sentences.append("the product of all automata, counts and sums: exact")
        elif exact:
            sentences.append(f"{len(exact)} products of automata, counts and sums, each exact")
        if len(exact) < len(plan.products):
            sentences.append("a product of automata, counts and sums on a grid: sound")
        return "; ".join(sentences)

    @cached_property
    def has_most_likely(self) -> bool:
        """True if all parts bind single positions or belong to exact products that share no position."""
        plan = self._plan
        positions = [at for product in plan.products for at in product.active.tolist()]
        return (
            all(isinstance(part, Pinned | Vocabulary) for part, _ in plan.rest)
            and all(isinstance(product, Machine) or product.exact for product in plan.products)
            and len(set(positions)) == len(positions)
        )

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        if not self.has_most_likely:
            return super().most_likely(log_probs)
        may = torch.ones_like(log_probs, dtype=torch.bool)
        for part, coarser in self._plan.rest:
            may = over_finer(part, coarser, may)
        classes, exists = likeliest_alone(log_probs, may)
        scores = log_probs.masked_fill(~may, -torch.inf)
        for product in self._plan.products:
            best = product.best(scores) if isinstance(product, Machine) else product.best_of_rows(scores)
            classes[:, product.active] = best[0][:, product.active]
            exists = exists & best[1]
        return classes, exists

    def lower(self, into: Lowering) -> None:
        for view, part in self.views(into):
            lowered(part, view)

    def lower_opposite(self, into: Lowering) -> None:
        into.any_holds([(view, part, False) for view, part in self.views(into)])

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return torch.stack([part.is_satisfied(answer) for part in self.parts]).all(0)

    def violations(self, answer: IntTensor) -> BoolTensor:
        return torch.stack([part.violations(answer) for part in self.parts]).any(0)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        return [
            [sentence for of_part in of_row for sentence in of_part]
            for of_row in zip(*(part.explain(answer) for part in self.parts), strict=True)
        ]

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        products = self._plan.products
        # A sweep reads the whole answer and uses what the other parts rule out outside the span.
        wide = slice(0, self.length) if products else span
        sets = [candidates_of(self.class_of(answer), known, self.num_classes)] if products else []
        for part, coarser in self._plan.rest:
            of_part = part.allowed(answer, known, wide)
            sets.append(of_part if coarser is None else of_part[..., coarser])
        may = reduce(torch.logical_and, sets)
        for product in products:
            may = product.shrink(may)
        return may[:, span] if products else may

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        products, size = self._plan.products, None
        # What each product left at its positions: it is swept again only where another rule has shrunk them.
        left: dict[int, BoolTensor] = {}
        while (new_size := int(candidates.sum())) != size:
            size = new_size
            for part, coarser in self._plan.rest:
                check_time()
                candidates = over_finer(part, coarser, candidates)
            for number, product in enumerate(products):
                check_time()
                if number not in left or not torch.equal(left[number], candidates[:, product.active]):
                    candidates = product.shrink(candidates)
                    left[number] = candidates[:, product.active]
        return without_dead_rows(candidates) if products else candidates

    def refuted(self, candidates: BoolTensor, thorough: bool) -> bool:
        """By prices on the sums (`priced_proof`): whatever the automata say, or else together with each of them."""
        if not self._all_counters:
            return False
        machines = [None, *self._automata] if thorough else [None]
        sweeps = THOROUGH if thorough else QUICK
        return any(refuted(each, self._all_counters, candidates.numpy(), sweeps) for each in machines)

    @cached_property
    def _all_counters(self) -> list[Counter]:
        parts = [(part.counter, coarser) for part, coarser in self.by_class]
        return [each if coarser is None else each.over(coarser) for each, coarser in parts if each is not None]

    @cached_property
    def _automata(self) -> list[Product]:
        """The automata that are not sums, each by itself."""
        parts = [(part.counter, part.machine, coarser) for part, coarser in self.by_class]
        return [
            Product(machine if coarser is None else machine.over(coarser), [])
            for counter, machine, coarser in parts
            if counter is None and machine is not None
        ]

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        """Repairs by the parts that use the same classes, in order, until one satisfies all rules; then, if no exact
        product has all sums, `priced_repair.priced`."""
        moves = 0
        # 1. The repairs of the parts.
        for part, coarser in self.by_class:
            repaired, more = (None, 0) if coarser is not None else part.repair(draft, candidates, log_probs)
            moves += more
            if repaired is not None and judged(self, self.tokens_of(repaired)[None]):
                return repaired, moves
        plan = self._plan
        if not plan.counters:
            return None, moves
        # 2. Prices on the sums outside the first product.
        first = plan.products[0] if plan.products else Machine.anything(self.length, self.num_classes)
        if isinstance(first, Machine) and first.entries > TABLE:
            first = Machine.anything(self.length, self.num_classes)
        product = first if isinstance(first, Product) else first.compiled or Product(first, [])
        if any(each.counter not in plan.counters for each in product.sums):
            product = Product(Machine.anything(self.length, self.num_classes), [])
        scores = log_probs.masked_fill(~candidates, -torch.inf).numpy()

        def hold(rules: Sequence[Constraint], classes: np.ndarray) -> np.ndarray:
            tokens = self.tokens_of(torch.from_numpy(classes))
            verdicts = [judged(rule, tokens).numpy() for rule in rules]
            return np.logical_and.reduce(verdicts) if verdicts else np.ones(len(classes), bool)

        repaired, more = priced(
            product, plan.counters, scores, lambda x: hold([self], x), lambda x: hold(plan.others, x)
        )
        return None if repaired is None else torch.from_numpy(repaired), moves + more


def over_finer(part: Constraint, coarser: IntTensor | None, candidates: BoolTensor) -> BoolTensor:
    """`part.propagate` on candidates of finer classes, each in class coarser[a] of the part; None: the same classes."""
    if coarser is None:
        return part.propagate(candidates)
    coarse = torch.zeros(*candidates.shape[:-1], part.num_classes, device=candidates.device)
    coarse = part.propagate(coarse.index_add_(-1, coarser, candidates.to(coarse.dtype)) > 0)
    return candidates & coarse[..., coarser]


Constraint.operators["and"] = All
