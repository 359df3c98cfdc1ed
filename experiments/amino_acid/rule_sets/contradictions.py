"""Requirements that no sequence can meet, by arithmetic."""

from dataclasses import replace

import numpy as np

from tasks.amino_acid.prosite import parse_pattern
from tasks.amino_acid.specification import Composition, Requirements


def unsatisfiable(requirements: Requirements, draws: np.random.Generator) -> tuple[Requirements, str]:
    """The requirements with one more that contradicts them, and the reason."""
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
