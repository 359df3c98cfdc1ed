"""A rule that takes half a minute to build, and half a second less often."""

from __future__ import annotations

from itertools import product

from constrained_dg.constraints import Regex
from constrained_dg.texts import Texts

#: Single bytes, texts that all states of the rule are walked through one by one, and an end and padding.
TEXTS = Texts(
    [
        *(bytes([byte]) for byte in range(256)),
        *(bytes(letters) + b"a" * 16 for letters in product(b"ab", repeat=13)),
        None,
        None,
    ]
)
END = ([len(TEXTS) - 2], len(TEXTS) - 1)


def build(pattern: str) -> Regex:
    return Regex(pattern).over(TEXTS, 64, END)


#: 65,536 states, as many as there are ways to write the last 16 letters.
SLOW, QUICK = "[ab]*a[ab]{15}", "[ab]*a[ab]"
