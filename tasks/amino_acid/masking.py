"""Masks of natural sequences for training and held-out problems; a masked residue is ?."""

from __future__ import annotations

import numpy as np


def mask_stretches(sequence: str, draws: np.random.Generator) -> str:
    """The sequence with one or more stretches of 5 to 20 residues masked: about a sixth of it, at least one."""
    letters = np.array(list(sequence))
    while (letters == "?").sum() < max(1, len(sequence) / 6):
        wide = min(len(sequence), int(draws.integers(5, 21)))
        begin = int(draws.integers(len(sequence) - wide + 1))
        letters[begin : begin + wide] = "?"
    return "".join(letters)


def mask_half(sequence: str, draws: np.random.Generator) -> str:
    """The sequence with half of its residues masked, at least one."""
    hidden = draws.random(len(sequence)) < 0.5
    hidden[int(draws.integers(len(sequence)))] = True
    return "".join("?" if here else letter for letter, here in zip(sequence, hidden, strict=True))


def mask_for_training(sequence: str, draws: np.random.Generator) -> str:
    """The sequence with masked stretches (half of the time), single residues (a quarter), or all residues."""
    kind = draws.random()
    if kind < 0.5:
        return mask_stretches(sequence, draws)
    return mask_half(sequence, draws) if kind < 0.75 else "?" * len(sequence)
