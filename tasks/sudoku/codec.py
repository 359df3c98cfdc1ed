"""Puzzles, their text and their tokens: one vocabulary for sizes 4, 9 and 16.

| token | meaning |
|---|---|
| 0, 1, 2 | pad, end of sequence, blank |
| 3 .. 18 | symbols 1 .. 16, written 1-9 and A-G |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from constrained_dg.errors import InputError, check
from constrained_dg.task import Problem

PAD, EOS, BLANK = 0, 1, 2
FIRST_SYMBOL = 3
VOCAB_SIZE = FIRST_SYMBOL + 16
#: Side of the grid -> side of a box.
BOX = {4: 2, 9: 3, 16: 4}
SYMBOLS = "123456789ABCDEFG"
#: Signs of a blank, as 0 is.
BLANKS = frozenset("._*xX")
_VALUES = (
    dict.fromkeys(BLANKS, 0)
    | {symbol: value for value, symbol in enumerate(SYMBOLS, 1)}
    | {symbol.lower(): value for value, symbol in enumerate(SYMBOLS, 1)}
)
LENGTHS = "16 (4x4), 81 (9x9) or 256 (16x16)"


@dataclass(frozen=True)
class Puzzle(Problem):
    """A Sudoku.

    Attributes:
        size: side of the grid: 4, 9 or 16.
        cells: size * size values, row by row; 0 is a blank, 1 .. size a clue.
        solution: of a generated puzzle, else None; the judge never reads it.
    """

    size: int
    cells: tuple[int, ...]
    solution: tuple[int, ...] | None = None

    @classmethod
    def of(cls, cells: Sequence[int], tier: str | None = None, solution: Sequence[int] | None = None) -> Puzzle:
        """A puzzle from its cells; the default tier is the clue count."""
        values = tuple(int(cell) for cell in cells)
        answer = None if solution is None else tuple(int(cell) for cell in solution)
        tier = str(sum(value > 0 for value in values)) if tier is None else tier
        return cls(tier=tier, text=to_text(values), size=size_of(len(values)), cells=values, solution=answer)

    @property
    def given(self) -> int:
        """Number of clues."""
        return sum(cell > 0 for cell in self.cells)


def size_of(length: int) -> int:
    """The side of a grid of `length` cells. Raises InputError for any other length."""
    size = round(length**0.5)
    check(size in BOX and size * size == length, f"a puzzle of {length} symbols", f"use {LENGTHS}")
    return size


def to_text(cells: Sequence[int]) -> str:
    """One line of text: `.` for a blank, 1-9 and A-G for symbols."""
    return "".join("." if cell == 0 else SYMBOLS[cell - 1] for cell in cells)


def zero_is_symbol(text: str) -> bool:
    """Whether 0 is a symbol of this line of text, and not a blank: in 16x16 puzzles of 0-F with other blanks.

    Raises:
        InputError: 0 may be either.
    """
    size = size_of(len(text))
    symbols = set(text.upper())
    # With the last of the symbols 1 .. size, 0 is not a symbol.
    if "0" not in symbols or not symbols & BLANKS or SYMBOLS[size - 1] in symbols:
        return False
    last = SYMBOLS[size - 2]
    check(
        size == 16 and bool(symbols & set("ABCDEF")),
        f"a {size}x{size} puzzle holds both 0 and {min(symbols & BLANKS)}: 0 may be a blank, or a symbol of 0-{last}",
        f"write all blanks as . ; write {SYMBOLS[size - 1]} for a symbol 0",
    )
    return True


def from_text(text: str) -> tuple[int, ...]:
    """The cells of one line of text, letters in either case.

    Symbols are 1-4, 1-9, or 1-9 and A-G; blanks are 0 or any of `BLANKS`. A 16x16 puzzle may also be hexadecimal: with
    A-F, other blanks and no G, 0 is the symbol G (see `zero_is_symbol`).

    Raises:
        InputError: another length or symbol, or 0 of unclear meaning.
    """
    size = size_of(len(text))
    values = _VALUES | {"0": size if zero_is_symbol(text) else 0}
    cells = tuple([values.get(symbol, size + 1) for symbol in text])
    if max(cells) > size:
        symbol, legal = text[cells.index(max(cells))], f"1-{size}" if size < 16 else "1-9 and A-G"
        raise InputError(f"symbol {symbol!r} in a {size}x{size} puzzle", f"use {legal}, and 0 or . for a blank")
    return cells


def to_tokens(values: np.ndarray) -> np.ndarray:
    """Cell values (0 blank) as int64 tokens, any shape."""
    return np.asarray(values, dtype=np.int64) + BLANK


def from_tokens(tokens: np.ndarray) -> np.ndarray:
    """Tokens as cell values, any shape; tokens that are not symbols become 0."""
    return np.maximum(np.asarray(tokens, dtype=np.int64) - BLANK, 0)
