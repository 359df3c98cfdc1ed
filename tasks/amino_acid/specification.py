"""The requirements of a sequence as a line of text, words with blanks between them; a bound may be left out.

    length=40 contains=C-x(2,4)-C avoids=N-{P}-[ST]-{P} composition=KR:20%..30% charge=3..6@7.4 hydropathy=..0.5

`rules.rule_of` turns requirements into a rule, `judge.broken` judges a sequence without that rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from math import ceil, floor, inf, isfinite
from typing import Any

from constrained_dg.errors import check

from . import prosite
from .prosite import Pattern, parse_pattern
from .residues import EOS, FIRST_RESIDUE, KINDS, LONGEST, RESIDUES, canvas_length

Bounds = tuple[float, float]
#: Requirements with two bounds.
SUMS = ("charge", "hydropathy", "mass", "mono_mass")
#: The default pH of a charge, as in training.
PH = 7.0
#: Rounding of a sum over 250 residues.
_ROUNDING = 1e-9
_NUMBER = r"(-?[0-9]{1,12}(?:\.[0-9]{1,12})?)"
_EXAMPLES = (
    "length=30..40 contains=N-{P}-[ST]-{P} at=3:[KR]-K avoids=C composition=KR:3..8 charge=2..5@7.4 hydropathy=-1..0.5 "
    "mass=..4500 mono_mass=4000..4010"
)


@dataclass(frozen=True)
class Composition:
    """How many residues are of a group: a count, or a share in percent."""

    residues: str
    low: float
    high: float
    percent: bool

    @property
    def text(self) -> str:
        return f"composition={self.residues}:{range_text(self.low, self.high, '%' if self.percent else '')}"

    def counts(self, length: int) -> tuple[int, int]:
        """Bounds of the count in a sequence of this many residues; the first may exceed the second."""
        low, high = self.low, self.high
        if self.percent:
            low, high = low * length / 100, min(high, 100) * length / 100
        return ceil(low - _ROUNDING), floor(min(high, length) + _ROUNDING)


@dataclass(frozen=True)
class Requirements:
    """The requirements of a sequence.

    Attributes:
        length: fewest and most residues.
        contains, avoids: patterns that match somewhere, or nowhere.
        places: (position, pattern): a match begins at a position, the first of which is 1.
        composition: counts or shares of groups of residues.
        charge: net charge at the pH `ph`, or None.
        hydropathy: the mean over the residues (GRAVY), or None.
        mass, mono_mass: average and monoisotopic mass in Da, or None.
        template: residues that stay, and ? for masked ones; or None.
        kind: of sequence, one of KINDS.

    Raises:
        InputError: naming a requirement that no sequence can meet, or a pattern of too many states.
    """

    length: tuple[int, int]
    contains: tuple[Pattern, ...] = ()
    avoids: tuple[Pattern, ...] = ()
    places: tuple[tuple[int, Pattern], ...] = ()
    composition: tuple[Composition, ...] = ()
    charge: Bounds | None = None
    hydropathy: Bounds | None = None
    mass: Bounds | None = None
    mono_mass: Bounds | None = None
    template: str | None = None
    kind: str = KINDS[0]
    ph: float = PH

    def __post_init__(self) -> None:
        low, high = self.length
        check(1 <= low <= high <= LONGEST, f"length={low}..{high}", f"give residues from 1 to {LONGEST}, fewest first")
        for name, pattern, first in [
            *(("contains", pattern, 1) for pattern in self.contains),
            *(("at", pattern, position) for position, pattern in self.places),
        ]:
            needed = pattern.shortest + first - 1
            check(needed <= high, f"{name}={pattern.text} needs {needed} residues", f"there are at most {high}")
        for pattern, kind in self.motifs():  # a pattern with too many states is an error, not a contradiction
            prosite.automaton(pattern, kind)
        for group in self.composition:
            odd = sorted(set(group.residues) - set(RESIDUES))
            check(bool(group.residues) and not odd, f"composition of {group.residues!r}", f"name some of {RESIDUES}")
            what = f"composition={group.residues}:{group.low:g}..{group.high:g}"
            check(0 <= group.low <= group.high, what, "give the smaller number first, none below 0")
            least = ceil(group.low - _ROUNDING) if not group.percent else 0
            check(least <= high and (not group.percent or group.low <= 100), what, f"there are at most {high} residues")
        for name in SUMS:
            bounds = getattr(self, name)
            text = "" if bounds is None else f"{name}={bounds[0]:g}..{bounds[1]:g}"
            check(bounds is None or bounds[0] <= bounds[1], text, "give the smaller number first")
        check(0 <= self.ph <= 14, f"charge at pH {self.ph:g}", "give a pH from 0 to 14")
        check(self.kind in KINDS, f"kind={self.kind[:40]}", f"use one of {', '.join(KINDS)}")
        if self.template is not None:
            odd = sorted(set(self.template) - set(RESIDUES) - {"?"})
            check(not odd, f"unknown residue {odd[:1]} in sequence", f"use {RESIDUES}, and ? for a masked one")
            same = self.length == (len(self.template), len(self.template))
            check(same, f"a sequence of {len(self.template)} residues with length={low}..{high}", "leave length out")

    def motifs(self) -> list[tuple[Pattern, str | int]]:
        """Patterns that need an automaton, and its kind (see `prosite.automaton`)."""
        named = [(pattern, "contains") for pattern in self.contains] + [(pattern, "avoids") for pattern in self.avoids]
        return named + [(pattern, at) for at, pattern in self.places if not is_placed(pattern)]

    @property
    def text(self) -> str:
        """The requirements as one line; `parse_requirements` reads it."""
        low, high = self.length
        words = [f"length={low}" if low == high else f"length={low}..{high}"] if self.template is None else []
        words += [f"sequence={self.template}"] if self.template is not None else []
        words += [f"kind={self.kind}"] if self.kind != KINDS[0] else []
        words += [f"contains={pattern.text}" for pattern in self.contains]
        words += [f"at={position}:{pattern.text}" for position, pattern in self.places]
        words += [f"avoids={pattern.text}" for pattern in self.avoids]
        words += [group.text for group in self.composition]
        for name in SUMS:
            ph = f"@{self.ph:.10g}" if name == "charge" and self.ph != PH else ""
            words += [f"{name}={range_text(*bounds)}{ph}"] if (bounds := getattr(self, name)) is not None else []
        return " ".join(words)

    @property
    def canvas(self) -> int:
        """Tokens of the canvas."""
        return canvas_length(self.length[1])

    def pinned(self) -> tuple[list[int], list[bool]]:
        """The canvas with the given tokens (kept residues, EOS where no residue is possible) and EOS elsewhere; and
        which tokens are given."""
        tokens, given = [EOS] * self.canvas, [at >= self.length[1] for at in range(self.canvas)]
        for at, letter in enumerate(self.template or ""):
            if letter != "?":
                tokens[at], given[at] = FIRST_RESIDUE + RESIDUES.index(letter), True
        return tokens, given


def is_placed(pattern: Pattern) -> bool:
    """Whether a match at a given position can be decided at each residue separately, without states."""
    anchored = pattern.start or pattern.end or pattern.start_optional or pattern.end_optional
    return not anchored and all(least == most for _, least, most in pattern.elements)


def range_text(low: float, high: float, unit: str = "") -> str:
    """Bounds as `parse_requirements` reads them."""
    written = ["" if not isfinite(bound) else f"{bound:.10g}{unit}" for bound in (low, high)]
    return "..".join(written)


def parse_requirements(text: str) -> Requirements:
    """Requirements from their line of text.

    Raises:
        InputError: naming the word that is not a requirement, or the requirement that no sequence can meet.
    """
    # 1. Words, by their names.
    values: dict[str, list[str]] = {}
    known = ({field.name for field in fields(Requirements)} - {"places", "template", "ph"}) | {"at", "sequence"}
    for word in text.split():
        name, equal, value = word.partition("=")
        check(bool(equal and value) and name in known, f"requirement {word[:60]!r}", f"write such as {_EXAMPLES}")
        values.setdefault(name, []).append(value)
    for name in ("length", *SUMS, "sequence", "kind"):
        check(len(values.get(name, [])) <= 1, f"{name}= is given twice", "give it once")
    # 2. The length.
    template = values["sequence"][0].upper() if "sequence" in values else None
    check(template is not None or "length" in values, f"no length in {text[:60]!r}", "give length=40 or length=30..40")
    sizes = (0, 0) if template is None else (len(template), len(template))
    if "length" in values:
        bounds = _bounds("length", values["length"][0])
        integers = all(isfinite(bound) and bound == int(bound) for bound in bounds)
        check(integers, f"length={values['length'][0]}", "give whole numbers, such as 30..40")
        sizes = (int(bounds[0]), int(bounds[1]))
    # 3. Patterns at positions, and compositions.
    places, groups = [], []
    for value in values.get("at", []):
        position, colon, pattern = value.partition(":")
        number = int(position) if re.fullmatch("[0-9]{1,9}", position) else 0
        check(bool(colon) and number > 0, f"at={value[:60]}", f"give such as at=3:[KR]-K, a position up to {LONGEST}")
        places.append((number, parse_pattern(pattern)))
    for value in values.get("composition", []):
        residues, colon, span = value.partition(":")
        check(bool(colon), f"composition={value[:60]}", "give such as composition=KR:3..8 or composition=KR:10%..30%")
        low, high = _bounds("composition", span.replace("%", ""))
        groups.append(Composition(residues.upper(), 0.0 if low == -inf else low, high, "%" in span))
    # 4. Bounds, of a charge at a pH.
    single: dict[str, Any] = {}
    for name in SUMS:
        if name in values:
            span, at, ph = values[name][0].partition("@")
            if at:
                fine = name == "charge" and re.fullmatch(_NUMBER, ph) is not None
                check(fine, f"{name}={values[name][0][:60]}", "only a charge has a pH, such as charge=2..5@7.4")
                single["ph"] = float(ph)
            single[name] = _bounds(name, span)
    return Requirements(
        length=sizes,
        contains=tuple(map(parse_pattern, values.get("contains", []))),
        avoids=tuple(map(parse_pattern, values.get("avoids", []))),
        places=tuple(places),
        composition=tuple(groups),
        template=template,
        kind=values.get("kind", [KINDS[0]])[0],
        **single,
    )


def _bounds(name: str, text: str) -> Bounds:
    """The bounds of a text such as 2..5, 2.., ..5 or 5."""
    match = re.fullmatch(f"{_NUMBER}?(\\.\\.)?{_NUMBER}?", text)
    low, dots, high = match.groups() if match is not None else (None, None, None)
    hint = "give two numbers, such as 2..5.5, one of them, or one number, of at most 12 digits"
    check(bool(low or high) and (bool(dots) or high is None), f"{name}={text[:60]}", hint)
    if not dots:
        return float(low), float(low)
    return float(low) if low else -inf, float(high) if high else inf
