"""`Regex` beside `re.fullmatch` on random pairs of pattern and text:

    python -m experiments.text.patterns pairs=100000 texts=50

Each pattern is tried twice: as it is, and with its counted repeats cut to what texts of at most 24 bytes can use, as
`Regex` does where it knows the length of the answer. With another seed the command tries other pairs.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Sequence

from constrained_dg.constraints import Regex
from constrained_dg.constraints.language.pattern import matches
from constrained_dg.errors import InputError
from experiments.arguments import parse, run

ATOMS = [
    ".",
    r"\d",
    r"\D",
    r"\w",
    r"\W",
    r"\s",
    r"\S",
    "[a-c]",
    "[^a]",
    "[^\\d\\s]",
    "[é-ü]",
    r"[\]^-]",
    "a",
    "b",
    "K",
    "é",
    "🙂",
]
ATOMS += [r"\n", r"\.", r"\$", "(?i:k)", "(?i:[a-c])", "(?s:.)", "(?a:\\w)", "()", r"\u0041"]
#: What is empty: places, and what stands around them.
PLACES = ["^", "$", r"\A", r"\Z", r"\b", r"\B", r"(?a:\b)", r"(?a:\B)", "(?m:^)", "(?m:$)"]
LOOKS = ["(?=a)", "(?!.*b$)", r"(?<=\w)", "(?<!b)", r"(?=\b.)", "(?!(?<=a)b)", r"(?<!^a)", r"(?=(?!b|\Z).)"]
ATOMS += PLACES + LOOKS
REPEATS = ["*", "+", "?", "{2}", "{1,3}", "{,2}", "{2,}", "*?", "+?", "??", "{1,2}?"]
FIRST, LAST = ["", "", "", "^", "(?i)", "(?s)", "(?m)", "(?=.b)", "(?!a)"], ["", "", "", "$", r"\Z", "(?<=a)", "(?<!b)"]
#: Bytes of the longest text.
LONGEST = 24
LETTERS = "aabbcK1 é🙂\n.$]^-_Aſ\u212a\x1c٣"


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments, {"pairs": 100_000, "texts": 20, "seed": 0})
    draws = random.Random(given["seed"])
    pairs = accepted = refused = 0
    wrong: list[tuple[str, str, bool]] = []
    while pairs < given["pairs"]:
        pattern = draws.choice(FIRST) + body(draws, 2) + draws.choice(LAST)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                judge = re.compile(pattern)
            except re.error:
                continue
        try:
            whole, short = matches(pattern), Regex(pattern).language(LONGEST)[1]()
        except InputError:
            refused += 1
            continue
        for _ in range(given["texts"]):
            text = "".join(draws.choices(LETTERS, k=draws.randrange(6)))
            expected = judge.fullmatch(text) is not None
            pairs, accepted = pairs + 1, accepted + expected
            if [each.accepts(text.encode()) for each in (whole, short)] != [expected] * 2:
                wrong.append((pattern, text, expected))
    print(f"{pairs:,} pairs, {accepted:,} match, {refused} patterns refused by name, {len(wrong)} wrong {wrong[:5]}")


def body(draws: random.Random, depth: int) -> str:
    """A random pattern."""
    parts = []
    for _ in range(draws.randint(1, 3)):
        part = draws.choice(ATOMS)
        if depth and draws.random() < 0.4:
            part = f"(?:{body(draws, depth - 1)}|{body(draws, depth - 1)})"
        if draws.random() < 0.4 and part not in PLACES:
            part = f"(?:{part}){draws.choice(REPEATS)}"
        parts.append(part)
    return "".join(parts)


if __name__ == "__main__":
    run(main)
