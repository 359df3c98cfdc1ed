"""Pictures from files, bytes, arrays and Pillow's images, as pixels. Files are bounded before they are decoded."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from constrained_dg.errors import InputError, check, needs

if TYPE_CHECKING:
    from PIL.Image import Image

#: What callers may give: a path, the bytes of a file, pixels (H, W) or (H, W, 3) uint8, or an image of Pillow.
Picture = Any
#: The file formats that are read. Others are decoded by code that fewer people use.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
#: Pixels of the largest picture: more than cameras give, and 200 MB once decoded.
MOST_PIXELS = 2**26
_DATA = re.compile(r"data:image/[a-z0-9.+-]+;base64,")
#: Bytes of the largest file.
MOST_BYTES = 2**28


def pixels_of(picture: Picture, name: str = "the image", most: int = MOST_PIXELS) -> np.ndarray:
    """The pixels (H, W, 3) uint8 of a picture. What is transparent becomes white; a file is turned as it says.

    Args:
        name: what errors call it; the path of a file is added.
        most: pixels that it may have.

    Raises:
        InputError: something that is not a picture, has several frames or more pixels than `most`, or is damaged.
    """
    if isinstance(picture, np.ndarray):
        return _of_array(picture, name, most)
    with needs("pillow", "reading pictures"):
        from PIL import Image
    if isinstance(picture, Image.Image):
        return _decoded(picture, name, most)
    if isinstance(picture, str | Path):
        path, name = Path(picture), f"{name} {str(picture)!r}"
        check(path.is_file(), f"{name} is not a file", f"give one of {', '.join(FORMATS)}")
        size = path.stat().st_size
        check(size <= MOST_BYTES, f"{name} has {size:,} bytes", f"give at most {MOST_BYTES:,}")
        picture = path.read_bytes()
    if not isinstance(picture, bytes):
        raise InputError(f"{name} is a {type(picture).__name__}", "give a path, bytes, pixels or an image of Pillow")
    try:
        file = Image.open(io.BytesIO(picture), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{name} has far too many pixels", f"give at most {most:,}") from None
    except Exception as error:  # the decoders raise many kinds
        unknown = isinstance(error, Image.UnidentifiedImageError)  # its text is the address of an object
        reason = "of no known format" if unknown else _line(error)
        hint = f"give one of {', '.join(FORMATS)} that is complete"
        raise InputError(f"{name} is not a picture ({reason})", hint) from None
    with file:
        return _decoded(file, name, most)


def pixels_of_url(url: str, name: str = "the image", most: int = MOST_PIXELS) -> np.ndarray:
    """The pixels (H, W, 3) uint8 of a `data:image/...;base64,` URL. No other URL is opened.

    Raises:
        InputError: another kind of URL or text, or as `pixels_of`.
    """
    head = _DATA.match(url)
    if head is None:
        hint = "nothing is fetched; give data:image/png;base64,..."
        raise InputError(f"{url[:60]!r} is not a picture in the text itself", hint)
    try:
        file = base64.b64decode(url[head.end() :], validate=True)
    except ValueError as error:
        raise InputError(f"{name} is not base64 ({error})", "encode it again") from None
    return pixels_of(file, name, most)


def url_of(pixels: np.ndarray, side: int = 320) -> str:
    """A `data:` URL of a picture (H, W, 3) uint8, as JPEG of at most `side` pixels on its longer side."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _of_array(array: np.ndarray, name: str, most: int) -> np.ndarray:
    fits = array.dtype == np.uint8 and array.size > 0 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
    check(fits, f"{name} has shape {array.shape} and type {array.dtype}", "give (H, W) or (H, W, 3) of uint8")
    _check_size(array.shape[1], array.shape[0], name, most)
    return np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array


def _decoded(image: Image, name: str, most: int) -> np.ndarray:
    """The pixels of an image that was opened, but perhaps not yet decoded."""
    from PIL import Image, ImageOps

    _check_size(*image.size, name, most)
    try:
        # Cameras put a small second picture into a JPEG, which is then of the format MPO. Pillow's images of formats
        # without frames have no `n_frames`.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        hint = "give one frame, or a Video of them"
        check(frames == 1, f"{name} is animated: it has {frames} frames", hint)
        image = ImageOps.exif_transpose(image)
        check(image.mode != "F", f"{name} has real numbers as pixels", "give 8 or 16 bits")
        if image.mode.startswith("I"):  # more than 8 bits of grey, which Pillow would cut off at 255
            values = np.asarray(image)
            low, high = values.min(), values.max()
            check(low >= 0 and high < 2**16, f"{name} has grey levels from {low} to {high}", "give 0 to 65,535")
            # An image of 32 bits that was made from one of 8 keeps its numbers.
            image = Image.fromarray((values >> (0 if image.mode == "I" and high < 256 else 8)).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # the decoders raise many kinds
        raise InputError(f"{name} cannot be decoded ({_line(error)})", "it may be cut short or damaged") from None


def _check_size(width: int, height: int, name: str, most: int) -> None:
    check(width * height > 0, f"{name} has no pixels ({width} x {height})", "give at least one")
    check(width * height <= most, f"{name} has {width} x {height} pixels", f"give at most {most:,} in all")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
