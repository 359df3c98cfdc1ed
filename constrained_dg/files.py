"""Reading text that people hand in, and writing files that are complete as soon as they have their name."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from constrained_dg.errors import InputError, check

#: Bytes that a text file may hold, unpacked: far above any data set here, far below a laptop's memory.
MOST_BYTES = 2**29
#: Bytes that are read at a time.
_PIECE = 2**20


def read_text(path: Path | str, hint: str) -> str:
    """What a text file holds, optionally .gz, without a byte-order mark and with line ends as \\n.

    Args:
        hint: what to give instead of a file that is missing.

    Raises:
        InputError: no such file, a folder or a device, more than MOST_BYTES, or a file that is cut short or not text.
    """
    path = Path(path)
    try:
        check(path.exists(), f"no file {str(path)!r}", hint)
        check(path.is_file(), f"{str(path)!r} cannot be read: it is not a regular file", hint)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = bytearray()
            # A packed file of a few MiB may hold terabytes.
            while piece := file.read(_PIECE):
                data += piece
                large = f"{str(path)!r} holds more than {MOST_BYTES >> 20} MiB"
                check(len(data) <= MOST_BYTES, large, "split it into smaller files")
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{str(path)[:200]} cannot be read ({error})"[:400], "it may be cut short, or not be a text file"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_whole(path: Path | str, data: str | bytes | memoryview, new: bool = False) -> None:
    """Write a file that appears under its name only when it is complete, and survives a loss of power from then on.

    The partial file lies in the same folder, since a move across file systems is a copy.

    Args:
        new: refuse a name that exists, also one that another process writes at this moment; otherwise it is replaced.

    Raises:
        OSError: naming `path`, not the partial file; FileExistsError with `new`.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        if not new:
            os.replace(partial, path)
            return
        try:
            os.link(partial, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with path.open("xb") as file:
                file.write(partial.read_bytes())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
