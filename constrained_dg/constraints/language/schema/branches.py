"""What a set of schemas demands of one instance, as alternatives without `anyOf`, `not` and the like.

Each alternative (`Branch`) is a conjunction: kinds, bounds, patterns, and the schemas of items and members. Negations
are moved inward until they are conjunctions too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import combinations
from typing import Any

from constrained_dg.constraints.language.schema.keywords import KINDS, REFUSED, Demand, keywords, kinds
from constrained_dg.constraints.language.schema.nodes import Document, Node, Refused, prefix_and_rest
from constrained_dg.constraints.language.schema.opposites import opposites

#: Alternatives of one instance.
MOST_BRANCHES = 512
#: A bound on numbers, and whether it is itself outside.
Bound = tuple[Decimal, bool]


@dataclass
class Branch:
    """One conjunction. Lists of schemas hold one entry for each schema that says something."""

    kinds: frozenset[str] = KINDS
    values: list[Any] | None = None
    excluded: list[Any] = field(default_factory=list)
    low: Bound | None = None
    high: Bound | None = None
    steps: list[tuple[int, bool]] = field(default_factory=list)
    shortest: int = 0
    longest: int | None = None
    patterns: list[tuple[str, bool]] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    fewest_items: int = 0
    most_items: int | None = None
    items: list[tuple[tuple[Demand, ...], Demand | None]] = field(default_factory=list)
    contains: list[tuple[Demand, int]] = field(default_factory=list)
    unique: bool = False
    fewest: int = 0
    most: int | None = None
    required: frozenset[str] = frozenset()
    members: list[Node] = field(default_factory=list)  # with properties, patternProperties, additionalProperties
    named: list[tuple[str, Demand]] = field(default_factory=list)
    names: list[Demand] = field(default_factory=list)
    seen: set[tuple[int, bool]] = field(default_factory=set)

    def copied(self) -> Branch:
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, list | set):
                setattr(other, name, copy.copy(value))
        return other


class Branches:
    """Makes the alternatives of schemas of one document.

    Args:
        overlap: whether two schemas have a common instance, to decide `oneOf`.
    """

    def __init__(self, document: Document, overlap: Callable[[Sequence[Demand]], bool]) -> None:
        self.document, self.overlap = document, overlap

    def of(self, demands: Sequence[Demand]) -> list[Branch]:
        found: list[Branch] = []
        self._go([(each, ()) for each in demands], Branch(), [], found)
        return found

    def _go(
        self,
        todo: list[tuple[Demand, tuple[int, ...]]],
        branch: Branch,
        choices: list[tuple[list[list[Demand]], tuple[int, ...]]],
        found: list[Branch],
    ) -> None:
        while todo:
            (node, holds), trail = todo.pop()
            if isinstance(node.schema, bool):
                if node.schema != holds:
                    return
                continue
            key = (id(node.schema), holds)
            if id(node.schema) in trail:
                raise Refused(
                    "$ref", "and a schema leads back to itself on the same instance: recursion without a bound"
                )
            if key in branch.seen:
                continue
            branch.seen.add(key)
            inner = (*trail, id(node.schema))
            if holds:
                for more in self._positive(node, branch):
                    if len(more) == 1:
                        todo += [(each, inner) for each in more[0]]
                    else:
                        choices.append((more, inner))
            else:
                choices.append((list(opposites(self.document, node)), inner))
            if not branch.kinds:
                return
        if not choices:
            if len(found) >= MOST_BRANCHES:
                raise Refused("anyOf", f"and its combinations are more than {MOST_BRANCHES}")
            found.append(branch)
            return
        (options, trail), *others = choices
        for option in options:
            self._go([(each, trail) for each in option], branch.copied(), list(others), found)

    # -- a schema that must hold --------------------------------------------------------------------------------------

    def _positive(self, node: Node, branch: Branch) -> Iterator[list[list[Demand]]]:
        """Write what a schema demands into the branch; yield choices: lists of options, one of which must hold."""
        document, schema = self.document, keywords(self.document, node)
        under = lambda each: document.node(each, node)  # noqa: E731
        for key in schema:
            if key in REFUSED and not self._says_nothing(key, schema):
                raise Refused(key, "which no automaton here decides")
        if "$ref" in schema:
            yield [[(document.target(node), True)]]
        self._simple(schema, branch)
        if {"properties", "patternProperties", "additionalProperties"} & set(schema):
            branch.members.append(node)
        for name, demand in schema.get("!named", ()):
            branch.named.append((name, demand))
        if {"items", "prefixItems", "additionalItems"} & set(schema):
            prefix, rest = prefix_and_rest(schema, document.draft)
            demands = tuple((under(each), True) for each in prefix)
            branch.items.append((demands, None if rest is None else (under(rest), True)))
        if "!items" in schema:
            branch.items.append(schema["!items"])
        if "contains" in schema and schema.get("minContains", 1) > 0:
            branch.contains.append(((under(schema["contains"]), True), int(schema.get("minContains", 1))))
        branch.contains += schema.get("!contains", [])
        if "propertyNames" in schema:
            branch.names.append((under(schema["propertyNames"]), True))
        if "allOf" in schema:
            yield [[(under(each), True) for each in schema["allOf"]]]
        if "anyOf" in schema:
            yield [[(under(each), True)] for each in schema["anyOf"]]
        if "oneOf" in schema:
            yield self._one_of([under(each) for each in schema["oneOf"]], node, schema)
        if "not" in schema:
            yield [[(under(schema["not"]), False)]]
        if "if" in schema and ("then" in schema or "else" in schema):
            condition = under(schema["if"])
            yield [
                [(condition, True), *([(under(schema["then"]), True)] if "then" in schema else [])],
                [(condition, False), *([(under(schema["else"]), True)] if "else" in schema else [])],
            ]
        yield from self._dependent(schema, node)

    def _says_nothing(self, key: str, schema: dict[str, Any]) -> bool:
        if key == "maxContains":
            return "contains" not in schema
        return key.startswith("unevaluated") and schema[key] is True

    def _simple(self, schema: dict[str, Any], branch: Branch) -> None:
        """Bounds and lists."""
        if "type" in schema:
            branch.kinds &= kinds(schema["type"])
        if "!kinds" in schema:
            branch.kinds &= schema["!kinds"]
        for key, values in (("enum", schema.get("enum")), ("const", [schema.get("const")])):
            if key in schema and branch.values is None:
                branch.values = values
        branch.excluded += schema.get("!values", [])
        branch.shortest = max(branch.shortest, int(schema.get("minLength", 0)))
        branch.longest = _lower(branch.longest, schema.get("maxLength"))
        branch.fewest_items = max(branch.fewest_items, int(schema.get("minItems", 0)))
        branch.most_items = _lower(branch.most_items, schema.get("maxItems"))
        branch.fewest = max(branch.fewest, int(schema.get("minProperties", 0)))
        branch.most = _lower(branch.most, schema.get("maxProperties"))
        if "pattern" in schema:
            branch.patterns.append((schema["pattern"], True))
        if "!pattern" in schema:
            branch.patterns.append((schema["!pattern"], False))
        if "format" in schema and self.document.checker is not None:
            branch.formats.append(schema["format"])
        self._bounds(schema, branch)
        branch.unique = branch.unique or bool(schema.get("uniqueItems"))
        branch.required |= frozenset(schema.get("required", ()))

    def _bounds(self, schema: dict[str, Any], branch: Branch) -> None:
        branch.low = _tightest(branch.low, schema, "minimum", "exclusiveMinimum", 1)
        branch.high = _tightest(branch.high, schema, "maximum", "exclusiveMaximum", -1)
        for key, holds in (("multipleOf", True), ("!multipleOf", False)):
            if key in schema:
                if schema[key] != int(schema[key]) or schema[key] > 4096:
                    raise Refused("multipleOf", f"and {schema[key]} is no whole number up to 4,096")
                branch.steps.append((int(schema[key]), holds))

    def _dependent(self, schema: dict[str, Any], node: Node) -> Iterator[list[list[Demand]]]:
        for key in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, demand in schema.get(key, {}).items():
                absent = self.document.made({"properties": {name: False}}, node)
                if isinstance(demand, list):
                    there = [self.document.made({"required": [name, *demand]}, node)]
                else:
                    there = [self.document.made({"required": [name]}, node), self.document.node(demand, node)]
                yield [[(absent, True)], [(each, True) for each in there]]

    def _one_of(self, options: list[Node], node: Node, schema: dict[str, Any]) -> list[list[Demand]]:
        """Options that exclude each other."""
        beside = {key: value for key, value in schema.items() if key != "oneOf"}
        rest = self.document.made(beside, node)
        apart = all(
            not self.overlap([(rest, True), (one, True), (other, True)]) for one, other in combinations(options, 2)
        )
        if apart:
            return [[(each, True)] for each in options]
        try:
            for each in options:
                self.of([(each, False)])
        except Refused as error:
            raise Refused("oneOf", f"whose branches overlap, and {error.keyword} has no opposite here") from None
        return [[(each, True), *((other, False) for other in options if other is not each)] for each in options]


def _lower(before: int | None, value: Any) -> int | None:
    """The lower of two upper bounds, None where there is none."""
    if value is None:
        return before
    return int(value) if before is None else min(before, int(value))


def _tightest(before: Bound | None, schema: dict[str, Any], key: str, exclusive: str, sign: int) -> Bound | None:
    """The tightest of a bound and those of a schema; `exclusive` is a flag in draft 4, later a bound of its own."""
    bounds = [] if before is None else [before]
    if key in schema:
        bounds.append((Decimal(schema[key]), schema.get(exclusive) is True))
    if not isinstance(schema.get(exclusive, True), bool):
        bounds.append((Decimal(schema[exclusive]), True))
    return max(bounds, key=lambda bound: (sign * bound[0], bound[1]), default=None)
