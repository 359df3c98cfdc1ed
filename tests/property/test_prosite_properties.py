"""PROSITE patterns: parser, regular expression, automata and a slow matcher say the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from tasks.amino_acid.prosite import (
    Pattern,
    _determinised,
    _minimised,
    at,
    avoids,
    contains,
    occurrences,
    parse_pattern,
)
from tasks.amino_acid.residues import RESIDUES
from tests.automata import accepts
from tests.property.examples import many

FEW = "ACDE"
letters = st.lists(st.sampled_from(FEW), min_size=1, max_size=3, unique=True).map("".join)
sequences = st.text(FEW, max_size=9)
spaces = st.sampled_from(["", "", " ", "\n"])


@st.composite
def patterns(draw):
    """A pattern as text and as it should be understood."""
    parts, elements = [], []
    size = draw(st.integers(1, 4))
    start_optional, end_optional = draw(st.booleans()), draw(st.booleans())
    for k in range(size):
        some = draw(letters)
        opening, closing = "<" * (start_optional and k == 0), ">" * (end_optional and k == size - 1)
        if opening or closing:
            parts.append(f"[{opening}{some}{closing}]")
            elements.append((frozenset(some), 1, 1))
            continue
        one, residues = draw(
            st.sampled_from(
                [
                    (some[0], some[0]),
                    (f"[{some}]", some),
                    (f"{{{some}}}", set(RESIDUES) - set(some)),
                    ("x", RESIDUES),
                    ("B", "DN"),
                    (f"[Z{some}]", f"EQ{some}"),
                ]
            )
        )
        if draw(st.integers(0, 5)) == 0:
            parts.append(f"{one}*")
            elements.append((frozenset(residues), 0, None))
            continue
        least = draw(st.integers(0, 2))
        most = draw(st.integers(max(least, 1), 3))
        ways = [f"({least},{most})"] + ([f"({least})"] if least == most else []) + [""] * (least == most == 1)
        parts.append(one + draw(st.sampled_from(ways)))
        elements.append((frozenset(residues), least, most))
    start, end = draw(st.booleans()), draw(st.booleans())
    text = "<" * start + "-".join(parts) + ">" * end
    spaced = "".join(letter + draw(spaces) for letter in text) + draw(st.sampled_from(["", ".", " .\n"]))
    return spaced, Pattern(text, tuple(elements), start, end, start_optional, end_optional)


def ends(pattern, text, begin):
    """Where matches that begin there end, tried one after the other."""

    def walk(k, place):
        if k == len(pattern.elements):
            return {place} if not pattern.end or place == len(text) else set()
        residues, least, most = pattern.elements[k]
        found = set()
        if (k == 0 and pattern.start_optional and place == 0) or (
            k == len(pattern.elements) - 1 and pattern.end_optional and place == len(text)
        ):
            found |= walk(k + 1, place)
        for repeats in range((len(text) if most is None else most) + 1):
            if repeats >= least:
                found |= walk(k + 1, place + repeats)
            if place + repeats >= len(text) or text[place + repeats] not in residues:
                break
        return found

    return walk(0, begin) if not pattern.start or begin == 0 else set()


@many
@given(patterns())
def test_the_parser_understands_what_was_written(given_pattern):
    text, pattern = given_pattern
    assert parse_pattern(text) == pattern == parse_pattern(pattern.text)


@many
@given(patterns(), st.lists(sequences, min_size=5, max_size=5))
def test_the_automata_the_regex_and_a_slow_matcher_agree(given_pattern, texts):
    pattern = given_pattern[1]
    found, avoided = contains(pattern), avoids(pattern)
    for text in texts:
        slow = {begin: max(those) for begin in range(len(text) + 1) if (those := ends(pattern, text, begin))}
        assert accepts(found, text) == bool(re.search(pattern.regex, text)) == bool(slow)
        assert accepts(avoided, text) != accepts(found, text)
        assert dict(occurrences(pattern, text)) == slow
        assert all(pattern.shortest <= end - begin <= (pattern.longest or len(text)) for begin, end in slow.items())


@many
@given(patterns(), st.lists(sequences, min_size=5, max_size=5), st.integers(1, 6))
def test_a_match_at_a_position(given_pattern, texts, position):
    pattern = given_pattern[1]
    if pattern.start and position > 1:
        with pytest.raises(InputError, match=f"cannot match at position {position}"):
            at(pattern, position)
        return
    there = at(pattern, position)
    for text in texts:
        # Behind the end of a text, re would match at its end instead.
        inside = position <= len(text) + 1
        by_regex = inside and bool(re.compile(pattern.regex).match(text, position - 1))
        assert accepts(there, text) == by_regex == (inside and bool(ends(pattern, text, position - 1)))


@many
@given(patterns(), st.lists(sequences, min_size=5, max_size=5), st.none() | st.integers(1, 3))
def test_the_smallest_automaton_accepts_the_same(given_pattern, texts, position):
    pattern = given_pattern[1]
    large = _determinised(pattern, position)
    small = _minimised(large)
    assert all(accepts(large, text) == accepts(small, text) for text in texts)
    assert len(small.table) <= len(large.table) and small.table.min() >= -1 and small.table.max() < len(small.table)
    # No two states are alike, and only the start of an automaton that accepts nothing is a dead end.
    states = len(small.table)
    labels = [state in small.accepting for state in range(states)] + [False]
    for _ in range(states + 1):
        keys = [(labels[state], *(labels[to] for to in small.table[state])) for state in range(states)]
        keys.append((labels[-1], *[labels[-1]] * 20))
        labels = [keys.index(key) for key in keys]
    assert len(set(labels)) == states + bool(small.accepting)
