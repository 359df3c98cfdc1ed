"""Pictures of puzzles: pure functions, digits in their cells, and a split that training never crosses."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from tasks.sudoku.picture_task import PictureSudoku
from tasks.sudoku.pictures import FONTS, HELD_OUT_FONTS, HELD_OUT_STYLES, STYLES, TRAINING_FONTS, TRAINING_STYLES, draw
from tasks.sudoku.pictures import fonts as fonts_module
from tasks.sudoku.pictures.drawing import homography, render
from tasks.sudoku.pictures.fonts import DEBIAN_FONTS, glyph, path_of
from tasks.sudoku.pictures.straighten import grid_corners, straightened
from tasks.sudoku.pictures.strokes import _FORMS, MOST_POINTS, PEN, _curve, _strokes, drawn
from tasks.sudoku.pictures.styles import MARGIN, look
from tasks.sudoku.pictures.variations import MESH, Variation, varied
from tests.licences import licence_of

CLUES = [int(sign) for sign in "530070000600195000098000060800060003400803001700020006060000280000419005000080079"]
BLANK = [0] * 81
seeds, styles = st.integers(0, 2**32 - 1), st.sampled_from(STYLES)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def change(cells: list[int], style: str, seed: int) -> np.ndarray:
    """Largest change of a pixel against the blank puzzle, over channels: (216, 216)."""
    pictures = [draw(each, style, rng(seed)).astype(int) for each in (cells, BLANK)]
    return np.abs(pictures[0] - pictures[1]).max(-1)


def cells_of(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column in the grid, as fractions, of the middle of each pixel, by the slow way: one solve per map."""
    a, b, c, d, e, f, g, h = homography(corners * 216, np.array([[0, 0], [9, 0], [9, 9], [0, 9]]))
    y, x = np.mgrid[:216, :216] + 0.5
    return (d * x + e * y + f) / (g * x + h * y + 1), (a * x + b * y + c) / (g * x + h * y + 1)


@settings(max_examples=25, deadline=None)
@given(seeds, styles)
def test_a_picture_is_a_pure_function_of_its_arguments(seed: int, style: str) -> None:
    picture = draw(CLUES, style, rng(seed))
    assert picture.shape == (216, 216, 3)
    assert picture.dtype == np.uint8
    draw(BLANK, style, rng(seed + 1))  # what was drawn before leaves no trace
    assert np.array_equal(picture, draw(CLUES, style, rng(seed)))
    assert not np.array_equal(picture, draw(CLUES, style, rng(seed + 1)))


@settings(max_examples=40, deadline=None)
@given(seeds, styles, st.integers(0, 80), st.integers(1, 9))
def test_a_clue_changes_its_cell_and_no_other(seed: int, style: str, index: int, digit: int) -> None:
    cells = BLANK.copy()
    cells[index] = digit
    chosen = look(style, rng(seed))
    changed = change(cells, style, seed)
    rows, columns = cells_of(chosen.corners)
    down, across = rows - index // 9, columns - index % 9
    inside = (np.abs(down - 0.5) < 0.5) & (np.abs(across - 0.5) < 0.5)
    # The thinnest stroke of a 1, pale, has 12 of them and more; JPEG also touches its blocks of 16 pixels around.
    assert (changed[inside] > 25).sum() >= 6
    far = (np.abs(down - 0.5) > 0.8) | (np.abs(across - 0.5) > 0.8)
    assert changed[far].max() <= (0 if chosen.quality is None else 80)
    assert chosen.quality is None or changed[far].mean() < 0.5


@settings(max_examples=25, deadline=None)
@given(seeds, styles)
def test_every_digit_differs_from_every_other(seed: int, style: str) -> None:
    chosen = look(style, rng(seed))
    pictures = []
    for digit in range(1, 10):
        pictures.append(render([0] * 40 + [digit] + [0] * 40, chosen, rng(seed), 216).astype(int))
    for first in range(9):
        for second in range(first):
            assert (np.abs(pictures[first] - pictures[second]) > 20).any(-1).sum() >= 8


@settings(max_examples=100, deadline=None)
@given(seeds, styles)
def test_looks_stay_within_what_a_person_can_read(seed: int, style: str) -> None:
    chosen = look(style, rng(seed))
    assert chosen.corners.min() >= 0
    assert chosen.corners.max() <= 1
    if chosen.quality is None:  # perspective leaves more room
        assert chosen.corners.min(0).max() <= MARGIN
        assert chosen.corners.max(0).min() >= 1 - MARGIN
    grounds = [chosen.paper, chosen.shade] if chosen.shading.any() else [chosen.paper]
    assert min(np.abs(chosen.ink - ground).max() for ground in grounds) >= 60
    for colour in (chosen.paper, chosen.ink, chosen.line, chosen.shade):
        assert colour.shape == (3,)
    assert 0.45 <= chosen.height <= 0.8


def test_training_never_sees_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(TRAINING_FONTS).isdisjoint(HELD_OUT_FONTS)
    assert {FONTS[name].file for name in TRAINING_FONTS}.isdisjoint(FONTS[name].file for name in HELD_OUT_FONTS)
    packages = [{FONTS[name].package for name in names} for names in (TRAINING_FONTS, HELD_OUT_FONTS)]
    assert packages[0].isdisjoint(packages[1])
    assert set(TRAINING_STYLES).isdisjoint(HELD_OUT_STYLES)
    assert (*TRAINING_STYLES, *HELD_OUT_STYLES) == STYLES
    assert any(FONTS[name].written for name in HELD_OUT_FONTS)
    opened: set[str] = set()
    monkeypatch.setattr(
        "tasks.sudoku.pictures.drawing.glyph", lambda name, *rest: (opened.add(name), glyph(name, *rest))[1]
    )
    for names, of in ((TRAINING_STYLES, TRAINING_FONTS), (HELD_OUT_STYLES, HELD_OUT_FONTS)):
        opened.clear()
        for style in names:
            for seed in range(400):
                opened.add(look(style, rng(seed)).font)
        draw(CLUES, names[0], rng(0))
        # All of them, and no other; only training draws with a pen.
        assert opened == set(of) | ({PEN} if of is TRAINING_FONTS else set())
    rulings = {look(style, rng(seed)).ruling for style in TRAINING_STYLES for seed in range(50)}
    assert rulings == {"plain", "rough"}


def test_chosen_fonts_are_used_in_any_style() -> None:
    for style in STYLES:
        assert {look(style, rng(seed), ["Caveat", "Domine"]).font for seed in range(30)} == {"Caveat", "Domine"}


@pytest.mark.parametrize("name", (*TRAINING_FONTS, *HELD_OUT_FONTS))
def test_every_font_has_nine_digits_of_the_height_asked_for(name: str) -> None:
    nine_digits(name)


def test_the_fonts_of_debian_have_nine_digits_of_the_height_asked_for() -> None:
    there = [name for name in DEBIAN_FONTS if (fonts_module.DEBIAN_FOLDER / FONTS[name].file).is_file()]
    if not there:
        pytest.skip("no font of Debian that looks written is installed")
    for name in there:
        nine_digits(name)


def test_a_missing_font_of_debian_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts_module, "DEBIAN_FOLDER", Path("/nowhere"))
    for name in DEBIAN_FONTS:
        package = FONTS[name].package
        with pytest.raises(InputError, match=re.escape(f"{name} needs Debian's {package}: there is no /nowhere/")):
            path_of(name)
    with pytest.raises(InputError, match="apt install fonts-"):
        PictureSudoku(puzzles=10, debian_fonts=True).train_batch(0, 2)
    with pytest.raises(InputError, match="debian_fonts='yes'; use true or false"):
        PictureSudoku(debian_fonts="yes")  # type: ignore[arg-type]  # wrong on purpose
    assert len(PictureSudoku(puzzles=10).train_batch(0, 2)) == 2  # needs none of them


def test_fonts_of_debian_are_used_in_training_alone() -> None:
    assert not set(DEBIAN_FONTS) & {*TRAINING_FONTS, *HELD_OUT_FONTS} and all(
        FONTS[name].written for name in DEBIAN_FONTS
    )
    both = TRAINING_FONTS + DEBIAN_FONTS
    looks = [varied(look(style, rng(seed), both), rng(seed), both) for style in TRAINING_STYLES for seed in range(300)]
    used = {font for each in looks for font in ([each.font] if each.variation is None else each.variation.fonts)}
    assert used == {*both, PEN}


def nine_digits(name: str) -> None:
    boxes = [glyph(name, digit, 48, 32).getbbox() for digit in range(1, 10)]
    assert all(box[0] >= 2 and box[1] >= 2 and box[2] <= 46 and box[3] <= 46 for box in boxes)
    heights = [box[3] - box[1] for box in boxes]
    assert 20 <= max(heights) <= 34
    masks = [glyph(name, digit, 48, 32).tobytes() for digit in range(1, 10)]
    assert len(set(masks)) == 9


def test_weights_of_a_variable_font_differ() -> None:
    regular, bold = (np.asarray(glyph(name, 8, 48, 32), float).sum() for name in ("Roboto", "Roboto Bold"))
    assert bold > 1.15 * regular


def test_fonts_are_free_and_none_is_copied() -> None:
    for font in FONTS.values():
        if font.package != "matplotlib" and not font.package.startswith("fonts-"):  # Debian's main section is free
            assert licence_of(font.package) in {"OFL-1.1", "Apache-2.0"}
    for name in (*TRAINING_FONTS, *HELD_OUT_FONTS):
        assert "site-packages" in str(path_of(name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CLUES, "sepia"), "unknown style 'sepia'; the styles are print, screen"),
        ((CLUES, "print", 216, ["Comic"]), "unknown font 'Comic'; the fonts are DejaVu Sans"),
        ((CLUES, "print", 216, []), "no font to choose from; leave fonts out"),
        ((CLUES[:80], "print"), "81 cells, not 80"),
        (([10] * 81, "print"), "a cell is 10; cells are 1 to 9"),
        (([-1] * 81, "print"), "a cell is -1"),
        ((CLUES, "print", 50), "the side of the picture is 50; it takes 108 to 2160"),
        ((CLUES, "print", 216.0), "the side of the picture is 216.0"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: tuple, message: str) -> None:
    cells, style, *rest = arguments
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        draw(cells, style, rng(0), *rest)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts_module, "find_spec", lambda name: None if name == "fontpkg_caveat" else find_spec(name))
    message = "the font Caveat needs the package fontpkg-caveat, which is not installed; pip install 'constrained_dg["
    with pytest.raises(InputError, match=re.escape(message)):
        path_of("Caveat")
    assert path_of("Kalam").is_file()


def test_other_sides_show_the_same_puzzle() -> None:
    """A picture of twice the side, made smaller, is close to the small one where nothing is random per pixel."""
    chosen = look("screen", rng(5))
    small = render(CLUES, chosen, rng(0), 216).astype(float)
    large = render(CLUES, chosen, rng(0), 432).astype(float).reshape(216, 2, 216, 2, 3).mean((1, 3))
    assert np.abs(small - large).mean() < 6


# -- a pen ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digit", range(1, 10))
def test_pen_strokes_stay_in_their_cell_and_differ(digit: int) -> None:
    still = np.zeros((MOST_POINTS, 2))
    forms = [drawn(digit, (at + 0.5) / len(_FORMS[digit]), still, 48, 30, 4) for at in range(len(_FORMS[digit]))]
    for at, mask in enumerate(forms):
        ink = np.asarray(mask) > 0
        assert 0.02 < ink.mean() < 0.4 and not (ink[0].any() or ink[-1].any() or ink[:, 0].any() or ink[:, -1].any())
        strokes = _strokes(digit, at)
        assert sum(len(points) for _, points in strokes) <= MOST_POINTS
        assert all(points.min() >= 0 and points.max() <= 1 for _, points in strokes)
    masks = [np.asarray(mask).tobytes() for mask in forms]
    assert len(set(masks)) == len(masks)
    moved = drawn(digit, 0.0, rng(0).normal(0, 0.05, (MOST_POINTS, 2)), 48, 30, 4)
    assert np.asarray(moved).tobytes() != masks[0]


@given(st.integers(2, MOST_POINTS))
def test_a_smooth_stroke_passes_through_its_points(points: int) -> None:
    weights = _curve(points)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[::5], np.eye(points), atol=1e-12)


# -- straightening ----------------------------------------------------------------------------------------------------


def corner_error(style: str, seed: int, side: int = 216) -> float:
    """The largest distance between a corner that is found and where it was drawn, in pixels of a picture of 216."""
    generator = rng(seed)
    cells = [int(value) * int(generator.random() < 0.4) for value in generator.integers(1, 10, 81)]
    chosen = look(style, generator)
    return float(np.abs(grid_corners(render(cells, chosen, generator, side)) - chosen.corners).max() * 216)


@pytest.mark.parametrize("style", STYLES)
def test_the_grid_is_found(style: str) -> None:
    """Within an eighth of a cell; of photos, one in ten may be missed."""
    errors = sorted(corner_error(style, seed) for seed in range(20))
    assert errors[17 if style == "photo" else 19] < 3, errors


def test_the_grid_is_found_at_any_size() -> None:
    for side in (140, 500, 1200):
        assert corner_error("print", 3, side) < 3


def test_a_straight_picture_stays_as_it_is() -> None:
    straight = replace(look("print", rng(2)), corners=np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float), noise=0.0)
    picture = render(CLUES, straight, rng(2), 216)
    assert np.abs(straightened(picture, 216).astype(float) - picture).mean() < 12
    # Turned, it comes back.
    turned = render(CLUES, replace(straight, corners=look("print", rng(5)).corners), rng(2), 216)
    assert np.abs(turned.astype(float) - picture).mean() > 20
    assert np.abs(straightened(turned, 216).astype(float) - picture).mean() < 12


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (60, 50), (216, 216), (900, 300)])
@pytest.mark.parametrize("kind", ["blank", "noise"])
def test_pictures_without_a_grid_do_no_harm(shape: tuple[int, int], kind: str) -> None:
    pixels = np.full((*shape, 3), 200, np.uint8)
    if kind == "noise":
        pixels = rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = straightened(pixels, 216)
    assert found.shape == (216, 216, 3) and found.dtype == np.uint8
    assert np.isfinite(grid_corners(pixels)).all()


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(TRAINING_STYLES))
def test_varied_looks_are_pure_and_keep_to_the_fonts_of_training(seed: int, style: str) -> None:
    chosen = varied(look(style, rng(seed)), rng(seed + 1))
    again = varied(look(style, rng(seed)), rng(seed + 1))
    pictures = [render(CLUES, each, rng(seed), 216) for each in (chosen, again)]
    assert np.array_equal(*pictures)
    used = {chosen.font} if chosen.variation is None else set(chosen.variation.fonts)
    assert used <= {*TRAINING_FONTS, PEN}
    assert np.abs(chosen.ink - chosen.paper).max() >= 40  # a person can still read it


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(["print", "screen"]))
def test_varied_digits_stay_in_their_cells_and_differ(seed: int, style: str) -> None:
    for more in range(30):  # the first look with digits that no font has
        chosen = varied(look(style, rng(seed)), rng(seed + more))
        if chosen.variation is not None:
            break
    assert chosen.variation is not None
    masks = [np.asarray(chosen.variation.glyph(digit, 48, 30)) for digit in range(1, 10)]
    for mask in masks:
        assert mask.shape == (48, 48)
        assert (mask > 128).sum() >= 20
        assert mask[[0, -1]].max() < 128  # not cut off at the top and the bottom
        assert mask[:, [0, -1]].max() < 128
    assert len({mask.tobytes() for mask in masks}) == 9


def test_a_mesh_that_does_not_move_changes_nothing() -> None:
    places = np.stack(np.meshgrid(*[np.linspace(0, 1, MESH + 1)] * 2), -1)
    same = Variation(("Roboto",) * 9, (None,) * 9, np.broadcast_to(places, (9, *places.shape)), False)
    for digit in range(1, 10):
        plain = np.asarray(glyph("Roboto", digit, 48, 30)).astype(int)
        assert np.abs(np.asarray(same.glyph(digit, 48, 30)).astype(int) - plain).max() <= 1
