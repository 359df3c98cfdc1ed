"""Every way to write puzzles down, and every way to get it wrong."""

from __future__ import annotations

import gzip

import pytest

from constrained_dg.errors import InputError
from tasks.sudoku import Sudoku
from tasks.sudoku.codec import from_text, to_text

NINE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
FOUR = "12..34......2..1"
SIXTEEN = "G1a" + "." * 253
ROWS = [NINE[k : k + 9] for k in range(0, 81, 9)]
BOXED = "\n".join(
    "------+-------+------\n" * (k in (3, 6))
    + " ".join(row[:3])
    + " | "
    + " ".join(row[3:6])
    + " | "
    + " ".join(row[6:])
    for k, row in enumerate(ROWS)
)
GRID_16 = "\n".join(SIXTEEN[k : k + 16] for k in range(0, 256, 16))

GRID = "\n".join(ROWS)
BARS = "\n".join(f"|{row[:3]}|{row[3:6]}|{row[6:]}|" for row in ROWS)
SIMPLE = "*-----------*\n" + BARS.replace(".", "X").replace(ROWS[2], f"{ROWS[2]}\n|---+---+---|") + "\n*-----------*\n"
DRAWN = "┌───┬───┬───┐\n" + BARS.replace("|", "│") + "\n└───┴───┴───┘"
#: 16x16 in hexadecimal: 0 stands in every row.
HEX = "".join(("0123456789ABCDEF"[k:] + "0123456789ABCDEF"[:k])[: 16 - k % 3] + "." * (k % 3) for k in range(16))

GOOD = {
    "lines": (f"{NINE}\n{NINE}\n", [NINE, NINE]),
    "zeros, spaces around, blank lines": (f"\n  {NINE.replace('.', '0')} \r\n\n{NINE}", [NINE, NINE]),
    "byte order mark": ("\ufeff" + NINE, [NINE]),
    "sizes mixed": (f"{FOUR}\n{NINE}\n{SIXTEEN}\n", [FOUR, NINE, SIXTEEN.upper()]),
    "sixteen 4x4 lines": ("\n".join([FOUR] * 16), [FOUR] * 16),
    "one 4x4 line": (FOUR, [FOUR]),
    "csv": (f"puzzle\n{NINE}\n", [NINE]),
    "csv of other case and columns": (f"id, PuZZle ,Solution\n1,{NINE},x\n2,{FOUR},y\n", [NINE, FOUR]),
    "quoted csv": (f'"puzzle","note"\n"{NINE}","a, b"\n', [NINE]),
    "grid": ("\n".join(ROWS), [NINE]),
    "grids": ("\n".join([*ROWS, "", "", *ROWS]), [NINE, NINE]),
    "boxed grid": (BOXED, [NINE]),
    "framed grid": ("+---+\n" + "\n".join(f"|{row}|" for row in ROWS) + "\n+===+\n", [NINE]),
    "4x4 grids": ("12..\n34..\n....\n2..1\n\n12..\n34..\n....\n2..1", [FOUR, FOUR]),
    "16x16 grid": (GRID_16, [SIXTEEN.upper()]),
    "quizzes of Kaggle": (f"quizzes,solutions\n{NINE.replace('.', '0')},{'1' * 81}\n", [NINE]),
    "questions": (f"id,question,answer,rating\n1,{NINE},{'1' * 81},3\n", [NINE]),
    "semicolons": (f"Puzzle;note\n{NINE};a, b\n", [NINE]),
    "tabs": (f"n\tpuzzle\n1\t{NINE}\n", [NINE]),
    "quoted, a grid in a cell": ('# mine\n"puzzle"\n"' + "\n".join(ROWS) + '"\n', [NINE]),
    "comments": (f"# two puzzles\n{NINE} # easy\n\n#end\n{NINE}\n", [NINE, NINE]),
    "sadman": (f"#Ame\n#Lhard\n[Puzzle]\n{GRID}\n[State]\n{GRID.replace('.', '1')}\n", [NINE]),
    "sadman without a state": (f"#Ame\n{GRID}\n", [NINE]),
    "simple sudoku": (SIMPLE, [NINE]),
    "hodoku frame": (f".-----------.\n{BARS}\n'-----------'\n", [NINE]),
    "box drawing": (DRAWN, [NINE]),
    "other blanks": ("\n".join([NINE.replace(".", mark) for mark in "0xX_*"]), [NINE] * 5),
    "0 and . beside the last symbol": (NINE.replace(".", "0", 7), [NINE]),
    "hexadecimal": (HEX, [HEX.replace("0", "G")]),
    "hexadecimal grid": ("\n".join(HEX[k : k + 16].lower() for k in range(0, 256, 16)), [HEX.replace("0", "G")]),
    "hexadecimal grids without a gap": (
        "\n".join(HEX[k : k + 16] for k in [*range(0, 256, 16)] * 2),
        [HEX.replace("0", "G")] * 2,
    ),
    "0 for blanks, with A to F": (HEX.replace("0", "1").replace(".", "0"), [HEX.replace("0", "1")]),
    "contradiction": ("11" + "." * 79, ["11" + "." * 79]),
}

BAD = {
    "empty": ("", "is empty"),
    "blank lines only": ("\n \n", "is empty"),
    "short line": (f"{NINE}\n{NINE[:-1]}\n", r"line 2: a puzzle of 80 symbols; use 16 \(4x4\), 81 \(9x9\) or 256"),
    "long line": (NINE + ".", "line 1: a puzzle of 82 symbols"),
    "symbol": (f"{NINE}\n\n{'z' + NINE[1:]}", "line 3: symbol 'z' in a 9x9 puzzle; use 1-9, and 0 or . for a blank"),
    "symbol of another size": ("5" + FOUR[1:], "symbol '5' in a 4x4 puzzle; use 1-4"),
    "symbol beyond G": ("H" + SIXTEEN[1:], "symbol 'H' in a 16x16 puzzle; use 1-9 and A-G"),
    "grid with a short line": ("\n".join([*ROWS[:4], ROWS[4][:8], *ROWS[5:]]), "line 5: 8 symbols in a grid .* has 9"),
    "grid with a line missing": ("\n".join(ROWS[:8]), "line 1: a grid of 8 lines of 9 symbols; give 4, 9 or 16 lines"),
    "grid with a wrong symbol": ("\n".join(ROWS).replace("5", "?", 1), r"line 1: symbol '\?'"),
    "candidates": (f"{GRID[:-9]}{'12 3 45 6 7 8 9 1 2'}", "line 9: the cell .12. holds several symbols; lists of"),
    "a frame of candidates": (
        "*---*\n| 1 23 4 | 5 6 7 | 8 9 12 |\n*---*",
        "line 2: the cell .23. holds several",
    ),
    "numbers above 9": (" ".join(map(str, range(1, 17))), "line 1: the cell '10' holds several symbols"),
    "dashes for blanks": (NINE.replace(".", "-"), "line 1: symbol '-' in a 9x9 puzzle"),
    "dashes in a grid": (GRID.replace(".", "-"), "line 1: symbol '-' in a 9x9 puzzle"),
    "dashes for blanks of 16x16": ("1" * 81 + "-" * 175, "line 1: symbol '-' in a 16x16 puzzle"),
    "0 and . in 9x9": (NINE.replace("9", "0"), "line 1: a 9x9 puzzle holds both 0 and [.]: 0 may be a blank, or a sym"),
    "0 and . in 4x4": (
        "0123" + "." * 12,
        "line 1: a 4x4 puzzle holds both 0 and [.]: .* 0-3; .* write 4 for",
    ),
    "0 and . in 16x16 without letters": ("0123" + "." * 252, "16x16 puzzle holds both 0 and [.]: .* of 0-F; write all"),
    "0-F beside G": (f"{SIXTEEN}\n{HEX}\n", "line 2: 0 may be a blank, as line 1 has the symbol G"),
    "empty rows of 16": (
        "\n".join(["1234" + "." * 12, *["." * 16] * 15]),
        "line 2: 16 blanks may be a 4x4 puzzle",
    ),
    "two columns of puzzles": (f"puzzle,quizzes\n{NINE},{NINE}\n", "has the columns puzzle and quizzes"),
    "other sections": (f"[State]\n{GRID}\n", r"has no section \[Puzzle\], only \[State\]"),
    "long field": ("puzzle,a\n" + "1" * 200_000 + ",1\n", "line 2: field larger than field limit"),
    "no puzzle column": (f"first,answer\n{NINE},1\n", "has no puzzle column, only: first, answer"),
    "header only": ("puzzle,solution\n", "has a header and no puzzles"),
    "wrong length in csv": (f"puzzle,a\n{NINE},1\n{NINE[1:]},2\n", "line 3: a puzzle of 80 symbols"),
    "missing cell in csv": (f"a,puzzle\n1,{NINE}\n2\n", "line 3: a puzzle of 0 symbols"),
    "open quote": (f'puzzle,a\n"{NINE},1\n', "line 2: "),
}


@pytest.fixture(scope="module")
def task():
    return Sudoku()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", GOOD)
def test_every_format_is_read(task, tmp_path, case, packed):
    text, expected = GOOD[case]
    path = tmp_path / ("puzzles.gz" if packed else "puzzles.txt")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    puzzles = task.read(str(path))
    assert [puzzle.text for puzzle in puzzles] == expected
    assert all(puzzle.tier == str(puzzle.given) for puzzle in puzzles)


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line(task, tmp_path, case):
    text, words = BAD[case]
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        task.read(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("missing.csv", None, "no file"),
        ("folder", "folder", "cannot be read"),
        ("plain.csv.gz", b"puzzle\n", "cannot be read"),
        ("cut.csv.gz", gzip.compress(NINE.encode() * 99)[:-20], "cannot be read"),
        ("broken.csv.gz", gzip.compress(NINE.encode())[:10] + b"\xff" * 40, "cannot be read"),
        ("empty.csv.gz", gzip.compress(b""), "is empty"),
        ("packed.csv", gzip.compress(NINE.encode()), "cannot be read"),
    ],
    ids=["missing", "folder", "plain", "cut", "broken", "empty", "packed"],
)
def test_files_that_cannot_be_opened_are_refused(task, tmp_path, name, data, words):
    path = tmp_path / name
    if data == "folder":
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        task.read(str(path))
    assert name in str(caught.value)


@pytest.mark.parametrize("column", ["source", "Level"])
def test_the_tier_is_the_column_as_it_stands(task, tmp_path, column):
    path = tmp_path / "tiers.csv"
    path.write_text(f"puzzle,{column}\n{NINE},Very Hard\n{NINE},07\n")
    assert [puzzle.tier for puzzle in task.read(str(path))] == ["Very Hard", "07"]


def test_parse_takes_lines_and_grids(task):
    assert task.parse(BOXED.replace("\n", " ")).text == task.parse(DRAWN).text == NINE
    assert task.parse(NINE).text == task.parse(BOXED).text == task.parse(NINE.replace(".", "0")).text == NINE
    assert task.parse(SIXTEEN).text == SIXTEEN.upper()


@pytest.mark.parametrize(("text", "words"), [("", "0 symbols"), ("12", "2 symbols"), ("z" * 81, "'z'")])
def test_parse_refuses(task, text, words):
    with pytest.raises(InputError, match=words):
        task.parse(text)


@pytest.mark.parametrize("text", [NINE, FOUR, SIXTEEN.upper()])
def test_text_round_trip(text):
    assert to_text(from_text(text)) == text
