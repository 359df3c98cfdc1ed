"""Random requirements that a natural sequence meets by construction, and some that nothing can meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor

import numpy as np

from . import properties, prosite
from .prosite import Pattern, parse_pattern
from .requirements import Composition, Requirements
from .residues import RESIDUES

#: Kinds of rule sets; the last requires all of it.
RULES = ("motif", "avoid", "charge", "composition", "hydropathy", "everything")
#: What people avoid: glycosylation sites, cleavage by trypsin and by TEV protease, cysteines, methionines within.
AVOIDED = ("N-{P}-[ST]-{P}", "[KR]-{P}", "E-x(2)-Y-x-Q-[GS]", "C", "x-M", "D-[PG]", "N-G", "[FWY]-[FWY]")
#: Residues that are alike, from which patterns are values.
ALIKE = ("ILMV", "FWY", "KR", "DE", "ST", "NQ", "AG", "HKR", "ACGST", "FILMVWY")
GROUPS = ("KR", "DE", "FWY", "AILMFVW", "STNQ", "GP", "C", "H", "A")


def random_pattern(sequence: str, draws: np.random.Generator) -> Pattern:
    """A pattern that matches somewhere in the sequence: 4 to 9 places of it, some widened to residues that are
    alike, to any, or to a range."""
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
    """Requirements of one of RULES that the sequence meets, and often few others.

    Args:
        sequence: of 20 to 250 residues, that it need not be natural.
        patterns: required instead of random ones where they match the sequence.
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
    """Bounds of a few digits that hold the value, somewhere between them."""
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


def unsatisfiable(requirements: Requirements, draws: np.random.Generator) -> tuple[Requirements, str]:
    """The same with one requirement more that contradicts them, and why nothing can satisfy them now, by arithmetic."""
    low, high = requirements.length
    kind = int(draws.integers(4))
    if kind == 0 and requirements.contains:
        avoids = (*requirements.avoids, requirements.contains[0])
        return replace(requirements, avoids=avoids), "a pattern is required and avoided"
    if kind == 1:
        both = (Composition("KR", 60, 100, True), Composition("DE", 45, 100, True))
        return replace(requirements, composition=both, length=(high, high)), "60 % and 45 % of the residues are 105 %"
    if kind == 2:
        few = (Composition("KRH", 0, 2, False),)
        alone = replace(requirements, composition=few, hydropathy=None, mass=None)
        return replace(alone, charge=(4.5, 12.0)), "3 positive groups carry less than 4.5"
    avoids = tuple(parse_pattern(text) for text in ("[AGSTCNQPHDEKRWY]", "I-x"))
    kept = replace(requirements, hydropathy=(-4.5, 1.8), avoids=avoids, composition=(), charge=None, mass=None)
    least = "only F, L, M and V, whose hydropathies are 1.9 or more, and one I at the end, are possible"
    return replace(kept, length=(max(low, 5), max(high, 5))), least
