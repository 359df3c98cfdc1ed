"""Automata over bytes, carried to tokens and swept: each fast way beside a slow, obvious one."""

import re
from decimal import Decimal

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from constrained_dg.constraints import Regex
from constrained_dg.constraints.language.pattern import matches
from constrained_dg.constraints.language.schema import spelling
from constrained_dg.constraints.language.vocabulary import TokenAutomaton, trie_of, walks
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.token_machine import TokenMachine
from constrained_dg.errors import InputError
from constrained_dg.texts import Texts
from tests.property.examples import fewer, many

PATTERNS = [
    "[a-z]{2,9}",
    ".{0,5}",
    ".*",
    '"(?:[^"\\\\]|\\\\.)*"',
    '"[^"]{0,6}": [0-9]+',
    "(?:a|é|🙂)*b?",
    r"\w+( \w+){0,3}",
    "(?:ab|cd){3}",
    "[^a]*a[^a]*",
]
pieces = st.one_of(
    st.text(alphabet='abcdz01 "\\:,.@-é漢🙂', max_size=5).map(str.encode),
    st.binary(max_size=3),
    st.sampled_from(["🙂".encode()[:2], "é".encode()[1:], b'": ', b'a"', "漢字".encode()[2:], b"\xed\xa0\x80"]),
)
vocabularies = st.lists(pieces, min_size=1, max_size=60)


ADDRESS = r"[a-z.-]+@[a-z](?:[a-z-]{0,5}[a-z])?(?:\.[a-z]{1,3})*"
#: Patterns beside counters of characters, which automata have once for each count.
COUNTED = [
    ADDRESS,
    '(?:"[^"]*", )*',
    '(?:"[^" é]{0,2}(?: [^"]*)?",? ?){0,4}',  # copies of a part
    r'(?:\S+\s){0,2}"\S*"|(?:\S+\s){0,2}\S',
    "(?:a|é|🙂)*b?",
    r"\w+( \w+){0,3}",
    "(?:ab|cd){0,30}",
    "(?:a{3}|b{5}c)*",
    "a*b*@?",
]
counted = st.builds(
    lambda pattern, low, more: matches(pattern) & matches(f"(?s:.){{{low},{low + more}}}"),
    st.sampled_from(COUNTED),
    st.integers(0, 4),
    st.integers(0, 40),
)


@many
@given(st.sampled_from(PATTERNS).map(matches) | counted, vocabularies)
def test_edges_are_what_walking_every_token_finds(dfa, written):
    assume(dfa.states)
    texts = Texts([*written, None, b"ab"])
    order = walks(dfa, trie_of(texts))[-2]
    over = TokenAutomaton.of(dfa, texts)
    found = {
        (int(order[source]), token): int(order[target])
        for source, target, label in zip(over.source, over.target, over.label, strict=True)
        for token in np.flatnonzero(np.isin(over.classes, over.members[over.begin[label] : over.begin[label + 1]]))
    }
    expected = {}
    for state in order.tolist():
        for token, text in enumerate(texts):
            at = -1 if text is None else state
            for byte in text or b"":
                at = dfa.table[at, dfa.group[byte]] if at >= 0 else -1
            if at >= 0:
                expected[state, token] = int(at)
    assert found == expected
    assert set(order.tolist()) == {0, *expected.values()} and len(set(order.tolist())) == len(order)
    assert (np.diff(over.source) >= 0).all()


def test_few_states_of_a_counted_address_are_walked_from():
    dfa = matches(ADDRESS) & matches(".{1,300}")
    texts = Texts([b"abc", b"a", b".", b"@", b"-a", b"a@b.c", b"com"])
    *_, order, walked = walks(dfa, trie_of(texts))
    assert len(order) > 1000 and walked < len(order) / 10


def test_equal_items_of_an_array_are_walked_once():
    item = r'"(?:[^\s"]+ ){0,5}[^\s"]+", '
    dfa = matches(f"(?:{item}){{0,20}}")
    texts = Texts([b"abc", b"a", b" ", b" a", b'"', b'", "', b"a b c", "é".encode(), "é".encode()[:1]])
    *_, order, walked = walks(dfa, trie_of(texts))
    parts = walks(matches(item), trie_of(texts))[-1]
    assert len(order) > 300 and walked < len(order) + 2 * parts  # each state has two halves


@fewer
@given(st.sampled_from(PATTERNS), st.lists(pieces, min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_sweeps_over_edges_are_those_over_tables(pattern, written, length, data):
    texts = [*written, *[None] * 3, *(chr(code) for code in range(32, 127))]
    ends = data.draw(st.sampled_from([None, ([len(written)], len(written) + 1)]))
    try:
        rule = Regex(pattern, [*texts, *[None] * 512], length, ends)
    except InputError:
        return
    machine = rule.machine
    if not isinstance(machine, TokenMachine):
        edges = _edges(machine)
        fast, slow = TokenMachine(edges, machine.start, machine.accepting, length, machine.effect), machine
    else:
        tables = torch.where(machine.step == machine.states, -1, machine.step)[..., machine.effect[0]]
        fast, slow = (
            machine,
            Machine.of(tables, torch.zeros(length, dtype=torch.int64), machine.start, machine.accepting),
        )
    draws = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    classes = rule.num_classes
    candidates = torch.rand(3, length, classes, generator=draws) < data.draw(st.sampled_from([0.3, 0.8, 1.0]))
    assert torch.equal(fast.shrink(candidates), slow.shrink(candidates))
    scores = torch.randn(3, length, classes, generator=draws).double()
    (one, there), (other, exists) = fast.best(scores), slow.best(scores)
    assert torch.equal(there, exists) and torch.equal(one[there], other[there])
    answers = torch.randint(classes, (20, length), generator=draws)
    answers = torch.cat([answers, one[there]])
    assert torch.equal(fast.accepts(answers), slow.accepts(answers)) and fast.accepts(one[there]).all()


def _edges(machine: Machine):
    """The edges of a table: a label for each pair of states."""
    from constrained_dg.constraints.token_machine import Edges

    begin, target, inside, members = [0], [], [0], []
    for row in machine.step[0].tolist():
        for to in sorted(set(row) - {machine.states}):
            effects = [effect for effect, goal in enumerate(row) if goal == to]
            target.append(to)
            members += effects
            inside.append(len(members))
        begin.append(len(target))
    labels = np.arange(len(target), dtype=np.int32)
    arrays = [np.array(begin), np.array(target, np.int32), labels, np.array(inside), np.array(members, np.int32)]
    return Edges(*arrays, machine.step.shape[-1])


simple = st.recursive(
    st.sampled_from(["a", "k", "(?i:k)", ".", "(?s:.)", "[^a]", "[a-k]", r"\n", "é", "🙂"]),
    lambda inner: st.one_of(
        st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}"])),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("{}{}".format, inner, inner),
    ),
    max_leaves=5,
)


@many
@given(simple, simple, st.lists(st.text(alphabet="aKk\u212a\né🙂b", max_size=4), min_size=1, max_size=20))
def test_what_both_accept_and_what_one_alone_does(one, other, texts):
    first, second = matches(one), matches(other)
    both, alone = first & second, first - second
    for text in texts:
        fits, too = (re.fullmatch(pattern, text) is not None for pattern in (one, other))
        assert first.accepts(text.encode()) == fits
        assert both.accepts(text.encode()) == (fits and too)
        assert alone.accepts(text.encode()) == (fits and not too)


decimals = st.one_of(
    st.integers(-1200, 1200).map(Decimal),
    st.decimals(-30, 30, allow_nan=False, places=2),
    st.decimals(-2, 2, allow_nan=False, places=6),
).map(lambda value: Decimal(spelling.number(value)))


@many
@given(st.none() | decimals, st.none() | decimals, st.lists(decimals, min_size=1, max_size=8))
def test_bounds_of_numbers(low, high, values):
    dfa = spelling.between(low, high)
    for value in [*values, *(each for each in (low, high) if each is not None)]:
        fits = (low is None or value >= low) and (high is None or value <= high)
        assert dfa.accepts(spelling.number(value).encode()) == fits


@many
@given(st.text(max_size=6), st.sampled_from([".*", "[^a]*", '[a"\\\\\\n]*', "[\\x00-\\x1f]*"]))
def test_strings_of_json_have_one_spelling(text, pattern):
    dfa = spelling.spelled(matches(pattern))
    assert dfa.accepts(spelling.string(text).encode()) == bool(re.fullmatch(pattern, text))
    assert not dfa.accepts(b'"\\u0061"') and not dfa.accepts(b'"\\/"')
