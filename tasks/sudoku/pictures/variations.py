"""How pictures of training vary beyond their fonts, so that what is learned holds for fonts that are new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from .fonts import FONTS, TRAINING_FONTS, glyph
from .strokes import PEN
from .styles import Look

#: The mesh has MESH x MESH patches, with corners that move.
MESH = 4
#: Shares of pictures with changed digits, with a font for each digit, with a pen in any style, with pale ink, with
#: digits that are smaller than those of the styles.
_CHANGED, _MIXED, _PENNED, _PALE, _SMALL = 0.8, 0.3, 0.1, 0.3, 0.35
#: Weights of fonts that have several: those of `FONTS`, a light one and a bold one.
_WEIGHTS = (None, 330, 800)
#: Heights are rounded to multiples of this, so that few glyphs have to be drawn.
_HEIGHTS = 3


@dataclass(frozen=True, eq=False)
class Variation:
    """How the digits of one picture differ from those of a font.

    Attributes:
        fonts: (9) the font of each digit.
        weights: (9) its weight where the font has several, None for its own.
        nodes: (9, MESH + 1, MESH + 1, 2) the place x and y in the glyph, in sides of a cell, that comes to each corner
            of a regular mesh.
        swollen: whether strokes are one pixel wider on each side, at twice the final resolution.
    """

    fonts: tuple[str, ...]
    weights: tuple[int | None, ...]
    nodes: np.ndarray
    swollen: bool

    def glyph(self, digit: int, cell: int, height: int) -> Image.Image:
        """A digit as `fonts.glyph` draws it, changed: (cell, cell), 255 on the digit."""
        height = max(_HEIGHTS, round(height / _HEIGHTS) * _HEIGHTS)
        mask = glyph(self.fonts[digit - 1], digit, cell, height, self.weights[digit - 1])
        if self.swollen:
            mask = mask.filter(ImageFilter.MaxFilter(3))
        nodes = self.nodes[digit - 1] * cell
        edges = [round(cell * part / MESH) for part in range(MESH + 1)]
        patches = []
        for row in range(MESH):
            for column in range(MESH):
                corners = nodes[row, column], nodes[row + 1, column], nodes[row + 1, column + 1], nodes[row, column + 1]
                box = edges[column], edges[row], edges[column + 1], edges[row + 1]
                patches.append((box, tuple(np.concatenate(corners).tolist())))
        return mask.transform(mask.size, Image.Transform.MESH, patches, Image.Resampling.BILINEAR)


def varied(chosen: Look, generator: np.random.Generator, fonts: Sequence[str] = TRAINING_FONTS) -> Look:
    """A look with more noise, blur and pale ink, and mostly with digits that no font has, smaller or off the middle.

    Args:
        fonts: those of pictures whose digits come from several.
    """
    if generator.random() < _PALE:
        chosen = replace(chosen, ink=chosen.ink + (chosen.paper - chosen.ink) * generator.uniform(0, 0.3))
    if generator.random() < _SMALL:
        chosen = replace(chosen, height=chosen.height * generator.uniform(0.62, 1))
    more = generator.uniform(-8, 8), generator.uniform(-0.4, 0.4)
    chosen = replace(chosen, noise=chosen.noise + max(0.0, more[0]), blur=min(1.2, chosen.blur + max(0.0, more[1])))
    if chosen.font == PEN:
        return chosen
    if generator.random() < _PENNED:
        return replace(chosen, font=PEN, stroke=generator.uniform(0.05, 0.14), jitter=generator.uniform(0, 0.5))
    if generator.random() >= _CHANGED:
        return chosen
    mixed = generator.random() < _MIXED
    names = generator.choice(fonts, 9) if mixed else [chosen.font] * 9
    weights = generator.integers(len(_WEIGHTS), size=9 if mixed else 1)
    return replace(
        chosen,
        variation=Variation(
            tuple(str(name) for name in names),
            # No weight where a font has one only: its glyphs are kept by their weight, too.
            tuple(
                None if FONTS[name].weight is None else _WEIGHTS[each]
                for name, each in zip(names, np.broadcast_to(weights, 9), strict=True)
            ),
            _nodes(generator),
            bool(generator.random() < 0.25),
        ),
    )


def _nodes(generator: np.random.Generator) -> np.ndarray:
    """All digits stretched, slanted, turned and moved alike, and each bent on its own."""
    places = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, MESH + 1)] * 2), -1)  # [row, column] -> x, y
    wide, high = generator.uniform(0.82, 1.15, 2)
    slant, turn = generator.uniform(-0.15, 0.35), generator.uniform(-0.1, 0.1)
    map_ = np.array([[1 / wide, slant + turn], [-turn, 1 / high]])
    bends = generator.normal(0, generator.uniform(0, 0.04), (9, *places.shape))
    return places @ map_.T + 0.5 + generator.uniform(-0.05, 0.05, 2) + bends
