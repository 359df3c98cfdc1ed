"""From schemas to the language of their instances' texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from constrained_dg.constraints.language.construction import MOST_NFA, automaton
from constrained_dg.constraints.language.dfa import Dfa, TooLargeError
from constrained_dg.constraints.language.expression import NOTHING, Alt, Expression, Lang, Lit, alt, text
from constrained_dg.constraints.language.schema import spelling
from constrained_dg.constraints.language.schema.arrays import array
from constrained_dg.constraints.language.schema.branches import Branch, Branches
from constrained_dg.constraints.language.schema.formats import FORMATS, REFUSED
from constrained_dg.constraints.language.schema.keywords import Demand
from constrained_dg.constraints.language.schema.leaves import anything, numbers_within, strings
from constrained_dg.constraints.language.schema.nodes import Document, Refused
from constrained_dg.constraints.language.schema.objects import members
from constrained_dg.constraints.language.schema.places import Place, canonical, spellings

#: States of an array's items, written out, from which a longer array is cut short.

#: States of a pattern times lengths of its texts up to which a `maxLength` beside it is exact.
_PRODUCT = 2**15
#: Schemas that are read, where they stand in several places in each.
_WORK = 3000
#: To decide `oneOf`: checks within each other, and how deep into values one looks.
_PROBES, _PROBED = 2, 3


@dataclass(frozen=True)
class Bounds:
    """Up to which sizes a schema is exact; beyond them instances are refused.

    Attributes:
        depth: arrays and objects inside each other, in values that the schema does not describe.
        recursion: times that a schema may stand within itself.
        characters: of strings with a `maxLength` above it.
    """

    depth: int = 4
    recursion: int = 3
    characters: int = 1024


class _TooMuchWorkError(TooLargeError):
    """Too many schemas within each other."""


class Languages:
    """The languages of the schemas of a document, within bounds.

    Args:
        wide: also what only some checkers accept: to prove that schemas have no common instance.

    Attributes:
        narrowed: what the bounds cut off.
    """

    def __init__(self, document: Document, bounds: Bounds, wide: bool = False) -> None:
        self.document, self.bounds, self.wide = document, bounds, wide
        self.branches = Branches(document, self._overlap)
        self.narrowed: set[str] = set()
        #: Where recursion ends.
        self.beyond: Expression = NOTHING
        #: Formats that are enforced. A checker need not know all of them, nor does each draft.
        checked = document.checker.checkers if wide and document.checker is not None else FORMATS
        self._formats = FORMATS.keys() & checked
        self._within: Counter[frozenset[tuple[int, bool]]] = Counter()
        self._cut: set[frozenset[tuple[int, bool]]] = set()
        self._known: dict[tuple[frozenset[tuple[int, bool]], int], Expression] = {}
        self._places: list[Place] = []
        self._work = 0
        self._probes = 0
        self._overlaps: dict[frozenset[tuple[int, bool]], bool] = {}

    def whole(self) -> tuple[Expression, Place]:
        root = self.document.root
        place = Place(self.document, [root])
        return self.value([(root, True)], place), place

    def _overlap(self, demands: Sequence[Demand]) -> bool:
        """Whether schemas have a common instance; True where that is not found out."""
        key = frozenset((id(node.schema), holds) for node, holds in demands)
        if key not in self._overlaps:
            if self._probes >= _PROBES:
                return True
            probe = Languages(self.document, Bounds(0, 1, 64), wide=True)
            probe.beyond, probe._probes = anything(0), self._probes + 1
            probe._places, probe._overlaps = self._places, self._overlaps
            place = Place(self.document, [node for node, _ in demands])
            try:
                self._overlaps[key] = not probe.value(demands, place).empty
            except (Refused, TooLargeError):
                self._overlaps[key] = True
        return self._overlaps[key]

    # -- a value -----------------------------------------------------------------------------------------------------

    def value(self, demands: Sequence[Demand], place: Place) -> Expression:
        """The texts of the values that some schemas demand at a place."""
        demands = [(node, holds) for node, holds in demands if node.schema is not True or not holds]
        if any((node.schema is False and holds) or node.schema is True for node, holds in demands):
            return NOTHING
        demands = [(node, holds) for node, holds in demands if node.schema is not False]
        if not demands:
            return anything(self.bounds.depth)
        key = frozenset((id(node.schema), holds) for node, holds in demands)
        if (key, id(place)) in self._known:
            return self._known[key, id(place)]
        self._work += 1
        if self._work > _WORK:
            raise _TooMuchWorkError("the schema", f"more than {_WORK:,} parts")
        if self._within[key] >= self.bounds.recursion or (self._probes and self._within.total() > _PROBED):
            self._cut.add(key)
            self.narrowed.add("recursion")
            return self.beyond
        self._within[key] += 1
        try:
            parts = [self._branch(branch, demands, place) for branch in self.branches.of(demands)]
        except RecursionError:
            raise Refused("$ref", "and is nested too deeply") from None
        finally:
            self._within[key] -= 1
        made = alt(part for part in parts if not part.empty)
        if made.size > MOST_NFA:
            raise TooLargeError("the schema", f"more than {MOST_NFA:,} states, repeats written out")
        if not self._within[key]:
            self._cut.discard(key)
        if not self._cut:  # what was cut within another schema depends on where it stands
            self._places.append(place)
            self._known[key, id(place)] = made
        return made

    def _branch(self, branch: Branch, demands: Sequence[Demand], place: Place) -> Expression:
        if branch.values is not None:
            fit = [each for each in branch.values if all(self.document.accepts(n, each) == h for n, h in demands)]
            return Alt(tuple(text(canonical(each, place)) for each in fit))
        plain = not branch.excluded and vars(branch) | {"seen": set()} == vars(Branch())
        if plain:
            return anything(self.bounds.depth)
        parts: list[Expression] = []
        for kind, made in (("null", [b"null"]), ("boolean", [b"true", b"false"])):
            if kind in branch.kinds:
                parts += map(Lit, made)
        if {"integer", "fraction"} & branch.kinds:
            parts.append(Lang(self._number(branch)))
        if "string" in branch.kinds:
            parts.append(Lang(self._string(branch)))
        if "array" in branch.kinds:
            parts.append(array(self, branch, place))
        if "object" in branch.kinds:
            parts.append(members(self, branch, place))
        whole = alt(parts)
        if branch.excluded:
            written = tuple(spellings(each, place) for each in branch.excluded)
            whole = Lang(automaton(whole) - automaton(Alt(written)))
        return whole

    # -- numbers and strings -----------------------------------------------------------------------------------------

    def _number(self, branch: Branch) -> Dfa:
        kinds = branch.kinds & {"integer", "fraction"}
        return numbers_within(kinds, branch.low, branch.high, tuple(branch.steps), self.wide)

    def _string(self, branch: Branch) -> Dfa:
        return spelling.spelled(self.characters(branch))

    def characters(self, branch: Branch) -> Dfa:
        for name in branch.formats:
            if name in REFUSED:
                raise Refused("format", f"{name!r}, which no automaton here decides")
        longest = branch.longest
        if longest is not None and longest < branch.shortest:
            return automaton(NOTHING)
        formats = frozenset(name for name in branch.formats if name in self._formats)
        patterns, most = frozenset(branch.patterns), self.bounds.characters
        if patterns and longest is not None:
            # Each state of a pattern is there once for each length.
            most = min(most, max(64, _PRODUCT // max(1, strings(0, None, patterns, formats, self.wide).states)))
        if longest is not None and longest > most:
            found = strings(branch.shortest, max(most, branch.shortest), patterns, formats, self.wide)
            if found.states:
                self.narrowed.add("maxLength")
                return found
        return strings(branch.shortest, longest, patterns, formats, self.wide)


@dataclass(frozen=True)
class Compiled:
    """A schema as an automaton over bytes.

    Attributes:
        dfa: accepts the texts of the instances, as `spelling` writes them.
        place: the place of the whole instance.
        bounds: those that were used.
        narrowed: what they cut off: "maxLength", "maxItems", "recursion".
    """

    dfa: Dfa
    place: Place
    bounds: Bounds
    narrowed: frozenset[str]


#: States before the subset construction up to which larger bounds are chosen.
_ROOM = 2**16


def compiled_schema(schema: Any, formats: bool = True, depth: int = 4, recursion: int = 3) -> Compiled:
    """The automaton of a schema, with the largest bounds under which it is small.

    Raises:
        InputError: the schema is not valid, uses what is outside (`Refused`), or is too large.
    """
    document = Document(schema, formats)
    steps = [(depth, recursion, 1024), (min(depth, 3), recursion, 512), (min(depth, 2), recursion, 256)]
    steps += [(min(depth, 1), min(recursion, 2), 128), (min(depth, 1), 1, 64)]
    least = recursion + 1
    for number, bounds in enumerate(Bounds(*each) for each in steps):
        last = number == len(steps) - 1
        if bounds.recursion >= least and not last:
            continue
        languages = Languages(document, bounds)
        try:
            expression, place = languages.whole()
        except TooLargeError as error:
            if last:
                raise
            least = bounds.recursion if isinstance(error, _TooMuchWorkError) else least
            continue
        if expression.size <= _ROOM or last:
            break
    return Compiled(automaton(expression), place, bounds, frozenset(languages.narrowed))
