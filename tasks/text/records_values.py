"""Values of records: words, numbers and times that the project makes, split by a hash into training and held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: One value in this many never trains.
HELD_OUT = 8
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TIME_PATTERN = "^[0-2][0-9]:[0-5][0-9]$"

_ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "v", "w")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ei")
_CODAS = ("", "", "l", "m", "n", "r", "s", "t")
#: How the words of each kind end; names of people are two words half of the time.
_ENDINGS = {
    "first": ("", "", "", "a", "o", "an", "is"),
    "last": ("son", "ez", "ov", "er", "ini", "sen", "man"),
    "place": ("burg", "ville", "ton", "stad", "field", "mouth", "holm"),
    "product": ("ex", "ora", "ix", "on", "ium", "tek", "ello"),
}


def held_out(text: str) -> bool:
    """Whether a text (a word, a number as written, the name of a schema) never trains: a function of it alone."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


def drawn(make: Callable[[], str], new: bool) -> str:
    """Draw until the text is one that never trains (`new`), or one that may."""
    while held_out(text := make()) != new:
        pass
    return text


def word(kind: str, draws: np.random.Generator) -> str:
    """A capitalised word of this kind."""
    syllables = 2 if kind == "first" else 1 + int(draws.integers(2))
    parts = [one(_ONSETS, draws) + one(_VOWELS, draws) for _ in range(syllables)]
    return ("".join(parts) + one(_CODAS, draws) + one(_ENDINGS[kind], draws)).capitalize()


def value_of(kind: str, draws: np.random.Generator, new: bool) -> Any:
    """A value of a kind of field: every word and number in it is one that never trains (`new`), or none is.

    Weekdays and flags are few, so that they are never held out.
    """
    if kind == "person":
        first = drawn(lambda: word("first", draws), new)
        return f"{first} {drawn(lambda: word('last', draws), new)}" if draws.random() < 0.5 else first
    if kind in ("place", "product"):
        return drawn(lambda: word(kind, draws), new)
    if kind == "count":
        return int(drawn(lambda: str(draws.integers(1, 10 ** draws.integers(1, 4))), new))
    if kind == "price":
        return _price(drawn(lambda: _price_text(draws), new))
    if kind == "time":
        return drawn(lambda: f"{draws.integers(7, 22):02}:{draws.integers(60):02}", new)
    return one(WEEKDAYS, draws) if kind == "weekday" else bool(draws.integers(2))


def _price_text(draws: np.random.Generator) -> str:
    whole = str(draws.integers(2, 10 ** draws.integers(1, 4)))
    # Numbers have one text: no zero at the end of the cents.
    return whole if draws.random() < 0.5 else f"{whole}.{draws.integers(10)}{draws.integers(1, 10)}"


def _price(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def one(options: Sequence[str], draws: np.random.Generator) -> str:
    """One of the options."""
    return options[int(draws.integers(len(options)))]
