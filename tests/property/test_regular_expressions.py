"""`Regex` says what Python's `re.fullmatch` says, on every text of a small length."""

import re
import warnings
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import Regex
from constrained_dg.errors import InputError
from tests.property.examples import many

SYMBOLS = "aAb1 -\n$^é٣_"
LENGTH = 3
EVERY = torch.tensor(list(product(range(len(SYMBOLS)), repeat=LENGTH)))
WRITTEN = ["".join(SYMBOLS[k] for k in row) for row in EVERY.tolist()]
#: Tokens of several characters, of one, of none, and special ones.
TEXTS = ["a", "ab", "", None, "\n", "1-", "é٣", "b1a"]
LONGER = torch.tensor(list(product(range(len(TEXTS)), repeat=LENGTH)))

literal = st.sampled_from([*SYMBOLS, "#", "&", "~", "\t", "/", '"', "."]).map(re.escape)
atom = st.one_of(
    literal,
    st.sampled_from(
        [
            r".",
            r"\d",
            r"\D",
            r"\w",
            r"\W",
            r"\s",
            r"\S",
            r"\/",
            r"\"",
            r"\u0041",
            r"\n",
            r"[a-b]",
            r"[^a-z]",
            r"[a-]",
            r"[\w-]",
            r"[^\d\s]",
            r"[-a]",
            r"[]a]",
            r"[\]^]",
            r"x",
            r"(?:)",
            r"()",
        ]
    ),
)
repeat = st.sampled_from(["*", "+", "?", "{2}", "{,2}", "{1,}", "{0,3}", "{2,400}", "{0}", "*?", "+?", "{1,2}?"])
patterns = st.recursive(
    atom,
    lambda inner: st.one_of(
        st.builds(lambda x, r: f"(?:{x}){r}", inner, repeat),
        st.builds(lambda x, y: f"({x}|{y})", inner, inner),
        st.builds(lambda x, y: x + y, inner, inner),
    ),
    max_leaves=6,
)
anchored = st.builds(
    lambda a, x, b: a + x + b, st.sampled_from(["", "^", r"\A"]), patterns, st.sampled_from(["", "$", r"\Z"])
)


def matches(pattern: str, texts: list[str | None]) -> list[bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = re.compile(pattern)
    return [text is not None and compiled.fullmatch(text) is not None for text in texts]


@many
@given(anchored)
def test_every_text_is_judged_as_python_does(pattern):
    expected = matches(pattern, WRITTEN)
    if not any(expected):
        with pytest.raises(InputError, match="fits no answer"):
            Regex(pattern, SYMBOLS, LENGTH)
    else:
        assert Regex(pattern, SYMBOLS, LENGTH).is_satisfied(EVERY).tolist() == expected


@many
@given(anchored)
def test_tokens_of_several_characters_are_judged_as_python_does(pattern):
    written = [[TEXTS[k] for k in row] for row in LONGER.tolist()]
    expected = matches(pattern, [None if None in row else "".join(row) for row in written])
    if not any(expected):
        with pytest.raises(InputError, match="fits no answer"):
            Regex.over_text(pattern, TEXTS, LENGTH)
    else:
        assert Regex.over_text(pattern, TEXTS, LENGTH).is_satisfied(LONGER).tolist() == expected


def test_what_re_escape_writes_is_read():
    text = '#$&-^~ \t/"\\.[](){}*+?|'
    rule = Regex(re.escape(text), sorted(set(text)), len(text))
    only = rule.allowed(
        torch.zeros(1, len(text), dtype=torch.int64), torch.zeros(1, len(text), dtype=torch.bool), slice(0, len(text))
    )
    assert "".join(sorted(set(text))[k] for k in only[0].to(torch.uint8).argmax(-1).tolist()) == text


@pytest.mark.parametrize(
    ("pattern", "length", "states"),
    [
        ("[ab]{1,200}", 20, 2),
        ("[ab]{2,400}", 20, 3),
        (".{0,30}aba.{0,30}", 20, 4),
        ("(a|b)*a(a|b){12}", 20, 8192),
        ("(){1000000000}a{,1000000000}", 20, 1),
    ],
)
def test_repeats_are_cut_to_the_length(pattern, length, states):
    assert Regex(pattern, "ab", length).machine.states == states


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a|b)*a(a|b){18}", "more than 16,384 states"),
        ("((a{1,60}){1,60}){1,60}", "more than 4,096 characters"),
        ("a{1000000000}", "fits no answer of 64 tokens"),
        ("a^b", "has \\^ in its middle"),
        ("a$b", "has \\$ in its middle"),
        (r"(a)\1", "a backreference"),
        ("(?=a)b", "lookaround"),
        (r"\bab", "a word boundary"),
        ("a++", "a possessive repeat"),
        ("(?>a)b", "an atomic group"),
        ("(?i)a", "re.IGNORECASE"),
        ("(?i:a)b", "flags in a group"),
        ("(a", "not a valid regular expression"),
        ("(" * 3000 + "a" + ")" * 3000, "not a valid regular expression"),
    ],
)
def test_what_is_too_large_or_no_automaton_can_do_is_refused_by_name(pattern, words):
    with pytest.raises(InputError, match=words):
        Regex(pattern, "ab", 64)
