"""The places of an instance, with all that a schema says there, and the text of an instance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from constrained_dg.constraints.language.expression import Expression, Seq, text
from constrained_dg.constraints.language.pattern import matches
from constrained_dg.constraints.language.schema import spelling
from constrained_dg.constraints.language.schema.nodes import Document, Node, Refused, prefix_and_rest
from constrained_dg.constraints.language.schema.spelling import COLON, COMMA
from constrained_dg.constraints.running import once
from constrained_dg.errors import InputError, check

#: What Python and ECMA 262 read differently.
_DISPUTED = re.compile(r"\\[dwsDWS]|[.$]")
#: A label of a host name that some checkers decode (RFC 5891).
_A_LABEL = re.compile(r"(?:^|\.)..--")


def found(pattern: str, name: str) -> bool:
    """Whether a key pattern matches, as the judge reads it."""
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise Refused("patternProperties", f"and {pattern!r} is no regular expression ({error})") from None


class Place:
    """A place in an instance, with every schema that may apply there: it decides the order of keys.

    Args:
        document: the schemas.
        nodes: those that apply, or may.
        values: those of `enum` and `const` that may stand here.
    """

    def __init__(self, document: Document, nodes: Sequence[Node], values: Sequence[Any] = ()) -> None:
        self.document = document
        seen: dict[int, Node] = {}
        todo = list(reversed(nodes))
        while todo:
            node = todo.pop()
            if isinstance(node.schema, dict) and id(node.schema) not in seen:
                seen[id(node.schema)] = node
                todo += reversed(list(document.beside(node)))
        self.nodes = list(seen.values())
        self.values = list(values)
        for node in self.nodes:
            schema = document.live(node)
            self.values += schema.get("enum", [])
            self.values += [schema["const"]] if "const" in schema else []
        self._children: dict[tuple[str, Any], Place] = {}

    @once
    def names(self) -> dict[str, None]:
        """The declared keys, in their order."""
        names: dict[str, None] = {}
        for node in self.nodes:
            schema = self.document.live(node)
            for key in ("properties", "required", "dependentRequired", "dependentSchemas", "dependencies"):
                if isinstance(schema.get(key), dict | list):
                    names.update(dict.fromkeys(schema[key]))
        for node in self.nodes:
            for key in ("dependentRequired", "dependencies"):
                for others in self.document.live(node).get(key, {}).values():
                    names.update(dict.fromkeys(others) if isinstance(others, list) else {})
        for value in self.values:
            names.update(dict.fromkeys(value) if isinstance(value, dict) else {})
        return names

    @once
    def patterns(self) -> list[str]:
        """Those of strings that stand here."""
        found_ = (self.document.live(node).get("pattern") for node in self.nodes)
        return list(dict.fromkeys(each for each in found_ if isinstance(each, str)))

    @once
    def keys(self) -> Place:
        """That of keys that are not declared."""
        nodes = []
        for node in self.nodes:
            schema = self.document.live(node)
            nodes += [self.document.node(schema["propertyNames"], node)] if "propertyNames" in schema else []
            for pattern in schema.get("patternProperties", {}):
                nodes.append(self.document.made({"pattern": pattern}, node))
        return Place(self.document, nodes)

    def check_string(self, value: str) -> None:
        """Raise InputError where checkers disagree on a string, which then fits no rule."""
        a_label = self.hosts and _A_LABEL.search(value)
        check(not a_label, f"checkers disagree on host names such as {value!r}", 'leave out labels such as "xn--..."')
        for pattern in self.patterns:
            problem = f"ECMA 262 and Python disagree on {value!r} under {pattern!r}"
            check(not _disputed(pattern, value), problem, "leave out what they read differently")

    @once
    def hosts(self) -> bool:
        """Whether `format` demands a host name."""
        demanded = self.document.checker is not None
        return demanded and any(self.document.live(node).get("format") == "hostname" for node in self.nodes)

    def member(self, name: str) -> Place:
        """The place of a key's value."""
        key = ("member", name if name in self.names else tuple(self._matching(name)))
        if key not in self._children:
            nodes = []
            for node in self.nodes:
                nodes += members_of(self.document, node, name)
            values = [each[name] for each in self.values if isinstance(each, dict) and name in each]
            self._children[key] = Place(self.document, nodes, values)
        return self._children[key]

    def _matching(self, name: str) -> Iterator[str]:
        for node in self.nodes:
            for pattern in self.document.live(node).get("patternProperties", {}):
                if found(pattern, name):
                    yield pattern

    def item(self, at: int) -> Place:
        """The place of an item."""
        longest = max(
            (len(prefix_and_rest(self.document.live(n), self.document.draft)[0]) for n in self.nodes), default=0
        )
        longest = max([longest, *(len(each) for each in self.values if isinstance(each, list))])
        key = ("item", min(at, longest))
        if key not in self._children:
            nodes = []
            for node in self.nodes:
                schema = self.document.live(node)
                prefix, rest = prefix_and_rest(schema, self.document.draft)
                each = prefix[at] if at < len(prefix) else rest
                nodes += [self.document.node(each, node)] if each is not None else []
                nodes += [self.document.node(schema["contains"], node)] if "contains" in schema else []
            values = [each[at] for each in self.values if isinstance(each, list) and at < len(each)]
            self._children[key] = Place(self.document, nodes, values)
        return self._children[key]


def members_of(document: Document, node: Node, name: str) -> list[Node]:
    """The schemas of one schema that apply to the value of a key."""
    schema = document.live(node)
    found_ = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    found_ += [each for pattern, each in schema.get("patternProperties", {}).items() if found(pattern, name)]
    if not found_ and "additionalProperties" in schema:
        found_ = [schema["additionalProperties"]]
    return [document.node(each, node) for each in found_]


def canonical(value: Any, place: Place | None) -> str:
    """A value as `Json` writes it at a place: see `spelling`.

    Raises:
        InputError: it has no such text: a number that is not finite, half of a surrogate pair, or a string on which
            checkers disagree: under a pattern there, or a host name of A-labels where formats are enforced.
    """
    return "".join(each if isinstance(each, str) else spelling.number(each) for each in _pieces(value, place))


def spellings(value: Any, place: Place | None) -> Expression:
    """All texts that a reader takes for a value, and that differ from its own only in how numbers are rounded."""
    return Seq(tuple(text(each) if isinstance(each, str) else spelling.equal(each) for each in _pieces(value, place)))


def _pieces(value: Any, place: Place | None) -> Iterator[str | int | float | Decimal]:
    """The text of a value, but its numbers as they are."""
    if isinstance(value, list | tuple):
        yield "["
        for at, each in enumerate(value):
            yield COMMA if at else ""
            yield from _pieces(each, place and place.item(at))
        yield "]"
    elif isinstance(value, dict):
        names = place.names if place else {}
        keys = [name for name in names if name in value] + [name for name in value if name not in names]
        yield "{"
        odd = [key for key in value if not isinstance(key, str)]
        check(not odd, f"the instance has keys such as {odd[:1]}", "write them as text")
        for at, key in enumerate(keys):
            if place and key not in names:
                place.keys.check_string(key)
            yield (COMMA if at else "") + spelling.string(key) + COLON
            yield from _pieces(value[key], place and place.member(key))
        yield "}"
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        yield value
    else:
        if isinstance(value, str) and place:
            place.check_string(value)
        check(value is None or isinstance(value, bool | str), f"{value!r} is no JSON", "give what json.loads gives")
        yield spelling.scalar(value)


@lru_cache(4096)
def _disputed(pattern: str, value: str) -> bool:
    """Whether one of ECMA 262 and Python has a match and the other has not, so that no rule takes it."""
    if not _DISPUTED.search(pattern):
        return False
    try:
        both, either = matches(pattern, "both", search=True), matches(pattern, "either", search=True)
    except InputError:  # then a rule refuses the schema
        return False
    try:
        written = value.encode()
    except UnicodeEncodeError:
        return False
    return both.accepts(written) != either.accepts(written)
