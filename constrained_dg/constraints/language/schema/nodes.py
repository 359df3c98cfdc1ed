"""Schemas and where they apply: references, drafts, and the places of an instance with all that a schema says there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from constrained_dg.constraints.language.schema import spelling
from constrained_dg.constraints.language.schema.spelling import COLON, COMMA
from constrained_dg.errors import InputError, check, needs

#: The drafts that are read, by what `$schema` says.
DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}


class Refused(InputError):
    """A schema uses what is outside; `keyword` names it."""

    def __init__(self, keyword: str, why: str) -> None:
        super().__init__(f"the schema uses {keyword}, {why}", "leave it out, or say it in another way")
        self.keyword = keyword


@dataclass(frozen=True, eq=False)
class Node:
    """A schema and the base of its references."""

    schema: Any
    resolver: Any


class Document:
    """A schema document.

    Args:
        schema: valid JSON Schema.
        formats: whether `format` is enforced.

    Raises:
        InputError: no valid schema, or a draft that is not read.
    """

    def __init__(self, schema: Any, formats: bool) -> None:
        with needs("jsonschema", "a rule in JSON Schema"), needs("referencing", "a rule in JSON Schema"):
            import jsonschema
            import jsonschema_specifications
            import referencing.jsonschema
        check(
            isinstance(schema, dict | bool), f"the schema is {str(schema)[:60]!r}", "give an object, or true or false"
        )
        named = schema.get("$schema") if isinstance(schema, dict) else None
        self.draft = DRAFTS.get(str(named).rstrip("#"), 0) if named is not None else 2020
        check(self.draft > 0, f"$schema is {named!r}", f"give one of {', '.join(DRAFTS)}")
        self.validator: Any = {
            4: jsonschema.Draft4Validator,
            6: jsonschema.Draft6Validator,
            7: jsonschema.Draft7Validator,
            2019: jsonschema.Draft201909Validator,
            2020: jsonschema.Draft202012Validator,
        }[self.draft]
        try:
            self.validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            where = "/".join(map(str, error.absolute_path))
            raise InputError(f"the schema is not valid: {error.message[:200]} (at {where!r})", "correct it") from None
        except RecursionError:
            raise InputError("the schema is nested too deeply", "write a flatter one") from None
        kinds = referencing.jsonschema
        self.kind = {
            4: kinds.DRAFT4,
            6: kinds.DRAFT6,
            7: kinds.DRAFT7,
            2019: kinds.DRAFT201909,
            2020: kinds.DRAFT202012,
        }[self.draft]
        resource = self.kind.create_resource(schema)
        uri = resource.id() or ""
        self.registry = jsonschema_specifications.REGISTRY.with_resource(uri, resource)
        self.checker = self.validator.FORMAT_CHECKER if formats else None
        self.root = Node(schema, self.registry.resolver(uri))
        self._nodes: dict[int, Node] = {}
        self._made: dict[tuple[int, str], Any] = {}

    def node(self, schema: Any, parent: Node) -> Node:
        """A schema within another; the same node for the same schema."""
        if id(schema) not in self._nodes or isinstance(schema, bool):
            resolver = parent.resolver
            if isinstance(schema, dict) and isinstance(schema.get("id" if self.draft == 4 else "$id"), str):
                resolver = resolver.in_subresource(self.kind.create_resource(schema))
            made = Node(schema, resolver)
            if isinstance(schema, bool):
                return made
            self._nodes[id(schema)] = made
        return self._nodes[id(schema)]

    def made(self, schema: dict[str, Any], parent: Node) -> Node:
        """A schema of our own, the same for the same words; it lives as long as the document."""
        key = (id(parent.schema), _words(schema))
        if key not in self._made:
            self._made[key] = schema
        return self.node(self._made[key], parent)

    def target(self, node: Node) -> Node:
        """Where a `$ref` leads."""
        import referencing.exceptions

        reference = node.schema["$ref"]
        try:
            found = node.resolver.lookup(reference)
        except (referencing.exceptions.Unresolvable, referencing.exceptions.Unretrievable, ValueError):
            raise Refused("$ref", f"and {reference!r} leads nowhere within it; nothing is fetched") from None
        if not isinstance(found.contents, dict | bool):
            raise Refused("$ref", f"and {reference!r} is no schema")
        known = self._nodes.get(id(found.contents))
        if known is None:
            known = Node(found.contents, found.resolver)
            if isinstance(found.contents, dict):
                self._nodes[id(found.contents)] = known
        return known

    def accepts(self, node: Node, value: Any) -> bool:
        """The judge."""
        judge = self.validator(
            node.schema, registry=self.registry, _resolver=node.resolver, format_checker=self.checker
        )
        return bool(judge.is_valid(value))

    def live(self, node: Node) -> dict[str, Any]:
        """The keywords of a schema that count: beside `$ref`, older drafts read no others."""
        schema = node.schema
        if not isinstance(schema, dict):
            return {}
        return {"$ref": schema["$ref"]} if self.draft <= 7 and isinstance(schema.get("$ref"), str) else schema

    def beside(self, node: Node) -> Iterator[Node]:
        """The schemas that apply, or may apply, to the same instance as this one."""
        schema = self.live(node)
        if "$ref" in schema:
            yield self.target(node)
        for key, value in schema.items():
            if key in ("allOf", "anyOf", "oneOf"):
                yield from (self.node(each, node) for each in value)
            elif key in ("not", "if", "then", "else"):
                yield self.node(value, node)
            elif key in ("dependentSchemas", "dependencies"):
                yield from (self.node(each, node) for each in value.values() if isinstance(each, dict | bool))


def _words(schema: Any) -> str:
    """What a schema of ours says, schemas in it by their identity."""
    if isinstance(schema, Node):
        return f"node {id(schema.schema)}" if not isinstance(schema.schema, bool) else str(schema.schema)
    if isinstance(schema, dict):
        return "{" + ", ".join(f"{key}: {_words(value)}" for key, value in schema.items()) + "}"
    if isinstance(schema, list | tuple):
        return "[" + ", ".join(map(_words, schema)) + "]"
    return repr(sorted(schema) if isinstance(schema, frozenset) else schema)


def prefix_and_rest(schema: dict[str, Any], draft: int) -> tuple[Sequence[Any], Any]:
    """The schemas of the first items, and that of all others; None where there is none."""
    if draft >= 2020:
        return schema.get("prefixItems", ()), schema.get("items")
    items = schema.get("items")
    return (items, schema.get("additionalItems")) if isinstance(items, list) else ((), items)


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

    @cached_property
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


def read_schema(schema: Any) -> Any:
    """A schema as JSON: a dict or a bool as it is, JSON as text, or what Pydantic makes of a model or a Python type.

    Raises:
        InputError: text that is not JSON, or a type that Pydantic does not know.
    """
    if isinstance(schema, str):
        try:
            return json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the schema is not JSON ({error})", "give a dict, JSON as text, or a type") from None
    if isinstance(schema, dict | bool):
        return schema
    with needs("pydantic", "a schema of a Python type"):
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError
    try:
        return TypeAdapter(schema).json_schema()
    except PydanticUserError as error:
        raise InputError(f"{schema!r} has no schema ({str(error).splitlines()[0]})", "give a dict") from None


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
