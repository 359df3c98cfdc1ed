"""Regular expressions as automata over the characters that can be written: parser, positions, states.

The syntax and its meaning are those of Python's `re.fullmatch` on text, so that `\\w`, `\\d` and `\\s` are Unicode and
`.` is any character but a newline. Refused, since no automaton can do it: backreferences, lookaround, word
boundaries, atomic groups, possessive repeats and flags. `^` and `$` may only stand at the ends, where they
have no effect.

The pattern is read by Python's own parser. Its characters become positions, each with those that may follow it
(Glushkov 1961), and sets of positions become states. Repeats are cut to the length of the answer.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from re import _constants as op  # type: ignore[attr-defined]  # as in hypothesis: Python has no public parser
from re import _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import numpy as np

from constrained_dg.errors import InputError, check

#: Characters of a pattern, repeats written out; states of its automaton; steps of work until these are found.
MOST_POSITIONS, MOST_STATES, MOST_WORK = 2**12, 2**14, 2**22

_REFUSED = {
    op.GROUPREF: "a backreference",
    op.GROUPREF_EXISTS: "a conditional group (?(...)...)",
    op.ASSERT: "lookaround (?=...) or (?<=...)",
    op.ASSERT_NOT: "lookaround (?!...) or (?<!...)",
    op.ATOMIC_GROUP: "an atomic group (?>...)",
    op.POSSESSIVE_REPEAT: "a possessive repeat such as a++",
}
_CATEGORIES = {
    op.CATEGORY_DIGIT: lambda c: c.isdecimal(),
    op.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    op.CATEGORY_SPACE: lambda c: c.isspace(),
    op.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    op.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    op.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
}


@dataclass(frozen=True)
class CharacterAutomaton:
    """The automaton of a pattern, minimal; without states from which nothing is accepted.

    Attributes:
        table: (Q, G) int64, the state after a character of group g; -1 where none may follow.
        start: state.
        accepting: states in which a text may end.
        group: of each character. Characters of one group are equivalent.
    """

    table: np.ndarray
    start: int
    accepting: list[int]
    group: dict[str, int]

    @classmethod
    def of(cls, pattern: str, characters: Iterable[str], longest: int) -> CharacterAutomaton:
        """Read a pattern.

        Args:
            characters: the characters of all texts.
            longest: characters of the longest text.

        Raises:
            InputError: not a valid regular expression, something that no automaton can do, or too large.
        """
        reader = _Reader(pattern, sorted(set(characters)), longest)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python warns of sets whose meaning may change
                tree = _parser.parse(pattern)
            flags = re.RegexFlag(tree.state.flags) & ~re.UNICODE
            check(not flags, f"{pattern!r} sets {flags!r}", "write the pattern without flags")
            joined = reader.sequence(tree, True, True)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(
                f"{pattern!r} is not a valid regular expression ({str(error) or type(error).__name__})",
                "write it in the syntax of Python's re",
            ) from None
        return reader.automaton(joined)


class _Piece(NamedTuple):
    """A piece of a pattern: whether it matches the empty text, the positions (bits) at which it may begin and end, and
    the fewest characters it matches."""

    nullable: bool
    first: int
    last: int
    least: int


_EMPTY = _Piece(True, 0, 0, 0)


class _Reader:
    def __init__(self, pattern: str, characters: Sequence[str], longest: int) -> None:
        self.pattern, self.characters, self.longest = pattern, characters, longest
        #: Bit 0 is the start; then a bit for each position.
        self.follow: list[int] = [0]
        self.set_at: list[int] = [-1]
        self.sets: dict[frozenset[str], int] = {}
        self.read: dict[str, int] = {}

    def refuse(self, what: str) -> None:
        raise InputError(f"{self.pattern!r} has {what}, which no automaton can do", "leave it out")

    def too_large(self, what: str) -> InputError:
        return InputError(
            f"{self.pattern!r} needs more than {what} for texts of up to {self.longest} characters",
            "write shorter counted repeats {m,n}, or fewer of them behind a part that repeats",
        )

    # -- from the pattern to positions --------------------------------------------------------------------------------

    def sequence(self, items: Iterable[Any], is_first: bool, is_last: bool) -> _Piece:
        """Items one after the other; whether the text begins, and ends, with them."""
        items = list(items)
        anchors = [kind is op.AT for kind, _ in items]
        pieces = [
            self.item(kind, value, is_first and all(anchors[:k]), is_last and all(anchors[k + 1 :]))
            for k, (kind, value) in enumerate(items)
        ]
        joined = _EMPTY
        for piece in reversed(pieces):
            joined = self.then(piece, joined)
        return joined

    def item(self, kind: Any, value: Any, is_first: bool, is_last: bool) -> _Piece:
        if kind in _REFUSED:
            self.refuse(_REFUSED[kind])
        if kind is op.AT:
            begins, ends = (op.AT_BEGINNING, op.AT_BEGINNING_STRING), (op.AT_END, op.AT_END_STRING)
            if value not in (*begins, *ends):
                self.refuse("a word boundary")
            right = is_first if value in begins else is_last
            check(
                right,
                f"{self.pattern!r} has {'^' if value in begins else '$'} in its middle",
                "a match always covers the full text: leave it out, or write \\^ or \\$ for the character",
            )
            return _EMPTY
        if kind is op.SUBPATTERN:
            _, added, removed, inner = value
            check(not added and not removed, f"{self.pattern!r} sets flags in a group", "write it without flags")
            return self.sequence(inner, is_first, is_last)
        if kind is op.BRANCH:
            pieces = [self.sequence(branch, is_first, is_last) for branch in value[1]]
            nullable, first, last, least = zip(*pieces, strict=True)
            return _Piece(any(nullable), _union(first), _union(last), min(least))
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            return self.repeat(*value)
        return self.leaf(kind, value)

    def then(self, one: _Piece, other: _Piece) -> _Piece:
        for position in _bits(one.last):
            self.follow[position] |= other.first
        return _Piece(
            one.nullable and other.nullable,
            one.first | (other.first if one.nullable else 0),
            other.last | (one.last if other.nullable else 0),
            min(one.least + other.least, self.longest + 1),
        )

    def repeat(self, low: int, high: Any, inner: Any) -> _Piece:
        """`low` to `high` times, cut to the longest text: a repeat beyond it is endless."""
        if high == 0:
            return _EMPTY
        piece = self.sequence(inner, False, False)
        if not piece.first:  # only the empty text
            return piece
        low = 0 if piece.nullable else low
        most = self.longest // max(piece.least, 1)
        if low > most:
            return self.nothing()
        endless = high is op.MAXREPEAT or high >= most
        if endless:  # the last of `low` copies repeats
            for position in _bits(piece.last):
                self.follow[position] |= piece.first
            joined = piece if low else piece._replace(nullable=True, least=0)
            for _ in range(low - 1):
                joined = self.then(self.sequence(inner, False, False), joined)
            return joined
        joined = _EMPTY
        for k in range(high):  # from the last to the first; `low` of them are required
            joined = self.then(self.sequence(inner, False, False) if k else piece, joined)
            if k < high - low:
                joined = joined._replace(nullable=True, least=0)
        return joined

    def nothing(self) -> _Piece:
        return self.position(frozenset())

    def leaf(self, kind: Any, value: Any) -> _Piece:
        """One character."""
        key = repr((kind, value))
        if key not in self.read:
            accepted = frozenset(c for c in self.characters if _accepts(kind, value, c))
            self.read[key] = self.sets.setdefault(accepted, len(self.sets))
        return self.position(list(self.sets)[self.read[key]])

    def position(self, accepted: frozenset[str]) -> _Piece:
        if len(self.follow) > MOST_POSITIONS:
            raise self.too_large(f"{MOST_POSITIONS:,} characters, repeats written out,")
        self.set_at.append(self.sets.setdefault(accepted, len(self.sets)))
        self.follow.append(0)
        bit = 1 << (len(self.follow) - 1)
        return _Piece(False, bit, bit, 1)

    # -- from positions to states -------------------------------------------------------------------------------------

    def automaton(self, pattern: _Piece) -> CharacterAutomaton:
        # 1. Characters that the same positions accept are one group.
        members = list(self.sets)
        numbers: dict[tuple[bool, ...], int] = {}
        group = {
            c: numbers.setdefault(tuple(c in accepted for accepted in members), len(numbers)) for c in self.characters
        }
        accepts = [
            _union(1 << p for p, number in enumerate(self.set_at) if p and signature[number]) for signature in numbers
        ]
        self.follow[0] = pattern.first
        ends = pattern.last | (1 if pattern.nullable else 0)
        # 2. A state is a set of positions; those beyond the longest text need no followers.
        number = {1: 0}
        table: list[list[int]] = []
        depth, work = [0], 0
        for state in (order := [1]):  # grows as states are found
            row = [-1] * len(accepts)
            if depth[len(table)] < self.longest:
                reached = _union(self.follow[position] for position in _bits(state))
                for g, accepting in enumerate(accepts):
                    after = reached & accepting
                    if not after:
                        continue
                    if after not in number:
                        number[after] = len(number)
                        order.append(after)
                        depth.append(depth[len(table)] + 1)
                    row[g] = number[after]
                work += state.bit_count() + len(accepts)
                if len(number) > MOST_STATES or work > MOST_WORK:
                    raise self.too_large(f"{MOST_STATES:,} states")
            table.append(row)
        good = np.array([bool(state & ends) for state in order])
        transitions = np.array(table, dtype=np.int64).reshape(len(order), len(accepts))
        return CharacterAutomaton(*_smallest(transitions, good), group)


def _smallest(table: np.ndarray, accepting: np.ndarray) -> tuple[np.ndarray, int, list[int]]:
    """The same language from state 0, minimal: no dead states, equal states joined (Moore 1956)."""
    # 1. Which states lead to an accepting one: backward, until nothing changes.
    dead = len(table)
    useful = np.append(accepting, False)
    while True:
        more = useful.copy()
        more[:-1] |= useful[table].any(1)
        if (more == useful).all():
            break
        useful = more
    useful[0] = True
    table = np.where(useful[table] & (table >= 0), table, dead)
    # 2. Split states by where they lead until nothing splits; where that takes long, leave them as they are.
    labels = np.append(accepting.astype(np.int64), 2)
    rounds, before = 0, 0
    while (count := len(np.unique(labels[:-1][useful[:-1]]))) != before:
        before, rounds = count, rounds + 1
        if rounds * len(table) > MOST_WORK:
            labels = np.arange(dead + 1)
            break
        new = labels[:-1]
        for column in table.T:
            new = np.unique(new * (dead + 2) + labels[column], return_inverse=True)[1]
        labels = np.append(new, new.max() + 1)
    # 3. Keep one state of each label, without those that lead nowhere.
    kept = np.flatnonzero(useful[:-1])
    _, first = np.unique(labels[kept], return_index=True)
    states = np.sort(kept[first])
    number = np.full(labels.max() + 1, -1)
    number[labels[states]] = np.arange(len(states))
    number[labels[dead]] = -1
    return number[labels[table[states]]], int(number[labels[0]]), np.flatnonzero(accepting[states]).tolist()


def _accepts(kind: Any, value: Any, character: str) -> bool:
    code = ord(character)
    if kind is op.ANY:
        return character != "\n"
    if kind is op.LITERAL:
        return code == value
    if kind is op.NOT_LITERAL:
        return code != value
    if kind is op.RANGE:
        return value[0] <= code <= value[1]
    if kind is op.CATEGORY:
        return _CATEGORIES[value](character)
    negated = value[0][0] is op.NEGATE  # of op.IN
    return negated != any(_accepts(inner, what, character) for inner, what in value[negated:])


def _bits(number: int) -> Iterable[int]:
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


def _union(sets: Iterable[int]) -> int:
    union = 0
    for each in sets:
        union |= each
    return union
