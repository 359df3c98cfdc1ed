"""Net charge at pH 7, hydropathy and mass of a sequence, as sums over its residues.

The numbers are those of Biopython 1.88, which the tests compare with: pK values of Bjellqvist et al. (1993, 1994),
hydropathies of Kyte and Doolittle (1982), average masses in Da. They stand here because rules are also read where
Biopython is not installed.
"""

from __future__ import annotations

import numpy as np

from .residues import RESIDUES

#: Kyte and Doolittle, in tenths: whole numbers add up exactly.
HYDROPATHY_TENTHS = {
    "A": 18, "C": 25, "D": -35, "E": -35, "F": 28, "G": -4, "H": -32, "I": 45, "K": -39, "L": 38, "M": 19, "N": -35,
    "P": -16, "Q": -35, "R": -45, "S": -8, "T": -7, "V": 42, "W": -9, "Y": -13,
}  # fmt: skip
WATER = 18.0153
#: Average masses of free residues, Da.
MASS = {
    "A": 89.0932, "C": 121.1582, "D": 133.1027, "E": 147.1293, "F": 165.1891, "G": 75.0666, "H": 155.1546,
    "I": 131.1729, "K": 146.1876, "L": 131.1729, "M": 149.2113, "N": 132.1179, "P": 115.1305, "Q": 146.1445,
    "R": 174.201, "S": 105.0926, "T": 119.1192, "V": 117.1463, "W": 204.2252, "Y": 181.1885,
}  # fmt: skip
POSITIVE, NEGATIVE = {"K": 10.0, "R": 12.0, "H": 5.98}, {"D": 4.05, "E": 4.45, "C": 9.0, "Y": 10.0}
N_TERMINAL = {"A": 7.59, "M": 7.0, "S": 6.93, "P": 8.36, "T": 6.82, "V": 7.44, "E": 7.7}
C_TERMINAL = {"D": 4.55, "E": 4.75}
_PH = 7.0


def _protonated(pk: float) -> float:
    """The share of a group that carries its proton at pH 7 (Henderson and Hasselbalch)."""
    return 1 / (10 ** (_PH - pk) + 1)


def _deprotonated(pk: float) -> float:
    return 1 / (10 ** (pk - _PH) + 1)


def _each(value) -> np.ndarray:
    return np.array([value(letter) for letter in RESIDUES], np.float64)


#: What each residue of RESIDUES adds, (20) each: anywhere, and more where it is the first or the last.
SIDE_CHAIN_CHARGE = _each(
    lambda r: _protonated(POSITIVE[r]) if r in POSITIVE else -_deprotonated(NEGATIVE[r]) if r in NEGATIVE else 0.0
)
FIRST_CHARGE = _each(lambda r: _protonated(N_TERMINAL.get(r, 7.5)))
LAST_CHARGE = _each(lambda r: -_deprotonated(C_TERMINAL.get(r, 3.55)))
RESIDUE_MASS = _each(lambda r: MASS[r] - WATER)
HYDROPATHY = _each(lambda r: HYDROPATHY_TENTHS[r]) / 10


def _numbers(sequence: str) -> np.ndarray:
    return np.array([RESIDUES.index(letter) for letter in sequence])


def charge(sequence: str) -> float:
    """Net charge at pH 7, in elementary charges."""
    at = _numbers(sequence)
    return float(SIDE_CHAIN_CHARGE[at].sum() + FIRST_CHARGE[at[0]] + LAST_CHARGE[at[-1]])


def hydropathy(sequence: str) -> float:
    """The mean over the residues, known as GRAVY."""
    return float(HYDROPATHY[_numbers(sequence)].mean())


def mass(sequence: str) -> float:
    """Average mass, Da."""
    return float(RESIDUE_MASS[_numbers(sequence)].sum() + WATER)
