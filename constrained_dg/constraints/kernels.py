"""Compiled loops over the layers of a `product.Product`: states of an automaton times a box of partial sums each.

A layer holds an entry for each state and each triple of partial sums that matters there (fewer sums leave the first of
the three at 0). An edge of the automaton moves a box by what its tokens add. The innermost loop runs along the third
sum, so that the compiler can use vector instructions.

All take `kinds` (T), the kind of each position; `begin` (P + 1), where the edges of each kind begin; `source`, `target`
and `shift` (edges, 3) of each edge; `first` and `size` (T + 1, 3) of the boxes; and `offset`, where each layer begins.
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled


@compiled
def along_edges(edge, of_effect, of_edge):
    """The most that effects (K, T) bring to the edges (E, T) that they take, edge (Q, K), -1 for none."""
    for state in range(edge.shape[0]):
        for effect in range(edge.shape[1]):
            to = edge[state, effect]
            if to >= 0:
                for at in range(of_edge.shape[1]):
                    of_edge[to, at] = max(of_edge[to, at], of_effect[effect, at])


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
def best_behind(kinds, begin, source, target, shift, scores, first, size, offset, values):
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
                    row, behind = now[here + k1 : here + k2], then[there + k1 : there + k2]
                    for k in range(k2 - k1):
                        row[k] = np.maximum(row[k], behind[k] + score)  # vector instructions, which `max` is not


@compiled
def open_behind(kinds, begin, source, target, shift, may, first, size, offset, alive):
    """As `best_behind`, with 1 where any way leads on to an accepted end."""
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
                    row, behind = now[here + k1 : here + k2], then[there + k1 : there + k2]
                    for k in range(k2 - k1):
                        row[k] |= behind[k]


@compiled
def open_ahead(kinds, begin, source, target, shift, may, first, size, offset, alive, reached, used):
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
                    row, behind = now[here + k1 : here + k2], ends[there + k1 : there + k2]
                    entered = then[there + k1 : there + k2]
                    for k in range(k2 - k1):
                        both = row[k] & behind[k]
                        entered[k] |= both
                        met |= both
            used[at, edge - begin[kinds[at]]] = met
