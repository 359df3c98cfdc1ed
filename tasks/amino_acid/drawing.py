"""Sequences for a terminal and as pictures: residues, where patterns match, and the sums."""

from __future__ import annotations

import textwrap
from typing import Any

from constrained_dg.shapes import BoolTensor, IntTensor

from . import properties, prosite
from .residues import FIRST_KIND, FIRST_RESIDUE, RESIDUES, sequence_of
from .specification import SUMS, Requirements

_RED, _GREEN, _OFF = "\x1b[31m", "\x1b[32m", "\x1b[0m"
_LINE = 60
#: Positive residues blue, negative red, polar green, greasy yellow; the rest grey.
_COLORS = {"KRH": "#c6dbef", "DE": "#fcbba1", "STNQCY": "#c7e9c0", "AVLIMFWP": "#fff3b0", "": "#eeeeee"}


def draw(requirements: Requirements, answer: IntTensor, violations: BoolTensor | None) -> str:
    """Lines of 60 residues, violating ones red; below them, matches of patterns, and the sums."""
    letters, marked = _letters(requirements, answer, violations)
    sequence, tracks = sequence_of(answer.tolist()), []
    for name, pattern, kind in _patterns(requirements):
        spans = prosite.occurrences(pattern, sequence)
        spans = [span for span in spans if not isinstance(kind, int) or span[0] == kind - 1]
        tracks.append((name, spans, bool(spans) == (kind != "avoids")))
    lines = []
    for begin in range(0, len(letters), _LINE):
        here = range(begin, min(begin + _LINE, len(letters)))
        residues = "".join(f"{_RED}{letters[k]}{_OFF}" if marked[k] else letters[k] for k in here)
        lines.append(f"{begin + 1:>4} {residues}")
        for name, spans, fine in tracks:
            row = "".join("^" if any(b <= k < e for b, e in spans) else " " for k in here)
            if row.strip():
                lines.append(f"     {_GREEN if fine else _RED}{row}{_OFF} {name}")
    for name, spans, fine in tracks:
        places = ", ".join(f"{b + 1}-{e}" for b, e in spans) or "nowhere"
        lines.append(f"{_verdict(fine)} {name}: matches {places}")
    return "\n".join(lines + _sums(requirements, sequence))


def plot_text(axes: Any, text: str) -> None:
    """Requirements as wrapped text, in the largest size that fits."""
    lines = textwrap.wrap(text, 28, break_long_words=True)
    size = min(9.0, 110 / max(len(lines), 12))
    axes.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", family="monospace", fontsize=size, parse_math=False)
    axes.axis("off")


def plot(axes: Any, requirements: Requirements, answer: IntTensor, violations: BoolTensor | None) -> None:
    """Residues in a square grid, colored by their kind; violating ones framed in red."""
    letters, marked = _letters(requirements, answer, violations)
    wide = max(6, round(len(letters) ** 0.5))
    high = -(-len(letters) // wide)
    from matplotlib.patches import Rectangle

    # The size of a square of the grid, in points.
    box, dpi = axes.get_window_extent(), axes.figure.dpi
    points = 72 / dpi * min(box.width / wide, box.height / high)
    for at, letter in enumerate(letters):
        x, y = at % wide, at // wide
        color = next(color for group, color in _COLORS.items() if not group or letter in group)
        edge, width = ("red", 1.5) if marked[at] else ("white", 0.5)
        style = {"facecolor": color, "edgecolor": edge, "linewidth": width}
        axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, **style))
        axes.text(x, y, letter, ha="center", va="center", family="monospace", fontsize=0.7 * points)
    axes.set(xlim=(-0.6, wide - 0.4), ylim=(high - 0.4, -0.6), aspect="equal")
    axes.axis("off")


def _letters(
    requirements: Requirements, answer: IntTensor, violations: BoolTensor | None
) -> tuple[list[str], list[bool]]:
    """The residues of an answer, "." for other tokens, and which of them are marked."""
    tokens = answer.tolist()[: requirements.length[1]]
    letters = [RESIDUES[t - FIRST_RESIDUE] if FIRST_RESIDUE <= t < FIRST_KIND else "." for t in tokens]
    return letters, [False] * len(letters) if violations is None else violations.tolist()[: len(letters)]


def _patterns(requirements: Requirements) -> list[tuple[str, prosite.Pattern, str | int]]:
    named: list[tuple[str, prosite.Pattern, str | int]] = []
    named += [(f"contains={pattern.text}", pattern, "contains") for pattern in requirements.contains]
    named += [(f"at={position}:{pattern.text}", pattern, position) for position, pattern in requirements.places]
    return named + [(f"avoids={pattern.text}", pattern, "avoids") for pattern in requirements.avoids]


def _verdict(fine: bool) -> str:
    return f"{_GREEN}ok{_OFF}" if fine else f"{_RED}no{_OFF}"


def _sums(requirements: Requirements, sequence: str) -> list[str]:
    """A line for each count, share and sum, with its bounds."""
    if not sequence:
        return []
    lines = []
    for group in requirements.composition:
        count = sum(sequence.count(letter) for letter in set(group.residues))
        value, unit = (100 * count / len(sequence), " %") if group.percent else (count, "")
        fine = group.low - 1e-9 <= value <= group.high + 1e-9
        bounds = f"{group.low:g} to {group.high:g}{unit}"
        lines.append(f"{_verdict(fine)} {group.residues}: {value:.4g}{unit}, required {bounds}")
    values = {"charge": lambda: properties.charge(sequence, requirements.ph)}
    values |= {name: lambda name=name: getattr(properties, name)(sequence) for name in SUMS if name != "charge"}
    for name, value_of in values.items():
        if (bounds := getattr(requirements, name)) is not None:
            value = value_of()
            fine = bounds[0] - 1e-9 <= value <= bounds[1] + 1e-9
            lines.append(f"{_verdict(fine)} {name}: {value:.6g}, required {bounds[0]:g} to {bounds[1]:g}")
    return lines
