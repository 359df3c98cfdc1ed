"""Automata over bytes, carried to the tokens of a vocabulary."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from constrained_dg.constraints.language import trie_loops
from constrained_dg.constraints.language import vocabulary_loops as loops
from constrained_dg.constraints.language.chain_loops import chains
from constrained_dg.constraints.language.copy_loops import copies
from constrained_dg.constraints.language.dfa import Dfa, TooLargeError
from constrained_dg.constraints.language.dfa_loops import TOO_LARGE
from constrained_dg.constraints.language.shift_loops import shifts
from constrained_dg.constraints.running import run_loop
from constrained_dg.texts import Texts

#: Edges of an automaton over tokens, and members of their labels; so many take two gigabytes while they are sorted.
MOST_MEMBERS = 2**26

_tries: WeakKeyDictionary[Texts, Trie] = WeakKeyDictionary()


def trie_of(texts: Texts) -> Trie:
    """The trie of a vocabulary, made once."""
    if texts not in _tries:
        _tries[texts] = Trie.of(texts)
    return _tries[texts]


@dataclass(frozen=True, eq=False)
class Trie:
    """The distinct texts of a vocabulary by `_kind` and in order; see `trie_loops` for the arrays.

    Attributes:
        which: (V) the number of each token's text, -1 for None.
        texts: U, the number of distinct texts.
        split: the first node behind those of plain texts.
    """

    which: np.ndarray
    texts: int
    nodes: tuple[np.ndarray, ...]
    code: np.ndarray
    below: tuple[np.ndarray, ...]
    split: int

    @classmethod
    def of(cls, texts: Sequence[bytes | None]) -> Trie:
        order = sorted({text for text in texts if text is not None}, key=lambda text: (_kind(text), text))
        number = {text: k for k, text in enumerate(order)}
        which = np.array([-1 if text is None else number[text] for text in texts], np.int64)
        data = np.frombuffer(b"".join(order), np.uint8)
        begin = np.cumsum([0, *map(len, order)])
        plain = bisect_left(order, 2, key=_kind)
        byte, depth, past, first, ends = trie_loops.trie(data, begin, plain)
        draws = np.random.default_rng(0)
        code = np.zeros((len(byte), 2), np.uint64)
        code[ends] = draws.integers(1, 2**63, (int(ends.sum()), 2), dtype=np.uint64)
        below = trie_loops.subtrees(byte, depth, past, ends, code)
        split = max(1, int(np.searchsorted(first[:-1], plain)))
        return cls(which, len(order), (byte, depth, past, first, ends), code, below, split)


#: What JSON does not write as it is within a string.
_SPECIAL = re.compile(rb'[\x00-\x1f"\\]')


#: All other bytes.
_PLAIN = np.array([byte for byte in range(256) if not _SPECIAL.match(bytes([byte]))])


def _kind(text: bytes) -> int:
    """Which part of the trie a text belongs to, the first two being plain: by whether JSON writes it as it is, so that
    it ends no string; and by whether it is whole characters, so that its subtree is skipped within strings."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return 3 if _SPECIAL.search(text) else 1
    return 2 if _SPECIAL.search(text) else 0


def walks(dfa: Dfa, trie: Trie) -> tuple[Any, ...]:
    """What `vocabulary_loops.tokens` finds. Raises TooLargeError."""
    longest = int(trie.nodes[1].max())
    plain = np.zeros(dfa.table.shape[1], bool)
    plain[dfa.group[_PLAIN]] = True
    ways = *run_loop(chains, dfa.table, dfa.group), *shifts(dfa.table, longest), *run_loop(copies, dfa.table, plain)
    vocabulary = *trie.nodes, trie.code, *trie.below, trie.split
    found = run_loop(loops.tokens, dfa.table, dfa.group, *vocabulary, *ways, MOST_MEMBERS)
    if found[-1] == TOO_LARGE:
        raise TooLargeError(size=f"more than {MOST_MEMBERS:,} moves on the tokens of this vocabulary")
    return found


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """An automaton over classes of tokens, as edges.

    Attributes:
        classes: (V) int64, the class of each token; class 0 is that of tokens that are never permitted, if any.
        source, target, label: (E) int32, sorted by source.
        begin: (L + 1) int64, where the classes of each label begin.
        members: int32, the classes of each label.
        accepting: (Q) bool. State 0 is the start.
    """

    classes: np.ndarray
    source: np.ndarray
    target: np.ndarray
    label: np.ndarray
    begin: np.ndarray
    members: np.ndarray
    accepting: np.ndarray

    @classmethod
    def of(cls, dfa: Dfa, texts: Texts) -> TokenAutomaton:
        """Carry an automaton, which accepts something, from bytes to tokens."""
        trie = trie_of(texts)
        source, target, label, begin, members, order, _ = walks(dfa, trie)
        by_source = np.argsort(source, kind="stable")
        source, target, label = source[by_source], target[by_source], label[by_source]
        draws = np.random.default_rng(1)
        code = draws.integers(1, 2**63, (len(begin) - 1, 2), dtype=np.uint64)
        of, _, begin, members = loops.classes(trie.texts, begin, members, code)
        classes = np.append(of, 0)[trie.which].astype(np.int64)
        return cls(classes, source, target, label, begin, members, dfa.accepting[order])
