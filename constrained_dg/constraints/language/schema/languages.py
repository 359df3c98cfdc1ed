"""From schemas to the language of their instances' texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from itertools import product
from math import inf, nextafter
from typing import Any

from constrained_dg.constraints.language.dfa import Dfa, TooLargeError
from constrained_dg.constraints.language.expression import (
    ANY,
    EMPTY,
    MOST_NFA,
    NOTHING,
    Alt,
    Chars,
    Expression,
    Lang,
    Lit,
    Net,
    Rep,
    Seq,
    alt,
    automaton,
    text,
)
from constrained_dg.constraints.language.pattern import matches
from constrained_dg.constraints.language.schema import spelling
from constrained_dg.constraints.language.schema.branches import Branch, Branches, Demand
from constrained_dg.constraints.language.schema.formats import FORMATS, REFUSED
from constrained_dg.constraints.language.schema.nodes import Document, Node, Place, Refused, members_of
from constrained_dg.constraints.language.schema.spelling import COLON, COMMA

#: States of an array's items, written out, from which a longer array is cut short.
_ITEMS = 2**14
#: States of a pattern times lengths of its texts up to which a `maxLength` beside it is exact.
_PRODUCT = 2**15
#: Schemas that are read, where they stand in several places in each.
_WORK = 3000
#: To decide `oneOf`: checks within each other, and how deep into values one looks.
_PROBES, _PROBED = 2, 3
#: Patterns of keys in one place; finite values of unique items.
_PATTERNS, _VALUES = 4, 8


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


@cache
def anything(depth: int) -> Lang:
    """Any value with so many arrays and objects inside each other."""
    string = Lang(spelling.any_string())
    kinds: list[Expression] = [Lit(b"null"), Lit(b"true"), Lit(b"false"), Lang(spelling.numbers()), string]
    if depth:
        inner = anything(depth - 1)
        member = Seq((string, text(COLON), inner))
        kinds += [_listed(b"[", inner, b"]"), _listed(b"{", member, b"}")]
    return Lang(automaton(Alt(tuple(kinds))))


def _listed(opening: bytes, item: Expression, closing: bytes) -> Expression:
    some = Seq((item, Rep(Seq((text(COMMA), item)), 0, None)))
    return Seq((Lit(opening), Alt((EMPTY, some)), Lit(closing)))


@lru_cache(512)
def _text(shortest: int, longest: int | None, patterns: frozenset[tuple[str, bool]], formats: frozenset[str]) -> Dfa:
    """Strings without quotes and escapes."""
    found_: Dfa | None = None
    for pattern, holds in sorted(patterns):
        one = matches(pattern, "json", search=True)
        if not holds:
            one = automaton(Rep(Chars(ANY), 0, None)) - one
        found_ = one if found_ is None else found_ & one
    for name in sorted(formats):
        one = matches(FORMATS[name])
        found_ = one if found_ is None else found_ & one
    if found_ is None:
        return automaton(Rep(Chars(ANY), shortest, longest))
    if shortest > 0 or longest is not None:
        # A length that the patterns never reach needs no states.
        if longest is not None and shortest == 0 and longest >= found_.states and not _endless(found_):
            return found_
        found_ = found_ & automaton(Rep(Chars(ANY), shortest, longest))
    return found_


def _endless(dfa: Dfa) -> bool:
    """Whether a minimal automaton accepts infinitely many texts."""
    state, order = {}, []  # type: ignore[var-annotated]
    stack = [(0, False)]
    while stack:
        at, done = stack.pop()
        if done:
            state[at] = 2
            order.append(at)
            continue
        if state.get(at):
            continue
        state[at] = 1
        stack.append((at, True))
        for to in {int(t) for t in dfa.table[at] if t >= 0}:
            if state.get(to) == 1:
                return True
            if to not in state:
                stack.append((to, False))
    return False


@lru_cache(512)
def _numbers(
    kinds: frozenset[str],
    low: tuple[Decimal, bool] | None,
    high: tuple[Decimal, bool] | None,
    steps: tuple[tuple[int, bool], ...],
) -> Dfa:
    """Numbers within bounds."""
    parts = []
    if "integer" in kinds:
        least = None if low is None else _whole(low[0], low[1], 1)
        most = None if high is None else _whole(high[0], high[1], -1)
        if least is None or most is None or least <= most:
            some = spelling.integers() & spelling.between(least, most)
            for step, holds in steps:
                some = some & spelling.multiples(step) if holds else some - spelling.multiples(step)
            parts.append(some)
    if "fraction" in kinds and not any(holds for _, holds in steps):
        # What a bound excludes must stay outside when a reader rounds to 64 bits.
        some = spelling.between(
            None if low is None else _next(low[0], inf) if low[1] else low[0],
            None if high is None else _next(high[0], -inf) if high[1] else high[0],
        )
        some = some - spelling.integers()
        if "integer" not in kinds or steps:
            some = some & automaton(Rep(Chars(((0, 127),)), 1, 16))  # others may round to integers
        parts.append(some)
    return automaton(Alt(tuple(map(Lang, parts))))


@lru_cache(256)
def _all_but(names: tuple[str, ...]) -> Dfa:
    """All other keys."""
    return automaton(Rep(Chars(ANY), 0, None)) - automaton(Alt(tuple(map(text, names))))


class _TooMuchWorkError(TooLargeError):
    """Too many schemas within each other."""


class Languages:
    """The languages of the schemas of a document, within bounds.

    Attributes:
        narrowed: what the bounds cut off.
    """

    def __init__(self, document: Document, bounds: Bounds) -> None:
        self.document, self.bounds = document, bounds
        self.branches = Branches(document, self._overlap)
        self.narrowed: set[str] = set()
        #: Where recursion ends.
        self.beyond: Expression = NOTHING
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
            probe = Languages(self.document, Bounds(0, 1, 64))
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
            parts.append(self._array(branch, place))
        if "object" in branch.kinds:
            parts.append(self._object(branch, place))
        whole = alt(parts)
        if branch.excluded:
            written = [text(canonical(each, place)) for each in branch.excluded]
            whole = Lang(automaton(whole) - automaton(Alt(tuple(written))))
        return whole

    # -- numbers and strings -----------------------------------------------------------------------------------------

    def _number(self, branch: Branch) -> Dfa:
        return _numbers(branch.kinds & {"integer", "fraction"}, branch.low, branch.high, tuple(branch.steps))

    def _string(self, branch: Branch) -> Dfa:
        return spelling.spelled(self._characters(branch))

    def _characters(self, branch: Branch) -> Dfa:
        for name in branch.formats:
            if name in REFUSED:
                raise Refused("format", f"{name!r}, which no automaton here decides")
        longest = branch.longest
        if longest is not None and longest < branch.shortest:
            return automaton(NOTHING)
        formats = frozenset(name for name in branch.formats if name in FORMATS)
        most = self.bounds.characters
        if branch.patterns and longest is not None:
            # Each state of a pattern is there once for each length.
            most = min(most, max(64, _PRODUCT // max(1, _text(0, None, frozenset(branch.patterns), formats).states)))
        if longest is not None and longest > most:
            self.narrowed.add("maxLength")
            longest = max(most, branch.shortest)
        return _text(branch.shortest, longest, frozenset(branch.patterns), formats)

    # -- arrays ------------------------------------------------------------------------------------------------------

    def _array(self, branch: Branch, place: Place) -> Expression:
        first = max((len(prefix) for prefix, _ in branch.items), default=0)
        low, high = branch.fewest_items, branch.most_items

        def at(k: int) -> Expression:
            demands = []
            for prefix, rest in branch.items:
                if k < len(prefix):
                    demands.append(prefix[k])
                elif rest is not None:
                    demands.append(rest)
            return self.value(demands, place.item(k))

        if high == 0 or (high is not None and high < low):
            return Lit(b"[]") if low == 0 and not branch.contains else NOTHING
        items = [at(k) for k in range(first)]
        rest = at(first)
        for k, item in enumerate([*items, rest]):
            if item.empty:
                high = k if high is None else min(high, k)
                break
        if branch.unique and (high is None or high > 1):
            return self._unique(items, rest, low, high)
        if branch.contains:
            return self._containing(branch, items, rest, low, high, place)
        edges: list[tuple[int, Expression, int]] = []
        end = first + 1
        for k in range(first):
            if k >= low and (high is None or k <= high):
                edges.append((k, EMPTY, end))
            if high is None or k < high:
                edges.append((k, Seq((text(COMMA if k else ""), items[k])), k + 1))
        edges.append((first, self._tail(rest, first, low, high), end))
        return Seq((Lit(b"["), Net(end + 1, tuple(edges)), Lit(b"]")))

    def _tail(self, rest: Expression, first: int, low: int, high: int | None) -> Expression:
        """Items from number `first` on."""
        if high is not None and high <= first:
            return EMPTY if low <= first <= high else NOTHING
        if high is not None:
            most = max(low, first + max(1, _ITEMS // max(1, rest.size)))
            if high > most:
                self.narrowed.add("maxItems")
                high = most
        more = Seq((text(COMMA), rest))
        if first:
            return Rep(more, max(low - first, 0), None if high is None else high - first)
        some = Seq((rest, Rep(more, max(low - 1, 0), None if high is None else high - 1)))
        return some if low else Alt((EMPTY, some))

    def _unique(self, items: Sequence[Expression], rest: Expression, low: int, high: int | None) -> Expression:
        """Items that all differ: where they are few values, the sets of those that were written."""
        where: list[list[bytes]] = []
        for item in [*items, rest]:
            texts = _listing(automaton(item), _VALUES)
            if texts is None:
                raise Refused("uniqueItems", f"over items of more than {_VALUES} values")
            where.append(texts)
        values = sorted({each for texts in where for each in texts})
        if len(values) > _VALUES:
            raise Refused("uniqueItems", f"over items of more than {_VALUES} values")
        number: dict[int, int] = {0: 0}
        edges: list[tuple[int, Expression, int]] = []
        final = []
        for used in (order := [0]):  # grows
            count = used.bit_count()
            if low <= count and (high is None or count <= high):
                final.append(number[used])
            if high is not None and count >= high:
                continue
            for each in where[min(count, len(items))]:
                after = used | 1 << values.index(each)
                if after == used:
                    continue
                if after not in number:
                    number[after] = len(number)
                    order.append(after)
                edges.append((number[used], Lit((COMMA.encode() if count else b"") + each), number[after]))
        edges += [(each, EMPTY, len(number)) for each in final]
        return Seq((Lit(b"["), Net(len(number) + 1, tuple(edges)), Lit(b"]")))

    def _containing(
        self, branch: Branch, items: Sequence[Expression], rest: Expression, low: int, high: int | None, place: Place
    ) -> Expression:
        """Some items must also satisfy another schema."""
        if len(branch.contains) > 1 or low > 32 or (high or 0) > 32 or branch.contains[0][1] > 32:
            raise Refused("contains", "more than once at one place, or with counts above 32")
        demand, needed = branch.contains[0]
        positions = max(len(items), low, high or 0)

        def wanted(k: int) -> Expression:
            demands = [demand]
            for prefix, others in branch.items:
                if k < len(prefix):
                    demands.append(prefix[k])
                elif others is not None:
                    demands.append(others)
            return self.value(demands, place.item(k))

        edges: list[tuple[int, Expression, int]] = []
        end = (positions + 1) * (needed + 1)
        for k in range(positions + 1):
            last = k == positions
            item = items[k] if k < len(items) else rest
            hit = wanted(k)
            for count in range(needed + 1):
                here = k * (needed + 1) + count
                if count == needed and k >= low and (high is None or k <= high):
                    edges.append((here, EMPTY, end))
                if high is not None and k >= high:
                    continue
                comma = text(COMMA if k else "")
                if last and positions == 0:
                    # The first item has no comma: it leads to places of their own.
                    continue
                to = here + (0 if last else needed + 1)
                edges.append((here, Seq((comma, item)), to))
                if count < needed:
                    edges.append((here, Seq((comma, hit)), to + 1))
        if positions == 0:
            return self._containing_freely(items, rest, wanted(0), needed)
        return Seq((Lit(b"["), Net(end + 1, tuple(edges)), Lit(b"]")))

    def _containing_freely(
        self, items: Sequence[Expression], rest: Expression, hit: Expression, needed: int
    ) -> Expression:
        """As `_containing`, where all items are alike and no number is demanded."""
        some = Rep(Seq((rest, text(COMMA))), 0, None)
        wanted = Seq((some, hit))
        more = Rep(Seq((text(COMMA), wanted)), needed - 1, needed - 1)
        return Seq((Lit(b"["), wanted, more, Rep(Seq((text(COMMA), rest)), 0, None), Lit(b"]")))

    # -- objects -----------------------------------------------------------------------------------------------------

    def _object(self, branch: Branch, place: Place) -> Expression:
        declared: list[tuple[Expression, bool]] = []
        for name in place.names:
            demands = [(each, True) for node in branch.members for each in members_of(self.document, node, name)]
            demands += [demand for other, demand in branch.named if other == name]
            value = self.value(demands, place.member(name))
            if value.empty or not self._may_be_named(branch, name):
                if name in branch.required:
                    return NOTHING
                continue
            member = Seq((text(spelling.string(name) + COLON), value))
            declared.append((member, name in branch.required))
        least = sum(required for _, required in declared)
        low, high = branch.fewest, branch.most
        extra = self._undeclared(branch, place)
        if high is not None and extra.empty and high >= len(declared):
            high = None
        if high is not None and high < max(least, low):
            return NOTHING
        low = 0 if low <= least else low
        if max(low, high or 0) > 64:
            raise Refused("minProperties", "or maxProperties, above 64")
        members = _members(declared, extra, low, high)
        return Seq((Lit(b"{"), members, Lit(b"}")))

    def _may_be_named(self, branch: Branch, name: str) -> bool:
        return all(self.document.accepts(node, name) == holds for node, holds in branch.names)

    def _undeclared(self, branch: Branch, place: Place) -> Expression:
        """One member whose key no schema names."""
        groups = [self.document.live(node) for node in branch.members]
        patterns = sorted({each for group in groups for each in group.get("patternProperties", {})})
        if len(patterns) > _PATTERNS:
            raise Refused("patternProperties", f"more than {_PATTERNS} at one place")
        keys = _all_but(tuple(place.names))
        for node, holds in branch.names:
            keys = keys & self._keys(node, holds)
        parts = []
        for match_ in product((False, True), repeat=len(patterns)):
            demands: list[Demand] = []
            for node, group in zip(branch.members, groups, strict=True):
                mine = [
                    each
                    for pattern, each in group.get("patternProperties", {}).items()
                    if match_[patterns.index(pattern)]
                ]
                if not mine and "additionalProperties" in group:
                    mine = [group["additionalProperties"]]
                demands += [(self.document.node(each, node), True) for each in mine]
            if any(node.schema is False for node, _ in demands):
                continue
            some = keys
            for pattern, matched in zip(patterns, match_, strict=True):
                of_pattern = matches(pattern, "json", search=True)
                some = some & of_pattern if matched else some - of_pattern
            if not some.states:
                continue
            value = self.value(demands, _at_pattern(place, [p for p, m in zip(patterns, match_, strict=True) if m]))
            if not value.empty:
                parts.append(Seq((Lang(spelling.spelled(some)), text(COLON), value)))
        return alt(parts)

    def _keys(self, node: Node, holds: bool) -> Dfa:
        """The keys that `propertyNames` permits."""
        parts: list[Expression] = []
        for branch in self.branches.of([(node, holds)]):
            if branch.values is not None:
                fit = [each for each in branch.values if isinstance(each, str) and self.document.accepts(node, each)]
                parts += [text(each) for each in fit]
            elif "string" in branch.kinds:
                some = self._characters(branch)
                excluded = [text(each) for each in branch.excluded if isinstance(each, str)]
                parts.append(Lang(some - automaton(Alt(tuple(excluded))) if excluded else some))
        return automaton(Alt(tuple(parts)))


def _at_pattern(place: Place, patterns: Sequence[str]) -> Place:
    """The place of an undeclared key's value."""
    nodes = []
    for node in place.nodes:
        schema = place.document.live(node)
        mine = [each for pattern, each in schema.get("patternProperties", {}).items() if pattern in patterns]
        if not mine and "additionalProperties" in schema:
            mine = [schema["additionalProperties"]]
        nodes += [place.document.node(each, node) for each in mine]
    return Place(place.document, nodes)


def _members(declared: Sequence[tuple[Expression, bool]], extra: Expression, low: int, high: int | None) -> Expression:
    """Declared members in order, each required or not, then undeclared ones; and how many there may be.

    Repeated keys cannot be told from others, so of undeclared members only the first counts as one more.
    """
    cap = max(1, low) if high is None else high
    edges: list[tuple[int, Expression, int]] = []
    places: dict[tuple[Any, ...], int] = {("declared", 0, 0): 0}

    def place(*what: Any) -> int:
        return places.setdefault(what, len(places))

    comma = text(COMMA)
    # 1. Before each declared member: how many were written, up to the cap.
    for at, (member, required) in enumerate(declared):
        for count in range(min(at, cap) + 1):
            here = place("declared", at, count)
            if not required:
                edges.append((here, EMPTY, place("declared", at + 1, count)))
            if high is not None and count >= high:
                continue
            after = min(count + 1, cap)
            edges.append((here, comma if count else EMPTY, place("member", at, after)))
        for after in range(1, min(at + 1, cap) + 1):
            edges.append((place("member", at, after), member, place("declared", at + 1, after)))
    # 2. Behind them: also how many undeclared ones.
    together = high is None and low <= 1
    most = 1 if high is None else high
    for count in range(min(len(declared), cap) + 1):
        here = place("declared", len(declared), count)
        edges.append((here, EMPTY, place("extra", min(count, 1) if together else count, 0)))
    open_ = [0, 1] if together else sorted({what[1] for what in places if what[0] == "extra"})
    for count in open_:
        for extras in range(most + 1):
            here = place("extra", count, extras)
            if count + min(extras, 1) >= low and (high is None or count + extras <= high):
                edges.append((here, EMPTY, place("end")))
            if extra.empty or (high is not None and count + extras >= high):
                continue
            to = ("extra", 1, 0) if together else ("extra", count, min(extras + 1, most))
            edges.append((here, comma if count + extras else EMPTY, place("any", *to)))
    for what in [each for each in places if each[0] == "any"]:
        edges.append((places[what], extra, place(*what[1:])))
    if ("end",) not in places:
        return NOTHING
    # The end is the last place.
    last = len(places) - 1
    swap = {places["end",]: last, last: places["end",]}
    renamed = tuple((swap.get(a, a), item, swap.get(b, b)) for a, item, b in edges)
    return Net(len(places), renamed)


def _listing(dfa: Dfa, most: int) -> list[bytes] | None:
    """All accepted texts, None if there are more."""
    if not dfa.states:
        return []
    if _endless(dfa):
        return None
    texts: list[bytes] = []
    stack: list[tuple[int, bytes]] = [(0, b"")]
    while stack:
        state, written = stack.pop()
        if dfa.accepting[state]:
            texts.append(written)
            if len(texts) > most:
                return None
        for byte in range(256):
            to = int(dfa.table[state, dfa.group[byte]])
            if to >= 0:
                stack.append((to, written + bytes([byte])))
    return sorted(texts)


def _whole(bound: Decimal, strict: bool, sign: int) -> Decimal:
    """The first whole number within a bound; sign 1 for a lower one, -1 for an upper one."""
    floor = bound.to_integral_value(rounding="ROUND_CEILING" if sign > 0 else "ROUND_FLOOR")
    return floor + sign if strict and floor == bound else floor


def _next(bound: Decimal, towards: float) -> Decimal:
    return Decimal(repr(nextafter(float(bound), towards)))


def canonical(value: Any, place: Place | None) -> str:
    """A value as `Json` writes it at a place: see `spelling`.

    Raises:
        InputError: it has no such text: a number that is not finite, or half of a surrogate pair.
    """
    if isinstance(value, list | tuple):
        inside = (canonical(each, place and place.item(at)) for at, each in enumerate(value))
        return f"[{COMMA.join(inside)}]"
    if isinstance(value, dict):
        names = place.names if place else {}
        keys = [name for name in names if name in value] + [name for name in value if name not in names]
        inside = (spelling.string(key) + COLON + canonical(value[key], place and place.member(key)) for key in keys)
        return "{" + COMMA.join(inside) + "}"
    return spelling.scalar(value)


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
