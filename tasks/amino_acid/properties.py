"""Net charge, hydropathy and mass of a sequence, as sums over its residues.

The numbers are those of Biopython 1.88 (the tests compare them), so that rules work without Biopython: pK values of
Bjellqvist et al. (1993, 1994), hydropathies of Kyte and Doolittle (1982), average and monoisotopic masses in Da.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from .residues import RESIDUES

#: Kyte and Doolittle, in tenths: whole numbers add up exactly.
HYDROPATHY_TENTHS = {
    "A": 18, "C": 25, "D": -35, "E": -35, "F": 28, "G": -4, "H": -32, "I": 45, "K": -39, "L": 38, "M": 19, "N": -35,
    "P": -16, "Q": -35, "R": -45, "S": -8, "T": -7, "V": 42, "W": -9, "Y": -13,
}  # fmt: skip
#: Water, Da: average and monoisotopic.
WATER, MONO_WATER = 18.0153, 18.010565
#: Average masses of free residues, Da.
MASS = {
    "A": 89.0932, "C": 121.1582, "D": 133.1027, "E": 147.1293, "F": 165.1891, "G": 75.0666, "H": 155.1546,
    "I": 131.1729, "K": 146.1876, "L": 131.1729, "M": 149.2113, "N": 132.1179, "P": 115.1305, "Q": 146.1445,
    "R": 174.201, "S": 105.0926, "T": 119.1192, "V": 117.1463, "W": 204.2252, "Y": 181.1885,
}  # fmt: skip
#: Monoisotopic masses of free residues, Da.
MONO_MASS = {
    "A": 89.047678, "C": 121.019749, "D": 133.037508, "E": 147.053158, "F": 165.078979, "G": 75.032028, "H": 155.069477,
    "I": 131.094629, "K": 146.105528, "L": 131.094629, "M": 149.051049, "N": 132.053492, "P": 115.063329,
    "Q": 146.069142, "R": 174.111676, "S": 105.042593, "T": 119.058243, "V": 117.078979, "W": 204.089878,
    "Y": 181.073893,
}  # fmt: skip
POSITIVE, NEGATIVE = {"K": 10.0, "R": 12.0, "H": 5.98}, {"D": 4.05, "E": 4.45, "C": 9.0, "Y": 10.0}
N_TERMINAL = {"A": 7.59, "M": 7.0, "S": 6.93, "P": 8.36, "T": 6.82, "V": 7.44, "E": 7.7}
C_TERMINAL = {"D": 4.55, "E": 4.75}


def _each(value: Callable[[str], float]) -> np.ndarray:
    return np.array([value(letter) for letter in RESIDUES], np.float64)


@lru_cache(maxsize=64)
def charges(ph: float = 7.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Charges at a pH (Henderson and Hasselbalch), (20) each: of the side chain of each residue, and additional ones of
    the first and of the last residue."""

    def protonated(pk: float) -> float:
        return 1 / (10 ** (ph - pk) + 1)

    def deprotonated(pk: float) -> float:
        return 1 / (10 ** (pk - ph) + 1)

    def side_chain(letter: str) -> float:
        if letter in POSITIVE:
            return protonated(POSITIVE[letter])
        return -deprotonated(NEGATIVE[letter]) if letter in NEGATIVE else 0.0

    first = _each(lambda letter: protonated(N_TERMINAL.get(letter, 7.5)))
    last = _each(lambda letter: -deprotonated(C_TERMINAL.get(letter, 3.55)))
    return _each(side_chain), first, last


RESIDUE_MASS = _each(lambda r: MASS[r] - WATER)
RESIDUE_MONO_MASS = _each(lambda r: MONO_MASS[r] - MONO_WATER)
#: Name, mass of each residue in a chain, and of the water that completes the chain, Da.
MASSES = (("mass", RESIDUE_MASS, WATER), ("mono_mass", RESIDUE_MONO_MASS, MONO_WATER))
HYDROPATHY = _each(lambda r: HYDROPATHY_TENTHS[r]) / 10


def _numbers(sequence: str) -> np.ndarray:
    return np.array([RESIDUES.index(letter) for letter in sequence])


def charge(sequence: str, ph: float = 7.0) -> float:
    """Net charge at a pH, in elementary charges."""
    at, (side_chain, first, last) = _numbers(sequence), charges(ph)
    return float(side_chain[at].sum() + first[at[0]] + last[at[-1]])


def hydropathy(sequence: str) -> float:
    """The mean over the residues, known as GRAVY."""
    return float(HYDROPATHY[_numbers(sequence)].mean())


def mass(sequence: str) -> float:
    """Average mass, Da."""
    return float(RESIDUE_MASS[_numbers(sequence)].sum() + WATER)


def mono_mass(sequence: str) -> float:
    """Monoisotopic mass, Da."""
    return float(RESIDUE_MONO_MASS[_numbers(sequence)].sum() + MONO_WATER)
