"""Places of the nodes of a graph in a picture: stress majorization for each component, components packed in rows."""

from __future__ import annotations

import numpy as np

from .graph import Graph
from .walks import pieces

#: Rounds of majorization: beyond, nodes move by less than a hundredth of an edge.
_ROUNDS = 300
#: Components up to this many nodes with more than this share of all pairs joined are drawn on a circle.
_CIRCLE, _DENSE = 32, 0.4


def layout(graph: Graph) -> np.ndarray:
    """(n, 2) positions within the unit square, the same each time."""
    label = pieces(graph.adjacency)
    parts = sorted((np.flatnonzero(label == piece) for piece in range(label.max() + 1)), key=len, reverse=True)
    boxes = [_component(graph.adjacency[np.ix_(nodes, nodes)]) for nodes in parts]
    # 1. Components in rows, the largest first; the picture is about as wide as high.
    wide = max(float(np.sqrt(sum((size[0] + 1) * (size[1] + 1) for _, size in boxes))), max(s[0] for _, s in boxes) + 1)
    where, across, down, high = np.zeros((graph.nodes, 2)), 0.0, 0.0, 0.0
    for nodes, (places, size) in zip(parts, boxes, strict=True):
        if across > 0 and across + size[0] + 1 > wide + 1e-9:
            across, down, high = 0.0, down - high, 0.0
        where[nodes] = places + np.array([across, down - size[1]])
        across, high = across + size[0] + 1, max(high, size[1] + 1)
    # 2. Into the unit square.
    where -= where.min(0)
    return where / max(1e-9, where.max()) + (0.5 - where.max(0) / max(1e-9, where.max()) / 2)


def _component(joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) from 0, and the width and height of their box; neighbours are about 1 apart."""
    n = len(joined)
    if n == 1:
        return np.zeros((1, 2)), np.zeros(2)
    angle = 2 * np.pi * np.arange(n) / n
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) * n / 2 / np.pi
    dense = joined.sum() > _DENSE * n * (n - 1)
    steps = _distances(joined)
    if joined.sum() == 2 * (n - 1):
        places = _radial(joined, steps)
    else:
        places = circle if n <= _CIRCLE and dense else _majorized(steps, _scaled(steps))
    # The longest axis becomes horizontal.
    places = places - places.mean(0)
    places = places @ np.linalg.eigh(places.T @ places)[1][:, ::-1]
    places -= places.min(0)
    return places, places.max(0)


def _distances(joined: np.ndarray) -> np.ndarray:
    """(n, n) float, the steps between each two nodes of a connected graph."""
    near, steps = np.eye(len(joined), dtype=bool), np.zeros(joined.shape)
    while not near.all():
        steps[~near] += 1
        near = near | (near.astype(np.float32) @ joined > 0)
    return steps


def _radial(joined: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """A tree around its centre: radius by depth, and children within the share of the circle of their parent."""
    root = int(steps.max(1).argmin())
    depth = steps[root]
    leaves, angle, start = np.zeros(len(joined)), np.zeros(len(joined)), np.zeros(len(joined))
    outward = np.argsort(depth, kind="stable")
    for node in outward[::-1]:
        leaves[node] = max(1, leaves[joined[node] & (depth > depth[node])].sum())
    for node in outward:
        angle[node] = start[node] + leaves[node] / 2
        first = start[node]
        for child in np.flatnonzero(joined[node] & (depth > depth[node])):
            start[child], first = first, first + leaves[child]
    angle *= 2 * np.pi / leaves[root]
    return depth[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _scaled(steps: np.ndarray) -> np.ndarray:
    """Classical multidimensional scaling (Torgerson 1952), with a little noise that separates equal places."""
    centred = steps**2 - (steps**2).mean(0)
    centred -= centred.mean(1, keepdims=True)
    values, vectors = np.linalg.eigh(-centred / 2)
    noise = np.random.default_rng(0).normal(size=(len(steps), 2)) * 0.05
    return vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0)) + noise


def _majorized(wanted: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Places about as far apart as wanted, near ones above all (stress majorization: Gansner, Koren, North 2004)."""
    weights = 1 / np.maximum(wanted, 1) ** 2
    np.fill_diagonal(weights, 0)
    inverse = np.linalg.pinv(np.diag(weights.sum(1)) - weights)
    for _ in range(_ROUNDS):
        apart = np.linalg.norm(places[:, None] - places, axis=-1)
        pull = -weights * wanted / np.maximum(apart, 1e-6)
        np.fill_diagonal(pull, -pull.sum(1))
        places = inverse @ (pull @ places)
    return places
