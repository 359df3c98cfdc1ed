"""A puzzle written in any way is read as that very puzzle, or refused: never as another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from tasks.sudoku import Sudoku
from tasks.sudoku.codec import BOX, SYMBOLS
from tests.property.examples import many

TASK = Sudoku()
HEX = "0123456789ABCDEF"


def in_layout(marks: list[str], size: int, layout: str) -> str:
    """The marks of the cells as a line, a grid or a grid with box lines."""
    if layout in ("line", "spaced"):
        return (" " * (layout == "spaced")).join(marks)
    bar, rule = {"grid": ("", ""), "boxed": (" | ", "---+---\n"), "drawn": ("│", "───┼───\n")}[layout]
    box, text = BOX[size], ""
    for row in range(size):
        cells = ["".join(marks[row * size + k : row * size + k + box]) for k in range(0, size, box)]
        text += rule * (row % box == 0) + bar.join(cells) + "\n"
    return text


@st.composite
def written(draw, schemes):
    """Values of the cells, what each cell is written as, and all of it as text.

    Args:
        schemes: symbols as a function of the size, and the marks of blanks.
    """
    size = draw(st.sampled_from(sorted(BOX)))
    symbols, blanks = draw(st.sampled_from(schemes))
    share, draws = draw(st.sampled_from([0.2, 0.5, 0.9])), draw(st.randoms(use_true_random=False))
    cells = [draws.randint(1, size) if draws.random() < share else 0 for _ in range(size * size)]
    marks = [symbols(size)[cell - 1] if cell else draws.choice(blanks) for cell in cells]
    return cells, marks, in_layout(marks, size, draw(st.sampled_from(["line", "spaced", "grid", "boxed", "drawn"])))


def usual(size: int) -> str:
    return SYMBOLS[:size]


def from_zero(size: int) -> str:
    return HEX[1:size] + "0"


CLEAR = [(usual, mark) for mark in ".0X_*"] + [(lambda size: usual(size).lower(), "."), (usual, "._")]
UNCLEAR = [(usual, "-"), (usual, ".0"), (usual, "0x"), (from_zero, "."), (from_zero, "-")]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("schemes") / "puzzle.txt"


@many
@given(written(CLEAR))
def test_a_known_scheme_is_read_as_it_was_written(path, puzzle):
    cells, _, text = puzzle
    path.write_text(text)
    assert [TASK.parse(text).cells] == [read.cells for read in TASK.read(str(path))] == [tuple(cells)]


@many
@given(written(UNCLEAR))
def test_an_unclear_scheme_is_refused_or_read_as_it_was_written(path, puzzle):
    cells, marks, text = puzzle
    path.write_text(text)
    for read in (lambda: [TASK.parse(text)], lambda: TASK.read(str(path))):
        try:
            values = [read.cells for read in read()]
        except InputError:
            continue
        # A 0 without other blanks is a blank; with other blanks and letters it is hexadecimal.
        convention = "0" in marks and (not set(marks) & set(".-x") or (len(cells) == 256 and "G" not in marks))
        assert values == [tuple(cells)] or convention


@many
@given(written([(from_zero, "."), (from_zero, "X")]))
def test_hexadecimal_loses_no_clue(path, puzzle):
    cells, _, text = puzzle
    if len(cells) == 256:
        path.write_text(text)
        assert [TASK.parse(text).cells] == [read.cells for read in TASK.read(str(path))] == [tuple(cells)]
