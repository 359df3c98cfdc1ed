"""Which of several rules are swept together: automata, counts and sums of an `All`.

A product of two rules rules out more than the two separately, but only where they share positions; and it costs the
product of their states at every position. So rules over the same positions (each pair shares at least half of the
smaller set) are joined as far as tables fit; rules that share less only where the product is tiny. The plan
depends on the rules alone, never on the rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.counter import Counter
from constrained_dg.constraints.machine import TABLE, Machine
from constrained_dg.constraints.product import Product
from constrained_dg.shapes import IntTensor

#: Table entries up to which a sum joins an automaton's table; larger sums are swept together with the table.
DENSE = 2**16
#: Table entries up to which rules are joined that share few positions.
LITTLE = 2**12

Positions = frozenset[int]


@dataclass(frozen=True, eq=False)
class SweepPlan:
    """How the parts of an `All` are swept, over its classes.

    Attributes:
        products: exact, except a `Product` with sums on a grid, which is sound.
        rest: the parts that are not swept, with the map from these classes to theirs (None: the same).
        counters: sums not covered by an exact product.
        others: the parts whose sums are not among `counters`.
    """

    products: list[Machine | Product]
    rest: list[tuple[Constraint, IntTensor | None]]
    counters: list[Counter]
    others: list[Constraint]

    @classmethod
    def of(cls, parts: Sequence[tuple[Constraint, IntTensor | None]], length: int, num_classes: int) -> SweepPlan:
        """The plan of rules, each with the map from these classes to those of the rule (None: the same)."""
        products: list[_Joined] = []
        sums: list[_Sum] = []
        rest, covered = [], []
        # 1. Automata are joined as far as tables go; sums wait.
        for part, coarser in parts:
            machine, counter = part.machine, part.counter
            machine = machine if machine is None or coarser is None else machine.over(coarser)
            if counter is not None:
                sums.append(_Sum(part, coarser, machine, counter if coarser is None else counter.over(coarser)))
            elif machine is None:
                rest.append((part, coarser))
            else:
                _join(products, machine, TABLE)
        # 2. Small sums join a table, or become one where no automaton shares their positions.
        left = [each for each in sums if each.machine is None or not _join(products, each.machine, DENSE, alone=False)]
        counters = []
        for group in _groups(left):
            # 3. Larger sums are swept together with a table, up to three at a time.
            partners = [at for at, product in enumerate(products) if product.shares_with(group)]
            still, uncovered = group, group
            if len(partners) < 2:
                base = products[partners[0]].table if partners else None
                base = base if isinstance(base, Machine) else Machine.anything(length, num_classes)
                fitted, taken = Product.fitting(base, [each.counter for each in group])
                if fitted is not None:
                    joined = _Joined(fitted, [each.positions for each in group])
                    if partners:
                        products[partners[0]] = joined
                    else:
                        products.append(joined)
                    still = [each for at, each in enumerate(group) if at not in taken]
                    uncovered = group if still or not fitted.exact else []
            # 4. If that leaves sums out or has a coarse grid, sweep them also without the table, on a finer grid.
            alike = [each for each in sums if all(_alike(each.positions, other.positions) for other in group)]
            if len(alike) > 1 and uncovered:
                fitted, _ = Product.fitting(Machine.anything(length, num_classes), [each.counter for each in alike])
                if fitted is not None:
                    products.append(_Joined(fitted, [each.positions for each in alike]))
            # 5. The remaining sums are swept separately.
            for each in still:
                if each.machine is None:
                    rest.append((each.part, each.coarser))
                else:
                    _join(products, each.machine, TABLE)
            counters += [each.counter for each in uncovered]
            covered += [each.part for each in uncovered]
        others = [part for part, _ in parts if all(part is not each for each in covered)]
        return cls([product.table for product in products], rest, counters, others)


@dataclass(frozen=True, eq=False)
class _Sum:
    """A part with a counter, over the classes of the plan."""

    part: Constraint
    coarser: IntTensor | None
    machine: Machine | None
    counter: Counter
    positions: Positions = field(init=False)

    def __post_init__(self) -> None:
        weights = self.counter.weights
        active = (weights != weights[:, :1]).any(-1).nonzero().flatten()
        object.__setattr__(self, "positions", frozenset(active.tolist()))


@dataclass
class _Joined:
    """A product, and the positions of each of its factors."""

    table: Machine | Product
    factors: list[Positions]

    def shares_with(self, group: Sequence[_Sum]) -> bool:
        return (
            isinstance(self.table, Machine)
            and self.table.entries <= TABLE
            and all(_alike(factor, each.positions) for factor in self.factors for each in group)
        )


def _alike(one: Positions, other: Positions) -> bool:
    """Whether they share at least half of the smaller."""
    return 2 * len(one & other) >= min(len(one), len(other))


def _groups(sums: Sequence[_Sum]) -> list[list[_Sum]]:
    """Groups of sums over the same positions, in the order in which they come."""
    groups: list[list[_Sum]] = []
    for each in sums:
        for group in groups:
            if all(_alike(each.positions, other.positions) for other in group):
                group.append(each)
                break
        else:
            groups.append([each])
    return groups


def _join(products: list[_Joined], machine: Machine, limit: int, alone: bool = True) -> bool:
    """Make a machine a factor of a product whose tables stay within the limit, or else, if it may, a product.

    Without `alone` it becomes one only where none of the products shares its positions.
    """
    positions = frozenset(machine.active.tolist())
    shares = False
    for at, product in enumerate(products):
        if not isinstance(product.table, Machine):
            continue
        alike = all(_alike(positions, factor) for factor in product.factors)
        shares = shares or alike
        little = any(positions & factor for factor in product.factors)
        room = limit if alike else min(limit, LITTLE) if little else 0
        table = product.table.with_(machine, room) if room else None
        if table is not None:
            product.table = table
            product.factors.append(positions)
            _merge(products, at)
            return True
    if alone or (not shares and machine.step.numel() <= limit):
        products.append(_Joined(machine, [positions]))
        return True
    return False


def _merge(products: list[_Joined], at: int) -> None:
    """Join a product that has grown with others that share positions, where the product is tiny."""
    grown = products[at]
    for other in [product for product in products if product is not grown]:
        if not isinstance(other.table, Machine) or not isinstance(grown.table, Machine):
            continue
        if any(one & two for one in grown.factors for two in other.factors):
            table = grown.table.with_(other.table, LITTLE)
            if table is not None:
                grown.table = table
                grown.factors += other.factors
                products.remove(other)
