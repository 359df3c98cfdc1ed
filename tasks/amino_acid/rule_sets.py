"""Random requirements that a natural sequence meets by construction."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import numpy as np

from . import properties, prosite
from .prosite import Pattern, parse_pattern
from .residues import RESIDUES
from .specification import Composition, Requirements

#: Kinds of rule sets; the last combines all.
RULES = ("motif", "avoid", "charge", "composition", "hydropathy", "everything")
#: Patterns that people avoid: glycosylation sites, cleavage by trypsin and TEV protease, cysteines, inner methionines.
AVOIDED = ("N-{P}-[ST]-{P}", "[KR]-{P}", "E-x(2)-Y-x-Q-[GS]", "C", "x-M", "D-[PG]", "N-G", "[FWY]-[FWY]")
#: Groups of similar residues, for random patterns.
ALIKE = ("ILMV", "FWY", "KR", "DE", "ST", "NQ", "AG", "HKR", "ACGST", "FILMVWY")
GROUPS = ("KR", "DE", "FWY", "AILMFVW", "STNQ", "GP", "C", "H", "A")


def random_pattern(sequence: str, draws: np.random.Generator) -> Pattern:
    """A pattern that matches somewhere in the sequence: 4 to 9 of its residues, some widened to similar residues, to
    any, or to a range."""
    width = min(int(draws.integers(4, 10)), len(sequence))
    begin = int(draws.integers(len(sequence) - width + 1))
    parts = []
    for letter in sequence[begin : begin + width]:
        kind = draws.random()
        alike = [group for group in ALIKE if letter in group]
        if kind < 0.35 or not alike:
            parts.append(letter)
        elif kind < 0.65:
            parts.append(f"[{alike[int(draws.integers(len(alike)))]}]")
        elif kind < 0.75:
            other = RESIDUES[int(draws.integers(20))]
            parts.append(f"{{{other}}}" if other != letter else "x")
        elif kind < 0.85:
            parts.append(f"x(1,{int(draws.integers(2, 4))})")
        else:
            parts.append("x")
    return parse_pattern("-".join(parts))


def planted(
    sequence: str, rules: str, draws: np.random.Generator, patterns: Sequence[Pattern] = (), name: str = "protein"
) -> Requirements:
    """Requirements of one of RULES that the sequence meets.

    Args:
        sequence: of 20 to 250 residues.
        patterns: used instead of random ones if they match the sequence.
        name: the kind of sequence.
    """
    every, length = rules == "everything", len(sequence)
    values: dict = {"length": (length, length), "kind": name}
    if draws.random() < 0.25:
        values["length"] = (max(1, length - int(draws.integers(1, 10))), min(250, length + int(draws.integers(1, 10))))
    if rules == "motif" or every:
        matching = [pattern for pattern in patterns if prosite.occurrences(pattern, sequence)]
        matching += [
            random_pattern(sequence, draws) for _ in range(1 if matching or every else int(draws.integers(1, 3)))
        ]
        values["contains"] = tuple(matching[:2])
        if rules == "motif" and draws.random() < 0.4:
            at = int(draws.integers(max(1, length - 4)))
            values["places"] = ((at + 1, parse_pattern("-".join(sequence[at : at + 3]))),)
    if rules in ("avoid", "motif") or every:
        free = [p for p in map(parse_pattern, AVOIDED) if not prosite.occurrences(p, sequence)]
        count = min(len(free), int(draws.integers(1, 4)))
        values["avoids"] = tuple(free[int(at)] for at in draws.choice(len(free), count, replace=False)) if count else ()
    if rules == "charge" or every:
        values["charge"] = _around(properties.charge(sequence), draws.uniform(0.3, 3), draws)
    if rules == "hydropathy" or every:
        values["hydropathy"] = _around(properties.hydropathy(sequence), draws.uniform(0.05, 0.4), draws)
    if rules == "hydropathy":
        values["mass"] = _around(properties.mass(sequence), draws.uniform(10, 400), draws)
    if rules == "composition" or every:
        values["composition"] = tuple(_group(sequence, draws) for _ in range(1 if every else int(draws.integers(1, 4))))
    return Requirements(**values)


def _around(value: float, width: float, draws: np.random.Generator) -> tuple[float, float]:
    """Bounds of a few digits around the value."""
    low = value - width * draws.random()
    return floor(low * 1000) / 1000, ceil((low + width) * 1000) / 1000


def _group(sequence: str, draws: np.random.Generator) -> Composition:
    residues = GROUPS[int(draws.integers(len(GROUPS)))]
    count = sum(sequence.count(letter) for letter in residues)
    if draws.random() < 0.5:
        low = max(0, count - int(draws.integers(3)))
        return Composition(residues, low, count + int(draws.integers(3)), False)
    share = 100 * count / len(sequence)
    return Composition(
        residues, max(0, floor(share - draws.uniform(1, 6))), min(100, ceil(share + draws.uniform(1, 6))), True
    )
