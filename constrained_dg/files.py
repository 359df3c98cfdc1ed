"""Reading text that people hand in."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from constrained_dg.errors import InputError, check


def read_text(path: Path | str, hint: str) -> str:
    """What a text file holds, optionally .gz, with line ends as \\n.

    Args:
        hint: what to give instead of a file that is not there.

    Raises:
        InputError: no such file, or one that is cut short or no text.
    """
    path = Path(path)
    check(path.exists(), f"no file {str(path)!r}", hint)
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error})", "it may be cut short, or of another kind") from None
    return io.StringIO(text, newline=None).read()
