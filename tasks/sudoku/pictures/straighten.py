"""Finding the grid in a picture, and the picture of the grid alone, upright and filling its frame.

1. Lines are where the grey level differs from both sides. Averages along a line leave little of digits.
2. For each small slope, ten equal steps are laid over the profile across the lines: the best slope, step and place win.
3. Each line is then moved a little, in three parts of its length; what fits all of these moves gives the corners, also
   of a grid seen at a slant.

A grid that is a small part of the picture, say on a page with text, is one connected drawing, about as wide as high.
Where no clear grid fills the picture, each such drawing is tried, and the clearest grid wins, if it is clear.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from constrained_dg.numba_jit import compiled

from .drawing import homography

#: Pixels of the longer side on which small grids are sought, and of the square that tells how clear one is.
_PAGE, _SEEN = 640, 216
#: A drawing differs by so many grey levels from its surroundings, a square of 2 x 7 + 1 pixels.
_INK, _AROUND = 10, 7
#: A grid so clear is not sought elsewhere, and only one so clear is found there. Most right ones have 2 to 16, dotted
#: ones less; wrong ones have less than 1.3 (some drawings of each style, 2026).
_CLEAR = 1.5
#: Least side of a small grid in sides of the picture, the longer one; most in shorter ones; and how many are tried.
_LEAST, _MOST, _TRIED = 0.12, 0.75, 4
#: Pixels of the longer side on which lines are sought.
_SIDE = 240
#: Slopes of lines, at most and in steps: 0.01 is 0.6 degrees.
_SLOPES = np.linspace(-0.15, 0.15, 31)
#: How much slopes differ between the middle and the outer lines, in steps; and how unequal the steps are.
_FANS, _BENDS = (-6, -3, 0, 3, 6), (-0.25, -0.12, 0.0, 0.12, 0.25)
#: The grid's side, in sides of the picture.
_SHARES = np.linspace(0.7, 1.02, 33)
#: How far a corner of the grid may be from that of the picture, in sides of it.
_FARTHEST = 0.35
#: Blurs a profile.
_SMOOTH = (0.1, 0.2, 0.4, 0.2, 0.1)
#: How far a line may be from where equal steps put it, in sides of a cell.
_REACH = 0.3


def straightened(pixels: np.ndarray, side: int) -> np.ndarray:
    """The grid of a picture (H, W, 3) uint8, filling a square of `side` pixels: (side, side, 3) uint8."""
    return _cut(pixels, grid_corners(pixels), side)


def _cut(pixels: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """What is between the corners (4, 2), in sides of the picture, as a square of `side` pixels."""
    height, width = pixels.shape[:2]
    corners = corners * (width, height)
    frame = side * np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    image = Image.fromarray(pixels)
    shrink = max(height, width) / (2 * side)
    if shrink > 1:  # the warp reads single pixels
        size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        corners, image = corners * size / (width, height), image.resize(size, Image.Resampling.BOX)
    warp = homography(frame, corners)
    return np.asarray(image.transform((side, side), Image.Transform.PERSPECTIVE, tuple(warp), Image.Resampling.BICUBIC))


def grid_corners(pixels: np.ndarray) -> np.ndarray:
    """The corners of the grid (4, 2), x and y in sides of the picture, from the top left clockwise."""
    found, clearest = _corners(pixels), _CLEAR
    if _clearness(pixels, found) < clearest:
        for left, top, right, bottom in _small_frames(pixels):
            part = pixels[top:bottom, left:right]
            corners = _corners(part)
            clear = _clearness(part, corners)
            if clear > clearest:
                size = pixels.shape[1], pixels.shape[0]
                clearest, found = clear, (corners * (right - left, bottom - top) + (left, top)) / size
    return found


def _small_frames(pixels: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Where small grids may be, with an edge around them, the largest first: left, top, right, bottom."""
    grey = Image.fromarray(pixels).convert("L")
    scale = min(1.0, _PAGE / max(grey.size))
    grey = grey.resize([max(1, round(length * scale)) for length in grey.size], Image.Resampling.BOX)
    around = grey.filter(ImageFilter.BoxBlur(_AROUND))
    darker = np.asarray(around, np.int16) - np.asarray(grey, np.int16)
    boxes = np.concatenate([_drawings(sign * darker > _INK) for sign in (1, -1)])
    sides = boxes[:, 2:] - boxes[:, :2]
    wide, high = sides.T
    fits = (sides.min(1) >= _LEAST * max(grey.size)) & (sides.max(1) <= _MOST * min(grey.size))
    square = fits & (0.7 * high < wide) & (wide < 1.4 * high)
    boxes, sides = boxes[square], sides[square]
    frames = []
    for at in np.argsort(-sides.prod(1), kind="stable")[:_TRIED]:
        edge = 0.05 * sides[at].max()
        left, top = np.maximum((boxes[at, :2] - edge) / scale, 0).astype(int).tolist()
        right, bottom = np.minimum((boxes[at, 2:] + edge) / scale, pixels.shape[1::-1]).astype(int).tolist()
        frames.append((left, top, right, bottom))
    return frames


@compiled
def _drawings(ink: np.ndarray) -> np.ndarray:
    """The boxes (N, 4) around the parts of (H, W) bool that hang together: left, top, right, bottom."""
    height, width = ink.shape
    seen, waiting = np.zeros(ink.shape, np.bool_), np.empty((ink.size, 2), np.int64)
    boxes = np.empty((ink.size, 4), np.int64)
    count = 0
    for row in range(height):
        for column in range(width):
            if not ink[row, column] or seen[row, column]:
                continue
            left, top, right, bottom = column, row, column, row
            seen[row, column] = True
            waiting[0] = row, column
            most = 1
            while most:
                most -= 1
                y, x = waiting[most]
                left, top, right, bottom = min(left, x), min(top, y), max(right, x), max(bottom, y)
                for below in range(max(0, y - 1), min(height, y + 2)):
                    for beside in range(max(0, x - 1), min(width, x + 2)):
                        if ink[below, beside] and not seen[below, beside]:
                            seen[below, beside] = True
                            waiting[most] = below, beside
                            most += 1
            boxes[count] = left, top, right + 1, bottom + 1
            count += 1
    return boxes[:count].copy()


def _clearness(pixels: np.ndarray, corners: np.ndarray) -> float:
    """How much more the lines of this grid (4, 2) look like lines than what is between them."""
    field = np.asarray(Image.fromarray(_cut(pixels, corners, _SEEN)).convert("L"), np.float32)
    lines = []
    for side in (field, field.T):
        ridge = np.pad(_ridges(side).mean(1), 2, mode="edge")
        at = np.minimum(np.arange(10) * _SEEN // 9, _SEEN - 1)
        lines += (np.max([ridge[at + move] for move in range(5)], axis=0) / (ridge.mean() + 1e-6)).tolist()
    return sorted(lines)[4]  # a few lines may be faint


def _corners(pixels: np.ndarray) -> np.ndarray:
    """The corners of a grid that fills most of the picture."""
    grey = Image.fromarray(pixels).convert("L")
    scale = _SIDE / max(grey.size)
    size = [max(40, round(length * scale)) for length in grey.size]
    field = np.asarray(grey.resize(size, Image.Resampling.BOX), np.float32)
    across = _lines(_ridges(field))  # y of the horizontal lines
    down = _lines(_ridges(field.T))  # x of the vertical ones
    corners = []
    for row, column in ((0, 0), (0, 9), (9, 9), (9, 0)):
        (a, b), (c, d) = across[row], down[column]  # y = a + b x and x = c + d y
        y = (a + b * c) / (1 - b * d)
        corners.append((c + d * y, y))
    found = np.array(corners) / size
    # Where there is no grid, anything may be found; then the picture stays as it is.
    frame = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    return found if np.abs(found - frame).max() < _FARTHEST else frame


def _ridges(field: np.ndarray) -> np.ndarray:
    """How much each pixel looks like part of a horizontal line: (H, W) -> (H, W), 0 and more."""
    ridge = np.zeros_like(field)
    for reach in (2, 4):  # thin lines, and those of two strokes
        padded = np.pad(field, ((reach, reach), (0, 0)), mode="edge")
        above, below = padded[: -2 * reach], padded[2 * reach :]
        # A line differs from both sides in the same direction; the edge of a shaded cell does not.
        ridge = np.maximum(ridge, np.maximum(np.minimum(above, below) - field, field - np.maximum(above, below)))
    ridge = np.minimum(ridge, 4 * ridge.mean() + 1)
    # Along a line most pixels are ridges; along a row of digits few are.
    length = max(5, field.shape[1] // 12)
    sums = np.cumsum(np.pad(ridge, ((0, 0), (length // 2 + 1, length - length // 2))), axis=1)
    return ridge * (sums[:, length:-1] - sums[:, : -length - 1])[:, : field.shape[1]] / length


def _lines(ridge: np.ndarray) -> np.ndarray:
    """(10, 2) for the horizontal lines: y in the column 0 and slope, so that y = a + b x."""
    width = ridge.shape[1]
    middle = (width - 1) / 2
    first, slopes = _comb(ridge)
    reach = _REACH * (first[-1] - first[0]) / 9
    moves = np.arange(-reach, reach + 0.25, 0.5)
    parts, found = [], []
    for line in range(10):
        for left in (0, 1, 2):
            x = np.arange(width * left // 3, width * (left + 1) // 3)
            y = first[line] + slopes[line] * (x - middle)
            seen = _at(ridge, y + moves[:, None], x).mean(1)
            at = int(np.argmax(seen))
            parts.append((1, line, x.mean() - middle, line * (x.mean() - middle)))
            found.append((moves[at], seen[at]))
    # A bilinear move through all of them, without those that do not fit.
    rows, (moved, seen) = np.array(parts), np.array(found).T
    weight = np.minimum(seen, np.median(seen)) + 1e-6
    for _ in range(6):
        fit = np.linalg.lstsq(rows * weight[:, None], moved * weight, rcond=None)[0]
        weight = weight / (1 + (rows @ fit - moved) ** 2)
        weight = weight / weight.max()
    lines = np.arange(10)
    tilt = slopes + fit[2] + fit[3] * lines
    return np.stack([first + fit[0] + fit[1] * lines - tilt * middle, tilt], axis=1)


def _comb(ridge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where ten lines cross the middle, and their slopes, both (10): the best of those with few parameters."""
    height, width = ridge.shape
    profiles = np.stack([np.convolve(_profile(ridge, slope), _SMOOTH, "same") for slope in _SLOPES])
    line = np.arange(-1, 11)  # with one beyond each end, where no line should be
    weight = np.where((line < 0) | (line > 9), -0.5, 1.0)
    steps = _SHARES[:, None, None] * min(height, width) / 9
    firsts = np.arange(-0.01, 0.30, 0.008)[:, None] * height
    best = (-np.inf, first := np.zeros(10), first)
    for bend in _BENDS:
        places = firsts + steps * (line + bend * line * (9 - line) / 20)
        ends = places[..., -2]
        fits = (ends <= height * 1.01) & (ends >= height * 0.7)
        for fan in _FANS:
            for at in range(len(_SLOPES)):
                of = np.rint(at + fan * (line - 4.5) / 4.5).astype(int)
                if of.min() < 0 or of.max() >= len(_SLOPES):
                    continue
                score = np.where(fits, _value(profiles, of, places) @ weight, -np.inf)
                if score.max() > best[0]:
                    where = np.unravel_index(int(score.argmax()), score.shape)
                    best = (float(score[where]), places[where][1:-1], _SLOPES[of[1:-1]])
    return best[1], best[2]


def _profile(ridge: np.ndarray, slope: float) -> np.ndarray:
    """Sums along lines of a slope, by the y where they cross the middle: (H)."""
    height, width = ridge.shape
    rows, weights = _shifts(height, width, float(slope))
    return np.bincount(rows, (ridge * weights).ravel(), minlength=height)[:height]


@lru_cache(maxsize=256)
def _shifts(height: int, width: int, slope: float) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.indices((height, width))
    rows = np.rint(y - slope * (x - (width - 1) / 2)).astype(np.int64)
    inside = (rows >= 0) & (rows < height)
    return np.where(inside, rows, 0).ravel(), inside.astype(np.float32)


def _value(profiles: np.ndarray, of: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Profiles (K, H), the one of each line (12), at real places (..., 12); outside nothing."""
    height = profiles.shape[1]
    low = np.floor(places).astype(np.int64)
    share = places - low
    padded = np.pad(profiles, ((0, 0), (1, 2)))
    low = np.clip(low + 1, 0, height + 1)
    return padded[of, low] * (1 - share) + padded[of, low + 1] * share


def _at(ridge: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    low = np.floor(y).astype(int)
    share = y - low
    inside = (low >= 0) & (low < ridge.shape[0] - 1)
    top = np.where(inside, low, 0)
    return np.where(inside, ridge[top, x] * (1 - share) + ridge[top + 1, x] * share, 0)
