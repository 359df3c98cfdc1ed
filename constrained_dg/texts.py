"""The texts of a vocabulary's tokens, as bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np

from constrained_dg.errors import check

#: Bytes of the longest text of a token.
MOST_BYTES = 4096


class Texts(Sequence[bytes | None]):
    """What each of V tokens writes, in bytes: `Tokenizer.texts()` gives those of a checkpoint.

    Args:
        written: of each token; a str is written in UTF-8. A token may hold part of a character. None stands for tokens
            that are no text, which rules permit only at the end of an answer.

    Raises:
        InputError: something else than str, bytes and None, or a token of more than 4,096 bytes.
    """

    def __init__(self, written: Sequence[str | bytes | None]) -> None:
        odd = [text for text in written if not isinstance(text, str | bytes | None)]
        check(not odd, f"a token writes {odd[:1]}", "give str, bytes or None for each token")
        self._texts = tuple(
            text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in written
        )
        self.longest = max((len(text) for text in self._texts if text), default=0)
        check(self.longest <= MOST_BYTES, f"a token writes {self.longest:,} bytes", f"give at most {MOST_BYTES:,}")

    @classmethod
    def of(cls, written: Sequence[str | bytes | None]) -> Texts:
        return written if isinstance(written, Texts) else cls(written)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, token: int) -> bytes | None: ...
    @overload
    def __getitem__(self, token: slice) -> tuple[bytes | None, ...]: ...
    def __getitem__(self, token: int | slice) -> bytes | tuple[bytes | None, ...] | None:
        return self._texts[token]

    def __iter__(self) -> Iterator[bytes | None]:
        return iter(self._texts)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes of tokens, those that are no text left out."""
        return b"".join(self._texts[token] or b"" for token in tokens)

    @cached_property
    def digest(self) -> str:
        """A name of these texts in a cache."""
        sizes = np.array([-1 if text is None else len(text) for text in self._texts], np.int32)
        return hashlib.sha256(sizes.tobytes() + b"".join(text or b"" for text in self._texts)).hexdigest()
