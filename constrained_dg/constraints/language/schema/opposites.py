"""The ways in which a schema fails, as schemas that hold."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import combinations
from typing import Any

from constrained_dg.constraints.language.schema.keywords import BOUNDED, EXACT, KINDS, REFUSED, Demand, keywords, kinds
from constrained_dg.constraints.language.schema.nodes import Document, Node, Refused


def opposites(document: Document, node: Node) -> Iterator[list[Demand]]:
    """The ways in which a schema fails, one of which must hold."""
    schema = keywords(document, node)

    def made(**words: Any) -> list[Demand]:
        return [(document.made(words, node), True)]

    def under(each: Any, holds: bool) -> Demand:
        return document.node(each, node), holds

    for key, value in schema.items():
        if key == "$ref":
            yield [(document.target(node), False)]
        elif key == "type":
            yield made(**{"!kinds": KINDS - kinds(value)})
        elif key in ("enum", "const"):
            yield made(**{"!values": value if key == "enum" else [value]})
        elif key in ("minimum", "maximum"):
            strict = schema.get(f"exclusive{key.capitalize()}") is True
            yield _beyond(document, node, key == "minimum", Decimal(value), strict)
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            if not isinstance(value, bool):
                yield _beyond(document, node, key == "exclusiveMinimum", Decimal(value), True)
        elif key in ("pattern", "multipleOf"):
            some = frozenset(["string"]) if key == "pattern" else frozenset(["integer", "fraction"])
            yield made(**{"!kinds": some, f"!{key}": value})
        elif key in ("minLength", "minItems", "minProperties", "maxLength", "maxItems", "maxProperties"):
            kind = {"L": "string", "I": "array", "P": "object"}[key[3]]
            if key.startswith("max"):
                yield made(type=kind, **{"min" + key[3:]: int(value) + 1})
            elif value > 0:
                yield made(type=kind, **{"max" + key[3:]: int(value) - 1})
        elif key == "required":
            for name in value:
                yield made(type="object", properties={name: False})
        elif key == "properties":
            for name, each in value.items():
                yield made(type="object", required=[name], **{"!named": [(name, under(each, False))]})
        elif key == "items" and isinstance(value, dict | bool) and "prefixItems" not in schema:
            yield made(type="array", **{"!contains": [(under(value, False), 1)]})
        elif key == "contains" and schema.get("minContains", 1) == 1 and "maxContains" not in schema:
            yield made(type="array", **{"!items": ((), under(value, False))})
        elif key == "allOf":
            for each in value:
                yield [under(each, False)]
        elif key == "anyOf":
            yield [under(each, False) for each in value]
        elif key == "oneOf":
            yield [under(each, False) for each in value]
            for one, other in combinations(value, 2):
                yield [under(one, True), under(other, True)]
        elif key == "not":
            yield [under(value, True)]
        elif key == "if" and "then" in schema:
            yield [under(value, True), under(schema["then"], False)]
        elif key == "else" and "if" in schema:
            yield [under(schema["if"], False), under(value, False)]
        elif (key == "additionalProperties" and value in (True, {})) or (key == "format" and document.checker is None):
            continue
        elif key in EXACT | BOUNDED | REFUSED and key not in ("if", "then", "minContains", "additionalItems"):
            raise Refused("not", f"over {key}, which has no opposite here")


def _beyond(document: Document, node: Node, below: bool, bound: Decimal, strict: bool) -> list[Demand]:
    """Numbers that a bound shuts out."""
    number = int(bound) if bound == int(bound) else float(bound)
    if document.draft == 4:
        name = "maximum" if below else "minimum"
        bounds = {name: number, f"exclusive{name.capitalize()}": not strict}
    else:
        side = ("maximum", "exclusiveMaximum") if below else ("minimum", "exclusiveMinimum")
        bounds = {side[0 if strict else 1]: number}
    return [(document.made({"type": "number", **bounds}, node), True)]
