"""The places of an instance, with all that a schema says there, and the text of an instance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

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
    if isinstance(value, list | tuple):
        inside = (canonical(each, place and place.item(at)) for at, each in enumerate(value))
        return f"[{COMMA.join(inside)}]"
    if isinstance(value, dict):
        names = place.names if place else {}
        keys = [name for name in names if name in value] + [name for name in value if name not in names]
        inside = (spelling.string(key) + COLON + canonical(value[key], place and place.member(key)) for key in keys)
        return "{" + COMMA.join(inside) + "}"
    if isinstance(value, str) and place:
        a_label = place.hosts and _A_LABEL.search(value)
        check(not a_label, f"checkers disagree on host names such as {value!r}", 'leave out labels such as "xn--..."')
        for pattern in place.patterns:
            problem = f"ECMA 262 and Python disagree on {value!r} under {pattern!r}"
            check(not _disputed(pattern, value), problem, "leave out what they read differently")
    return spelling.scalar(value)


@lru_cache(4096)
def _disputed(pattern: str, value: str) -> bool:
    """Whether ECMA 262 has a match that Python does not have, so that the rule refuses it."""
    if not _DISPUTED.search(pattern):
        return False
    try:
        both, ecma = matches(pattern, "both", search=True), matches(pattern, "ecma", search=True)
    except InputError:  # then a rule refuses the schema
        return False
    try:
        written = value.encode()
    except UnicodeEncodeError:
        return False
    return both.accepts(written) != ecma.accepts(written)
