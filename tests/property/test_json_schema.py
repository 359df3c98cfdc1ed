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
    ("pattern", "value", "other"),
    [(r"^\D$", "٣", "a"), (r"^\s$", "\ufeff", "a"), (r"^\w$", "é", "a"), ("^a$", "a\n", "a"), (r"^\d$", "٣", "3")],
)
def test_a_string_that_is_read_in_two_ways_has_no_text(pattern, value, other):
    """Neither as a value nor as a key."""
    schemas = (
        {"items": {"pattern": pattern}},
        {"patternProperties": {pattern: False}},
        {"propertyNames": {"pattern": pattern}},
    )
    for schema, place in zip(
        schemas, (lambda text: [text], lambda text: {text: 1}, lambda text: {text: 1}), strict=True
    ):
        with pytest.raises(InputError, match="ECMA 262 and Python disagree on "):
            json_text(place(value), schema)
        assert json.loads(json_text(place(other), schema)) == place(other)


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        # Floats from 2**53 on are integers, but not those that `repr` writes.
        ({"maximum": 1e23}, ["99999999999999991611392", "100000000000000000000000"]),
        ({"exclusiveMinimum": 1e23}, ["99999999999999991611392", "100000000000000000000000"]),
        ({"not": {"minimum": 1e23}}, ["99999999999999991611391", "99999999999999991611392"]),
        ({"const": 1e23}, ["99999999999999991611392", "100000000000000000000000"]),
        # Integers of more digits than decimals have by default.
        ({"exclusiveMaximum": 10**30}, [str(10**30 - 1), str(10**30)]),
        ({"minimum": -(10**30) - 1}, [str(-(10**30)), str(-(10**30) - 1), str(-(10**30) - 2)]),
        # A reader rounds fractions.
        ({"minimum": 10**22 + 1}, [str(10**22 + 1), "10000000000000000000001.5"]),
        ({"not": {"const": 1}}, ["1", "1.00000000000000000001", "0.99999999999999999999", "1.0000000000000002", "2"]),
        ({"not": {"const": [{"a": 0.1}]}}, ['[{"a": 0.1}]', '[{"a": 0.100000000000000000001}]', '[{"a": 0.11}]']),
        ({"not": {"enum": [0, 10**400]}}, ["0", "0." + "0" * 350 + "1", "-0." + "0" * 350 + "1", "0.1"]),
        # All fractions but those within 1e-15 of an integer.
        (
            {"type": "number", "not": {"type": "integer"}},
            ["0.30000000000000004", "-1.23456789012345", "0.00000000000000001", "123456789.12345679", "9.999999999999",
             "1.00000000000000000001", "999999999999999.5", "9007199254740993.5", "0.99999999999999999"],
        ),
        ({"type": "number", "not": {"multipleOf": 2}}, ["1.2345678901234567", "2.00000000000000000001", "3", "4"]),
    ],
)  # fmt: skip
def test_numbers_are_judged_as_a_reader_rounds_them(schema, texts):
    dfa = compiled_schema(schema).dfa
    assert [dfa.accepts(text.encode()) for text in texts] == [judge(schema, text) for text in texts]


@pytest.mark.parametrize("value", [1e23, 2.0**60, -1e300, 2.0**53, 1e16, 0.1, 5e-324, -0.0])
def test_the_text_of_a_float_is_read_as_that_float(value):
    assert json.loads(json_text(value)) == value


@pytest.mark.parametrize(
    ("draft", "branches", "values"),
    [
        # What the rule leaves out since checkers disagree on it, a branch of `oneOf` may accept.
        (2020, [{"pattern": r"^\d$"}, {"pattern": "^[٠-٩]$"}], ["٣", "3"]),
        (2020, [{"format": "email"}, {"pattern": "^@"}], ["@", "a@b.c"]),
        (2020, [{"format": "ipv4"}, {"format": "ipv6"}], ["1.2.3.4", "::1", "a"]),
        (7, [{"format": "uuid"}, {"format": "date"}], ["2024-01-01"]),  # draft 7 has no format "uuid"
        (2020, [{"pattern": "^a{100}$", "maxLength": 200}, {"pattern": "^a", "minLength": 50}], ["a" * 100, "a" * 99]),
        (2020, [{"not": {"type": "integer"}}, {"minimum": 1.0000000000000002, "maximum": 1.1}], [1.0000000000000002]),
        (
            2020,
            [{"patternProperties": {each: True}, "additionalProperties": False} for each in (r"^\d$", "^[٠-٩]$")],
            [{"٣": 1}, {"3": 1}],
        ),
    ],
)
def test_branches_exclude_each_other_whoever_judges(draft, branches, values):
    url = {7: "http://json-schema.org/draft-07/schema#", 2020: "https://json-schema.org/draft/2020-12/schema"}[draft]
    kinds = ["object"] if isinstance(values[0], dict) else ["string", "number"]
    schema = {"$schema": url, "oneOf": [{"type": kinds, "minProperties": 1, **each} for each in branches]}
    kind = jsonschema.Draft7Validator if draft == 7 else jsonschema.Draft202012Validator
    try:
        dfa = compiled_schema(schema).dfa
    except Refused as error:
        assert error.keyword == "oneOf"
        return
    for value in values:
        accepted = dfa.accepts(json.dumps(value, ensure_ascii=False).encode())
        assert not accepted or kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(value)


def test_a_schema_of_another_draft_within_is_refused():
    inner = {"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/$defs/one", "maximum": 3}
    schema = {"properties": {"a": inner}, "$defs": {"one": {"type": "integer"}}}
    with pytest.raises(
        Refused, match=r"uses \$schema, 'http://json-schema.org/draft-07/schema#' within a schema of another"
    ):
        compiled_schema(schema)
    assert compiled_schema({"$schema": inner["$schema"], **schema}).dfa.accepts(
        b'{"a": 5}'
    )  # beside $ref nothing counts


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
