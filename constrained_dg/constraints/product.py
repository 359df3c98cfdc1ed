"""One automaton and several sums, swept together: the states of the automaton times boxes of partial sums.

A dense product of transition tables (`machine.Machine.with_`) holds every state of every factor at every position. Sums
need no table: a token moves a partial sum by its weight, and only partial sums matter that can be reached and from
which the bounds can still be met. Compiled loops sweep these (`kernels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

import numpy as np
import torch

from constrained_dg.constraints import kernels
from constrained_dg.constraints.candidates import without_dead_rows
from constrained_dg.constraints.counter import Counter, Gridded, boxes
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Entries of all layers together up to which a product is swept; 4 bytes each while the best answer is sought.
ENTRIES = 2**27
#: The same for products with sums on a grid, which are swept several times; sums without an automaton can afford a
#: finer grid.
GRID_ENTRIES, GRID_ENTRIES_ALONE = 2**21, 2**24
#: Sums swept with one automaton.
SUMS_AT_ONCE = 3
_NEVER = float("-inf")

#: First partial sums (T + 1, 3), their numbers, and where each layer begins (T + 2).
Layout = tuple[np.ndarray, np.ndarray, np.ndarray]


class Tables(Protocol):
    """The members of `machine.Machine` that a product reads."""

    @property
    def step(self) -> IntTensor: ...

    @property
    def effect(self) -> IntTensor: ...

    @property
    def kind(self) -> IntTensor: ...

    @property
    def start(self) -> int: ...

    @property
    def accepting(self) -> BoolTensor: ...

    @property
    def states(self) -> int: ...

    @property
    def idle(self) -> BoolTensor: ...


class Product:
    """An automaton and sums over one answer: what `machine.Machine` offers, for far larger products.

    Args:
        machine: the automaton, on the CPU.
        sums: on their grids, at most 3.

    Attributes:
        exact: whether every grid is exact, so that `shrink` and `best` are.
        active: (N) int64, the positions that are swept: those at which the automaton or a sum changes.
    """

    def __init__(self, machine: Tables, sums: Sequence[Gridded]) -> None:
        self.sums, self.exact = tuple(sums), all(each.exact for each in sums)
        self.states, self.start, self.accepting = machine.states, machine.start, machine.accepting.numpy()
        self.at = _active(machine, sums)
        self.active, self.length = torch.from_numpy(self.at), len(self.at)
        steps = [each.steps[self.at] for each in sums]
        # 1. Positions with equal tables and weights share a kind.
        rows = np.concatenate([machine.kind.numpy()[self.at, None], *steps], 1)
        _, which, self.kinds = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        self.kinds = self.kinds.reshape(-1)
        sources, targets, shifts, begin = [], [], [], [0]
        effects: list[np.ndarray] = []
        edges: list[np.ndarray] = []
        for at in which.tolist():
            kind = machine.kind[self.at[at]]
            # 2. Classes that act alike in the automaton and in every sum share an effect.
            moves = np.stack([machine.effect[kind].numpy(), *(each[at] for each in steps)], 1)
            distinct, effect = np.unique(moves, axis=0, return_inverse=True)
            # 3. An edge: from a state to a state, and what it adds to the sums. Effects that agree share it.
            to = machine.step[kind].numpy()[:, distinct[:, 0]]  # (Q, K)
            state = np.broadcast_to(np.arange(len(to))[:, None], to.shape)
            shift = np.zeros((*to.shape, 3), np.int64)
            shift[..., 3 - len(sums) :] = distinct[:, 1:]
            flat = np.concatenate([state[..., None], to[..., None], shift], -1).reshape(-1, 5)
            edge, number = np.unique(flat, axis=0, return_inverse=True)
            # 4. Drop edges into the dead state.
            live = edge[:, 1] < machine.states
            renumbered = np.where(live, live.cumsum() - 1, -1)
            edges.append(renumbered[number.reshape(-1)].reshape(to.shape))
            effects.append(effect.reshape(-1))
            sources.append(edge[live, 0])
            targets.append(edge[live, 1])
            shifts.append(edge[live, 2:])
            begin.append(begin[-1] + int(live.sum()))
        self.begin, self.source, self.target = np.array(begin), np.concatenate(sources), np.concatenate(targets)
        self.shift, self.effects, self.edges = np.concatenate(shifts), effects, edges
        self.most_edges = int(np.diff(self.begin).max())
        self._last: tuple[BoolTensor, BoolTensor] | None = None

    @classmethod
    def fitting(cls, machine: Tables, counters: Sequence[Counter]) -> tuple[Product | None, list[int]]:
        """The product with as many of the sums as fit, and their indices.

        Sums of whole numbers come first, small ones before large ones, exactly where that fits; others on the finest
        grid that fits and still rules something out.
        """
        chosen: list[Gridded] = []
        left: list[int] = []
        grid = GRID_ENTRIES_ALONE if machine.states == 1 else GRID_ENTRIES
        order = sorted(range(len(counters)), key=lambda at: (not counters[at].is_whole, counters[at].reach))
        for at in order:
            fitted = None
            if len(chosen) < SUMS_AT_ONCE:
                for gridded in counters[at].grids():
                    exact = gridded.exact and all(each.exact for each in chosen)
                    if entries(machine, [*chosen, gridded]) <= (ENTRIES if exact else grid):
                        fitted = gridded
                        break
            left += [] if fitted else [at]
            chosen += [fitted] if fitted else []
        if not chosen:
            return None, []
        taken = [at for at in order if at not in left]
        # The widest last: it is the inner loop.
        wide = sorted(range(len(chosen)), key=lambda k: int(boxes(chosen[k].steps, *chosen[k].widened)[1].max()))
        return cls(machine, [chosen[k] for k in wide]), sorted(taken)

    def _layout(self, windows: Sequence[tuple[int, int]]) -> Layout | None:
        """None if a layer is empty."""
        first: np.ndarray = np.zeros((self.length + 1, 3), np.int64)
        size: np.ndarray = np.ones((self.length + 1, 3), np.int64)
        for at, (each, interval) in enumerate(zip(self.sums, windows, strict=True), 3 - len(self.sums)):
            first[:, at], size[:, at] = boxes(each.steps[self.at], *interval)
        layers = size.prod(1) * self.states
        return None if (layers == 0).any() else (first, size, np.concatenate([[0], layers.cumsum()]))

    def _mark_ends(self, layout: Layout, values: np.ndarray, one: float) -> None:
        """Write `one` at the accepted states behind the last position."""
        values[layout[2][-2] :].reshape(self.states, -1)[self.accepting] = one

    def _per_edge(self, by_class: np.ndarray, empty: float) -> np.ndarray:
        """(N, A) -> (N, E), the largest of the classes that go along each edge, or `empty`."""
        table = np.full((self.length, self.most_edges), empty, by_class.dtype)
        for kind, (effect, edge) in enumerate(zip(self.effects, self.edges, strict=True)):
            at = np.flatnonzero(self.kinds == kind)
            of_effect = np.full((edge.shape[1], len(at)), empty, by_class.dtype)
            for k in range(edge.shape[1]):
                of_effect[k] = by_class[at][:, effect == k].max(1)
            of_edge = np.full((self.most_edges, len(at)), empty, by_class.dtype)
            kernels.along_edges(edge, of_effect, of_edge)
            table[at] = of_edge.T
        return table

    def _graph(self) -> tuple[np.ndarray, ...]:
        return self.kinds, self.begin, self.source, self.target, self.shift

    def shrink(self, candidates: BoolTensor) -> BoolTensor:
        """(B, T, A) -> (B, T, A): what some answer within the candidates holds whose grid sums lie in the widened
        windows. Exact where the grids are, sound where not."""
        if self._last is not None and torch.equal(self._last[0], candidates):
            return self._last[1]
        # Rows are swept one by one, equal ones once.
        rows, inverse = candidates.cpu()[:, self.active].unique(dim=0, return_inverse=True)
        left = torch.stack([torch.from_numpy(self._shrunk(row.numpy())) for row in rows])[inverse]
        smaller = candidates.clone()
        smaller[:, self.at] = left.to(candidates.device)
        smaller = without_dead_rows(smaller)
        self._last = (candidates, smaller)
        return smaller

    def _shrunk(self, candidates: np.ndarray) -> np.ndarray:
        layout = self._layout([each.widened for each in self.sums])
        if layout is None:
            return np.zeros_like(candidates)
        first, size, offset = layout
        # 1. The edges that some candidate goes along.
        may = self._per_edge(candidates.astype(np.uint8), 0)
        # 2. From behind: the entries from which an accepted end can be reached.
        alive = np.zeros(offset[-1], np.uint8)
        self._mark_ends(layout, alive, 1)
        kernels.open_behind(*self._graph(), may, first, size, offset, alive)
        # 3. From the front: the edges on a way from the start to such an entry.
        reached = np.zeros((2, int(np.diff(offset).max())), np.uint8)
        begin = self._start_entry(layout)
        if begin is not None:
            reached[0, begin] = 1
        used = np.zeros((self.length, self.most_edges), np.uint8)
        kernels.open_ahead(*self._graph(), may, first, size, offset, alive, reached, used)
        # 4. The classes that go along these. Candidates of one edge are equivalent.
        left = np.zeros_like(candidates)
        for kind, (effect, edge) in enumerate(zip(self.effects, self.edges, strict=True)):
            at = np.flatnonzero(self.kinds == kind)
            open_ = np.pad(used[at] > 0, ((0, 0), (0, 1)))[:, edge]  # (n, Q, K); the edge -1 is never used
            left[at] = np.logical_or.reduce(open_, axis=1)[:, effect]
        return candidates & left

    def _start_entry(self, layout: Layout) -> int | None:
        """The entry of the start state in the first layer; None where the sums do not begin in its box."""
        first, size, _ = layout
        inside = bool((first[0] <= 0).all() and (-first[0] < size[0]).all())
        return int(np.ravel_multi_index((self.start, *-first[0]), (self.states, *size[0]))) if inside else None

    def best_of_rows(self, log_probs: FloatTensor) -> tuple[IntTensor, BoolTensor]:
        """(B, T, A) -> `best` of each row: (B, T) and (B)."""
        rows = [self.best(row) for row in log_probs.cpu().numpy()]
        classes = torch.from_numpy(np.stack([row for row, _ in rows]))
        return classes.to(log_probs.device), torch.tensor([exists for _, exists in rows], device=log_probs.device)

    def best(self, log_probs: np.ndarray, windows: Sequence[tuple[int, int]] | None = None) -> tuple[np.ndarray, bool]:
        """(T, A) -> the classes of the highest sum (T) among answers whose grid sums lie in the windows (those of exact
        grids by default), and whether there is one. Sums are as exact as the type of the scores: float32 or float64."""
        layout = self._layout([each.narrowed for each in self.sums] if windows is None else windows)
        # 1. Positions that are not swept take their best class.
        chosen = log_probs.argmax(1)
        elsewhere = log_probs.max(1)
        elsewhere[self.at] = 0
        if layout is None or not np.isfinite(elsewhere).all():
            return chosen, False
        first, size, offset = layout
        log_probs = log_probs[self.at]
        # 2. From behind: the best sum from each entry to an accepted end.
        scores = self._per_edge(log_probs, _NEVER)
        values = np.full(offset[-1], _NEVER, log_probs.dtype)
        self._mark_ends(layout, values, 0.0)
        kernels.best_behind(*self._graph(), scores, first, size, offset, values)
        begin = self._start_entry(layout)
        if begin is None or values[begin] == _NEVER:
            return chosen, False
        # 3. From the front: the edge that keeps the best sum, and its likeliest class.
        place, state = -first[0], self.start
        for k, kind in enumerate(self.kinds.tolist()):
            edges = self.begin[kind] + np.unique(self.edges[kind][state][self.edges[kind][state] >= 0])
            after = place + first[k] + self.shift[edges] - first[k + 1]
            fits = ((after >= 0) & (after < size[k + 1])).all(1)
            edges, after = edges[fits], after[fits]
            index = (self.target[edges], *after.T)
            there = values[offset[k + 1] + np.ravel_multi_index(index, (self.states, *size[k + 1]))]
            pick = int((there + scores[k, edges - self.begin[kind]]).argmax())
            along = self.edges[kind][state][self.effects[kind]] == edges[pick] - self.begin[kind]  # (A)
            chosen[self.at[k]] = np.where(along, log_probs[k], -np.inf).argmax()
            state, place = int(self.target[edges[pick]]), after[pick]
        return chosen, True

    def highest(self, values: np.ndarray) -> float:
        """(T, A) float64 -> the highest sum of an accepted answer, in float64; -inf without one. Only without sums."""
        assert not self.sums
        first, size, offset = (np.asarray(each) for each in self._layout([]) or ())
        elsewhere = np.delete(values.max(1), self.at).sum()
        highest = np.full(offset[-1], -np.inf)
        self._mark_ends((first, size, offset), highest, 0.0)
        scores = self._per_edge(values[self.at], -np.inf)
        kernels.best_behind(*self._graph(), scores, first, size, offset, highest)
        return float(highest[self.start] + elsewhere)


def _active(machine: Tables, sums: Sequence[Gridded]) -> np.ndarray:
    """(N) the positions at which something changes; the first where nothing does anywhere."""
    changes = ~machine.idle.numpy()
    for each in sums:
        changes |= (each.steps != 0).any(1)
    return np.flatnonzero(changes) if changes.any() else np.zeros(1, np.int64)


def entries(machine: Tables, sums: Sequence[Gridded]) -> int:
    """Entries of all layers of a product together."""
    at = _active(machine, sums)
    sizes = [boxes(each.steps[at], *each.widened)[1] for each in sums]
    return sum(machine.states * prod(int(size[k]) for size in sizes) for k in range(len(at) + 1))
