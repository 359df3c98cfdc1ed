"""Several rules at once: `a & b`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from constrained_dg.constraints.alphabet import Alphabet
from constrained_dg.constraints.base import Constraint, candidates_of, judged
from constrained_dg.constraints.layered import Machine
from constrained_dg.constraints.pinned import Pinned, likeliest_alone
from constrained_dg.constraints.vocabulary import Vocabulary
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor


@dataclass(frozen=True, eq=False)
class All(Constraint):
    """Every part must hold. `allowed` is the intersection of the parts' sets; `propagate` lets them work on each other.

    Parts that a `Machine` decides (automata, counts, sums) are swept as one product, whose `allowed`, `propagate` and
    `most_likely` are exact, as long as its tables have at most `layered.TABLE` entries; what no longer fits is swept
    apart. What pins or permits tokens position by position is part of every sweep.

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
    classes: Alphabet | None = None

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
            classes = flat[0].classes if same else Alphabet.refining([part.partition() for part in flat])
            object.__setattr__(self, "classes", classes)

    @property
    def length(self) -> int:
        return self.parts[0].length

    @property
    def alphabet(self) -> int:
        return self.parts[0].alphabet if self.classes is None else self.classes.size

    @property
    def rows(self) -> int:
        return max(part.rows for part in self.parts)

    @property
    def bound(self) -> BoolTensor:
        return torch.stack([part.bound for part in self.parts]).any(0)

    @cached_property
    def _told(self) -> list[tuple[Constraint, IntTensor | None]]:
        """Each part with the map from these classes to its own, (A) int64; None where they are the same."""
        if self.classes is None:
            return [(part, None) for part in self.parts]
        told = [part.in_classes(self.classes) for part in self.parts]
        return [(part, None if part.classes == self.classes else part.class_of(self.classes.first)) for part in told]

    @cached_property
    def _swept(self) -> tuple[list[Machine], list[tuple[Constraint, IntTensor | None]]]:
        """Products of machines over these classes, and the other parts."""
        products: list[Machine] = []
        rest = []
        for part, to_own in self._told:
            machine = getattr(part, "machine", None)
            if machine is None:
                rest.append((part, to_own))
                continue
            machine = machine if to_own is None else machine.told_in(to_own)
            for at, product in enumerate(products):
                if (joined := product.with_(machine)) is not None:
                    products[at] = joined
                    break
            else:
                products.append(machine)
        return products, rest

    @property
    def strength(self) -> str:
        products, rest = self._swept
        told = [f"{part.strength} ({type(part).__name__})" for part, _ in rest]
        told += ["the product of all automata, counts and sums: exact"] * (len(products) == 1)
        told += [f"{len(products)} products of automata, counts and sums, each exact"] * (len(products) > 1)
        return "; ".join(told)

    @property
    def has_most_likely(self) -> bool:
        products, rest = self._swept
        return len(products) < 2 and all(isinstance(part, Pinned | Vocabulary) for part, _ in rest)

    def most_likely(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        if not self.has_most_likely:
            return super().most_likely(log_probs)
        products, rest = self._swept
        may = torch.ones_like(log_probs, dtype=torch.bool)
        for part, to_own in rest:
            may = part.propagate(may) if to_own is None else _coarsely(part, to_own, may)
        return (
            products[0].best(log_probs.masked_fill(~may, -torch.inf)) if products else likeliest_alone(log_probs, may)
        )

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

    def allowed(self, answer: IntTensor, known: BoolTensor, window: slice) -> BoolTensor:
        products, rest = self._swept
        # A sweep reads the whole answer, and gains from what the other parts rule out outside the window.
        part_of = slice(0, self.length) if products else window
        may = candidates_of(self.class_of(answer), known, self.alphabet) if products else None
        for part, to_own in rest:
            own = part.allowed(answer, known, part_of)
            own = own if to_own is None else own[..., to_own]
            may = own if may is None else may & own
        for product in products:
            may = product.shrink(may)
        return may[:, window] if products else may

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        products, rest = self._swept
        size = None
        while (new_size := int(candidates.sum())) != size:
            size = new_size
            for part, to_own in rest:
                candidates = part.propagate(candidates) if to_own is None else _coarsely(part, to_own, candidates)
            for product in products:
                candidates = product.shrink(candidates)
        return candidates

    def repair(self, draft: IntTensor, candidates: BoolTensor, log_probs: FloatTensor) -> tuple[IntTensor | None, int]:
        """That of the parts which speak of these very classes, one after the other, until the rest agrees."""
        moves = 0
        for part, to_own in self._told:
            found, more = (None, 0) if to_own is not None else part.repair(draft, candidates, log_probs)
            moves += more
            if found is not None and judged(self, self.tokens_of(found)[None]):
                return found, moves
        return None, moves

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
        return All([part.to(device) for part in self.parts], self.classes and self.classes.to(device))


def _coarsely(part: Constraint, to_own: IntTensor, candidates: BoolTensor) -> BoolTensor:
    """`part.propagate` on candidates of finer classes: a class of the part is possible where one of its classes is."""
    own = torch.zeros(*candidates.shape[:-1], part.alphabet, device=candidates.device)
    own = part.propagate(own.index_add_(-1, to_own, candidates.to(own.dtype)) > 0)
    return candidates & own[..., to_own]
