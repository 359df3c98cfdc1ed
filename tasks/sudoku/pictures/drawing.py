"""A picture of a 9x9 puzzle in a given look.

Shading, lines and digits are three masks of a flat grid at about twice the final resolution. One warp puts them in
place; colours, ink, light and noise come after it. So a fresh picture costs a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from math import cos, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from constrained_dg.errors import check, is_count

from .fonts import glyph
from .strokes import MOST_POINTS, PEN, drawn
from .styles import Look, look

#: Smallest and largest side of a picture, pixels.
SIDES = (108, 2160)


def draw(
    cells: Sequence[int],
    style: str,
    generator: np.random.Generator,
    side: int = 216,
    fonts: Sequence[str] | None = None,
) -> np.ndarray:
    """A picture of a puzzle; a pure function of its arguments and of the state of the generator.

    What is drawn at random does not depend on the cells: the same generator gives the same paper, lines and noise.

    Args:
        cells: 81 values, row by row; 0 is a blank.
        style: one of `STYLES`.
        side: of the picture, pixels; a cell is about side / 9.
        fonts: names of fonts to choose from; None for those of the style.

    Returns:
        (side, side, 3) uint8.

    Raises:
        InputError: for cells that are no 9x9 puzzle, an unknown style or font, a side out of `SIDES`, and where the
            package of a font is not installed.
    """
    values = [int(value) for value in cells]
    check(len(values) == 81, f"a picture shows 81 cells, not {len(values)}", "draw 9x9 puzzles")
    wrong = [value for value in values if not 0 <= value <= 9]
    check(not wrong, f"a cell is {wrong[0] if wrong else ''}", "cells are 1 to 9, or 0 for a blank")
    fits = is_count(side, SIDES[0]) and side <= SIDES[1]
    check(fits, f"the side of the picture is {side!r}", f"it takes {SIDES[0]} to {SIDES[1]} pixels")
    return render(values, look(style, generator, fonts), generator, side)


def render(values: Sequence[int], chosen: Look, generator: np.random.Generator, side: int) -> np.ndarray:
    """The picture of 81 valid cells in a look: (side, side, 3) uint8."""
    cell = -(-2 * side // 9)
    edge = cell // 4  # room for the outer lines
    planes = (
        _shading(chosen, cell, edge),
        _lines(chosen, cell, edge, generator),
        _digits(values, chosen, cell, edge, generator),
    )
    masks = Image.merge("RGB", planes)
    flat = edge + 9 * cell * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    warp = homography(chosen.corners * side, flat)
    flat_on = np.abs(warp[6:]).max() < 1e-9  # without perspective the warp is affine, which is faster
    method = Image.Transform.AFFINE if flat_on else Image.Transform.PERSPECTIVE
    masks = masks.transform((side, side), method, warp[:6] if flat_on else warp, Image.Resampling.BILINEAR)
    if chosen.blur:
        masks = masks.filter(ImageFilter.BoxBlur(chosen.blur * side / 216))
    shade, line, ink = (np.asarray(band, np.float32) / 255 for band in masks.split())
    if chosen.bleeding:
        line, ink = (np.minimum(mask * (1 + chosen.bleeding), 1) for mask in (line, ink))
    if chosen.fading:
        strength = _field(generator, side, 12, 1 - chosen.fading, 1)
        line, ink = line * strength, ink * strength
    luminance: np.ndarray | float = 1.0
    if chosen.light:
        luminance = _field(generator, side, 3, 1 - chosen.light, 1.05) * _shadow(generator, side, chosen.light)
    across, down = generator.integers(side, size=2)
    grain = _grain(side)[down : down + side, across : across + side] * chosen.noise
    if chosen.speckles:
        at = generator.integers(side, size=(2, chosen.speckles))
        grain[at[0], at[1]] += generator.uniform(-60, 30, chosen.speckles)
    pixels = np.empty((side, side, 3), np.uint8)
    colours = np.stack([chosen.paper, chosen.shade, chosen.line, chosen.ink], -1).astype(np.float32)
    for channel, (paper, shaded, ruled, inked) in enumerate(colours):
        level = shade * (shaded - paper) + paper if chosen.shading.any() else paper
        level = level + line * (ruled - level)
        level += ink * (inked - level)
        level *= luminance
        level += grain
        pixels[:, :, channel] = np.clip(level, 0, 255, out=level)
    return pixels if chosen.quality is None else _through_jpeg(pixels, chosen.quality)


def homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The projective map that takes four points (4, 2) to four others: (8,) a to h, in the order of Pillow.

    (x, y) goes to ((a x + b y + c) / w, (d x + e y + f) / w) with w = g x + h y + 1.
    """
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.linalg.solve(np.array(rows, float), np.asarray(target, float).ravel())


def _shading(chosen: Look, cell: int, edge: int) -> Image.Image:
    plane = Image.new("L", (9 * cell + 2 * edge,) * 2)
    if chosen.shading.any():
        levels = Image.fromarray((chosen.shading * 255).astype(np.uint8))
        plane.paste(levels.resize((9 * cell, 9 * cell), Image.Resampling.NEAREST), (edge, edge))
    return plane


def _lines(chosen: Look, cell: int, edge: int, generator: np.random.Generator) -> Image.Image:
    """The ten lines each way; those around boxes are thick."""
    size = 9 * cell + 2 * edge
    if chosen.ruling == "rough":
        return _rough_lines(chosen, cell, edge, generator)
    plane = np.zeros((size, size), np.uint8)
    inside = slice(edge, size - edge + 1)
    for index in range(10):
        middle = edge + index * cell
        around = index % 3 == 0
        width, level = _stroke((chosen.thick if around else chosen.thin) * cell)
        starts = [middle - width // 2]
        if around and chosen.ruling == "double":  # two thin lines with a gap
            width, level = _stroke(chosen.thin * cell)
            starts = [middle - 2 * width, middle + width]
        ink = np.full(9 * cell + 1, level, np.uint8)
        if not around and chosen.ruling == "dotted":
            ink[np.arange(len(ink)) % max(6, cell // 5) >= max(3, cell // 12)] = 0
        for start in starts:
            rows, columns = plane[start : start + width, inside], plane[inside, start : start + width]
            np.maximum(rows, ink, out=rows)
            np.maximum(columns, ink[:, None], out=columns)
    return Image.fromarray(plane)


def _stroke(width: float) -> tuple[int, int]:
    """Pixels across and level of a line: one under two pixels is paler instead, since the warp would leave gaps."""
    return max(2, round(width)), min(255, round(255 * width / 2))


def _rough_lines(chosen: Look, cell: int, edge: int, generator: np.random.Generator) -> Image.Image:
    """Lines as a hand draws them: each bends a little, and starts and ends where it likes."""
    image = Image.new("L", (9 * cell + 2 * edge,) * 2)
    pen = ImageDraw.Draw(image)
    bends = np.cumsum(generator.normal(0, 0.012 * cell, (2, 10, 7)), axis=-1)
    bends += generator.normal(0, 0.02 * cell, (2, 10, 1)) - bends.mean(-1, keepdims=True)
    ends = generator.normal(0, 0.06 * cell, (2, 10, 2)) + np.array([0, 9 * cell])
    widths = generator.uniform(0.75, 1.3, (2, 10)) * np.where(np.arange(10) % 3, chosen.thin, chosen.thick) * cell
    along = edge + np.linspace(ends[..., 0], ends[..., 1], 7, axis=-1)
    points = np.stack([along, edge + np.arange(10)[:, None] * cell + bends], -1)
    points[1] = points[1, ..., ::-1]  # lines from top to bottom
    for line, width in zip(points.reshape(20, 14).tolist(), widths.ravel().tolist(), strict=True):
        across, level = _stroke(width)
        pen.line(line, fill=level, width=across, joint="curve")
    return image


def _digits(values: Sequence[int], chosen: Look, cell: int, edge: int, generator: np.random.Generator) -> Image.Image:
    plane = Image.new("L", (9 * cell + 2 * edge,) * 2)
    height = round(chosen.height * cell)
    # For all 81 cells, so that what follows does not depend on the clues.
    hands = (generator.uniform(-1, 1, (81, 6)) * chosen.jitter).tolist() if chosen.jitter else None
    pen = chosen.font == PEN
    if pen:
        forms, habit = generator.random(81), generator.random(10)  # a writer mostly keeps to one form of a digit
        forms = np.where(generator.random(81) < 0.8, -1, forms)
        shifts = generator.normal(0, 0.035, (81, MOST_POINTS, 2)) + generator.normal(0, 0.03, (MOST_POINTS, 2))
    variation = chosen.variation
    changed = {} if variation is None else {v: variation.glyph(v, cell, height) for v in set(values) - {0}}
    for index, value in enumerate(values):
        if not value:
            continue
        if changed:
            mask = changed[value]
        elif pen:
            form = habit[value] if forms[index] < 0 else forms[index]
            mask = drawn(value, form, shifts[index], cell, height, chosen.stroke * cell)
        else:
            mask = glyph(chosen.font, value, cell, height)
        top, left = edge + index // 9 * cell, edge + index % 9 * cell
        if hands is not None:
            mask = _by_hand(mask, hands[index])
            top, left = top + round(hands[index][4] * cell / 12), left + round(hands[index][5] * cell / 9)
        plane.paste(255, (left, top), mask)
    return plane


def _by_hand(mask: Image.Image, hand: Sequence[float]) -> Image.Image:
    """A mask scaled, turned and sheared about its middle by hand[:4], each within -1 to 1.

    The nearest pixel is good enough at twice the final resolution, and ten times as fast as interpolation.
    """
    wide, high, turn, shear = 1 + 0.13 * hand[0], 1 + 0.1 * hand[1], 0.2 * hand[2], 0.2 * hand[3]
    cosine, sine = cos(turn), sin(turn)
    a, b = cosine / wide, cosine * shear - sine / high
    d, e = sine / wide, sine * shear + cosine / high
    middle = mask.width / 2
    warp = (a, b, middle * (1 - a - b), d, e, middle * (1 - d - e))
    return mask.transform(mask.size, Image.Transform.AFFINE, warp, Image.Resampling.NEAREST)


@lru_cache(maxsize=4)
def _grain(side: int) -> np.ndarray:
    """Fixed normal noise (2 side, 2 side) float32: a picture takes a window of it, since fresh noise takes longer."""
    return np.random.default_rng(0).standard_normal((2 * side, 2 * side), np.float32)


def _field(generator: np.random.Generator, side: int, knots: int, low: float, high: float) -> np.ndarray:
    """A smooth random field (side, side) float32 between low and high: values at knots x knots places, interpolated."""
    coarse = Image.fromarray(generator.uniform(low, high, (knots, knots)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BILINEAR))


def _shadow(generator: np.random.Generator, side: int, depth: float) -> np.ndarray:
    """A shadow with a soft straight edge: (side, side) float32, 1 in the light."""
    turn, reach = generator.uniform(0, 2 * np.pi), generator.uniform(-0.2, 0.5)
    places = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    beyond = cos(turn) * places + sin(turn) * places[:, None] - reach
    return 1 - 0.5 * depth * np.clip(beyond / 0.06, 0, 1)


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))
