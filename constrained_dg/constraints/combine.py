"""Several rules at once: `a & b`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from constrained_dg.constraints.base import Constraint, candidates_of, judged
from constrained_dg.constraints.pinned import Pinned, likeliest_alone
from constrained_dg.constraints.priced_repair import priced
from constrained_dg.constraints.product import Counted, Counter
from constrained_dg.constraints.running import check_time
from constrained_dg.constraints.sweep import TABLE, Machine
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.constraints.vocabulary import Vocabulary
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: States times effects up to which a sum becomes part of one transition table; beyond it is swept beside it.
_DENSE = 2**16


@dataclass(frozen=True, eq=False)
class Swept:
    """How the parts of an `All` are swept, over its classes.

    Attributes:
        products: each exact, but for a `Counted` with sums on a grid, which is sound.
        rest: the other parts, with the map from these classes to their own (None: the same).
        counters: the sums of which no exact product takes care.
        others: the parts that hold the other rules.
    """

    products: list[Machine | Counted]
    rest: list[tuple[Constraint, IntTensor | None]]
    counters: list[Counter]
    others: list[Constraint]


@dataclass(frozen=True, eq=False)
class All(Constraint):
    """Every part must hold. `allowed` is the intersection of the parts' sets; `propagate` lets them work on each other.

    Parts that a `Machine` decides (automata, counts, sums) are swept as one product, whose `allowed`, `propagate` and
    `most_likely` are exact, as long as its tables have at most `layered.TABLE` entries. Up to three sums and counts
    that no longer fit are swept beside the automata (`counted`), exactly or, where that is too large or their weights
    are real numbers, on a grid: sound. What fits nowhere is swept apart. What pins or permits tokens position by
    position is part of every sweep.

    Parts may speak of different classes of tokens. This then speaks of the coarsest classes that part whatever one of
    them parts: a rule on 9 digits and 40 given tokens need some 50, whatever the vocabulary.

    Args:
        parts: constraints of equal length and vocabulary; each has one row or the same number of rows. Parts that are
            `All` themselves are flattened.
        classes: None to work them out. They stay as they are where rows are selected, so that what was told by class
            for one row fits another.

    Raises:
        InputError: lengths, vocabularies or rows do not fit.
    """

    parts: Sequence[Constraint]
    classes: TokenClasses | None = None

    def __post_init__(self) -> None:
        check(len(self.parts) > 0, "All got no constraint", "give one or more")
        flat = [leaf for part in self.parts for leaf in (part.parts if isinstance(part, All) else [part])]
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
    def _told(self) -> list[tuple[Constraint, IntTensor | None]]:
        """Each part with the map from these classes to its own, (A) int64; None where they are the same."""
        if self.classes is None:
            return [(part, None) for part in self.parts]
        told = [part.in_classes(self.classes) for part in self.parts]
        return [(part, None if part.classes == self.classes else part.class_of(self.classes.first)) for part in told]

    @cached_property
    def _swept(self) -> Swept:
        """Products of machines over these classes, and the other parts."""
        products: list[Machine | Counted] = []
        sums, rest, left = [], [], []
        for part, to_own in self._told:
            machine, counter = getattr(part, "machine", None), getattr(part, "counter", None)
            machine = machine if machine is None or to_own is None else machine.told_in(to_own)
            if counter is not None and self.rows == 1:
                counter = counter if to_own is None else counter.told_in(to_own)
                sums.append((part, to_own, machine, counter))
            elif machine is None:
                rest.append((part, to_own))
            else:
                _join(products, machine, TABLE)
        for part, to_own, machine, counter in sums:
            if machine is None or not _join(products, machine, _DENSE, alone=False):
                left.append((part, to_own, machine, counter))
        counters = [counter for *_, counter in left]
        others = [part for part, _ in self._told if all(part is not own for own, *_ in left)]
        if left and len(products) < 2:
            base = products[0] if products else Machine.anything(self.length, self.num_classes)
            counted, taken = Counted.fitting(base, counters)
            if counted is not None:
                products = [counted]
                left = [each for at, each in enumerate(left) if at not in taken]
                counters = counters if left or not counted.exact else []
        if len(sums) > 1 and (left or counters):
            # Beside the automata there is no room for all sums, or for a coarse grid only: here is a fine one.
            together, _ = Counted.fitting(
                Machine.anything(self.length, self.num_classes), [counter for *_, counter in sums]
            )
            products += [] if together is None else [together]
        for part, to_own, machine, _ in left:
            if machine is None:
                rest.append((part, to_own))
            else:
                _join(products, machine, TABLE)
        return Swept(products, rest, counters, others)

    @property
    def strength(self) -> str:
        swept = self._swept
        exact = [product for product in swept.products if not isinstance(product, Counted) or product.exact]
        told = [f"{part.strength} ({type(part).__name__})" for part, _ in swept.rest]
        told += ["the product of all automata, counts and sums: exact"] * (len(exact) == len(swept.products) == 1)
        several = len(swept.products) > 1
        told += [f"{len(exact)} products of automata, counts and sums, each exact"] * (several and bool(exact))
        told += ["a product of automata, counts and sums on a grid: sound"] * (len(exact) < len(swept.products))
        return "; ".join(told)

    @property
    def has_most_likely(self) -> bool:
        swept = self._swept
        alone = len(swept.products) < 2 and all(isinstance(part, Pinned | Vocabulary) for part, _ in swept.rest)
        return alone and all(isinstance(product, Machine) or product.exact for product in swept.products)

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        if not self.has_most_likely:
            return super().most_likely(log_probs)
        swept = self._swept
        may = torch.ones_like(log_probs, dtype=torch.bool)
        for part, to_own in swept.rest:
            may = part.propagate(may) if to_own is None else _coarsely(part, to_own, may)
        if not swept.products:
            return likeliest_alone(log_probs, may)
        product, scores = swept.products[0], log_probs.masked_fill(~may, -torch.inf)
        if isinstance(product, Machine):
            return product.best(scores)
        found = [product.best(row) for row in scores.cpu().numpy()]
        classes = torch.from_numpy(np.stack([classes for classes, _ in found])).to(log_probs.device)
        return classes, torch.tensor([exists for _, exists in found], device=log_probs.device)

    def neighbours(self) -> BoolTensor:
        bound = [part.neighbours() for part in self.parts]
        joined = bound[0]
        for other in bound[1:]:
            joined = joined | other
        return joined

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
        products, rest = self._swept.products, self._swept.rest
        # A sweep reads the whole answer, and gains from what the other parts rule out outside the span.
        part_of = slice(0, self.length) if products else span
        may = candidates_of(self.class_of(answer), known, self.num_classes) if products else None
        for part, to_own in rest:
            own = part.allowed(answer, known, part_of)
            own = own if to_own is None else own[..., to_own]
            may = own if may is None else may & own
        for product in products:
            may = product.shrink(may)
        return may[:, span] if products else may

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        products, rest = self._swept.products, self._swept.rest
        size = None
        while (new_size := int(candidates.sum())) != size:
            size = new_size
            for part, to_own in rest:
                check_time()
                candidates = part.propagate(candidates) if to_own is None else _coarsely(part, to_own, candidates)
            for product in products:
                check_time()
                candidates = product.shrink(candidates)
        return candidates

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        """That of the parts which speak of these very classes, one after the other, until the rest agrees; then, where
        no exact product has all sums, `prices.priced`."""
        moves = 0
        for part, to_own in self._told:
            found, more = (None, 0) if to_own is not None else part.repair(draft, candidates, log_probs)
            moves += more
            if found is not None and judged(self, self.tokens_of(found)[None]):
                return found, moves
        swept = self._swept
        if not swept.counters:
            return None, moves
        product = swept.products[0] if swept.products else Machine.anything(self.length, self.num_classes)
        counted = product if isinstance(product, Counted) else product.counted or Counted(product, [])
        scores = log_probs.masked_fill(~candidates, -torch.inf).numpy()

        def holds(rules: Sequence[Constraint], classes: np.ndarray) -> np.ndarray:
            tokens = self.tokens_of(torch.from_numpy(classes))
            verdicts = [judged(rule, tokens).numpy() for rule in rules]
            return np.logical_and.reduce(verdicts) if verdicts else np.ones(len(classes), bool)

        own, more = priced(
            counted, swept.counters, scores, lambda x: holds([self], x), lambda x: holds(swept.others, x)
        )
        return None if own is None else torch.from_numpy(own), moves + more

    def renamed(self, positions: Sequence[int]) -> All:
        return All([part.renamed(positions) for part in self.parts], self.classes)

    def select(self, rows: IntTensor) -> All:
        shared = self.rows > 1
        return All([part if shared and part.rows == 1 else part.select(rows) for part in self.parts], self.classes)

    @classmethod
    def stack(cls, constraints: Sequence[All]) -> All:
        kinds = [[type(part) for part in constraint.parts] for constraint in constraints]
        check(all(kind == kinds[0] for kind in kinds), "cannot stack different rules", "keep one order of parts")
        return All([type(column[0]).stack(column) for column in zip(*(c.parts for c in constraints), strict=True)])

    def to(self, device: torch.device | str) -> All:
        """Itself where it is there already: what was worked out for sweeps is worth keeping."""
        if self.is_on(device):
            return self
        return All([part.to(device) for part in self.parts], self.classes and self.classes.to(device))


class ByRow(Constraint):
    """A constraint of its own for each row, of any kinds.

    Args:
        of_rows: constraints of one row, of equal length, vocabulary and classes.

    Raises:
        InputError: they differ in these, or one has several rows.
    """

    def __init__(self, of_rows: Sequence[Constraint]) -> None:
        check(len(of_rows) > 0, "ByRow got no constraint", "give one for each row")
        check(all(rule.rows == 1 for rule in of_rows), "ByRow got a constraint of several rows", "give one a row")
        first = of_rows[0]
        equal = {(rule.length, rule.num_classes, rule.classes) for rule in of_rows} == {
            (first.length, first.num_classes, first.classes)
        }
        check(equal, "constraints of other lengths, vocabularies or classes cannot be rows of one", "make them equal")
        self.of_rows = tuple(of_rows)
        self.length, self.num_classes, self.classes = first.length, first.num_classes, first.classes
        self.strength = "; ".join(dict.fromkeys(rule.strength for rule in of_rows))

    @property
    def rows(self) -> int:
        return len(self.of_rows)

    @property
    def bound(self) -> BoolTensor:
        return torch.stack([rule.bound for rule in self.of_rows]).any(0)

    def _each(self, method: str, *per_row: torch.Tensor, **shared: slice) -> list:
        """What each row's constraint makes of its own row, a batch of one; a single constraint serves any rows."""
        rules = self.of_rows if len(self.of_rows) > 1 else self.of_rows * len(per_row[0])
        rows = zip(rules, *(tensor.split(1) for tensor in per_row), strict=True)
        return [getattr(rule, method)(*own, **shared) for rule, *own in rows]

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return torch.cat(self._each("is_satisfied", answer))

    def violations(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return torch.cat(self._each("violations", answer))

    def explain(self, answer: IntTensor) -> list[list[str]]:
        self.check_answer(answer)
        return [told for [told] in self._each("explain", answer)]

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        self.check_answer(answer)
        return torch.cat(self._each("allowed", answer, known, span=span))

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return torch.cat(self._each("propagate", candidates))

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        return self.of_rows[0].repair(draft, candidates, log_probs)

    @property
    def has_most_likely(self) -> bool:
        return all(rule.has_most_likely for rule in self.of_rows)

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        if not self.has_most_likely:
            return super().most_likely(log_probs)
        classes, exists = zip(*self._each("most_likely", log_probs), strict=True)
        return torch.cat(classes), torch.cat(exists)

    def neighbours(self) -> BoolTensor:
        return torch.cat([rule.neighbours() for rule in self.of_rows])

    def select(self, rows: IntTensor) -> ByRow:
        return ByRow([self.of_rows[row] for row in rows.tolist()])

    @classmethod
    def stack(cls, constraints: Sequence[ByRow]) -> ByRow:
        return ByRow([rule for constraint in constraints for rule in constraint.of_rows])

    def to(self, device: torch.device | str) -> ByRow:
        return self if self.is_on(device) else ByRow([rule.to(device) for rule in self.of_rows])


def _join(products: list[Machine | Counted], machine: Machine, limit: int, alone: bool = True) -> bool:
    """Make a machine part of the first product whose tables stay within the limit, or else, if it may, a product."""
    for at, product in enumerate(products):
        if isinstance(product, Machine) and (joined := product.with_(machine, limit)) is not None:
            products[at] = joined
            return True
    if alone or (not products and machine.step.numel() <= limit):
        products.append(machine)
        return True
    return False


def _coarsely(part: Constraint, to_own: IntTensor, candidates: BoolTensor) -> BoolTensor:
    """`part.propagate` on candidates of finer classes: a class of the part is possible where one of its classes is."""
    own = torch.zeros(*candidates.shape[:-1], part.num_classes, device=candidates.device)
    own = part.propagate(own.index_add_(-1, to_own, candidates.to(own.dtype)) > 0)
    return candidates & own[..., to_own]
