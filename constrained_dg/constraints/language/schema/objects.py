"""The languages of objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Protocol

from constrained_dg.constraints.language.construction import automaton
from constrained_dg.constraints.language.dfa import Dfa
from constrained_dg.constraints.language.expression import (
    EMPTY,
    NOTHING,
    Alt,
    Expression,
    Lang,
    Lit,
    Net,
    Seq,
    alt,
    text,
)
from constrained_dg.constraints.language.pattern import matches
from constrained_dg.constraints.language.schema import spelling
from constrained_dg.constraints.language.schema.branches import Branch, Branches
from constrained_dg.constraints.language.schema.keywords import Demand
from constrained_dg.constraints.language.schema.leaves import all_but
from constrained_dg.constraints.language.schema.nodes import Document, Node, Refused
from constrained_dg.constraints.language.schema.places import Place, members_of
from constrained_dg.constraints.language.schema.spelling import COLON, COMMA

#: Patterns of keys in one place.
_PATTERNS = 4


class Values(Protocol):
    """What is read of `languages.Languages`."""

    document: Document
    branches: Branches
    wide: bool

    def value(self, demands: Sequence[Demand], place: Place) -> Expression: ...

    def characters(self, branch: Branch) -> Dfa: ...


def members(of: Values, branch: Branch, place: Place) -> Expression:
    declared: list[tuple[Expression, bool]] = []
    for name in place.names:
        demands = [(each, True) for node in branch.members for each in members_of(of.document, node, name)]
        demands += [demand for other, demand in branch.named if other == name]
        value = of.value(demands, place.member(name))
        if value.empty or not _may_be_named(of, branch, name):
            if name in branch.required:
                return NOTHING
            continue
        member = Seq((text(spelling.string(name) + COLON), value))
        declared.append((member, name in branch.required))
    least = sum(required for _, required in declared)
    low, high = branch.fewest, branch.most
    extra = _undeclared(of, branch, place)
    if high is not None and extra.empty and high >= len(declared):
        high = None
    if high is not None and high < max(least, low):
        return NOTHING
    low = 0 if low <= least else low
    if low > least + 1 and not extra.empty:
        # A key may be written twice, which no automaton notices: of undeclared members only the first surely counts.
        raise Refused("minProperties", "and undeclared members could be among those that are counted")
    if max(low, high or 0) > 64:
        raise Refused("minProperties", "or maxProperties, above 64")
    return Seq((Lit(b"{"), _members(declared, extra, low, high), Lit(b"}")))


def _may_be_named(of: Values, branch: Branch, name: str) -> bool:
    return all(of.document.accepts(node, name) == holds for node, holds in branch.names)


def _undeclared(of: Values, branch: Branch, place: Place) -> Expression:
    """One member whose key no schema names."""
    groups = [of.document.live(node) for node in branch.members]
    patterns = sorted({each for group in groups for each in group.get("patternProperties", {})})
    if len(patterns) > _PATTERNS:
        raise Refused("patternProperties", f"more than {_PATTERNS} at one place")
    keys = all_but(tuple(place.names))
    for node, holds in branch.names:
        keys = keys & _keys(of, node, holds)
    parts = []
    for match_ in product((False, True), repeat=len(patterns)):
        demands: list[Demand] = []
        for node, group in zip(branch.members, groups, strict=True):
            mine = [
                each for pattern, each in group.get("patternProperties", {}).items() if match_[patterns.index(pattern)]
            ]
            if not mine and "additionalProperties" in group:
                mine = [group["additionalProperties"]]
            demands += [(of.document.node(each, node), True) for each in mine]
        if any(node.schema is False for node, _ in demands):
            continue
        some = keys
        for pattern, matched in zip(patterns, match_, strict=True):
            of_pattern = matches(pattern, "both" if matched != of.wide else "either", search=True)
            some = some & of_pattern if matched else some - of_pattern
        if not some.states:
            continue
        value = of.value(demands, _at_pattern(place, [p for p, m in zip(patterns, match_, strict=True) if m]))
        if not value.empty:
            parts.append(Seq((Lang(spelling.spelled(some)), text(COLON), value)))
    return alt(parts)


def _keys(of: Values, node: Node, holds: bool) -> Dfa:
    """The keys that `propertyNames` permits."""
    parts: list[Expression] = []
    for branch in of.branches.of([(node, holds)]):
        if branch.values is not None:
            fit = [each for each in branch.values if isinstance(each, str) and of.document.accepts(node, each)]
            parts += [text(each) for each in fit]
        elif "string" in branch.kinds:
            some = of.characters(branch)
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

    A key may be written twice, which the automaton does not notice. So only the first undeclared member counts as one
    more.
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
