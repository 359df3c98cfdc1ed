"""The prompt of a sequence: its kind, and optionally its length, net charge and hydropathy."""

from __future__ import annotations

from .residues import FIRST_KIND, FIRST_NUMBER, KINDS, NUMBERS, OPEN
from .specification import PH, Requirements

#: Tokens of a prompt: kind, residues (two numbers), charge, hydropathy.
PROMPT = 5
#: The prompt names the middle of bounds of charge and hydropathy that are at most this wide.
_WIDEST = (6.0, 1.0)


def prompt_of(kind: str, residues: int | None, charge: float | None, hydropathy: float | None) -> list[int]:
    """The five tokens of a prompt; OPEN for None."""
    middle = NUMBERS // 2
    steps = [
        None if charge is None else round(charge) + middle,
        None if hydropathy is None else round(4 * hydropathy) + middle,
    ]
    numbers: list[int | None] = [None, None] if residues is None else list(divmod(residues, 16))
    numbers += [None if step is None else min(max(step, 0), NUMBERS - 1) for step in steps]
    return [FIRST_KIND + KINDS.index(kind), *(OPEN if number is None else FIRST_NUMBER + number for number in numbers)]


def prompt_for(requirements: Requirements) -> list[int]:
    """The prompt of requirements: the middle of narrow bounds, and OPEN for wide ones and charges at another pH than in
    training."""
    low, high = requirements.length
    middles = []
    for bounds, widest in zip(
        (requirements.charge if requirements.ph == PH else None, requirements.hydropathy), _WIDEST, strict=True
    ):
        narrow = bounds is not None and bounds[1] - bounds[0] <= widest
        middles.append((bounds[0] + bounds[1]) / 2 if narrow else None)
    return prompt_of(requirements.kind, low if low == high else None, *middles)
