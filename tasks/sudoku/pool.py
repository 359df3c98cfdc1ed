"""Base puzzles for training, and the split into training and held-out puzzles.

9x9 and 16x16: a sixteenth of the solution grids, by fingerprint, is reserved and never trains, with any clues. 4x4 has
only two classes of grids, so puzzles are split by their canonical forms.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from constrained_dg.numba_jit import mix

from .canonical import canonical
from .generator import HELD_OUT, MINIMAL, RESERVED, TRAINING, Generated, first_grids, generate_puzzles
from .solver import units

log = logging.getLogger(__name__)

#: Most base puzzles of a size: 4x4 has a few thousand classes, and 16x16 takes a tenth of a second for each.
MOST = {4: 8000, 9: 2**31, 16: 500}
_CHUNK = {4: 8000, 9: 8000, 16: 100}
_FNV = 0x100000001B3


def is_reserved(cells: np.ndarray) -> bool:
    """Whether a 4x4 puzzle (16,) is held out; equal for all its symmetric versions."""
    key = 0
    for cell in canonical(cells.tolist()):
        key = (key * _FNV + cell + 1) % 2**64
    return int(mix(np.uint64(key))) % RESERVED == 0


def make_4x4(count: int, seed: int, side: int) -> Generated:
    """`count` 4x4 puzzles of one side (TRAINING or HELD_OUT): a quarter minimal, the others with 4 to 12 clues."""
    parts: list[Generated] = []
    have = 0
    while have < count:
        generator = np.random.default_rng((seed, side + 1, len(parts)))
        clues = generator.integers(4, 13, 2000)
        clues[::4] = MINIMAL
        raw = generate_puzzles(4, clues, int(generator.integers(2**62)))
        keep = np.array([is_reserved(puzzle) == (side == HELD_OUT) for puzzle in raw.puzzles])
        parts.append(Generated(raw.puzzles[keep], raw.solutions[keep]))
        have += int(keep.sum())
    puzzles = np.concatenate([part.puzzles for part in parts])[:count]
    return Generated(puzzles, np.concatenate([part.solutions for part in parts])[:count])


def _chunk_seed(size: int, seed: int, first: int) -> int:
    """A seed for each chunk of base puzzles."""
    return int(np.random.SeedSequence((seed, size, first)).generate_state(1, np.uint64)[0] >> 1)


def training_grids(size: int, count: int, seed: int, marks: np.ndarray) -> list[np.ndarray]:
    """The solutions of the 9x9 or 16x16 `training_pool`, (N,) uint8, whose fingerprint is one of marks (M,) uint64.

    Without digging puzzles, a twentieth of the time of the pool: about 4 s for 150,000 grids of 9x9.
    """
    count, alike = min(count, MOST[size]), []
    for first in range(0, count, _CHUNK[size]):
        many = min(_CHUNK[size], count - first)
        of_grids, grids = np.empty(many, np.uint64), np.empty((many, size * size), np.uint8)
        first_grids(*units(size), 0, _chunk_seed(size, seed, first), TRAINING, of_grids, grids)
        alike += list(grids[np.isin(of_grids, marks)])
    return alike


def training_pool(size: int, count: int, seed: int) -> Generated:
    """The base puzzles: minimal ones for 9x9 and 16x16, mixed clue counts for 4x4."""
    count = min(count, MOST[size])
    start = time.perf_counter()
    parts: list[Generated] = []
    for first in range(0, count, _CHUNK[size]):
        many = min(_CHUNK[size], count - first)
        if size == 4:
            parts.append(make_4x4(many, seed, TRAINING))
        else:
            parts.append(generate_puzzles(size, np.full(many, MINIMAL), _chunk_seed(size, seed, first), TRAINING))
        done = first + many
        rate = done / (time.perf_counter() - start)
        log.info("generated %d of %d base puzzles %dx%d (%.0f a second)", done, count, size, size, rate)
    puzzles = np.concatenate([part.puzzles for part in parts])
    return Generated(puzzles, np.concatenate([part.solutions for part in parts]))
