"""`Regex` says what Python's `re.fullmatch` says, on every text of a small length."""

import re
import warnings
from itertools import product

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from constrained_dg.constraints import Regex
from constrained_dg.constraints.language.construction import automaton
from constrained_dg.constraints.language.dfa import TooLargeError
from constrained_dg.constraints.language.pattern import read
from constrained_dg.errors import InputError
from tests.property.examples import many

SYMBOLS = "aAb1 -\n$^é٣_"
LENGTH = 3
EVERY = torch.tensor(list(product(range(len(SYMBOLS)), repeat=LENGTH)))
WRITTEN = ["".join(SYMBOLS[k] for k in row) for row in EVERY.tolist()]
#: Tokens of several characters, of one, of none, and special ones.
TEXTS = ["a", "ab", "", None, "\n", "1-", "é٣", "b1a"]
LONGER = torch.tensor(list(product(range(len(TEXTS)), repeat=LENGTH)))

NOTHING = "fits no answer|no text fits|needs at least|write no text"

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
            r"^",
            r"$",
            r"\A",
            r"\Z",
            r"(?i:É)",
            r"(?i:[^a])",
            r"(?i:[A-b]|k)",
            r"(?s:.)",
            r"(?a:\w)",
            r"(?a:\D)",
            r"\b",
            r"\B",
            r"(?a:\b)",
            r"(?m:^)",
            r"(?m:$)",
            r"(?=a|$)",
            r"(?!.b)",
            r"(?<=[a1])",
            r"(?<!\Ba)",
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
    lambda a, x, b: a + x + b,
    st.sampled_from(["", "^", r"\A", "(?i)", "(?s)", "(?=.[^b])", "^(?!a|é)", r"\A(?=\w)(?!1)"]),
    patterns,
    st.sampled_from(["", "$", r"\Z", "(?<=a)", r"(?<!1)$", "(?!b)a?", "(?<![aA])b?"]),
)


def refused(pattern: str) -> bool:
    """What is too large is refused by its size."""
    try:
        automaton(read(pattern))
    except TooLargeError:
        return True
    return False


def matches(pattern: str, texts: list[str | None]) -> list[bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = re.compile(pattern)
    return [text is not None and compiled.fullmatch(text) is not None for text in texts]


@many
@example("(?:a){0}(?<!1)$")
@example(r"...(?:b|^){1,2}")  # what may be empty at the begin alone
@example(r"..(?:b|$){2}1|(?:a|\Z){2,9}b..")
@given(anchored)
def test_every_text_is_judged_as_python_does(pattern):
    assume(not refused(pattern))
    expected = matches(pattern, WRITTEN)
    if not any(expected):
        with pytest.raises(InputError, match=NOTHING):
            Regex(pattern, SYMBOLS, LENGTH)
    else:
        assert Regex(pattern, SYMBOLS, LENGTH).is_satisfied(EVERY).tolist() == expected


@many
@given(anchored)
def test_tokens_of_several_characters_are_judged_as_python_does(pattern):
    assume(not refused(pattern))
    written = [[TEXTS[k] for k in row] for row in LONGER.tolist()]
    expected = matches(pattern, [None if None in row else "".join(row) for row in written])
    if not any(expected):
        with pytest.raises(InputError, match=NOTHING):
            Regex(pattern, TEXTS, LENGTH)
    else:
        assert Regex(pattern, TEXTS, LENGTH).is_satisfied(LONGER).tolist() == expected


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("(?i)i", "iIİıj"),  # the lower case of U+0130 is two characters
        ("(?i)[İ]", "iIİıj"),
        ("(?i)[^İ]", "iIİıj"),
        ("(?i)k|ſ", "kK\u212asSſß"),
        (r"(?a)(?u:\w)", "éa-"),  # of the flags a and u the inner one counts
        (r"(?a:\w(?u:\w)\w)", ["aéa", "éaa", "aaé"]),
        ("(?:a|c)b(?<=ab)(?<!cb)", ["ab", "cb"]),  # several looks: each sees all that is behind it
        ("(?=a).*(?<=b)c?(?<![a]c)", ["ab", "abc", "bb", "aac"]),
        ("(?!a)(?<!b)b?", ["", "b"]),
        ("[^a](?!a)(?<!b)", "abc"),
        (r"\w(?<=a)\A(?!a)(?!b).?", ["a", "aa", "ab", "ac"]),
        ("a(?=a$)a", ["aa", "aaa", "aa\n"]),
        ("((?!abc).)*", ["", "ab", "abc", "xabcx", "ababab"]),  # at each turn of a repeat
        ("(?:a(?=b)|b(?<=ab)(?!b))*", ["ab", "abab", "abb", "b", ""]),
        ("(?!(?<=a)b).b?", ["ab", "b", "bb"]),  # within each other
        ("a(?!(?<=a)b)b", ["ab"]),
        ("a(?=(?!b).)(?:b|c)", ["ab", "ac"]),
        (r"\B", ["", "a", "-"]),  # in no empty text until Python 3.14
        (r"\B|-?", ["", "-"]),
        (r"\b|\b.*\b", ["", "a", "-", "a-", "-a", "é", "é é", "٣-a"]),
        (r"(?a)é\b", ["é"]),  # the characters of words are those of the flags around
        (r"(?a)(?:é\b|(?u:e\b))", ["é", "e"]),
        (r"(?x) \N{DIGIT ONE} \ # and more", ["1 ", "1"]),
        ("(?i)k(?-i:k)", ["Kk", "KK", "\u212ak"]),
        (r"(?:\ba|\B-)*", ["a", "aa", "a-a", "a--a", "--", "-"]),
        (r".*\bcat\b.*", ["cat", "a cat.", "concat", "écat", "cat\n"]),
        ("(?m)(?:^a$\n?)*", ["a", "a\na", "a\na\n", "a\n\na", "aa", ""]),
        ("(?m:^)a|(?s:.)*(?m:^b$)(?s:.)*", ["a", "\na", "\nb\n", "ab", "a\rb"]),
        ("a$(?m:\n^|$)", ["a", "a\n"]),
    ],
)
def test_hand_made_patterns_are_judged_as_python_does(pattern, texts):
    dfa = automaton(read(pattern))
    assert [dfa.accepts(text.encode()) for text in texts] == matches(pattern, list(texts))


def test_words_and_lines_in_which_python_and_ecma_differ():
    """ECMA 262 has words of ASCII, and four characters that end lines: what fits in both, and in either."""
    texts = ["écat", "a cat", "cat", "é", "a", "x\u2028y", "x\ny"]
    for pattern, both, either in [
        (r"\bcat", ["a cat", "cat"], ["écat", "a cat", "cat"]),
        (r"\B..t", [], ["écat"]),
        (r"^\b.$", ["a"], ["é", "a"]),
        (r"^.(?!\b)", ["cat"], ["écat", "cat", "é"]),
        ("(?m)^y", ["x\ny"], ["x\ny", "x\u2028y"]),
        ("x(?m:$)", ["x\ny"], ["x\ny", "x\u2028y"]),
    ]:
        for dialect, expected in (("both", both), ("either", either)):
            dfa = automaton(read(pattern, dialect, search=True))
            assert {text for text in texts if dfa.accepts(text.encode())} == set(expected), (pattern, dialect)


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
        ("(a|b)*a(a|b){18}", "more than 131,072 states"),
        ("((ab{1,60}){1,60}){1,60}", "more than 131,072 states"),
        ("a{1000000000}", "no text fits"),
        ("a^b", "no text fits"),
        ("a$b", "no text fits"),
        (r"(a)\1", "a back-reference"),
        ("(a)(?(1)a|b)", "a conditional group"),
        ("((?=a)b)+", "no text fits"),
        (r"a\ba", "no text fits"),
        ("".join(f"(?!{'b' * k}a)" for k in range(12)), "more than 11 kinds of look-around"),
        ("(?<=a+)b", "look-behind requires fixed-width pattern"),
        ("a++", "a possessive repeat"),
        ("(?>a)b", "an atomic group"),
        ("(?m)a^a", "no text fits"),
        ("(a", "not a valid regular expression"),
        ("(" * 3000 + "a" + ")" * 3000, "not a valid regular expression"),
    ],
)
def test_what_is_too_large_or_no_automaton_can_do_is_refused_by_name(pattern, words):
    with pytest.raises(InputError, match=words):
        Regex(pattern, "ab", 500)


def test_characters_that_stand_in_several_tokens():
    """Tokens that are one byte each, and tokens that end within a character."""
    texts = [bytes([byte]) for byte in range(256)] + [b"a\xc3", b"\xa9b", b"\xf0\x9f", None]
    rule = Regex("aéb|🙂", texts, 4)
    assert rule.is_satisfied(torch.tensor([[97, 0xC3, 0xA9, 98], [258, 0x99, 0x82, 0]])).tolist() == [True, False]
    rule = Regex("aéb|🙂", texts, 4, end=([259], 259))
    answers = torch.tensor([[256, 257, 259, 259], [258, 0x99, 0x82, 259], [256, 259, 259, 259], [256, 257, 259, 97]])
    assert rule.is_satisfied(answers).tolist() == [True, True, False, False]
    may = rule.of_tokens(rule.allowed(answers[:1], torch.tensor([[True, False, False, False]]), slice(0, 4)))
    assert may[0, 1].nonzero().flatten().tolist() == [0xA9, 257]
