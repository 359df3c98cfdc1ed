"""One automaton and several sums, swept together exactly: the states of the automaton times boxes of partial sums.

A dense product of transition tables (`layered.Machine.with_`) holds every state of every part at every position. Sums
need no table: a token moves a partial sum by its weight, and at each position only those partial sums matter that can
be reached and from which the bounds can still be met. What is left is swept with plain loops along the partial sums,
which a compiler turns into vector instructions.

Real weights are swept on a grid. A token's distance from the grid adds up, so that two windows matter: the widened one
contains the grid sum of every satisfying answer (nothing outside is possible: sound), and every answer with a grid sum
in the narrowed one satisfies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, prod

import numpy as np
import torch

from constrained_dg.numba_jit import compiled
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Entries of all layers together up to which a product is swept; 4 bytes each while the best answer is sought.
ENTRIES = 2**27
#: The same for products with sums on a grid, which are swept several times; sums alone tell more finely what
#: is impossible.
GRID_ENTRIES, GRID_ENTRIES_ALONE = 2**21, 2**24
#: Sums beside one automaton.
SUMS_AT_ONCE = 3
_NEVER = np.float32(-np.inf)
#: Of a grid sum and of the division by a step, in steps.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Counter:
    """A sum that must lie between two numbers.

    Attributes:
        weights: (T, A) float64, what each class adds at each position.
        low, high: bounds, both inclusive, -inf and inf for none.
    """

    weights: FloatTensor
    low: float
    high: float

    def told_in(self, to_own: IntTensor) -> Counter:
        """The same over finer classes (A'), each of which is class to_own[a] here."""
        return replace(self, weights=self.weights[:, to_own])

    @property
    def whole(self) -> bool:
        return bool((self.weights == self.weights.round()).all())

    @property
    def divisor(self) -> float:
        """Of whole weights, the largest number that divides all differences at a position."""
        apart = (self.weights - self.weights.amin(-1, keepdim=True)).long().unique().numpy()
        return float(max(1, np.gcd.reduce(apart)))


@dataclass(frozen=True, eq=False)
class Gridded:
    """A counter on a grid.

    Attributes:
        counter: as it was given.
        steps: (T, A) int64, its weights in steps of the grid, each position's smallest taken off (a constant).
        grain: one step.
        base: what was taken off, summed over the positions.
        least, most: bounds of the true sum less the grid sum; both 0 where the grid is exact.
    """

    counter: Counter
    steps: np.ndarray
    grain: float
    base: float
    least: float
    most: float

    @classmethod
    def of(cls, counter: Counter, grain: float) -> Gridded:
        weights = counter.weights.numpy()
        smallest = weights.min(1, keepdims=True)
        steps = np.rint((weights - smallest) / grain).astype(np.int64)
        rest = weights - smallest - steps * grain
        exact = counter.whole and grain == counter.divisor
        least, most = (0.0, 0.0) if exact else (float(rest.min(1).sum()), float(rest.max(1).sum()))
        return cls(counter, steps, grain, float(smallest.sum()), least, most)

    def interval(self, least: float, most: float, rounding: float = 0.0) -> tuple[int, int]:
        """Grid sums (low, high) whose true sum lies within the bounds if it is `least` to `most` more than on the
        grid; wider by `rounding` steps."""
        top = int(self.steps.max(1).sum())
        low, high = self.counter.low - self.base - least, self.counter.high - self.base - most
        low, high = (min(max(each / self.grain, -1.0), top + 1.0) for each in (low, high))
        return ceil(low - rounding), floor(high + rounding)

    @property
    def widened(self) -> tuple[int, int]:
        return self.interval(self.most, self.least, 0.0 if self.exact else _ROUNDING)

    @property
    def narrowed(self) -> tuple[int, int]:
        return self.interval(self.least, self.most, 0.0 if self.exact else -_ROUNDING)

    @property
    def exact(self) -> bool:
        return self.least == self.most == 0.0


def boxes(steps: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The partial sums that matter before each position and at the end: first and number, (T + 1) each.

    Zero where none does: then no answer has a sum in the span.
    """
    least = np.concatenate([[0], steps.min(1).cumsum()])
    most = np.concatenate([[0], steps.max(1).cumsum()])
    first = np.maximum(least, low - (most[-1] - most))
    last = np.minimum(most, high - (least[-1] - least))
    return first, np.maximum(last - first + 1, 0)


@compiled
def _along_edges(edge, of_effect, own):
    """The most that effects (K, T) bring to the edges (E, T) that they take, edge (Q, K), -1 for none."""
    for state in range(edge.shape[0]):
        for effect in range(edge.shape[1]):
            to = edge[state, effect]
            if to >= 0:
                for at in range(own.shape[1]):
                    own[to, at] = max(own[to, at], of_effect[effect, at])


@compiled
def _ways(at, edge, shift, first, size):
    """How an edge moves a box of partial sums: of each of the three sums, by how many entries, and from where to where
    (half-open) both boxes have it."""
    i0 = shift[edge, 0] + first[at, 0] - first[at + 1, 0]
    j0 = shift[edge, 1] + first[at, 1] - first[at + 1, 1]
    k0 = shift[edge, 2] + first[at, 2] - first[at + 1, 2]
    i1, i2 = max(0, -i0), min(size[at, 0], size[at + 1, 0] - i0)
    j1, j2 = max(0, -j0), min(size[at, 1], size[at + 1, 1] - j0)
    k1, k2 = max(0, -k0), min(size[at, 2], size[at + 1, 2] - k0)
    return i0, i1, i2, j0, j1, j2, k0, k1, k2


@compiled
def _best_behind(kinds, begin, source, target, shift, scores, first, size, offset, values):
    """Fill `values`, layer by layer from behind, with the best sum of scores from each state to an accepted end."""
    for at in range(len(kinds) - 1, -1, -1):
        (_, b, c), (_, y, z) = size[at], size[at + 1]
        now, then = values[offset[at] : offset[at + 1]], values[offset[at + 1] : offset[at + 2]]
        for edge in range(begin[kinds[at]], begin[kinds[at] + 1]):
            score = scores[at, edge - begin[kinds[at]]]
            i0, i1, i2, j0, j1, j2, k0, k1, k2 = _ways(at, edge, shift, first, size)
            if score == -np.inf or k2 <= k1:
                continue
            for i in range(i1, i2):
                for j in range(j1, j2):
                    here = ((source[edge] * size[at, 0] + i) * b + j) * c
                    there = ((target[edge] * size[at + 1, 0] + i + i0) * y + j + j0) * z + k0
                    own, behind = now[here + k1 : here + k2], then[there + k1 : there + k2]
                    for k in range(k2 - k1):
                        own[k] = np.maximum(own[k], behind[k] + score)  # vector instructions, which `max` is not


@compiled
def _open_behind(kinds, begin, source, target, shift, may, first, size, offset, alive):
    """As `_best_behind`, with 1 where any way leads on to an accepted end."""
    for at in range(len(kinds) - 1, -1, -1):
        (_, b, c), (_, y, z) = size[at], size[at + 1]
        now, then = alive[offset[at] : offset[at + 1]], alive[offset[at + 1] : offset[at + 2]]
        for edge in range(begin[kinds[at]], begin[kinds[at] + 1]):
            i0, i1, i2, j0, j1, j2, k0, k1, k2 = _ways(at, edge, shift, first, size)
            if not may[at, edge - begin[kinds[at]]] or k2 <= k1:
                continue
            for i in range(i1, i2):
                for j in range(j1, j2):
                    here = ((source[edge] * size[at, 0] + i) * b + j) * c
                    there = ((target[edge] * size[at + 1, 0] + i + i0) * y + j + j0) * z + k0
                    own, behind = now[here + k1 : here + k2], then[there + k1 : there + k2]
                    for k in range(k2 - k1):
                        own[k] |= behind[k]


@compiled
def _open_ahead(kinds, begin, source, target, shift, may, first, size, offset, alive, reached, used):
    """Mark the edges (T, E) that lie on a way from the start, which the first row of `reached` holds, to an end."""
    for at in range(len(kinds)):
        (_, b, c), (_, y, z) = size[at], size[at + 1]
        now, then = reached[at % 2], reached[1 - at % 2][: offset[at + 2] - offset[at + 1]]
        then[:] = 0
        ends = alive[offset[at + 1] : offset[at + 2]]
        for edge in range(begin[kinds[at]], begin[kinds[at] + 1]):
            i0, i1, i2, j0, j1, j2, k0, k1, k2 = _ways(at, edge, shift, first, size)
            if not may[at, edge - begin[kinds[at]]] or k2 <= k1:
                continue
            met = np.uint8(0)
            for i in range(i1, i2):
                for j in range(j1, j2):
                    here = ((source[edge] * size[at, 0] + i) * b + j) * c
                    there = ((target[edge] * size[at + 1, 0] + i + i0) * y + j + j0) * z + k0
                    own, behind = now[here + k1 : here + k2], ends[there + k1 : there + k2]
                    entered = then[there + k1 : there + k2]
                    for k in range(k2 - k1):
                        both = own[k] & behind[k]
                        entered[k] |= both
                        met |= both
            used[at, edge - begin[kinds[at]]] = met


class Counted:
    """An automaton and sums over one answer (one row): what `layered.Machine` offers, for far larger products.

    Args:
        machine: of one row.
        sums: on their grids, at most 3.

    Attributes:
        exact: whether every grid is exact, so that `shrink` and `best` are.
    """

    def __init__(self, machine, sums: Sequence[Gridded]) -> None:
        self.machine, self.sums = machine.to("cpu"), tuple(sums)
        machine = self.machine
        self.exact = all(each.exact for each in sums)
        length = len(machine.kind)
        # Positions that do the same are of one kind; classes that do the same at all of them are one effect.
        rows = np.concatenate([machine.kind.numpy()[:, None], *(each.steps for each in sums)], 1)
        _, which, self.kinds = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        self.kinds = self.kinds.reshape(-1)
        sources, targets, shifts, begin, effects, edges = [], [], [], [0], [], []
        for at in which.tolist():
            own = machine.effect[0, machine.kind[at]].numpy()
            moves = np.stack([own, *(each.steps[at] for each in sums)], 1)
            told, effect = np.unique(moves, axis=0, return_inverse=True)
            to = machine.step[0, machine.kind[at]].numpy()[:, told[:, 0]]  # (Q, K)
            state = np.broadcast_to(np.arange(len(to))[:, None], to.shape)
            shift = np.zeros((*to.shape, 3), np.int64)
            shift[..., 3 - len(sums) :] = told[:, 1:]
            flat = np.concatenate([state[..., None], to[..., None], shift], -1).reshape(-1, 5)
            edge, number = np.unique(flat, axis=0, return_inverse=True)
            live = edge[:, 1] < machine.states
            renumbered = np.where(live, live.cumsum() - 1, -1)
            edges.append(renumbered[number.reshape(-1)].reshape(to.shape))
            effects.append(effect.reshape(-1))
            sources.append(edge[live, 0])
            targets.append(edge[live, 1])
            shifts.append(edge[live, 2:])
            begin.append(begin[-1] + int(live.sum()))
        self.begin, self.source, self.target = np.array(begin), np.concatenate(sources), np.concatenate(targets)
        self.shift, self.effects, self.edges, self.length = np.concatenate(shifts), effects, edges, length
        self.most_edges = int(np.diff(self.begin).max())
        self._last: tuple[BoolTensor, BoolTensor] | None = None

    @classmethod
    def fitting(cls, machine, counters: Sequence[Counter]) -> tuple[Counted | None, list[int]]:
        """The product with as many of the sums as can be swept, and which (as indices).

        Sums of whole numbers come first, exactly where that fits; others on the finest grid that fits and still tells
        something of their bounds.
        """
        chosen: list[Gridded] = []
        left: list[int] = []
        grid = GRID_ENTRIES_ALONE if machine.states == 1 else GRID_ENTRIES
        # Small sums first: they cost little and exactly.
        order = sorted(range(len(counters)), key=lambda at: (not counters[at].whole, _spread(counters[at])))
        for at in order:
            made = None
            if len(chosen) < SUMS_AT_ONCE:
                for gridded in _grids(counters[at]):
                    exact = gridded.exact and all(each.exact for each in chosen)
                    if entries(machine, [*chosen, gridded]) <= (ENTRIES if exact else grid):
                        made = gridded
                        break
            left += [] if made else [at]
            chosen += [made] if made else []
        if not chosen:
            return None, []
        taken = [at for at in order if at not in left]
        # The widest last: that is the inner loop.
        wide = sorted(range(len(chosen)), key=lambda k: int(boxes(chosen[k].steps, *chosen[k].widened)[1].max()))
        return cls(machine, [chosen[k] for k in wide]), sorted(taken)

    def _layout(self, windows: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """First partial sums (T + 1, 3), their numbers, and where each layer begins (T + 2); None if one is empty."""
        first, size = np.zeros((self.length + 1, 3), np.int64), np.ones((self.length + 1, 3), np.int64)
        for at, (each, interval) in enumerate(zip(self.sums, windows, strict=True), 3 - len(self.sums)):
            first[:, at], size[:, at] = boxes(each.steps, *interval)
        layers = size.prod(1) * self.machine.states
        return None if (layers == 0).any() else (first, size, np.concatenate([[0], layers.cumsum()]))

    def _ends(self, layout, values: np.ndarray, one: float) -> None:
        """Write `one` at the accepted states behind the last position."""
        _, _, offset = layout
        last = values[offset[-2] :].reshape(self.machine.states, -1)
        last[self.machine.accepting[0].numpy()] = one

    def _per_edge(self, by_class: np.ndarray, empty: float) -> np.ndarray:
        """(T, A) -> (T, E), the largest of the classes that go along each edge, or `empty`."""
        table = np.full((self.length, self.most_edges), empty, by_class.dtype)
        for kind, (effect, edge) in enumerate(zip(self.effects, self.edges, strict=True)):
            at = np.flatnonzero(self.kinds == kind)
            of_effect = np.full((edge.shape[1], len(at)), empty, by_class.dtype)
            for k in range(edge.shape[1]):
                of_effect[k] = by_class[at][:, effect == k].max(1)
            own = np.full((self.most_edges, len(at)), empty, by_class.dtype)
            _along_edges(edge, of_effect, own)
            table[at] = own.T
        return table

    def _graph(self) -> tuple[np.ndarray, ...]:
        return self.kinds, self.begin, self.source, self.target, self.shift

    def shrink(self, candidates: BoolTensor) -> BoolTensor:
        """(B, T, A) -> (B, T, A): what some answer within the candidates holds whose grid sums lie in the widened
        windows. Exact where the grids are, sound where not."""
        if self._last is not None and torch.equal(self._last[0], candidates):
            return self._last[1]
        rows, inverse = candidates.cpu().unique(dim=0, return_inverse=True)
        left = torch.stack([torch.from_numpy(self._shrunk(row.numpy())) for row in rows])[inverse]
        left = left.to(candidates.device)
        self._last = (candidates, left)
        return left

    def _shrunk(self, candidates: np.ndarray) -> np.ndarray:
        layout = self._layout([each.widened for each in self.sums])
        if layout is None:
            return np.zeros_like(candidates)
        first, size, offset = layout
        may = self._per_edge(candidates.astype(np.uint8), 0)
        alive = np.zeros(offset[-1], np.uint8)
        self._ends(layout, alive, 1)
        _open_behind(*self._graph(), may, first, size, offset, alive)
        used = np.zeros((self.length, self.most_edges), np.uint8)
        _open_ahead(*self._graph(), may, first, size, offset, alive, self._begun(layout), used)
        left = np.zeros_like(candidates)
        for kind, (effect, edge) in enumerate(zip(self.effects, self.edges, strict=True)):
            at = np.flatnonzero(self.kinds == kind)
            # An edge is used by some class; every candidate that goes along it could have been that class.
            padded = np.concatenate([used[at] > 0, np.zeros((len(at), 1), bool)], 1)
            left[at] = padded[:, edge].any(1)[:, effect]
        return candidates & left

    def _begun(self, layout) -> np.ndarray:
        """Two layers, of which the first holds the start state."""
        offset = layout[2]
        reached = np.zeros((2, int(np.diff(offset).max())), np.uint8)
        place = self._start(layout)
        if place is not None:
            reached[0, place] = 1
        return reached

    def _start(self, layout) -> int | None:
        """The entry of the start state in the first layer; None where the sums do not begin in its box."""
        first, size, _ = layout
        inside = (first[0] <= 0).all() and (-first[0] < size[0]).all()
        place = (int(self.machine.start[0]), *-first[0])
        return int(np.ravel_multi_index(place, (self.machine.states, *size[0]))) if inside else None

    def best(self, log_probs: np.ndarray, windows: Sequence[tuple[int, int]] | None = None) -> tuple[np.ndarray, bool]:
        """(T, A) float32 -> the classes of the highest sum (T) among answers whose grid sums lie in the windows (those
        of exact grids by default), and whether there is one."""
        layout = self._layout([each.narrowed for each in self.sums] if windows is None else windows)
        none = np.zeros(self.length, np.int64), False
        if layout is None:
            return none
        first, size, offset = layout
        scores = self._per_edge(log_probs.astype(np.float32), _NEVER)
        values = np.full(offset[-1], _NEVER, np.float32)
        self._ends(layout, values, 0.0)
        _best_behind(*self._graph(), scores, first, size, offset, values)
        begin = self._start(layout)
        if begin is None or values[begin] == _NEVER:
            return none
        place, state = -first[0], int(self.machine.start[0])
        chosen = np.zeros(self.length, np.int64)
        for at, kind in enumerate(self.kinds.tolist()):
            edges = self.begin[kind] + np.unique(self.edges[kind][state][self.edges[kind][state] >= 0])
            after = place + first[at] + self.shift[edges] - first[at + 1]
            fits = ((after >= 0) & (after < size[at + 1])).all(1)
            edges, after = edges[fits], after[fits]
            index = (self.target[edges], *after.T)
            there = values[offset[at + 1] + np.ravel_multi_index(index, (self.machine.states, *size[at + 1]))]
            pick = int((there + scores[at, edges - self.begin[kind]]).argmax())
            own = self.edges[kind][state][self.effects[kind]] == edges[pick] - self.begin[kind]  # (A)
            chosen[at] = np.where(own, log_probs[at], -np.inf).argmax()
            state, place = int(self.target[edges[pick]]), after[pick]
        return chosen, True


def entries(machine, sums: Sequence[Gridded]) -> int:
    """Entries of all layers of a product together."""
    sizes = [boxes(each.steps, *each.widened)[1] for each in sums]
    return int(sum(machine.states * prod(int(size[at]) for size in sizes) for at in range(len(machine.kind) + 1)))


def _spread(counter: Counter) -> float:
    """How far a partial sum can go, in its largest weights."""
    weights = counter.weights
    return float((weights.amax(-1) - weights.amin(-1)).sum() / (weights.amax() - weights.amin()).clamp(min=1e-12))


def _grids(counter: Counter) -> Iterator[Gridded]:
    """Grids from fine to coarse; whole numbers exactly at first, real ones where rounding errs least. None that tells
    nothing of the bounds."""
    spread = float((counter.weights.amax(-1) - counter.weights.amin(-1)).max())
    if counter.whole or spread == 0:
        yield Gridded.of(counter, counter.divisor if spread else 1.0)
    most = 64
    while spread and most >= 4:
        steps = range(most // 2 + 1, most + 1)
        grain = spread / min(steps, key=lambda k: _error(counter.weights.numpy(), spread / k))
        if counter.high - counter.low >= grain:
            yield Gridded.of(counter, grain)
        most //= 2


def _error(weights: np.ndarray, grain: float) -> float:
    centred = weights - weights.min(1, keepdims=True)
    return float(np.abs(centred - np.rint(centred / grain) * grain).mean())
