"""`Json` says what the package `jsonschema` says, of every instance as `json_text` writes it."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from constrained_dg.constraints import json_text
from constrained_dg.constraints.language.pattern import matches
from constrained_dg.constraints.language.schema.languages import compiled_schema
from constrained_dg.constraints.language.schema.nodes import Refused
from constrained_dg.errors import InputError
from tests.property.examples import many

jsonschema = pytest.importorskip("jsonschema")

#: Characters that Python and ECMA 262 put into different classes.
DISPUTED = ["٣", "\ufeff", "\x85", "\x1c"]
NAMES = ["a", "b", "é", 'q"']
numbers = st.one_of(st.integers(-12, 12), st.sampled_from([0.5, -0.5, 1.0, 2.25, 10.0, -3.75, 1e-7, 120]))
scalars = st.one_of(
    st.none(), st.booleans(), numbers, st.sampled_from(["", "a", "ab", "b1", "é\n", 'q"', "2024-02-29", *DISPUTED])
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
        "pattern": st.sampled_from(
            ["a", "^a", "b$", "^[ab]*$", "^(?!a)", r"\d", r"^\D", r"^\S*$", r"[^\w]", r"^(?!\s)"]
        ),
        "format": st.sampled_from(["date", "ipv4", "unknown"]),
        "minItems": counts,
        "maxItems": counts,
        "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        "minProperties": counts,
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
        try:
            text = json_text(value, schema)
        except InputError:  # checkers disagree
            assert any(each in json.dumps(value, ensure_ascii=False) for each in DISPUTED)
            continue
        accepted, expected = made.dfa.accepts(text.encode()), judge(schema, text)
        if any(each in text for each in DISPUTED):
            assert expected or not accepted, text
        else:
            assert accepted == expected, text
    shortest = made.dfa.shortest()
    assert shortest is None or judge(schema, shortest.decode())


@pytest.mark.parametrize(
    "pattern", [r"^\d$", r"^\D$", r"^\w$", r"^\W$", r"^\s$", r"^\S$", "^[^\\d]$", "^.$", "^(?!\\s).$"]
)
def test_a_pattern_and_its_opposite_are_what_both_languages_say(pattern):
    """Characters on which Python and ECMA 262 agree are read so; the others are in neither language."""
    holds, fails = compiled_schema({"pattern": pattern}).dfa, compiled_schema({"not": {"pattern": pattern}}).dfa
    ecma = matches(pattern, "ecma", search=True)
    for character in ["a", "é", "1", " ", "_", "-", "\u2028", "\u3000", *DISPUTED]:
        python, other = re.search(pattern, character) is not None, ecma.accepts(character.encode())
        written = json.dumps(character, ensure_ascii=False).encode()
        assert holds.accepts(written) == (python and other)
        assert fails.accepts(written) == (not python and not other)


@pytest.mark.parametrize(
    ("pattern", "value", "words"),
    [(r"^\D$", "٣", "ECMA 262 and Python disagree on '٣'"), (r"^\s$", "\ufeff", "ECMA 262 and Python disagree")],
)
def test_a_string_that_is_read_in_two_ways_has_no_text(pattern, value, words):
    with pytest.raises(InputError, match=words):
        json_text([value], {"items": {"pattern": pattern}})
    assert json_text(["a"], {"items": {"pattern": pattern}}) == '["a"]'


def test_host_names_that_some_checkers_decode_are_left_out():
    schema = {"type": "string", "format": "hostname"}
    with pytest.raises(
        InputError, match=r"checkers disagree on host names such as 'www\.xn--ihqwcrb4cv8a8dqg056pqjye\.com'"
    ):
        json_text("www.xn--ihqwcrb4cv8a8dqg056pqjye.com", schema)
    assert json_text("xn--x", schema, formats=False) == '"xn--x"'
    dfa = compiled_schema(schema).dfa
    said = {
        name: dfa.accepts(f'"{name}"'.encode())
        for name in ("a", "a-b.c", "a--b", "ab--c", "xn--x", "a.xn--x", "a-", "a" * 63, "a" * 64)
    }
    assert said == {
        "a": True,
        "a-b.c": True,
        "a--b": True,
        "ab--c": False,
        "xn--x": False,
        "a.xn--x": False,
        "a-": False,
        "a" * 63: True,
        "a" * 64: False,
    }


@pytest.mark.parametrize(
    ("schema", "taken"),
    [
        ({"minProperties": 2}, False),
        ({"minProperties": 1}, True),
        ({"minProperties": 2, "required": ["a"]}, True),
        ({"minProperties": 3, "required": ["a"]}, False),
        ({"minProperties": 2, "properties": {"a": True, "b": True}, "additionalProperties": False}, True),
        ({"minProperties": 2, "properties": {"a": True}, "patternProperties": {"^b": True}}, False),
    ],
)
def test_min_properties_is_exact_or_refused(schema, taken):
    schema = {"type": "object", **schema}
    if not taken:
        with pytest.raises(Refused, match="uses minProperties"):
            compiled_schema(schema)
        return
    made = compiled_schema(schema)
    for value in ({}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}, {"z": 1, "y": 2}, {"a": 1, "z": 1, "y": 2}):
        text = json_text(value, schema)
        assert made.dfa.accepts(text.encode()) == judge(schema, text)
