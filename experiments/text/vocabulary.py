"""The vocabulary that rules on text are timed over."""

from __future__ import annotations

import base64
import json
import random
from importlib import resources

from constrained_dg.errors import check, needs
from constrained_dg.texts import Texts

#: Tokens of `tekken_240911.json`, the first of them special; end and padding.
TOKENS, SPECIAL, END, PAD = 131_072, 1000, 2, 11


def tekken(size: int = TOKENS) -> Texts:
    """The texts of Mistral's tokenizer, which the package mistral-common carries, and made ones beyond them: two known
    ones each, drawn with seed 0."""
    check(size >= TOKENS, f"tokens={size}", f"give at least {TOKENS}")
    with needs("mistral-common", "this vocabulary (install it with --no-deps)"):
        path = resources.files("mistral_common") / "data" / "tekken_240911.json"
    known = [base64.b64decode(each["token_bytes"]) for each in json.loads(path.read_text())["vocab"]]
    known = known[: TOKENS - SPECIAL]
    draws, seen, made = random.Random(0), set(known), list(known)
    while len(made) < size - SPECIAL:
        new = draws.choice(known) + draws.choice(known)
        if new not in seen:
            seen.add(new)
            made.append(new)
    return Texts([None] * SPECIAL + made)
