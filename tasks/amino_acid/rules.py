"""The requirements of a sequence as rules over a canvas, in which EOS follows the sequence."""

from __future__ import annotations

from functools import lru_cache
from math import inf

import numpy as np
import torch

from constrained_dg.constraints import All, Automaton, Constraint, Count, Pinned, RealSum, Vocabulary
from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, IntTensor

from . import properties, prosite
from .prosite import Pattern
from .residues import EOS, FIRST_KIND, FIRST_RESIDUE, RESIDUES, VOCABULARY, sequence_of, show
from .specification import Bounds, Requirements, is_placed, range_text


@lru_cache(maxsize=128)  # a rule caches its sweeps
def rule_of(requirements: Requirements) -> Constraint:
    """The rule of one row over the canvas; `Unsatisfiable` if its construction proves that no sequence satisfies it."""
    try:
        return All(_parts(requirements))
    except InputError as error:
        return Unsatisfiable(requirements.canvas, str(error))


def _parts(requirements: Requirements) -> list[Constraint]:
    (low, high), canvas = requirements.length, requirements.canvas
    both = [pattern.text for pattern in requirements.contains if pattern in requirements.avoids]
    check(not both, f"contains={both and both[0]} and avoids= the same", "leave one of them out")
    # 1. Residues and their places, given residues, and the end.
    may = torch.zeros(1, canvas, VOCABULARY, dtype=torch.bool)
    may[:, :high, FIRST_RESIDUE:FIRST_KIND] = True
    may[:, low:, EOS] = True
    parts: list[Constraint] = [Vocabulary(may, show)]
    if requirements.template is not None:
        tokens, given = requirements.pinned()
        parts.append(Pinned(torch.tensor([tokens]), torch.tensor([given]), VOCABULARY, show))
    if low < high:
        parts.append(_ends(canvas))
    # 2. Patterns.
    parts += [Motif(pattern, kind, canvas) for pattern, kind in requirements.motifs()]
    placed = [(position, pattern) for position, pattern in requirements.places if is_placed(pattern)]
    parts += [Vocabulary(_placed(pattern, position, canvas), show) for position, pattern in placed]
    # 3. Counts and shares.
    for group in requirements.composition:
        if low == high or not group.percent:
            least, most = group.counts(high)
            check(least <= most, f"{group.text}: no number of {high} residues is within", "widen the bounds")
            which = [FIRST_RESIDUE + RESIDUES.index(letter) for letter in sorted(set(group.residues))]
            parts.append(Count(which, least, most, canvas, VOCABULARY, range(high), show))
        else:
            percent = np.array([float(letter in group.residues) for letter in RESIDUES]) * 100
            bounds = (group.low, group.high)
            parts += means(percent, bounds, requirements.length, canvas, f"percent of {group.residues}")
    # 4. Sums.
    if requirements.charge is not None:
        parts.append(Charge(requirements.charge, requirements.ph, requirements.length, canvas))
    for name, masses, water in properties.MASSES:
        if (bounds := getattr(requirements, name)) is not None:
            weights, sums = _by_position(masses, requirements.length, canvas), [bound - water for bound in bounds]
            parts.append(RealSum(weights, *sums, canvas, range(high), show, f"the {name} without a water"))
    if requirements.hydropathy is not None:
        tenths = np.rint(properties.HYDROPATHY * 10)
        low_tenths, high_tenths = (10 * bound for bound in requirements.hydropathy)
        parts += means(tenths, (low_tenths, high_tenths), requirements.length, canvas, "tenths of hydropathy")
    return parts


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
    """EOS is followed by EOS alone."""
    table = torch.full((2, VOCABULARY), -1)
    table[0, FIRST_RESIDUE:FIRST_KIND] = 0
    table[:, EOS] = 1
    return Automaton(table, 0, [0, 1], canvas, show=show, what="an end that nothing follows")


def _placed(pattern: Pattern, position: int, canvas: int) -> BoolTensor:
    """(1, T, V) the possible tokens if a pattern without ranges begins at a position."""
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
        dfa = prosite.automaton(pattern, kind)
        table = torch.full((len(dfa.table), VOCABULARY), -1)
        table[:, FIRST_RESIDUE:FIRST_KIND] = torch.from_numpy(dfa.table)
        name = f"at={kind}:{pattern.text}" if isinstance(kind, int) else f"{kind}={pattern.text}"
        check(bool(dfa.accepting), f"{name} fits no sequence", "change the pattern")
        super().__init__(table, dfa.start, sorted(dfa.accepting), length, ([EOS], EOS), show, what=name)

    def violations(self, answer: IntTensor) -> BoolTensor:
        """For "avoids" the matches; else the positions where a nearest satisfying sequence differs."""
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
        sentences = []
        for satisfied, tokens in zip(self.is_satisfied(answer).tolist(), answer.tolist(), strict=True):
            spans = prosite.occurrences(self.pattern, sequence_of(tokens))
            where = ", ".join(f"{begin + 1} to {end}" for begin, end in spans)
            missing = "nowhere" if self.kind == "contains" else f"not at {self.kind}"
            what = f"at {where}, and should not" if self.kind == "avoids" else missing
            sentences.append([] if satisfied else [f"{self.pattern.text} matches {what}"])
        return sentences


def _by_position(residues: np.ndarray, length: tuple[int, int], canvas: int) -> torch.Tensor:
    """(T, V) weights of the tokens: of residues as given, 0 of EOS, and the least one for impossible tokens."""
    weights = np.full((canvas, VOCABULARY), residues.min())
    weights[:, FIRST_RESIDUE:FIRST_KIND] = residues
    weights[length[0] :] = np.where(np.arange(VOCABULARY) < FIRST_RESIDUE, 0.0, weights[length[0] :])
    weights[length[1] :] = 0
    return torch.from_numpy(weights)


class Mean(RealSum):
    """A mean over the residues lies between two numbers. Made by `means`.

    Args:
        residues: (20) the averaged values.
        bounds: of the mean.
        offset: subtracted from the value of each residue before summing.
        sums: bounds of the sum.
        length: fewest and most residues.
        canvas: T.
        name: of the averaged quantity.
    """

    def __init__(
        self,
        residues: np.ndarray,
        bounds: Bounds,
        offset: float,
        sums: Bounds,
        length: tuple[int, int],
        canvas: int,
        name: str,
    ) -> None:
        self.residues, self.bounds = torch.from_numpy(residues), bounds
        weights = _by_position(residues - offset, length, canvas)
        super().__init__(weights, *sums, canvas, range(length[1]), show, name)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        sentences = []
        for satisfied, tokens in zip(self.is_satisfied(answer).tolist(), answer.tolist(), strict=True):
            at = [RESIDUES.index(letter) for letter in sequence_of(tokens)]
            mean = float(self.residues[at].mean()) if at else 0.0
            sentences.append([] if satisfied else [f"{self.name}: {mean:.4g}, not within {range_text(*self.bounds)}"])
        return sentences


def means(residues: np.ndarray, bounds: Bounds, length: tuple[int, int], canvas: int, name: str) -> list[Mean]:
    """Rules that keep the mean of residues (20) within bounds.

    For a known number of residues this is one sum; else one sum for each bound that a mean can break, of the
    differences from that bound.
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
    """The net charge at a pH lies between two numbers.

    The last residue has an additional charge. If the length is open, the weights contain the middle of its possible
    values, and `reach` covers the rest; the judge reads the true end.
    """

    def __init__(self, bounds: Bounds, ph: float, length: tuple[int, int], canvas: int) -> None:
        side_chain, first, last = properties.charges(ph)
        weights = _by_position(side_chain, length, canvas)
        weights[0, FIRST_RESIDUE:FIRST_KIND] += torch.from_numpy(first)
        self.last = torch.zeros(VOCABULARY, dtype=torch.float64)
        if length[0] == length[1]:
            weights[length[1] - 1, FIRST_RESIDUE:FIRST_KIND] += torch.from_numpy(last)
        else:
            middle = (last.min() + last.max()) / 2
            weights[0, FIRST_RESIDUE:FIRST_KIND] += middle
            self.last[FIRST_RESIDUE:FIRST_KIND] = torch.from_numpy(last - middle)
            self.reach = RealSum.reach + (last.max() - last.min()) / 2
        weights[0, :FIRST_RESIDUE] = weights[0, FIRST_KIND:] = weights[0, FIRST_RESIDUE:FIRST_KIND].min()
        super().__init__(weights, *bounds, canvas, range(length[1]), show, f"the charge at pH {ph:g}")

    def totals(self, answer: IntTensor) -> IntTensor:
        residues = (answer >= FIRST_RESIDUE) & (answer < FIRST_KIND)
        end = (residues.long().cumprod(1).sum(1) - 1).clamp(min=0)
        return super().totals(answer) + self.in_steps(self.last)[answer.gather(1, end[:, None])[:, 0]]
