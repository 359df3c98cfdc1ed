"""How a picture looks: three styles to train on, and two that no training sees.

A style is a distribution of looks; `look` draws one. Colours are grey levels of red, green and blue, lengths are in
sides of a cell, places in sides of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from constrained_dg.errors import check

from .fonts import FONTS, HELD_OUT_FONTS, TRAINING_FONTS, font_named
from .strokes import PEN

if TYPE_CHECKING:
    from .variations import Variation

#: Blank edge around the grid, at most; and how far it is turned, at most, in degrees.
MARGIN, TURN = 0.06, 4.0
#: Shares of handwritten puzzles in a font that looks written, and drawn with a pen (with the fonts of training only).
_WRITTEN, _PEN = 0.65, 0.4


@dataclass(frozen=True)
class Look:
    """What one picture looks like.

    Attributes:
        font: name of the font, or `PEN`.
        height: of the highest digit.
        corners: (4, 2) x and y of the corners of the grid: top left, top right, bottom right, bottom left.
        paper, ink, line, shade: (3,) colours of the ground, of digits, of lines and of shaded cells.
        thin, thick: widths of lines between cells, and around boxes.
        ruling: how lines are drawn: plain, rough, dotted (between cells) or double (around boxes).
        shading: (9, 9) how much each cell is shaded, 0 to 1.
        jitter: how much each digit is moved, scaled, turned and sheared on its own, 0 to 1.
        stroke: width of the lines of digits drawn with a pen.
        fading: how much the ink of digits and lines varies from place to place, 0 to 1.
        bleeding: how far ink runs into the paper, 0 to 1.
        speckles: number of grains in the paper.
        blur: radius in pixels of a picture of 216.
        noise: standard deviation in grey levels.
        light: how uneven the light is, 0 to 1.
        quality: of the JPEG that the picture goes through, 0 to 95; None for no JPEG.
        variation: how the digits differ from those of the font; None where they do not. Only training varies them.
    """

    font: str
    height: float
    corners: np.ndarray
    paper: np.ndarray
    ink: np.ndarray
    line: np.ndarray
    shade: np.ndarray
    thin: float
    thick: float
    shading: np.ndarray
    blur: float
    noise: float
    ruling: str = "plain"
    jitter: float = 0.0
    stroke: float = 0.08
    fading: float = 0.0
    bleeding: float = 0.0
    speckles: int = 0
    light: float = 0.0
    quality: int | None = None
    variation: Variation | None = None


def _corners(rng: np.random.Generator) -> np.ndarray:
    """The grid turned, and fitted between margins of its own on each side."""
    turn = np.radians(rng.uniform(-TURN, TURN))
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) @ [
        [np.cos(turn), np.sin(turn)],
        [-np.sin(turn), np.cos(turn)],
    ]
    low, high = rng.uniform(0, MARGIN, 2), 1 - rng.uniform(0, MARGIN, 2)
    return low + (square / np.abs(square).max() + 1) / 2 * (high - low)


def _grey(rng: np.random.Generator, low: float, high: float, tint: float = 0) -> np.ndarray:
    return np.clip(rng.uniform(low, high) + rng.uniform(-tint, tint, 3), 0, 255)


def _blur(rng: np.random.Generator, most: float) -> float:
    """Half of the pictures are sharp."""
    return max(0.0, rng.uniform(-most, most))


def _negative(chosen: Look) -> Look:
    colours = {name: 255 - getattr(chosen, name) for name in ("paper", "ink", "line", "shade")}
    return replace(chosen, **colours)


def _print(rng: np.random.Generator, fonts: Sequence[str]) -> Look:
    paper, ink = _grey(rng, 195, 255, 8), _grey(rng, 0, 95, 10)
    chosen = Look(
        font=str(rng.choice(fonts)),
        height=rng.uniform(0.5, 0.74),
        corners=_corners(rng),
        paper=paper,
        ink=ink,
        line=ink if rng.random() < 0.6 else _grey(rng, 0, 120, 10),
        shade=paper,
        thin=rng.uniform(0.02, 0.05),
        thick=rng.uniform(0.07, 0.14),
        shading=np.zeros((9, 9)),
        blur=_blur(rng, 0.9),
        noise=rng.uniform(0, 8),
    )
    return _negative(chosen) if rng.random() < 0.1 else chosen


def _screen(rng: np.random.Generator, fonts: Sequence[str]) -> Look:
    paper, ink = rng.uniform(0, 80, 3), rng.uniform(165, 255, 3)
    shading = np.zeros((9, 9))
    if rng.random() < 0.6:  # the cell that the player chose, with its row, column and box
        row, column = rng.integers(9, size=2)
        shading[row, :] = shading[:, column] = 0.5
        shading[row // 3 * 3 : row // 3 * 3 + 3, column // 3 * 3 : column // 3 * 3 + 3] = 0.5
        shading[row, column] = 1
    elif rng.random() < 0.5:
        shading[rng.random((9, 9)) < 0.15] = 1
    chosen = Look(
        font=str(rng.choice(fonts)),
        height=rng.uniform(0.48, 0.72),
        corners=_corners(rng),
        paper=paper,
        ink=ink,
        line=paper + (ink - paper) * rng.uniform(0.25, 0.8),
        shade=paper + rng.uniform(10, 60, 3),
        thin=rng.uniform(0.02, 0.04),
        thick=rng.uniform(0.04, 0.09),
        shading=shading,
        blur=_blur(rng, 0.7),
        noise=rng.uniform(0, 3),
    )
    return _negative(chosen) if rng.random() < 0.25 else chosen


def _handwritten(rng: np.random.Generator, fonts: Sequence[str]) -> Look:
    written = [name for name in fonts if FONTS[name].written]
    pool = written if written and rng.random() < _WRITTEN else fonts
    paper = _grey(rng, 195, 255, 10)
    pens = (_grey(rng, 0, 90, 10), rng.uniform((0, 0, 90), (70, 70, 190)), rng.uniform((120, 0, 0), (180, 40, 50)))
    pen = rng.random() < _PEN and set(fonts) >= set(TRAINING_FONTS)
    chosen = Look(
        font=PEN if pen else str(rng.choice(pool)),
        height=rng.uniform(0.56, 0.76),
        corners=_corners(rng),
        paper=paper,
        ink=pens[rng.choice(3, p=(0.55, 0.35, 0.1))],
        line=pens[rng.choice(3, p=(0.7, 0.25, 0.05))] + rng.uniform(0, 50),
        shade=paper,
        thin=rng.uniform(0.025, 0.06),
        thick=rng.uniform(0.06, 0.12),
        shading=np.zeros((9, 9)),
        blur=_blur(rng, 0.8),
        noise=rng.uniform(0, 7),
        ruling="rough",
        jitter=rng.uniform(0.4, 1),
        stroke=rng.uniform(0.05, 0.13),
        fading=rng.uniform(0, 0.35),
    )
    return _negative(chosen) if rng.random() < 0.06 else chosen


def _newspaper(rng: np.random.Generator, fonts: Sequence[str]) -> Look:
    paper = _grey(rng, 185, 230, 4) + (np.array([14, 6, -22]) * rng.uniform(0, 1.5) if rng.random() < 0.6 else 0)
    boxes = np.kron((np.add.outer(range(3), range(3)) + rng.integers(2)) % 2, np.ones((3, 3)))
    ink = _grey(rng, 15, 75, 6)
    return Look(
        font=str(rng.choice(fonts)),
        height=rng.uniform(0.5, 0.72),
        corners=_corners(rng),
        paper=paper,
        ink=ink,
        line=ink,
        shade=paper - rng.uniform(15, 45),
        thin=rng.uniform(0.02, 0.05),
        thick=rng.uniform(0.06, 0.12),
        shading=boxes * float(rng.random() < 0.75),
        blur=rng.uniform(0.4, 0.9),
        noise=rng.uniform(4, 10),
        ruling="dotted" if rng.random() < 0.5 else "double",
        fading=rng.uniform(0.1, 0.4),
        bleeding=rng.uniform(0.3, 1),
        speckles=int(rng.integers(100, 500)),
    )


def _photo(rng: np.random.Generator, fonts: Sequence[str]) -> Look:
    drawn = (_print, _screen, _handwritten, _newspaper)[rng.integers(4)](rng, fonts)
    inward = np.where(drawn.corners < 0.5, 1, -1) * rng.uniform(0, 0.07, (4, 2))  # perspective
    return replace(
        drawn,
        corners=drawn.corners + inward,
        blur=rng.uniform(0.4, 0.9),
        noise=rng.uniform(3, 9),
        light=rng.uniform(0.1, 0.3),
        quality=int(rng.integers(40, 90)),
    )


_LOOKS: dict[str, tuple[Callable[[np.random.Generator, Sequence[str]], Look], tuple[str, ...]]] = {
    "print": (_print, TRAINING_FONTS),
    "screen": (_screen, TRAINING_FONTS),
    "handwritten": (_handwritten, TRAINING_FONTS),
    "newspaper": (_newspaper, HELD_OUT_FONTS),
    "photo": (_photo, HELD_OUT_FONTS),
}
STYLES = tuple(_LOOKS)
#: The fixed split: what is never trained on.
TRAINING_STYLES, HELD_OUT_STYLES = STYLES[:3], STYLES[3:]


def look(style: str, generator: np.random.Generator, fonts: Sequence[str] | None = None) -> Look:
    """One look of a style.

    Args:
        fonts: names to choose from; None for those of the style: `TRAINING_FONTS` of a training style, else
            `HELD_OUT_FONTS`.

    Raises:
        InputError: for an unknown style or font, and where `fonts` is empty.
    """
    check(style in _LOOKS, f"unknown style {style!r}", f"the styles are {', '.join(STYLES)}")
    make, own = _LOOKS[style]
    for name in fonts or ():
        font_named(name)
    check(fonts is None or len(fonts) > 0, "no font to choose from", "leave fonts out to draw with those of the style")
    return make(generator, own if fonts is None else fonts)
