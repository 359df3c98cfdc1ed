"""Reading puzzles: lines, tables and grids, each also compressed with gzip."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from constrained_dg.errors import InputError, check
from constrained_dg.files import read_text

from .codec import LENGTHS, SYMBOLS, Puzzle, from_text, zero_is_symbol

#: Names of columns with puzzles, and of those with a tier.
_COLUMNS = ("puzzle", "puzzles", "quiz", "quizzes", "question", "sudoku")
_TIERS = ("source", "level")
#: Box lines: vertical and horizontal ones, and corners. U+2500 to U+257F is their Unicode block.
_BOX = {chr(code) for code in range(0x2500, 0x2580)}
_VERTICAL = set("|¦│┃║╎╏┆┇┊┋╽╿╷╹")
_HORIZONTAL = set("-=─━═╌╍┄┅┈┉╼╾")
_CORNERS = set("+*.:'") | _BOX
_SPACES = str.maketrans(dict.fromkeys(_VERTICAL, " "))

Line = tuple[int, str]


def squeeze(text: str) -> str:
    """A puzzle as one line of symbols: without white space, box lines and comments.

    Raises:
        InputError: a cell of several symbols, such as a list of candidates.
    """
    return "".join(map(_row, text.splitlines()))


def read_puzzles(path: str) -> list[Puzzle]:
    """Puzzles of a file.

    Kinds, recognised by the content: a table (comma, semicolon or tab) with a column `puzzle`, `quizzes` or `question`
    in any case, and optionally the tier in `source` or `level`; lines of 16, 81 or 256 symbols; grids of 4, 9 or 16
    lines, blank lines between them, with or without box lines; SadMan (.sdk), section [Puzzle]; Simple Sudoku (.ss).
    For symbols and blanks see `codec.from_text`. # begins a comment; .gz files are unpacked. The default tier is the
    clue count. Contradictory clues are not an error.

    Raises:
        InputError: names the file and the line.
    """
    lines = read_text(path, "give the path of a text or CSV file of puzzles").splitlines()
    numbered = [(number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
    content = [(number, line) for number, line in numbered if line]
    check(bool(content), f"{path} is empty", f"give puzzles of {LENGTHS} symbols, one on each line")
    # 1. A table: its first line names a column of puzzles.
    first = content[0][1]
    delimiter = next((mark for mark in ",;\t" if any(name in _COLUMNS for name in _names(first, mark))), None)
    if delimiter or "," in first:
        texts, tiers = _table(path, lines[content[0][0] - 1 :], content[0][0] - 1, delimiter or ",")
        return _puzzles(path, texts, tiers)
    # 2. Rows of symbols: box lines are dropped; blank lines stay, since they separate grids.
    rows = []
    for number, line in _section(path, numbered):
        try:
            row = _row(line)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        rows += [(number, row)] if row or not line else []
    widths = {len(row) for _, row in rows if row}
    grids = bool(widths) and max(widths) <= 16 and (widths != {16} or _holds_16x16(path, rows))
    return _puzzles(path, _grids(path, rows) if grids else [row for row in rows if row[1]])


def _row(line: str) -> str:
    """The symbols of one line; empty for a box line."""
    line = line.partition("#")[0]
    if set(line) & _HORIZONTAL and all(mark.isspace() or mark in _HORIZONTAL | _VERTICAL | _CORNERS for mark in line):
        return ""
    cells = line.translate(_SPACES).split()
    # A grid on a single line has its box lines as words: ------+-------+------
    cells = [cell for cell in cells if "+" not in cell or not set(cell) <= _HORIZONTAL | {"+"}]
    sizes = {len(cell) for cell in cells}
    several = len(cells) in (9, 16, 81, 256) or (len(cells) == 4 and sum(map(len, cells)) not in (4, 9, 16, 81, 256))
    what = f"the cell {max(cells, key=len, default='')[:40]!r} holds several symbols"
    hint = f"lists of candidates cannot be read: write one symbol for each cell, {SYMBOLS}, and . for a blank"
    check(len(sizes) < 2 or not several, what, hint)
    return "".join(cells)


def _section(path: str, lines: list[Line]) -> list[Line]:
    """The lines of [Puzzle] if a file has sections, else all."""
    heads = [at for at, (_, line) in enumerate(lines) if line.startswith("[") and line.endswith("]")]
    if not heads:
        return lines
    named = [at for at in heads if lines[at][1].lower() == "[puzzle]"]
    check(bool(named), f"{path} has no section [Puzzle], only {lines[heads[0]][1][:40]}", "head the puzzle with it")
    ends = [*heads, len(lines)]
    return [line for at in named for line in [*lines[at + 1 : ends[ends.index(at) + 1]], (0, "")]]


def _puzzles(path: str, texts: Sequence[Line], tiers: Sequence[str | None] = ()) -> list[Puzzle]:
    """The puzzles of texts with line numbers."""
    puzzles = []
    with_g = next((number for number, text in texts if len(text) == 256 and set(text) & set("gG")), None)
    for at, (number, text) in enumerate(texts):
        try:
            if with_g is not None and len(text) == 256 and zero_is_symbol(text):
                raise InputError(
                    f"0 may be a blank, as line {with_g} has the symbol G, or a symbol of 0-F",
                    "write blanks as . alone; write G for a symbol 0",
                )
            puzzles.append(Puzzle.of(from_text(text), tiers[at] if tiers else None))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    return puzzles


def _names(line: str, delimiter: str) -> list[str]:
    return [name.strip().strip('"').lower() for name in line.split(delimiter)]


def _table(path: str, lines: list[str], skipped: int, delimiter: str) -> tuple[list[Line], list[str | None]]:
    """The puzzles of a table as (line, text), and their tiers.

    Args:
        lines: from the line of names on.
        skipped: lines before them.
    """
    reader = csv.DictReader(lines, strict=True, skipinitialspace=True, delimiter=delimiter)
    texts, tiers = [], []
    try:
        columns = {str(name).strip().lower(): name for name in reader.fieldnames or []}
        names = ", ".join(str(name) for name in reader.fieldnames or [])[:200]
        named = [columns[name] for name in _COLUMNS if name in columns]
        check(bool(named), f"{path} has no puzzle column, only: {names}", "name one column `puzzle`")
        check(len(named) == 1, f"{path} has the columns {' and '.join(named)}", "name one of them `puzzle` alone")
        tier_column = next((columns[name] for name in _TIERS if name in columns), None)
        for row in reader:
            number = skipped + reader.line_num
            try:
                texts.append((number, squeeze(row[named[0]] or "")))
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
            tiers.append((row[tier_column] or None) if tier_column else None)
    except csv.Error as error:
        number = skipped + reader.line_num + 1
        raise InputError(f"{path}, line {number}: {error}", "give one row on each line, with closed quotes") from None
    check(bool(texts), f"{path} has a header and no puzzles", f"give puzzles of {LENGTHS} symbols, one in each row")
    return texts, tiers


def _holds_16x16(path: str, rows: list[Line]) -> bool:
    """Whether lines of 16 symbols are rows of 16x16 grids, and not 4x4 puzzles. Raises InputError if either fits."""
    blocks = _blocks(rows)
    if any(len(block) % 16 for block in blocks):
        return False
    if not {symbol for _, row in rows for symbol in row} <= set("01234._*xX"):
        return True
    # Symbols 1 to 4 alone: 4x4 puzzles; but a line without any clue may be a row of a larger grid.
    for number, row in rows:
        empty = bool(row) and not set(row) & set("1234")
        what = f"{path}, line {number}: 16 blanks may be a 4x4 puzzle or a row of a 16x16 grid"
        check(not empty, what, "write a 16x16 puzzle as one line of 256 symbols, and leave empty 4x4 puzzles out")
    return False


def _blocks(rows: list[Line]) -> list[list[Line]]:
    """Rows between blank lines."""
    blocks: list[list[Line]] = [[]]
    for number, row in rows:
        if row:
            blocks[-1].append((number, row))
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _grids(path: str, rows: list[Line]) -> list[Line]:
    """Grids as one line of text each, with the number of their first line."""
    texts = []
    for block in _blocks(rows):
        size = len(block[0][1])
        hint = "give 4, 9 or 16 lines of that many symbols, with a blank line between grids"
        for number, row in block:
            problem = f"{path}, line {number}: {len(row)} symbols in a grid whose first line has {size}"
            check(len(row) == size, problem, hint)
        # There may be no blank line between grids.
        problem = f"{path}, line {block[0][0]}: a grid of {len(block)} lines of {size} symbols"
        check(len(block) % size == 0, problem, hint)
        for first in range(0, len(block), size):
            texts.append((block[first][0], "".join(row for _, row in block[first : first + size])))
    return texts
