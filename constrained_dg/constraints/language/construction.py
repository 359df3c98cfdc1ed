"""From expressions to automata over bytes: empty moves, then subsets of states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from constrained_dg.constraints.language.dfa import MOST_STATES, Dfa, TooLargeError
from constrained_dg.constraints.language.dfa_loops import TOO_LARGE, subsets
from constrained_dg.constraints.language.expression import (
    MARK,
    Alt,
    At,
    Chars,
    Expression,
    Lang,
    Lit,
    Look,
    Net,
    Ranges,
    Rep,
    Seq,
    has_places,
)
from constrained_dg.constraints.running import check_time, run_loop

#: States before the subset construction; moves that it looks at.
MOST_NFA, MOST_WORK = 2**18, 2**26
#: Copies of a repeat from which its item is made an automaton first.
_FEW = 3
#: Bytes that UTF-8 never has: the `MARK` of a place, that of one place among several, and those of each `Look`.
_MARK, _ONE, _LOOKS = MARK.data[0], 0xF6, (*range(0xF7, 0x100), 0xC0, 0xC1)
_MARKS = np.array([_MARK, _ONE, *_LOOKS])


def automaton(expression: Expression) -> Dfa:
    """The minimal automaton of an expression.

    Raises:
        TooLargeError: it has more than MOST_STATES states, or needs too much work.
    """
    if isinstance(expression, Lang):
        return expression.dfa
    if expression.size > MOST_NFA:
        raise TooLargeError(size=f"more than {MOST_NFA:,} states, repeats written out")
    nfa = _Nfa()
    end = nfa.emit(expression, nfa.state())
    made = nfa.determinized(end)
    for mark, fails in zip(_LOOKS, nfa.looks.values(), strict=False):
        made = made - _failed(made, mark, fails)
    return _renamed(made, {mark: None for mark in _LOOKS}) if nfa.looks else made


def _failed(dfa: Dfa, mark: int, fails: Dfa) -> Dfa:
    """The texts with marks that an automaton accepts and in which some `mark` stands where it `fails`."""
    # 1. One mark of each text becomes another byte; the other marks stand anywhere.
    group = dfa.group.copy()
    group[_ONE] = group[mark]
    one = Dfa(dfa.table, group, dfa.accepting)
    # 2. What stands before and behind that one fails, whatever other marks are in it.
    if not fails.states:
        return fails
    columns = fails.table[:, fails.group[_MARK]]
    table = np.column_stack([fails.table, columns, np.arange(fails.states, dtype=np.int32)])
    group = fails.group.copy()
    group[_MARKS] = table.shape[1] - 1
    group[_ONE] = table.shape[1] - 2
    # 3. It is a mark as the others again.
    return _renamed(one & Dfa(table, group, fails.accepting), {_ONE: mark})


def _renamed(dfa: Dfa, names: dict[int, int | None]) -> Dfa:
    """The texts with other bytes in place of some bytes, None: without them."""
    if not dfa.states:
        return dfa
    nfa = _Nfa()
    nothing = np.full((dfa.states, 1), -1, np.int32)
    group = dfa.group.copy()
    group[list(names)] = dfa.table.shape[1]
    end = nfa.embed(Dfa(np.append(dfa.table, nothing, 1), group, dfa.accepting), nfa.state())
    for old, new in names.items():
        to = dfa.table[:, dfa.group[old]]
        source = np.flatnonzero(to >= 0)
        ways = source + 1, to[source].astype(np.int64) + 1  # behind the one state before them
        if new is None:
            nfa.ends.append(np.stack(ways, 1))
        else:
            byte = np.full(len(source), new)
            nfa.blocks.append((ways[0], byte, byte, ways[1]))
    return nfa.determinized(end)


def _utf8(low: int, high: int) -> list[list[tuple[int, int]]]:
    """The bytes of code points low to high: sequences of ranges of bytes."""
    for limit in (0x7F, 0x7FF, 0xFFFF):
        if low <= limit < high:
            return _utf8(low, limit) + _utf8(limit + 1, high)
    if high <= 0x7F:
        return [[(low, high)]]
    for k in (1, 2, 3):
        mask = (1 << (6 * k)) - 1
        if low & ~mask != high & ~mask:
            if low & mask:
                return _utf8(low, low | mask) + _utf8((low | mask) + 1, high)
            if high & mask != mask:
                return _utf8(low, (high & ~mask) - 1) + _utf8(high & ~mask, high)
    return [list(zip(chr(low).encode(), chr(high).encode(), strict=True))]


@lru_cache(1024)
def _chars(ranges: Ranges) -> Dfa:
    """The automaton of one character."""
    nfa = _Nfa()
    start, end = nfa.state(), nfa.state()
    for low, high in ranges:
        for sequence in _utf8(low, high):
            at = start
            for k, (a, b) in enumerate(sequence):
                to = end if k == len(sequence) - 1 else nfa.state()
                nfa.move(at, a, b, to)
                at = to
    return nfa.determinized(end)


class _Nfa:
    """States with moves on bytes and empty moves (Thompson, 1968)."""

    def __init__(self) -> None:
        self.count = 0
        self.moves: list[tuple[int, int, int, int]] = []
        self.empty: list[tuple[int, int]] = []
        self.places: list[tuple[int, int, str]] = []
        self.blocks: list[tuple[np.ndarray, ...]] = []
        self.ends: list[np.ndarray] = []
        #: What each `Look` excludes, by its key.
        self.looks: dict[tuple[bytes, ...], Dfa] = {}

    def state(self) -> int:
        self.count += 1
        return self.count - 1

    def move(self, at: int, low: int, high: int, to: int) -> None:
        self.moves.append((at, low, high, to))

    def link(self, at: int, to: int) -> None:
        self.empty.append((at, to))

    def emit(self, expression: Expression, at: int) -> int:
        """Add what leads from a state through the expression; the state behind it."""
        check_time()
        match expression:
            case Lit(data):
                for byte in data:
                    at, before = self.state(), at
                    self.move(before, byte, byte, at)
                return at
            case Chars(ranges):
                if ranges and ranges[-1][1] > 127:
                    return self.embed(_chars(ranges), at)
                to = self.state()
                for low, high in ranges:
                    self.move(at, low, high, to)
                return to
            case Seq(items):
                for item in items:
                    at = self.emit(item, at)
                return at
            case Alt(items):
                to = self.state()
                for item in items:
                    self.link(self.emit(item, at), to)
                return to
            case Rep(item, low, high):
                return self.repeat(item, low, high, at)
            case Lang(dfa):
                return self.embed(dfa, at)
            case Net(places, edges):
                states = [self.state() for _ in range(places)]
                self.link(at, states[0])
                for source, item, target in edges:
                    begin = self.state()
                    self.link(states[source], begin)
                    self.link(self.emit(item, begin), states[target])
                return states[-1]
            case At(where):
                to = self.state()
                self.places.append((at, to, where))
                return to
            case Look(fails):
                to = self.state()
                mark = self.mark(fails)
                self.move(at, mark, mark, to)
                return to

    def mark(self, fails: Dfa) -> int:
        """The byte of a `Look`; equal ones have the same."""
        self.looks.setdefault(fails.key, fails)
        if len(self.looks) > len(_LOOKS):
            raise TooLargeError(size=f"more than {len(_LOOKS)} kinds of look-around and word boundaries")
        return _LOOKS[list(self.looks).index(fails.key)]

    def repeat(self, item: Expression, low: int, high: int | None, at: int) -> int:
        if (low if high is None else high) > _FEW and not isinstance(item, Lang | Chars) and not has_places(item):
            item = Lang(automaton(item))
        for _ in range(low):
            at = self.emit(item, at)
        end = self.state()
        if high is None:
            self.link(at, end)
            self.link(self.emit(item, end), end)
            return end
        for _ in range(high - low):
            self.link(at, end)
            again = self.state()
            self.link(at, again)
            at = self.emit(item, again)
        self.link(at, end)
        return end

    def embed(self, dfa: Dfa, at: int) -> int:
        """Add a copy of an automaton."""
        offset = self.count
        self.count += dfa.states + 1
        end = self.count - 1
        if dfa.states:
            source, low, high, target = dfa.ranges
            self.blocks.append((source + offset, low, high, target + offset))
            accepting = np.flatnonzero(dfa.accepting) + offset
            self.ends.append(np.stack([accepting, np.full_like(accepting, end)], 1))
            self.link(at, offset)
        return end

    def determinized(self, end: int) -> Dfa:
        moves = np.array(self.moves, np.int64).reshape(-1, 4).T
        source, low, high, target = (
            np.concatenate([row, *(block[k] for block in self.blocks)]) for k, row in enumerate(moves)
        )
        empty = np.concatenate([np.array(self.empty, np.int64).reshape(-1, 2), *self.ends]).T
        count, final = self.count, np.zeros(self.count, bool)
        final[end] = True
        if self.places:
            count, (source, low, high, target), empty, final = _in_layers(
                count, (source, low, high, target), empty, self.places, end
            )
        # Bytes that no range tells apart are one group.
        bounds = np.unique(np.concatenate([[0], low, high + 1]))
        bounds = bounds[bounds < 256]
        group = (np.searchsorted(bounds, np.arange(256), side="right") - 1).astype(np.uint8)
        order = np.argsort(source, kind="stable")
        begin = np.searchsorted(source[order], np.arange(count + 1))
        by_source = np.argsort(empty[0], kind="stable")
        table, accepting, states = run_loop(
            subsets,
            np.searchsorted(empty[0][by_source], np.arange(count + 1)),
            empty[1][by_source].astype(np.int32),
            begin,
            group[low[order]].astype(np.int32),
            group[high[order]].astype(np.int32),
            target[order].astype(np.int32),
            0,
            final,
            len(bounds),
            MOST_STATES,
            MOST_WORK,
        )
        if states == TOO_LARGE:
            raise TooLargeError()
        return Dfa.of(table, group, accepting)


def _in_layers(
    count: int,
    moves: Sequence[np.ndarray],
    empty: np.ndarray,
    places: Sequence[tuple[int, int, str]],
    end: int,
) -> tuple[int, tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """The automaton with `At` as empty moves: layers of states remember whether something was read (1) and whether
    nothing may follow (4), or a newline alone (2). Marks are nothing that is read."""
    source, low, high, target = moves
    marks = np.isin(low, _MARKS)
    marked = [move[marks] for move in moves]
    source, low, high, target = (move[~marks] for move in moves)
    newline = (low <= 10) & (high >= 10)
    ten = np.full(int(newline.sum()), 10)
    parts, links = [], []
    for layer in range(6):
        read, ends = layer % 2, layer // 2
        if ends == 0:
            parts.append((source + layer * count, low, high, target + count))
        elif ends == 1:
            parts.append((source[newline] + layer * count, ten, ten, target[newline] + 5 * count))
        parts.append((marked[0] + layer * count, marked[1], marked[2], marked[3] + layer * count))
        links.append(empty + layer * count)
        for at, to, where in places:
            if where == "begin":
                after = layer if read == 0 else None
            else:
                after = read + 2 * max(ends, 1 if where == "last line" else 2)
            if after is not None:
                links.append(np.array([[at + layer * count], [to + after * count]]))
    final = np.zeros(6 * count, bool)
    final[end::count] = True
    joined_moves = tuple(np.concatenate([part[k] for part in parts]) for k in range(4))
    return 6 * count, joined_moves, np.concatenate(links, 1), final
