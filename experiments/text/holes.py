"""Holes filled in random texts: is what was given kept byte for byte, and does each hole fit its rule?

    python -m experiments.text.holes texts=1000

Each text is made of random given pieces (words, code, letters of several bytes) and one to three holes, each with a
rule of its own: a random regular expression, a random schema, or any text. Answers are the most likely ones under
random log-probabilities of every token, over a vocabulary of bytes and 2,000 random pieces, many of which reach over
the edge of a hole. `re`, `jsonschema` and a search for the given pieces judge them.
"""

from __future__ import annotations

import json
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from constrained_dg.constraints import Holes, Json, Regex
from constrained_dg.constraints.text_rule import TextRule
from constrained_dg.errors import InputError
from constrained_dg.intervals import wilson
from constrained_dg.texts import Texts
from experiments.arguments import parse, run
from experiments.text.patterns import body

LENGTH = 64
WORDS = [
    "def f(",
    "):\n    return ",
    "order ",
    "no. ",
    "é",
    "漢字",
    "🙂",
    '"',
    ", ",
    " = ",
    "<b>",
    "</b>",
    "\t",
    "{}",
    "\\n",
]
#: A hole: its rule, and its judge.
Hole = tuple[TextRule | None, Callable[[bytes], bool]]


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments, {"texts": 1000, "seed": 0})
    draws = random.Random(given["seed"])
    texts = vocabulary(draws)
    end = ([len(texts) - 2], len(texts) - 1)
    done = kept = refused = 0
    kinds: Counter[str] = Counter()
    while done < given["texts"]:
        pieces: list[bytes] = [some(draws)]
        holes: list[Hole] = []
        for _ in range(draws.randint(1, 3)):
            holes.append(hole(draws))
            pieces.append(some(draws))
        parts = [part for pair in zip(pieces, [rule for rule, _ in holes], strict=False) for part in pair]
        try:
            rule = Holes([*parts, pieces[-1]], texts, LENGTH, end)
        except InputError:  # a pattern that nothing fits, or a text that needs too many tokens
            refused += 1
            continue
        scores = 3 * torch.randn(1, LENGTH, rule.num_classes, generator=torch.Generator().manual_seed(done))
        classes, exists = rule.most_likely(scores)
        written = texts.decode(rule.tokens_of(classes)[0].tolist())
        fits = bool(exists) and split(written, pieces, [judge for _, judge in holes])
        done, kept = done + 1, kept + fits
        kinds.update(type(rule).__name__ if rule else "any text" for rule, _ in holes)
        if not fits:
            rules = [getattr(rule, "pattern", getattr(rule, "schema", None)) for rule, _ in holes]
            print("wrong:", pieces, rules, written)
        if done % 100 == 0:
            print(f"{kept} of {done}, {refused} drawn again", flush=True)
    low, high = wilson(kept, done)
    print(f"{kept} of {done} kept and valid ({low:.4f} to {high:.4f}), holes: {dict(kinds)}; {refused} drawn again")


def vocabulary(draws: random.Random) -> Texts:
    """Bytes, random pieces, an end and padding."""
    made: set[bytes] = set()
    while len(made) < 2000:
        text = "".join(draws.choices([*WORDS, *"abcdeK019 .:-_"], k=draws.randint(2, 4))).encode()
        begin = draws.randrange(2)
        made.add(text[begin : begin + draws.randint(2, 8)])
    return Texts([*(bytes([byte]) for byte in range(256)), *sorted(made), None, None])


def some(draws: random.Random) -> bytes:
    return "".join(draws.choices(WORDS, k=draws.randint(1, 3))).encode()


def hole(draws: random.Random) -> Hole:
    kind = draws.random()
    if kind < 0.1:
        return None, lambda written: True
    if kind < 0.4:
        schema = random_schema(draws)
        return Json(schema), lambda written: valid(schema, written)
    while True:
        pattern = body(draws, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return Regex(pattern), matching(re.compile(pattern))
            except (re.error, InputError):
                continue


def matching(pattern: re.Pattern[str]) -> Callable[[bytes], bool]:
    return lambda written: pattern.fullmatch(written.decode()) is not None


def random_schema(draws: random.Random) -> dict[str, Any]:
    low = draws.randrange(-50, 50)
    simple: list[dict[str, Any]] = [
        {"type": "integer", "minimum": low, "maximum": low + draws.randrange(100)},
        {"enum": draws.sample(["red", "blue", "green", 1, None, True], 3)},
        {"type": "string", "maxLength": draws.randint(1, 6)},
        {"type": "string", "pattern": f"^[a-f]{{{draws.randint(1, 4)}}}$"},
        {"type": "array", "items": {"type": "boolean"}, "maxItems": draws.randint(1, 3)},
    ]
    first, second = draws.sample(simple, 2)
    closed = {"type": "object", "properties": {"a": first, "b": second}, "required": ["a"]}
    return draws.choice([first, {**closed, "additionalProperties": False}])


def valid(schema: dict[str, Any], written: bytes) -> bool:
    import jsonschema

    try:
        return jsonschema.Draft202012Validator(schema).is_valid(json.loads(written))
    except ValueError:
        return False


def split(written: bytes, pieces: Sequence[bytes], judges: Sequence[Callable[[bytes], bool]]) -> bool:
    """Whether a text is the pieces with something between them that the judges accept."""
    if not written.startswith(pieces[0]):
        return False
    rest = written[len(pieces[0]) :]
    if not judges:
        return not rest
    for at in range(len(rest) + 1):
        if (
            rest.startswith(pieces[1], at)
            and fitting(judges[0], rest[:at])
            and split(rest[at:], pieces[1:], judges[1:])
        ):
            return True
    return False


def fitting(judge: Callable[[bytes], bool], written: bytes) -> bool:
    try:
        return judge(written)
    except UnicodeDecodeError:
        return False


if __name__ == "__main__":
    run(main)
