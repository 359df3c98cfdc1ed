"""What a sequence must be, as a line of text, and as a rule.

    length=40 contains=C-x(2,4)-C avoids=N-{P}-[ST]-{P} composition=KR:20%..30% charge=3..6 hydropathy=..0.5

Words with a blank between them; a bound may be left out. A rule speaks of a canvas of tokens, in which
the sequence is filled up with EOS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from functools import lru_cache
from math import ceil, floor, inf, isfinite

import numpy as np
import torch

from constrained_dg.constraints import All, Automaton, Constraint, Count, Pinned, RealSum, Vocabulary
from constrained_dg.errors import InputError, check, needs
from constrained_dg.shapes import BoolTensor, IntTensor

from . import properties, prosite
from .prosite import Pattern, parse_pattern
from .residues import (
    EOS,
    FIRST_KIND,
    FIRST_RESIDUE,
    KINDS,
    LONGEST,
    RESIDUES,
    VOCABULARY,
    canvas_length,
    sequence_of,
    show,
)

Bounds = tuple[float, float]
#: Rounding of a sum over 250 residues.
_ROUNDING = 1e-9
_EXAMPLES = (
    "length=30..40 contains=N-{P}-[ST]-{P} at=3:[KR]-K avoids=C composition=KR:3..8 charge=2..5 hydropathy=-1..0.5 "
    "mass=..4500"
)


@dataclass(frozen=True)
class Composition:
    """How many residues are of a group: a count, or a share in percent."""

    residues: str
    low: float
    high: float
    percent: bool

    def counts(self, length: int) -> tuple[int, int]:
        """Bounds of the count in a sequence of so many residues; the first may lie above the second."""
        if not self.percent:
            return int(self.low), int(min(self.high, length))
        low, high = self.low * length / 100, min(self.high, 100) * length / 100
        return ceil(low - _ROUNDING), floor(high + _ROUNDING)


@dataclass(frozen=True)
class Requirements:
    """What a sequence must be.

    Attributes:
        length: residues, from and to.
        contains, avoids: patterns that match somewhere, or nowhere.
        places: (position, pattern): a match begins at a position, the first of which is 1.
        composition: counts or shares of groups of residues.
        charge: net charge at pH 7, or None; `hydropathy` the mean, `mass` in Da.
        template: residues that stay and ? for those to be found; or None.
        kind: of sequence, one of KINDS.
    """

    length: tuple[int, int]
    contains: tuple[Pattern, ...] = ()
    avoids: tuple[Pattern, ...] = ()
    places: tuple[tuple[int, Pattern], ...] = ()
    composition: tuple[Composition, ...] = ()
    charge: Bounds | None = None
    hydropathy: Bounds | None = None
    mass: Bounds | None = None
    template: str | None = None
    kind: str = field(default=KINDS[0])

    def __post_init__(self) -> None:
        low, high = self.length
        check(1 <= low <= high <= LONGEST, f"length={low}..{high}", f"give residues from 1 to {LONGEST}, fewest first")
        for name, pattern, first in [
            *(("contains", pattern, 1) for pattern in self.contains),
            *(("at", pattern, position) for position, pattern in self.places),
        ]:
            needed = pattern.shortest + first - 1
            check(needed <= high, f"{name}={pattern.text} needs {needed} residues", f"there are at most {high}")
        for pattern, kind in self._motifs():  # a pattern that is too large is no contradiction: refused here and now
            _automaton(pattern, kind)
        for group in self.composition:
            odd = sorted(set(group.residues) - set(RESIDUES))
            check(bool(group.residues) and not odd, f"composition of {group.residues!r}", f"name some of {RESIDUES}")
            what = f"composition={group.residues}:{group.low:g}..{group.high:g}"
            check(0 <= group.low <= group.high, what, "give the smaller number first, none below 0")
            least = ceil(group.low - _ROUNDING) if not group.percent else 0
            check(least <= high and (not group.percent or group.low <= 100), what, f"there are at most {high} residues")
        for name in ("charge", "hydropathy", "mass"):
            bounds = getattr(self, name)
            text = "" if bounds is None else f"{name}={bounds[0]:g}..{bounds[1]:g}"
            check(bounds is None or bounds[0] <= bounds[1], text, "give the smaller number first")
        check(self.kind in KINDS, f"kind={self.kind}", f"use one of {', '.join(KINDS)}")
        if self.template is not None:
            odd = sorted(set(self.template) - set(RESIDUES) - {"?"})
            check(not odd, f"unknown residue {odd[:1]} in sequence", f"use {RESIDUES}, and ? for what is to be found")
            same = self.length == (len(self.template), len(self.template))
            check(same, f"a sequence of {len(self.template)} residues with length={low}..{high}", "leave length out")

    def _motifs(self) -> list[tuple[Pattern, str | int]]:
        """Patterns that need an automaton, with what they must do (see `Motif`)."""
        named = [(pattern, "contains") for pattern in self.contains] + [(pattern, "avoids") for pattern in self.avoids]
        return named + [(pattern, at) for at, pattern in self.places if not _is_placed(pattern)]

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
        for group in self.composition:
            words.append(f"composition={group.residues}:{_range(group.low, group.high, '%' if group.percent else '')}")
        for name in ("charge", "hydropathy", "mass"):
            words += [f"{name}={_range(*bounds)}"] if (bounds := getattr(self, name)) is not None else []
        return " ".join(words)

    @property
    def canvas(self) -> int:
        """Tokens of the canvas."""
        return canvas_length(self.length[1])

    def pinned(self) -> tuple[list[int], list[bool]]:
        """The canvas with what is given: kept residues, and EOS where no residue can stand; EOS elsewhere. And which
        tokens those are."""
        tokens, given = [EOS] * self.canvas, [at >= self.length[1] for at in range(self.canvas)]
        for at, letter in enumerate(self.template or ""):
            if letter != "?":
                tokens[at], given[at] = FIRST_RESIDUE + RESIDUES.index(letter), True
        return tokens, given

    @lru_cache(maxsize=128)  # noqa: B019  (requirements are few and small; the sweeps that a rule has worked out are not)
    def rule(self) -> Constraint:
        """The rule of one row over the canvas; `Unsatisfiable` where making it proves that nothing satisfies it."""
        try:
            return All(self._parts())
        except InputError as error:
            return Unsatisfiable(self.canvas, str(error))

    def _parts(self) -> list[Constraint]:
        (low, high), canvas = self.length, self.canvas
        may = torch.zeros(1, canvas, VOCABULARY, dtype=torch.bool)
        may[:, :high, FIRST_RESIDUE:FIRST_KIND] = True
        may[:, low:, EOS] = True
        both = [pattern.text for pattern in self.contains if pattern in self.avoids]
        check(not both, f"contains={both and both[0]} and avoids= it too", "leave one of them out")
        tokens, given = self.pinned()
        parts: list[Constraint] = [Vocabulary(may, show)]
        if self.template is not None:
            parts.append(Pinned(torch.tensor([tokens]), torch.tensor([given]), VOCABULARY, show))
        if low < high:
            parts.append(_ends(canvas))
        parts += [Motif(pattern, kind, canvas) for pattern, kind in self._motifs()]
        placed = [(position, pattern) for position, pattern in self.places if _is_placed(pattern)]
        parts += [Vocabulary(_placed(pattern, position, canvas), show) for position, pattern in placed]
        for group in self.composition:
            if low == high or not group.percent:
                least, most = group.counts(high)
                what = f"composition={group.residues}:{_range(group.low, group.high, '%' if group.percent else '')}"
                check(least <= most, f"{what}: no whole number of {high} residues lies between", "widen it")
                which = [FIRST_RESIDUE + RESIDUES.index(letter) for letter in sorted(set(group.residues))]
                parts.append(Count(which, least, most, canvas, VOCABULARY, range(high), show))
            else:
                held = np.array([float(letter in group.residues) for letter in RESIDUES]) * 100
                parts += means(held, (group.low, group.high), self.length, canvas, f"percent of {group.residues}")
        if self.charge is not None:
            parts.append(Charge(self.charge, self.length, canvas))
        if self.mass is not None:
            weights = _by_position(properties.RESIDUE_MASS, self.length, canvas)
            low_mass, high_mass = (bound - properties.WATER for bound in self.mass)
            parts.append(RealSum(weights, low_mass, high_mass, canvas, range(high), show, "the mass without a water"))
        if self.hydropathy is not None:
            tenths, bounds = np.rint(properties.HYDROPATHY * 10), tuple(10 * bound for bound in self.hydropathy)
            parts += means(tenths, bounds, self.length, canvas, "tenths of hydropathy")
        return parts

    def broken(self, sequence: str) -> list[str]:
        """What of these a sequence breaks, by `re` and Biopython alone, without any rule of this project."""
        with needs("biopython", "checking charge, hydropathy and mass"):
            from Bio.SeqUtils import molecular_weight
            from Bio.SeqUtils.ProtParam import ProteinAnalysis

        (low, high), told = self.length, []
        if not (low <= len(sequence) <= high and re.fullmatch(f"[{RESIDUES}]+", sequence)):
            return [f"{len(sequence)} residues"]
        told += [f"contains={p.text}" for p in self.contains if not re.search(p.regex, sequence)]
        told += [f"avoids={p.text}" for p in self.avoids if re.search(p.regex, sequence)]
        told += [f"at={k}:{p.text}" for k, p in self.places if not re.compile(p.regex).match(sequence, k - 1)]
        for group in self.composition:
            held = sum(sequence.count(letter) for letter in set(group.residues))
            held = 100 * held / len(sequence) if group.percent else held
            told += [f"composition={group.residues}"] * (not group.low - 1e-7 <= held <= group.high + 1e-7)
        analysis = ProteinAnalysis(sequence)
        found = {
            "charge": analysis.charge_at_pH(7.0),
            "hydropathy": analysis.gravy(),
            "mass": molecular_weight(sequence, "protein"),
        }
        for name, value in found.items():
            bounds = getattr(self, name)
            told += [name] * (bounds is not None and not bounds[0] - 1e-7 <= value <= bounds[1] + 1e-7)
        if self.template is not None:
            told += ["sequence"] * (re.fullmatch(self.template.replace("?", "."), sequence) is None)
        return told


def _range(low: float, high: float, unit: str = "") -> str:
    written = ["" if not isfinite(bound) else f"{bound:.10g}{unit}" for bound in (low, high)]
    return "..".join(written)


def _bounds(name: str, text: str) -> Bounds:
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)?\.\.(-?\d+(?:\.\d+)?)?", text) or re.fullmatch(
        r"(-?\d+(?:\.\d+)?)()", text
    )
    check(
        found is not None and text != "..",
        f"{name}={text}",
        "give two numbers, such as 2..5.5, one of them, or one number",
    )
    if ".." not in text:
        return float(text), float(text)
    low, high = found.groups()
    return float(low) if low else -inf, float(high) if high else inf


def parse_requirements(text: str) -> Requirements:
    """Requirements from their line of text.

    Raises:
        InputError: naming the word that is none, or the requirement that nothing can meet.
    """
    values: dict[str, list[str]] = {}
    known = {f.name for f in fields(Requirements)} - {"places", "template"} | {"at", "sequence"}
    for word in text.split():
        name, equal, value = word.partition("=")
        check(bool(equal and value) and name in known, f"requirement {word!r}", f"write such as {_EXAMPLES}")
        values.setdefault(name, []).append(value)
    for name in ("length", "charge", "hydropathy", "mass", "sequence", "kind"):
        check(len(values.get(name, [])) <= 1, f"{name}= is given twice", "give it once")
    template = values.get("sequence", [None])[0]
    template = None if template is None else template.upper()
    check(template is not None or "length" in values, f"no length in {text!r}", "give length=40 or length=30..40")
    sizes = (len(template),) * 2 if template is not None else (0, 0)
    if "length" in values:
        bounds = _bounds("length", values["length"][0])
        whole = all(isfinite(bound) and bound == int(bound) for bound in bounds)
        check(whole, f"length={values['length'][0]}", "give whole numbers, such as 30..40")
        sizes = (int(bounds[0]), int(bounds[1]))
    places = []
    for value in values.get("at", []):
        position, colon, pattern = value.partition(":")
        check(bool(colon) and position.isdecimal() and int(position) > 0, f"at={value}", "give such as at=3:[KR]-K")
        places.append((int(position), parse_pattern(pattern)))
    groups = []
    for value in values.get("composition", []):
        residues, colon, bounds = value.partition(":")
        percent = "%" in bounds
        check(bool(colon), f"composition={value}", "give such as composition=KR:3..8 or composition=KR:10%..30%")
        low, high = _bounds("composition", bounds.replace("%", ""))
        groups.append(Composition(residues.upper(), max(low, 0.0) if low == -inf else low, high, percent))
    single = {name: _bounds(name, values[name][0]) for name in ("charge", "hydropathy", "mass") if name in values}
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


# -- rules ------------------------------------------------------------------------------------------------------------


class Unsatisfiable(Constraint):
    """No sequence satisfies these requirements; `reason` says why."""

    num_classes = VOCABULARY
    strength = "exact: nothing is possible"

    def __init__(self, length: int, reason: str) -> None:
        self.length, self.reason = length, reason

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        return torch.zeros(len(answer), dtype=torch.bool, device=answer.device)

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        shape = (len(answer), span.stop - span.start, self.num_classes)
        return torch.zeros(shape, dtype=torch.bool, device=answer.device)

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        return torch.zeros_like(candidates)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        return [[self.reason]] * len(answer)


def _ends(canvas: int) -> Automaton:
    """Behind an EOS stands nothing else."""
    table = torch.full((2, VOCABULARY), -1)
    table[0, FIRST_RESIDUE:FIRST_KIND] = 0
    table[:, EOS] = 1
    return Automaton(table, 0, [0, 1], canvas, show=show, what="an end behind which nothing stands")


@lru_cache(maxsize=256)
def _automaton(pattern: Pattern, kind: str | int) -> prosite.Dfa:
    if kind == "contains":
        return prosite.contains(pattern)
    return prosite.avoids(pattern) if kind == "avoids" else prosite.at(pattern, kind)


def _is_placed(pattern: Pattern) -> bool:
    """Whether a match that begins at a given position is told position by position, without states."""
    anchored = pattern.start or pattern.end or pattern.start_optional or pattern.end_optional
    return not anchored and all(least == most for _, least, most in pattern.elements)


def _placed(pattern: Pattern, position: int, canvas: int) -> BoolTensor:
    """(1, T, V) what may stand where a pattern without ranges begins at a position."""
    may = torch.ones(1, canvas, VOCABULARY, dtype=torch.bool)
    sets = [residues for residues, least, _ in pattern.elements for _ in range(least)]
    for at, residues in enumerate(sets, position - 1):
        may[0, at] = False
        may[0, at, [FIRST_RESIDUE + RESIDUES.index(letter) for letter in residues]] = True
    return may


class Motif(Automaton):
    """A PROSITE pattern matches somewhere, nowhere, or from a position on.

    Args:
        pattern: see `prosite`.
        kind: "contains", "avoids", or the position, the first of which is 1.
        length: of the canvas.

    Raises:
        InputError: no sequence that fits the canvas satisfies it, or it needs too many states.
    """

    def __init__(self, pattern: Pattern, kind: str | int, length: int) -> None:
        self.pattern, self.kind = pattern, kind
        found = _automaton(pattern, kind)
        table = torch.full((len(found.table), VOCABULARY), -1)
        table[:, FIRST_RESIDUE:FIRST_KIND] = torch.from_numpy(found.table)
        name = f"at={kind}:{pattern.text}" if isinstance(kind, int) else f"{kind}={pattern.text}"
        check(bool(found.accepting), f"{name} fits no sequence", "change the pattern")
        super().__init__(table, found.start, sorted(found.accepting), length, ([EOS], EOS), show, what=name)

    def violations(self, answer: IntTensor) -> BoolTensor:
        """What should not match: the matches. Else what a nearest sequence that matches changes."""
        if self.kind != "avoids":
            return super().violations(answer)
        self.check_answer(answer)
        blamed = torch.zeros_like(answer, dtype=torch.bool)
        for row, satisfied, tokens in zip(blamed, self.is_satisfied(answer).tolist(), answer.tolist(), strict=True):
            spans = [] if satisfied else prosite.occurrences(self.pattern, sequence_of(tokens))
            for begin, end in spans:
                row[begin:end] = True
            row |= not (satisfied or bool(row.any()))
        return blamed

    def explain(self, answer: IntTensor) -> list[list[str]]:
        told = []
        for satisfied, tokens in zip(self.is_satisfied(answer).tolist(), answer.tolist(), strict=True):
            spans = prosite.occurrences(self.pattern, sequence_of(tokens))
            where = ", ".join(f"{begin + 1} to {end}" for begin, end in spans)
            missing = "nowhere" if self.kind == "contains" else f"not at {self.kind}"
            what = f"at {where}, and should not" if self.kind == "avoids" else missing
            told.append([] if satisfied else [f"{self.pattern.text} matches {what}"])
        return told


def _by_position(residues: np.ndarray, length: tuple[int, int], canvas: int) -> torch.Tensor:
    """(T, V) what each token adds: residues their weight, EOS nothing, what cannot stand there least."""
    weights = np.full((canvas, VOCABULARY), residues.min())
    weights[:, FIRST_RESIDUE:FIRST_KIND] = residues
    weights[length[0] :] = np.where(np.arange(VOCABULARY) < FIRST_RESIDUE, 0.0, weights[length[0] :])
    weights[length[1] :] = 0
    return torch.from_numpy(weights)


class Mean(RealSum):
    """A mean over the residues lies between two numbers. Made by `means`.

    Args:
        residues: (20) what is averaged.
        bounds: of the mean.
        taken_off: from each residue before they are added up.
        sums: bounds of the sum.
        length: fewest and most residues.
        canvas: T.
        name: what is averaged.
    """

    def __init__(
        self,
        residues: np.ndarray,
        bounds: Bounds,
        taken_off: float,
        sums: Bounds,
        length: tuple[int, int],
        canvas: int,
        name: str,
    ) -> None:
        self.residues, self.bounds = torch.from_numpy(residues), bounds
        weights = _by_position(residues - taken_off, length, canvas)
        super().__init__(weights, *sums, canvas, range(length[1]), show, name)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        told = []
        for satisfied, tokens in zip(self.is_satisfied(answer).tolist(), answer.tolist(), strict=True):
            at = [RESIDUES.index(letter) for letter in sequence_of(tokens)]
            mean = float(self.residues[at].mean()) if at else 0.0
            told.append([] if satisfied else [f"{self.what}: {mean:.4g}, not within {_range(*self.bounds)}"])
        return told


def means(residues: np.ndarray, bounds: Bounds, length: tuple[int, int], canvas: int, name: str) -> list[Mean]:
    """Rules that keep the mean of residues (20) within bounds.

    Over a known number of residues that is one sum. Else it is a sum for each bound that a mean can break, of what the
    residues have above it.
    """
    (low, high), (fewest, most) = bounds, length
    if fewest == most:
        return [Mean(residues, bounds, 0.0, (low * most, high * most), length, canvas, name)]
    rules = []
    if residues.min() < low:
        rules.append(Mean(residues, (low, inf), low, (0.0, inf), length, canvas, name))
    if residues.max() > high:
        rules.append(Mean(residues, (-inf, high), high, (-inf, 0.0), length, canvas, name))
    return rules


class Charge(RealSum):
    """The net charge at pH 7 lies between two numbers.

    What the last residue adds depends on where the sequence ends. Where that is open, the weights hold the middle of
    what it may add, and `reach` covers the rest; the judge knows where the end is.
    """

    def __init__(self, bounds: Bounds, length: tuple[int, int], canvas: int) -> None:
        weights = _by_position(properties.SIDE_CHAIN_CHARGE, length, canvas)
        weights[0, FIRST_RESIDUE:FIRST_KIND] += torch.from_numpy(properties.FIRST_CHARGE)
        last = properties.LAST_CHARGE
        self.last = torch.zeros(VOCABULARY, dtype=torch.float64)
        if length[0] == length[1]:
            weights[length[1] - 1, FIRST_RESIDUE:FIRST_KIND] += torch.from_numpy(last)
        else:
            middle = (last.min() + last.max()) / 2
            weights[0, FIRST_RESIDUE:FIRST_KIND] += middle
            self.last[FIRST_RESIDUE:FIRST_KIND] = torch.from_numpy(last - middle)
            self.reach = RealSum.reach + (last.max() - last.min()) / 2
        weights[0, :FIRST_RESIDUE] = weights[0, FIRST_KIND:] = weights[0, FIRST_RESIDUE:FIRST_KIND].min()
        super().__init__(weights, *bounds, canvas, range(length[1]), show, "the charge at pH 7")

    def sums(self, answer: IntTensor) -> torch.Tensor:
        residues = (answer >= FIRST_RESIDUE) & (answer < FIRST_KIND)
        end = (residues.long().cumprod(1).sum(1) - 1).clamp(min=0)
        return super().sums(answer) + self.last[answer.gather(1, end[:, None])[:, 0]]
