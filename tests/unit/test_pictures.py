"""Pictures from files and arrays: what is read, what is refused in one line, and the sizes they are brought to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from constrained_dg.errors import InputError
from constrained_dg.model.config import VisionConfig
from constrained_dg.vision.pictures import MOST_PIXELS, pixels_of
from constrained_dg.vision.processor import BUDGETS, Processor
from tests.pictures import TINY, file, huge_png, pixels

RELEASED = Processor(VisionConfig(2816))


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_picture_is_the_same_from_everywhere(tmp_path: Path) -> None:
    array = pixels()
    image = Image.fromarray(array)
    image.save(tmp_path / "a.png")
    for given_as in (array, image, tmp_path / "a.png", str(tmp_path / "a.png"), file(image), file(image, "BMP")):
        assert np.array_equal(pixels_of(given_as), array)
    gray = array[..., 0]
    assert np.array_equal(pixels_of(gray), pixels_of(Image.fromarray(gray)))
    even = Image.new("RGB", (20, 10), (200, 100, 30))
    assert np.abs(pixels_of(file(even, "JPEG")).astype(int) - np.asarray(even)).max() < 4


def test_what_is_transparent_becomes_white() -> None:
    array = np.dstack([pixels(), np.full((8, 12), 255, np.uint8)])
    array[0, 0, 3], array[0, 1, 3] = 0, 127
    found = pixels_of(Image.fromarray(array))
    assert (found[0, 0] == 255).all() and np.array_equal(found[1:], array[1:, :, :3])
    assert (np.abs(found[0, 1] - (array[0, 1, :3] * (127 / 255) + 128)) <= 1).all()
    palette = Image.fromarray(array[..., :3]).quantize(8)
    palette.info["transparency"] = 0
    assert (pixels_of(palette)[np.asarray(palette) == 0] == 255).all()


def test_a_file_is_turned_as_it_says() -> None:
    image = Image.fromarray(pixels())
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    assert np.array_equal(pixels_of(file(image, exif=exif)), np.rot90(pixels(), -1))


def test_sixteen_bits_of_grey_are_not_cut_off(tmp_path: Path) -> None:
    """Pillow's own conversion makes everything above 255 white."""
    eight = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "grey.png")
    assert np.array_equal(pixels_of(tmp_path / "grey.png"), np.repeat(eight[..., None], 3, 2))
    for mode in ("I", "L"):
        assert np.array_equal(pixels_of(Image.fromarray(eight).convert(mode)), np.repeat(eight[..., None], 3, 2))
    with pytest.raises(InputError, match="grey levels from 0 to 70000; give 0 to 65,535"):
        pixels_of(Image.fromarray(np.array([[0, 70000]], np.int32)))
    with pytest.raises(InputError, match="real numbers as pixels; give 8 or 16 bits"):
        pixels_of(Image.fromarray(np.zeros((2, 2), np.float32)))


def test_a_second_picture_in_a_jpeg_is_no_animation() -> None:
    image = Image.fromarray(pixels(16, 16))
    data = file(image, "MPO", save_all=True, append_images=[image.resize((4, 4))])
    assert pixels_of(data).shape == (16, 16, 3)


def frames(count: int = 3) -> list[Image.Image]:
    made = [Image.new("RGB", (16, 16), "white") for _ in range(count)]
    for number, image in enumerate(made):
        ImageDraw.Draw(image).rectangle([number * 4, 0, number * 4 + 3, 15], "red")
    return made


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animated_picture_is_refused(kind: str) -> None:
    first, *others = frames()
    data = file(first, kind, save_all=True, append_images=others)
    with pytest.raises(
        InputError, match=r"^the image is animated: it has 3 frames; give one frame, or a Video of them$"
    ):
        pixels_of(data)
    assert pixels_of(file(first, kind)).shape == (16, 16, 3)


@pytest.mark.parametrize(
    "picture, said",
    [
        ("missing.png", r"^the image 'missing.png' is not a file; give one of PNG, JPEG"),
        ("/dev/null", "is not a file"),
        (b"", r"^the image is not a picture \(.*; give one of PNG, JPEG, .* that is complete$"),
        (b"%PDF-1.4 and so on", "is not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture"),
        (3, "the image is a int; give a path, bytes, pixels or an image of Pillow"),
        (None, "the image is a NoneType"),
        ([[1, 2]], "the image is a list"),
        (pixels().astype(np.float32), r"shape \(8, 12, 3\) and type float32; give \(H, W\) or \(H, W, 3\) of uint8"),
        (pixels()[..., :2], r"shape \(8, 12, 2\)"),
        (pixels()[:0], r"shape \(0, 12, 3\)"),
        (np.zeros((2**13 + 1, 2**13, 3), np.uint8), "has 8192 x 8193 pixels; give at most 67,108,864"),
        (huge_png(9000, 9000), r"^the image has 9000 x 9000 pixels; give at most 67,108,864 in all$"),
        (huge_png(10_000, 10_000), "has far too many pixels; give at most 67,108,864"),
        (huge_png(100_000, 100_000), "has far too many pixels"),
        (huge_png(100, 100), r"^the image cannot be decoded \(.*; it may be cut short or damaged$"),
        (huge_png(0, 5), "the image"),
        (file(Image.fromarray(pixels(40, 40)))[:-900], "cannot be decoded"),
        (file(Image.fromarray(pixels(40, 40)), "JPEG")[:300], "the image"),
        (file(Image.fromarray(pixels(40, 40)), "WEBP")[:200], "the image"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(picture: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as error:
        pixels_of(picture)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@given(st.binary(max_size=80), st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]), st.integers(0, 400))
def test_damaged_files_are_read_or_refused(garbage: bytes, kind: str, at: int) -> None:
    data = file(Image.fromarray(pixels(10, 10)), kind)
    try:
        assert pixels_of(data[:at] + garbage + data[at + len(garbage) :]).ndim == 3
    except InputError as error:
        assert "\n" not in str(error)


def test_a_file_of_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(file(Image.fromarray(pixels())))
    monkeypatch.setattr("constrained_dg.vision.pictures.MOST_BYTES", 20)
    with pytest.raises(InputError, match="bytes; give at most 20"):
        pixels_of(path)
    assert MOST_PIXELS == 2**26


# -- sizes ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from(BUDGETS))
def test_a_size_keeps_the_budget_and_the_shape(height: int, width: int, budget: int) -> None:
    rows, columns = (side / 48 for side in RELEASED.size(height, width, budget))
    assert rows == int(rows) >= 1 and columns == int(columns) >= 1
    assert rows * columns <= budget
    # As large as the budget allows: the exact size is less than one soft token larger in both directions.
    exact = (budget * height / width) ** 0.5, (budget * width / height) ** 0.5
    if min(exact) >= 1:
        assert rows <= exact[0] + 1e-6 < rows + 1 + 2e-6 and columns <= exact[1] + 1e-6 < columns + 1 + 2e-6


def test_a_picture_of_the_right_size_is_not_resized() -> None:
    array = pixels(28, 40)  # 7 x 10 soft tokens of 4 x 4 pixels
    patches = Processor(TINY).patches(array, 70)
    assert patches.columns == 20 and patches.pixels.shape == (14 * 20, 12)
    torch.testing.assert_close(patches.pixels[21].view(2, 2, 3) * 255, torch.tensor(array[2:4, 2:4]).float())


def test_a_picture_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(InputError, match="the image is resized to 280 x 4 pixels; give 40 patches"):
        Processor(TINY).patches(pixels(1, 900), 70)
