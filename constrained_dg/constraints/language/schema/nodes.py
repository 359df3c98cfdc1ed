"""Schemas: references, drafts, and which of them apply to the same instance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from constrained_dg.constraints.running import check_time
from constrained_dg.errors import InputError, check, needs

#: The drafts that are read, by what `$schema` says.
DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}


#: Objects in a schema; the checker of schemas needs two seconds for so many, and nothing stops it.
_OBJECTS = 2**13


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
        InputError: no valid schema, too large a one, or a draft that is not read.
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
        _check_values(schema)
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
        check_time()
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
        check_time()
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


def _check_values(schema: Any) -> None:
    """Raise InputError where a schema is too large, or holds what Python's parser takes for JSON and is none."""
    objects, todo = 0, [schema]
    while todo:
        value = todo.pop()
        objects += isinstance(value, dict)
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if isinstance(value, float):
            check(isfinite(value), f"{value} is no number of JSON", "write a finite one")
    check(objects <= _OBJECTS, f"the schema holds {objects:,} objects", f"write at most {_OBJECTS:,}")


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


def read_schema(schema: Any) -> Any:
    """A schema as JSON: JSON as text, a dict or a bool, or what Pydantic makes of a model or a Python type.

    Raises:
        InputError: no JSON, or a type that Pydantic does not know.
    """
    if not isinstance(schema, str | dict | bool):
        with needs("pydantic", "a schema of a Python type"):
            from pydantic import TypeAdapter
            from pydantic.errors import PydanticUserError
        try:
            schema = TypeAdapter(schema).json_schema()
        except PydanticUserError as error:
            raise InputError(f"{schema!r} has no schema ({str(error).splitlines()[0]})", "give a dict") from None
    try:
        read = json.loads(schema) if isinstance(schema, str) else schema
        return json.loads(json.dumps(read))  # a copy, and nothing else than JSON
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the schema is not JSON ({error})", "give a dict, JSON as text, or a type") from None
