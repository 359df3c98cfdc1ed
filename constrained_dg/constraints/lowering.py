"""How a rule writes itself into a model of a constraint solver: literals, and statements about them.

A model has one Boolean variable for each position and class. A literal is an integer, as in CP-SAT (OR-Tools): variable
number `x`, or its opposite `~x`. Variable 0 is always true, so that 0 is `TRUE` and ~0 is `FALSE`.

A rule gets a `Lowering`: the literals of its own positions and classes, and methods that state something about them.
Statements made under a condition (`given`) bind only where the condition holds, so that rules join by "or" without
knowing of it. Nothing here imports the solver; see `solver`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import TYPE_CHECKING

import numpy as np
import torch

from constrained_dg.constraints.counter import NO_BOUND, Counter, Gridded
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.running import check_time
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, IntTensor

if TYPE_CHECKING:
    from constrained_dg.constraints.base import Constraint

TRUE, FALSE = 0, ~0
#: Literals in all statements of a model together, beyond which it is not built.
MOST_ENTRIES = 2**23
#: The largest sum that a statement may count to; real weights are put on a grid to stay below.
LARGEST_SUM = 2**52


class ModelError(Exception):
    """A model that cannot be solved: too large to build, or not valid."""


@dataclass(frozen=True)
class Statement:
    """One constraint of a model.

    Attributes:
        kind: "clause" (at least one literal), "at_most_one", "exactly_one", "linear" (the sum of weights times
            variables lies between low and high) or "circuit" (the true arcs form one cycle; nodes with a true arc to
            themselves are left out).
        literals: of the clause, or the variables of a sum, or one for each arc.
        weights: of a sum; or the tails and then the heads of arcs.
        low, high: of a sum, both inclusive.
        conditions: literals; the statement binds where all of them hold.
    """

    kind: str
    literals: list[int]
    weights: list[int] = field(default_factory=list)
    low: int = -NO_BOUND
    high: int = NO_BOUND
    conditions: tuple[int, ...] = ()


@dataclass
class Model:
    """Variables and statements about one row of an answer.

    Attributes:
        domains: (low, high) of each variable; literals have (0, 1).
        statements: the constraints.
        deferred: rules, each with its view, that are not or not wholly written: their judges decide on proposals.
        entries: literals in all statements.
    """

    domains: list[tuple[int, int]] = field(default_factory=lambda: [(1, 1)])
    statements: list[Statement] = field(default_factory=list)
    deferred: list[tuple[Constraint, Lowering]] = field(default_factory=list)
    entries: int = 0
    #: Literals that already say "one of these": sorted literals -> literal.
    unions: dict[tuple[int, ...], int] = field(default_factory=dict)

    def new(self, low: int = 0, high: int = 1) -> int:
        self.domains.append((low, high))
        return len(self.domains) - 1

    def mark(self) -> tuple[int, int, int, int]:
        """The state that `reset` goes back to."""
        return len(self.domains), len(self.statements), len(self.deferred), self.entries

    def reset(self, mark: tuple[int, int, int, int]) -> None:
        """Forget what was written since."""
        domains, statements, deferred, self.entries = mark
        del self.domains[domains:], self.statements[statements:], self.deferred[deferred:]
        self.unions = {key: each for key, each in self.unions.items() if max(each, ~each) < domains}

    def add(self, statement: Statement) -> None:
        self.entries += len(statement.literals) + 1
        if self.entries > MOST_ENTRIES:
            raise ModelError(
                f"a model of {len(self.domains)} variables and over {MOST_ENTRIES} literals is too large to build"
            )
        check_time()
        least, most, count = min(statement.literals, default=0), max(statement.literals, default=0), len(self.domains)
        check(-count <= least <= most < count, f"literals from {least} to {most}", f"there are {count} variables")
        self.statements.append(statement)

    def root(self, candidates: BoolTensor) -> Lowering:
        """A literal for each position and class of these candidates (T, A); other classes are `FALSE`."""
        literals = np.full(tuple(candidates.shape), FALSE, np.int64)
        for at, may in enumerate(candidates.numpy()):
            classes = np.flatnonzero(may)
            if len(classes) == 1:
                literals[at, classes] = TRUE
            elif len(classes) == 2:
                one = self.new()
                literals[at, classes] = one, ~one
            else:
                first = len(self.domains)
                self.domains += [(0, 1)] * len(classes)
                literals[at, classes] = range(first, first + len(classes))
                names = list(range(first, first + len(classes)))
                self.add(Statement("exactly_one" if names else "clause", names))
                self.unions[tuple(names)] = TRUE
        return Lowering(self, literals)


@dataclass(frozen=True)
class Lowering:
    """What a rule writes to: its positions and classes as literals of a model.

    Attributes:
        model: the statements of all rules.
        literals: (T, A) int64, true where the position holds the class; `FALSE` where it cannot. At most one of a
            position is true.
        conditions: literals; what is stated here binds where all of them hold.
    """

    model: Model
    literals: np.ndarray
    conditions: tuple[int, ...] = ()

    # -- views ---------------------------------------------------------------------------------------------------------

    def given(self, *conditions: int) -> Lowering:
        """The same literals; statements bind only where these literals also hold."""
        return replace(self, conditions=(*self.conditions, *(each for each in conditions if each != TRUE)))

    def at(self, positions: IntTensor | Sequence[int], classes: int | None = None) -> Lowering:
        """These positions, in this order, and the first `classes` classes."""
        return replace(self, literals=self.literals[np.asarray(positions), :classes])

    def merged(self, coarser: IntTensor | None, classes: int) -> Lowering:
        """Over coarser classes: class a here is class coarser[a] there; None: the same classes."""
        if coarser is None:
            return self
        table = np.asarray(coarser)
        members = [np.flatnonzero(table == each) for each in range(classes)]
        literals = [[self.any_of(at, each) for each in members] for at in range(len(self.literals))]
        return replace(self, literals=np.array(literals, np.int64).reshape(len(self.literals), classes))

    # -- variables -----------------------------------------------------------------------------------------------------

    def new_literal(self) -> int:
        return self.model.new()

    def new_integer(self, low: int, high: int) -> int:
        """An integer variable; only `linear` takes it."""
        low, high = index(low), index(high)
        check(-NO_BOUND <= low <= high <= NO_BOUND, f"an integer from {low} to {high}", "give low <= high within 2**62")
        return self.model.new(low, high)

    def any_of(self, position: int, classes: Iterable[int] | np.ndarray) -> int:
        """A literal that is true where the position holds one of these classes."""
        return self.union(self.literals[position, _listed(classes)])

    def union(self, literals: Iterable[int] | np.ndarray) -> int:
        """A literal that is true where one of these is, of which never two are."""
        some = sorted(set(_listed(literals)) - {FALSE})
        if not some or TRUE in some:
            return TRUE if some else FALSE
        if len(some) == 1:
            return some[0]
        key = tuple(some)
        if key not in self.model.unions:
            if len(some) == 2 and some[0] == ~some[1]:
                return TRUE
            self.model.unions[key] = one = self.model.new()
            self.model.add(Statement("exactly_one", [~one, *some]))
        return self.model.unions[key]

    def integer(self, position: int, values: Sequence[int]) -> int:
        """An integer variable: values[a] where the position holds class a."""
        may = np.flatnonzero(self.literals[position] != FALSE)
        some = [int(values[at]) for at in may.tolist()]
        variable = self.model.new(min([*some, 0]), max([*some, 0]))
        literals = [*self.literals[position, may].tolist(), variable]
        replace(self, conditions=()).linear([*some, -1], literals, 0, 0)
        return variable

    # -- statements ----------------------------------------------------------------------------------------------------

    def clause(self, literals: Iterable[int] | np.ndarray) -> None:
        """At least one of these literals holds."""
        some = {*_listed(literals), *(~each for each in self.conditions)} - {FALSE}
        if TRUE not in some and not any(~each in some for each in some):
            self.model.add(Statement("clause", sorted(some)))

    def all_of(self, literals: Iterable[int] | np.ndarray) -> None:
        """Each of these literals holds."""
        for each in dict.fromkeys(_listed(literals)):
            self.clause([each])

    def forbid(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Not every one of these positions holds its class: pairs (position, class)."""
        self.clause([~int(self.literals[pair]) for pair in pairs])

    def at_most_one(self, literals: Iterable[int] | np.ndarray) -> None:
        self._one_of(literals, "at_most_one", -NO_BOUND)

    def exactly_one(self, literals: Iterable[int] | np.ndarray) -> None:
        some = [each for each in _listed(literals) if each != FALSE]
        if not some or (len(some) == 1 and some[0] != TRUE):
            self.clause(some)
        else:
            self._one_of(some, "exactly_one", 1)

    def _one_of(self, literals: Iterable[int] | np.ndarray, kind: str, low: int) -> None:
        some = [each for each in _listed(literals) if each != FALSE]
        if TRUE in some:
            some.remove(TRUE)
            self.all_of([~each for each in some])
        elif self.conditions and len(some) > 1:
            self.linear([1] * len(some), some, low, 1)
        elif len(some) > 1:
            self.model.add(Statement(kind, some))

    def linear(
        self,
        weights: Iterable[int] | np.ndarray,
        literals: Iterable[int] | np.ndarray,
        low: int = -NO_BOUND,
        high: int = NO_BOUND,
    ) -> None:
        """The sum of weights times literals (1 where true) or integer variables lies between low and high.

        Raises:
            InputError: the sum can exceed 2**62.
            TypeError: a number that is not whole.
        """
        low, high = index(low), index(high)
        total: dict[int, int] = {}
        fixed = 0
        for weight, literal in zip(_listed(weights), _listed(literals), strict=True):
            if literal == TRUE:
                fixed += weight
            elif literal >= 0:
                total[literal] = total.get(literal, 0) + weight
            elif literal != FALSE:  # weight * (1 - x)
                fixed += weight
                total[~literal] = total.get(~literal, 0) - weight
        terms = {variable: weight for variable, weight in total.items() if weight}
        domains = self.model.domains
        least = sum(min(w * domains[v][0], w * domains[v][1]) for v, w in terms.items())
        most = sum(max(w * domains[v][0], w * domains[v][1]) for v, w in terms.items())
        reach = sum(abs(w) * max(map(abs, domains[v])) for v, w in terms.items())
        check(reach < NO_BOUND, f"a sum of a model can reach {reach}", "divide its weights by a common factor")
        low, high = max(low - fixed, least), min(high - fixed, most)
        if low > high:
            self.clause([])
        elif low > least or high < most:
            self.model.add(Statement("linear", list(terms), list(terms.values()), low, high, tuple(self.conditions)))

    def circuit(self, arcs: Iterable[tuple[int, int, int]]) -> None:
        """The true arcs (tail, head, literal) form one cycle through all nodes; a node with a true arc to itself is
        left out. Nodes are integers of 0 or more."""
        arcs = [(index(tail), index(head), index(literal)) for tail, head, literal in arcs if literal != FALSE]
        check(all(min(arc[:2]) >= 0 for arc in arcs), "a node of a circuit is below 0", "give integers of 0 or more")
        tails, heads, literals = (list(column) for column in zip(*arcs, strict=True)) if arcs else ([], [], [])
        if self.conditions:
            # Where the condition fails, every node is left out. The arcs that count hold where both do.
            holds = self._all(self.conditions)
            outside = {node: [~holds] for node in sorted({*tails, *heads})}
            arcs = []
            for tail, head, each in zip(tails, heads, literals, strict=True):
                both = self._all([holds, each])
                arcs.append((tail, head, both)) if tail != head else outside[tail].append(both)
            arcs += [(node, node, self.union(loops)) for node, loops in outside.items()]
            tails, heads, literals = (list(column) for column in zip(*arcs, strict=True))
        self.model.add(Statement("circuit", literals, [*tails, *heads]))

    def _all(self, literals: Iterable[int]) -> int:
        """A literal that is true where all of these are."""
        some = sorted(set(_listed(literals)) - {TRUE})
        if len(some) < 2:
            return some[0] if some else TRUE
        one, free = self.model.new(), replace(self, conditions=())
        free.clause([one, *(~each for each in some)])
        for each in some:
            free.clause([~one, each])
        return one

    def counter(self, counter: Counter) -> bool:
        """A sum of weights lies between its bounds; whether this says all: else a judge must decide.

        Sums that can exceed `LARGEST_SUM` are counted on a grid, between bounds widened by what rounding can do.
        """
        grain = counter.divisor
        gridded = Gridded.of(counter, grain)
        while int(gridded.steps.max(1).sum(dtype=object)) > LARGEST_SUM:
            grain *= 2
            gridded = Gridded.of(counter, grain)
        low, high = gridded.widened
        steps = np.where(self.literals == FALSE, 0, gridded.steps)
        some = steps != 0
        # Every position holds exactly one class where the rule holds at all, so that classes of 0 steps need no term.
        self.linear(steps[some], self.literals[some], low, high)
        return gridded.exact

    def machine(self, machine: Machine) -> None:
        """The classes, read from the first position to the last, are accepted by the machine.

        One literal for each position and state, and one for each step from a state: a layered graph, of which only
        what lies on some accepted path is written.
        """
        active, states = machine.active.tolist(), machine.states
        steps, kinds = machine.step.numpy(), machine.kind.tolist()
        # 1. Effects that the candidates can have, each a literal.
        effects: list[dict[int, int]] = []
        for at in active:
            effect = machine.effect[kinds[at]].numpy()
            may = np.flatnonzero(self.literals[at] != FALSE)
            by_effect = {int(each): may[effect[may] == each] for each in np.unique(effect[may])}
            effects.append({each: self.any_of(at, classes) for each, classes in by_effect.items()})
        # 2. From behind: the states from which an accepted end can be reached.
        alive = [machine.accepting.numpy()]
        for k, at in reversed(list(enumerate(active))):
            after = np.append(alive[-1], False)[steps[kinds[at]][:, list(effects[k])]]
            alive.append(after.any(1))
        alive.reverse()
        # 3. From the front, layer by layer.
        holds = {machine.start: TRUE} if alive[0][machine.start] else {}
        if not holds:
            self.clause([])
            return
        for k, at in enumerate(active):
            step = steps[kinds[at]]
            taken: dict[tuple[int, int], int] = {}
            for state in holds:
                for effect in effects[k]:
                    to = int(step[state, effect])
                    if to < states and alive[k + 1][to]:
                        taken[state, effect] = FALSE
            for state, effect in taken:
                taken[state, effect] = self._step(holds, effects[k], state, effect)
            # 4. A state that holds is left by one step; an effect is used by one step.
            for of, which in ((holds, 0), (effects[k], 1)):
                for each, literal in of.items():
                    self._equal(literal, [t for edge, t in taken.items() if edge[which] == each])
            entered: dict[int, list[int]] = {}
            for (state, effect), literal in taken.items():
                entered.setdefault(int(step[state, effect]), []).append(literal)
            holds = {state: self._reached(literals) for state, literals in entered.items()}

    def _step(self, holds: dict[int, int], effects: dict[int, int], state: int, effect: int) -> int:
        if len(holds) == 1 and holds[state] == TRUE:
            return effects[effect]
        return holds[state] if effects[effect] == TRUE else self.model.new()

    def _reached(self, literals: list[int]) -> int:
        if len(literals) == 1:
            return literals[0]
        one = self.model.new()
        self._equal(one, literals)
        return one

    def _equal(self, literal: int, others: list[int]) -> None:
        """A literal is true exactly where one of the others is; two of them never are."""
        if others != [literal]:
            self.exactly_one([~literal, *others])

    def defer(self, rule: Constraint) -> None:
        """What is written of this rule does not decide it: its judge is asked about every proposal that meets the
        conditions, and `Constraint.cut` writes what a refused one teaches."""
        self.model.deferred.append((rule, self))

    def any_holds(self, rules: Sequence[tuple[Lowering, Constraint, bool]]) -> None:
        """At least one of the rules, each with its view, holds (True) or does not hold (False)."""
        chosen = [self.model.new() for _ in rules]
        self.clause(chosen)
        for literal, (view, rule, holds) in zip(chosen, rules, strict=True):
            (rule.lower if holds else rule.lower_opposite)(view.given(literal))

    def any_differs(self, literals: Iterable[int] | np.ndarray) -> None:
        """At least one of these literals is false."""
        self.clause([~each for each in _listed(literals)])


def _listed(values: Iterable[int] | np.ndarray) -> list[int]:
    """Whole numbers; TypeError for others, which would be cut off silently."""
    return list(map(index, values.tolist() if isinstance(values, np.ndarray | torch.Tensor) else values))
