"""Digits drawn with a pen: strokes through points that move a little each time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

#: The name that stands for these digits where a font is named.
PEN = "pen"
#: Points of the longest form.
MOST_POINTS = 12
#: Digit -> its forms. Strokes are divided by |, a smooth one begins with ~; points are x (to the right) and y (down),
#: from 0 to 100.
_FORMS = {
    1: [
        "50,0 50,100",
        "28,25 55,0 55,100",
        "28,25 55,0 55,100|28,100 82,100",
        "62,0 40,100",
    ],
    2: [
        "~15,25 30,3 65,2 82,25 60,58 15,100|15,100 87,100",
        "~15,20 50,0 80,25 50,70 15,95 30,80 60,95 90,98",
    ],
    3: [
        "~20,10 50,0 80,20 65,42 40,48|~40,48 75,52 85,75 60,100 15,92",
        "15,0 82,0 42,42|~42,42 80,50 85,80 50,100 12,90",
    ],
    4: [
        "65,100 65,0 10,68 92,68",
        "25,0 12,58 88,58|72,15 66,100",
        "15,3 15,52 82,52|80,0 80,100",
        "70,0 8,62 92,66|72,0 64,100",
        "~28,2 14,30 22,52 78,50|82,5 62,100",
    ],
    5: [
        "82,0 25,0 20,43|~20,43 55,36 85,62 65,97 12,93",
        "~80,3 35,2 25,35 60,45 80,72 50,100 12,92",
    ],
    6: [
        "~75,2 35,20 12,65 35,100 75,92 80,62 45,50 15,70",
        "~40,0 20,40 15,80 45,100 78,85 60,58 20,68",
        "~68,0 26,42 18,82 48,100 76,80 54,58 24,74",
    ],
    7: [
        "12,0 87,0 40,100",
        "12,0 87,0 40,100|30,50 78,50",
        "12,16 12,0 87,0 50,100",
        "~12,10 40,4 86,4 62,38 38,100",
    ],
    8: [
        "~78,15 50,0 22,20 50,48 83,75 50,100 17,75 50,48 78,20",
        "~50,46 20,24 50,0 80,24 50,46|~50,46 14,74 50,100 86,74 50,46",
    ],
    9: [
        "~80,28 50,0 20,20 30,50 65,50 80,25|80,10 76,100",
        "~80,25 45,0 18,25 40,52 80,30 75,75 35,100",
        "~76,16 46,0 18,24 38,50 74,26|78,6 58,100",
    ],
}


@lru_cache
def _strokes(digit: int, form: int) -> list[tuple[bool, np.ndarray]]:
    """Whether each stroke is smooth, and its points (n, 2) from 0 to 1."""
    strokes = _FORMS[digit][form].split("|")
    points = [[pair.split(",") for pair in stroke.removeprefix("~").split()] for stroke in strokes]
    return [(s.startswith("~"), np.array(p, float) / 100) for s, p in zip(strokes, points, strict=True)]


def drawn(digit: int, form: float, shifts: np.ndarray, cell: int, height: float, width: float) -> Image.Image:
    """A digit in the middle of its cell.

    Args:
        form: 0 to 1, which of its forms.
        shifts: (MOST_POINTS, 2), how far each point moves, in heights of the digit.
        cell, height, width: side of the cell, height of the digit and width of the stroke, pixels.

    Returns:
        A grey picture of cell x cell pixels: 255 on the digit, 0 elsewhere.
    """
    at, count = 0, len(_FORMS[digit])
    mask = Image.new("L", (cell, cell))
    pen = ImageDraw.Draw(mask)
    for smooth, points in _strokes(digit, min(int(form * count), count - 1)):
        moved = points + shifts[at : at + len(points)]
        at += len(points)
        places = (_curve(len(points)) @ moved if smooth else moved) - 0.5
        line = (cell / 2 + places * (0.62 * height, height)).ravel().tolist()
        pen.line(line, fill=255, width=max(1, round(width)), joint="curve")
    return mask


@lru_cache
def _curve(points: int) -> np.ndarray:
    """(5 (n - 1) + 1, n): weights of n points at places of a smooth curve through them (Catmull and Rom, 1974)."""
    rows = []
    for at in np.linspace(0, points - 1, 5 * (points - 1) + 1):
        begin = min(int(at), points - 2)
        t = at - begin
        weights = 0.5 * np.array([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2])
        row = np.zeros(points)
        for shift, weight in zip(range(-1, 3), weights, strict=True):
            row[min(max(begin + shift, 0), points - 1)] += weight
        rows.append(row)
    return np.array(rows)
