"""`Json` says what the package `jsonschema` says, of every instance as `json_text` writes it."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from constrained_dg.constraints import json_text
from constrained_dg.constraints.language.schema.languages import compiled_schema
from constrained_dg.constraints.language.schema.nodes import Refused
from tests.property.examples import many

jsonschema = pytest.importorskip("jsonschema")

NAMES = ["a", "b", "é", 'q"']
numbers = st.one_of(st.integers(-12, 12), st.sampled_from([0.5, -0.5, 1.0, 2.25, 10.0, -3.75, 1e-7, 120]))
scalars = st.one_of(
    st.none(), st.booleans(), numbers, st.sampled_from(["", "a", "ab", "b1", "é\n", 'q"', "2024-02-29"])
)
instances = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*NAMES, "z", "ab"]), inner, max_size=3)
    ),
    max_leaves=5,
)
counts = st.integers(0, 3)
kinds = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
simple = st.fixed_dictionaries(
    {},
    optional={
        "type": st.one_of(kinds, st.lists(kinds, min_size=1, max_size=3, unique=True)),
        "enum": st.lists(instances, min_size=1, max_size=3),
        "const": instances,
        "minimum": numbers,
        "exclusiveMaximum": numbers,
        "maximum": numbers,
        "exclusiveMinimum": numbers,
        "multipleOf": st.sampled_from([1, 2, 3, 2.0]),
        "minLength": counts,
        "maxLength": counts,
        "pattern": st.sampled_from(["a", "^a", "b$", "^[ab]*$", "^(?!a)", r"\d"]),
        "format": st.sampled_from(["date", "ipv4", "unknown"]),
        "minItems": counts,
        "maxItems": counts,
        "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        "minProperties": st.integers(0, 1),
        "maxProperties": counts,
        "dependentRequired": st.just({"a": ["b"]}),
        "title": st.just("ignored"),
    },
)


def merged(*parts: dict) -> dict:
    return {key: value for part in parts for key, value in part.items()}


def nested(inner):
    several = st.lists(inner, min_size=1, max_size=2)
    applied = st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=1),
            "additionalProperties": inner,
            "propertyNames": st.sampled_from([{"maxLength": 1}, {"enum": ["a", "z"]}, {"pattern": "a"}]),
            "items": inner,
            "prefixItems": several,
            "contains": inner,
            "anyOf": several,
            "allOf": several,
            "oneOf": several,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "$ref": st.just("#/$defs/one"),
        },
    )
    return st.one_of(st.booleans(), applied, st.builds(merged, applied, simple))


schemas = st.recursive(st.one_of(simple, st.booleans()), nested, max_leaves=4)
documents = st.builds(
    merged, schemas.filter(lambda s: isinstance(s, dict)), st.just({"$defs": {"one": {"type": "string"}}})
)


def judge(schema, text: str) -> bool:
    kind = jsonschema.Draft202012Validator
    return kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(json.loads(text))


@many
@example({"pattern": "a", "format": "date", "maxLength": 0}, ["a", None])
@given(documents, st.lists(instances, min_size=1, max_size=8))
def test_every_instance_is_judged_as_jsonschema_does(schema, values):
    try:
        made = compiled_schema(schema)
    except Refused:
        return
    for value in values:
        text = json_text(value, schema)
        assert made.dfa.accepts(text.encode()) == judge(schema, text), text
    shortest = made.dfa.shortest()
    assert shortest is None or judge(schema, shortest.decode())
