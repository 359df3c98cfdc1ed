"""The keywords of JSON Schema: how each is read, and in which drafts there is one."""

from __future__ import annotations

from typing import Any

from constrained_dg.constraints.language.schema.nodes import DRAFTS, Document, Node, Refused
from constrained_dg.errors import InputError

KINDS = frozenset(["null", "boolean", "integer", "fraction", "string", "array", "object"])

#: Keywords by how they are read. Others are no keywords of any draft, or only describe, and demand nothing.
_SINCE_EVER = "$ref type enum const allOf anyOf if then else not minimum maximum exclusiveMinimum exclusiveMaximum"
_OF_STRINGS, _OF_ARRAYS = "minLength pattern", "items prefixItems additionalItems minItems"
_OF_OBJECTS = "properties patternProperties additionalProperties required propertyNames dependentRequired"
EXACT = frozenset(
    f"{_SINCE_EVER} {_OF_STRINGS} {_OF_ARRAYS} {_OF_OBJECTS} dependentSchemas dependencies maxProperties".split(" ")
)
#: Exact up to a stated bound: long strings and arrays, recursion, undeclared values; or read in part.
BOUNDED = frozenset(
    "maxLength maxItems minProperties multipleOf oneOf contains minContains uniqueItems format".split(" ")  # noqa: SIM905
)
REFUSED = frozenset(["maxContains", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"])

#: A schema, and whether it must hold or must not.
Demand = tuple[Node, bool]
#: The first draft of each keyword that draft 4 does not have, and the last of those that were given up.
_SINCE = {"const": 6, "contains": 6, "propertyNames": 6, "if": 7, "then": 7, "else": 7, "dependentRequired": 2019}
_SINCE |= {"dependentSchemas": 2019, "minContains": 2019, "maxContains": 2019, "unevaluatedItems": 2019}
_SINCE |= {"unevaluatedProperties": 2019, "prefixItems": 2020, "$dynamicRef": 2020, "$recursiveRef": 2019}
_UNTIL = {"additionalItems": 2019, "$recursiveRef": 2019}


def keywords(document: Document, node: Node) -> dict[str, Any]:
    """The keywords of a schema that its draft knows.

    Raises:
        Refused: a schema within the document is of another draft.
    """
    draft, schema = document.draft, document.live(node)
    named = schema.get("$schema")
    if isinstance(named, str) and DRAFTS.get(named.rstrip("#"), draft) != draft:
        raise Refused("$schema", f"{named!r} within a schema of another draft")
    return {key: value for key, value in schema.items() if _SINCE.get(key, 4) <= draft <= _UNTIL.get(key, 9999)}


def kinds(types: str | list[str]) -> frozenset[str]:
    """The kinds of a `type`; a number is an integer or a fraction."""
    found: frozenset[str] = frozenset()
    for each in [types] if isinstance(types, str) else types:
        if each not in KINDS | {"number"}:
            raise InputError(f"the schema has the type {each!r}", "give one of JSON's")
        found |= {"integer", "fraction"} if each == "number" else {each}
    return found
