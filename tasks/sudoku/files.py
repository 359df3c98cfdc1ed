"""Reading puzzles: lines, CSV tables and grids, each also compressed with gzip."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from pathlib import Path

from constrained_dg.errors import InputError, check

from .codec import LENGTHS, Puzzle, from_text

_TIERS = ("source", "level")


def squeeze(text: str) -> str:
    """A grid as one line: without white space, and box lines (| - + =)."""
    return re.sub(r"[\s|+=-]", "", text)


def read_puzzles(path: str) -> list[Puzzle]:
    """Puzzles of a file.

    Kinds, told apart by the content: CSV with a `puzzle` column (any case; the tier is the `source` or `level` column
    as it stands); lines of 16, 81 or 256 symbols; grids of 4, 9 or 16 lines, with or without box lines, blank lines
    between them. Blanks are 0 or `.`; 16x16 uses 1-9 and A-G in either case. A name that ends in .gz is unpacked.
    Without a tier column, the tier is the clue count. Contradictory clues are not refused: they are a verdict.

    Raises:
        InputError: names the file and the line.
    """
    lines = _text(path).splitlines()
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    content = [(number, line) for number, line in numbered if line]
    check(bool(content), f"{path} is empty", f"give puzzles of {LENGTHS} symbols, one a line")
    first = content[0][1]
    if "," in first or first.lower().strip('"') == "puzzle":
        return _table(path, lines)
    drawn = [(number, line) for number, line in numbered if not line or squeeze(line)]
    widths = {len(squeeze(line)) for _, line in drawn if line}
    if widths and max(widths) <= 16 and (min(widths) < 16 or len(widths) > 1 or _blocks_of_16(drawn)):
        return _grids(path, drawn)
    return [_puzzle(path, number, line) for number, line in content]


def _text(path: str) -> str:
    try:
        data = Path(path).read_bytes()
        if path.endswith(".gz"):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no file {path}", "give the path of a text or CSV file of puzzles") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no complete gzip file ({error})", "compress it again, or drop .gz") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text", "give puzzles as text; a compressed file must end in .gz") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "give a readable file") from None


def _puzzle(path: str, number: int, text: str, tier: str | None = None) -> Puzzle:
    try:
        return Puzzle.of(from_text(text), tier)
    except InputError as error:
        raise InputError(f"{path}, line {number}: {error}") from None


def _table(path: str, lines: list[str]) -> list[Puzzle]:
    try:
        reader = csv.DictReader(io.StringIO("\n".join(lines)), strict=True, skipinitialspace=True)
        columns = {str(name).strip().lower(): name for name in reader.fieldnames or []}
        found = ", ".join(str(name) for name in reader.fieldnames or [])
        check("puzzle" in columns, f"{path} has no puzzle column, only: {found}", "name one column `puzzle`")
        tier_column = next((columns[name] for name in _TIERS if name in columns), None)
        puzzles = []
        for row in reader:
            tier = row[tier_column] if tier_column else None
            puzzles.append(_puzzle(path, reader.line_num, (row[columns["puzzle"]] or "").strip(), tier or None))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num + 1}: {error}", "give one row a line, quotes closed") from None
    check(bool(puzzles), f"{path} has a header and no puzzles", f"give puzzles of {LENGTHS} symbols, one a row")
    return puzzles


def _blocks_of_16(lines: list[tuple[int, str]]) -> bool:
    """Lines of 16 symbols are a 16x16 grid when each block has 16 of them and some symbol exceeds 4."""
    blocks = _blocks(lines)
    symbols = {symbol for _, line in lines for symbol in squeeze(line)}
    return all(len(block) == 16 for block in blocks) and not symbols <= set("01234.")


def _blocks(lines: list[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    blocks: list[list[tuple[int, str]]] = [[]]
    for number, line in lines:
        if line:
            blocks[-1].append((number, squeeze(line)))
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _grids(path: str, lines: list[tuple[int, str]]) -> list[Puzzle]:
    puzzles = []
    for block in _blocks(lines):
        size = len(block[0][1])
        hint = "give 4, 9 or 16 lines of as many symbols, a blank line between grids"
        for number, line in block:
            problem = f"{path}, line {number}: {len(line)} symbols in a grid whose first line has {size}"
            check(len(line) == size, problem, hint)
        # Grids may follow each other without a blank line.
        problem = f"{path}, line {block[0][0]}: a grid of {len(block)} lines of {size} symbols"
        check(len(block) % size == 0, problem, hint)
        for first in range(0, len(block), size):
            rows = block[first : first + size]
            puzzles.append(_puzzle(path, rows[0][0], "".join(line for _, line in rows)))
    return puzzles
