"""The requirements that a sequence breaks, judged by `re` and Biopython alone, without any rule of this project."""

from __future__ import annotations

import re

from constrained_dg.errors import needs

from .residues import RESIDUES
from .specification import Requirements

#: Rounding of other sums than ours.
_NEAR = 1e-7


def broken(requirements: Requirements, sequence: str) -> list[str]:
    """The requirements that a sequence breaks, as words."""
    with needs("biopython", "judging sequences"):
        from Bio.SeqUtils import molecular_weight
        from Bio.SeqUtils.ProtParam import ProteinAnalysis

    low, high = requirements.length
    if not (low <= len(sequence) <= high and re.fullmatch(f"[{RESIDUES}]+", sequence)):
        return [f"{len(sequence)} residues"]
    words = [f"contains={p.text}" for p in requirements.contains if not re.search(p.regex, sequence)]
    words += [f"avoids={p.text}" for p in requirements.avoids if re.search(p.regex, sequence)]
    words += [f"at={k}:{p.text}" for k, p in requirements.places if not re.compile(p.regex).match(sequence, k - 1)]
    for group in requirements.composition:
        count = sum(sequence.count(letter) for letter in set(group.residues))
        value = 100 * count / len(sequence) if group.percent else count
        words += [f"composition={group.residues}"] * (not group.low - _NEAR <= value <= group.high + _NEAR)
    analysis = ProteinAnalysis(sequence)
    values = {
        "charge": lambda: analysis.charge_at_pH(requirements.ph),
        "hydropathy": analysis.gravy,
        "mass": lambda: molecular_weight(sequence, "protein"),
        "mono_mass": lambda: molecular_weight(sequence, "protein", monoisotopic=True),
    }
    for name, value_of in values.items():
        bounds = getattr(requirements, name)
        if bounds is not None and not bounds[0] - _NEAR <= value_of() <= bounds[1] + _NEAR:
            words.append(name)
    if requirements.template is not None and re.fullmatch(requirements.template.replace("?", "."), sequence) is None:
        words.append("sequence")
    return words
