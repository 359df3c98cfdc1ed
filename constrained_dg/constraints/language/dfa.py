"""Deterministic automata over bytes: minimal, without dead states; and what can be done with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constrained_dg.constraints.language.dfa_loops import TOO_LARGE, pairs, useful
from constrained_dg.constraints.language.minimal_loops import smallest
from constrained_dg.constraints.running import check_time, once, run_loop
from constrained_dg.errors import InputError

#: States of an automaton over bytes.
MOST_STATES = 2**17


class TooLargeError(InputError):
    """An automaton has more states, or needs more work, than is allowed."""

    def __init__(self, what: str = "the rule", size: str = f"more than {MOST_STATES:,} states") -> None:
        super().__init__(f"{what} needs {size}", "write shorter counted repeats, or fewer of them, or a smaller depth")


@dataclass(frozen=True, eq=False)
class Dfa:
    """A minimal automaton over bytes that begins in state 0. From every state an accepting one is reached.

    Attributes:
        table: (Q, G) int32, the state after a byte of group g; -1 where none may follow. Q is 0 for the empty language.
        group: (256) uint8, the group of each byte. No two groups act alike.
        accepting: (Q) bool.
    """

    table: np.ndarray
    group: np.ndarray
    accepting: np.ndarray

    @classmethod
    def of(cls, table: np.ndarray, group: np.ndarray, accepting: np.ndarray) -> Dfa:
        """The minimal automaton for tables that begin in state 0."""
        if not len(table) or not accepting.any():
            return cls(np.zeros((0, 1), np.int32), np.zeros(256, np.uint8), np.zeros(0, bool))
        # 1. Without states that lie on no accepted path.
        kept = useful(table, accepting)
        if not kept[0]:
            return cls(np.zeros((0, 1), np.int32), np.zeros(256, np.uint8), np.zeros(0, bool))
        number = np.append(np.where(kept, kept.cumsum() - 1, -1), -1).astype(np.int32)
        table, accepting = number[table[kept]], accepting[kept]
        # 2. Groups that act alike are one, before and after states are joined.
        table, group = _columns(table, group)
        label, tail = np.nonzero(table.T >= 0)
        block = run_loop(smallest, len(table), tail, label, table[tail, label].astype(np.int64), accepting)
        # 3. Blocks in the order in which they are met, so that equal languages have equal tables.
        _, first = np.unique(block, return_index=True)
        table, accepting = np.append(block, -1)[table[first]], accepting[first]
        table, group = _columns(table.astype(np.int32), group)
        order = _order(table, int(block[0]))
        rank = np.empty(len(order) + 1, np.int32)
        rank[order], rank[-1] = np.arange(len(order)), -1
        return cls(rank[table[order]], group, accepting[order])

    @property
    def states(self) -> int:
        return len(self.table)

    @once
    def key(self) -> tuple[bytes, ...]:
        """What two automata have in common if and only if they accept the same."""
        return self.table.tobytes(), self.group.tobytes(), self.accepting.tobytes()

    def accepts(self, data: bytes) -> bool:
        state = 0
        if not self.states:
            return False
        for byte in data:
            state = self.table[state, self.group[byte]]
            if state < 0:
                return False
        return bool(self.accepting[state])

    @once
    def ranges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The moves as ranges of bytes: source, lowest and highest byte, target, each (M)."""
        edges = np.flatnonzero(np.diff(self.group)) + 1
        low = np.append(0, edges)
        high = np.append(edges - 1, 255)
        columns = self.table[:, self.group[low]]
        source, piece = np.nonzero(columns >= 0)
        target = columns[source, piece]
        if not len(source):  # the empty text alone
            return source, source, source, target
        joins = np.zeros(len(source), bool)  # a move that goes on where the one before it ends
        if len(source) > 1:
            joins[1:] = (
                (source[1:] == source[:-1]) & (target[1:] == target[:-1]) & (low[piece[1:]] == high[piece[:-1]] + 1)
            )
        first = np.flatnonzero(~joins)
        last = np.append(first[1:], len(source)) - 1
        return source[first], low[piece[first]], high[piece[last]], target[first]

    def __and__(self, other: Dfa) -> Dfa:
        """What both accept."""
        return self._with(other, False)

    def __sub__(self, other: Dfa) -> Dfa:
        """What this accepts and the other does not."""
        return self._with(other, True)

    def _with(self, other: Dfa, without: bool) -> Dfa:
        if not self.states or not other.states:
            return self if without or not self.states else other
        both, group = np.unique(np.stack([self.group, other.group]), axis=1, return_inverse=True)
        table, of, states = run_loop(pairs, self.table[:, both[0]], other.table[:, both[1]], without, MOST_STATES)
        if states == TOO_LARGE:
            raise TooLargeError("an intersection")
        theirs = np.append(other.accepting, False)[of[:, 1]]
        accepting = self.accepting[of[:, 0]] & (~theirs if without else theirs)
        return Dfa.of(table, group.reshape(-1).astype(np.uint8), accepting)

    def shortest(self) -> bytes | None:
        """A shortest accepted text, None if there is none."""
        if not self.states:
            return None
        bytes_of = [int(np.flatnonzero(self.group == g)[0]) for g in range(self.table.shape[1])]
        ways: dict[int, bytes] = {0: b""}
        for state in (order := [0]):  # grows as states are met
            if self.accepting[state]:
                return ways[state]
            for g, to in enumerate(self.table[state].tolist()):
                if to >= 0 and to not in ways:
                    ways[to] = ways[state] + bytes([bytes_of[g]])
                    order.append(to)
        return None


def _columns(table: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One column for each distinct one, in the order of the first bytes that use it."""
    _, first = np.unique(group, return_index=True)
    order = group[np.sort(first)]
    seen: dict[bytes, int] = {}
    number, kept = np.zeros(256, np.uint8), []
    columns = np.ascontiguousarray(table.T)
    for g in order.tolist():
        key = columns[g].tobytes()
        if key not in seen:
            seen[key] = len(seen)
            kept.append(g)
        number[g] = seen[key]
    return np.ascontiguousarray(table[:, kept]), number[group]


def _order(table: np.ndarray, start: int) -> np.ndarray:
    """States in the order of a search in breadth."""
    seen = np.zeros(len(table) + 1, bool)
    seen[[start, -1]] = True
    layer, order = np.array([start]), [np.array([start])]
    while len(layer):
        check_time()
        after = table[layer].reshape(-1)
        after = after[~seen[after]]
        _, first = np.unique(after, return_index=True)
        layer = after[np.sort(first)]
        seen[layer] = True
        order.append(layer)
    return np.concatenate(order)
