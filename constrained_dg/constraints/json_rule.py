"""JSON Schema as a rule on text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from constrained_dg.constraints.automaton import End
from constrained_dg.constraints.language.schema.languages import Compiled, compiled_schema
from constrained_dg.constraints.language.schema.nodes import Document, read_schema
from constrained_dg.constraints.language.schema.places import Place, canonical
from constrained_dg.constraints.running import once
from constrained_dg.constraints.text_rule import Language, TextRule
from constrained_dg.errors import InputError, check, is_count


class Json(TextRule):
    """The text of the answer is JSON that fits a schema (drafts 4, 6, 7, 2019-09, 2020-12; the last by default).

    Each value has one text (`json_text` writes it): members and items are divided by ", " and ": ", declared keys come
    in the order of the schema and others behind them, numbers are plain decimals, strings are in UTF-8. What a schema
    uses beyond that is exact, or refused by the name of its keyword, or exact up to a bound: docs/text.md has the
    table.

    Args:
        schema: a dict or a bool, JSON as text, a Pydantic model, or a Python type that Pydantic knows.
        texts, length, end: see `Regex`.
        formats: whether `format` is enforced.
        depth: arrays and objects inside each other, at most, in values that the schema does not describe.
        recursion: how often a schema may stand within itself, at most.

    Raises:
        InputError: the schema is not valid, uses what is outside, is too large, or no instance fits the tokens.
    """

    def __init__(
        self,
        schema: Any,
        texts: Sequence[str | bytes | None] | None = None,
        length: int | None = None,
        end: End | None = None,
        *,
        formats: bool = True,
        depth: int = 4,
        recursion: int = 3,
    ) -> None:
        for name, value, most in (("depth", depth, 8), ("recursion", recursion, 16)):
            check(is_count(value) and value <= most, f"{name} is {value!r}", f"give a number from 0 to {most}")
        self.schema = read_schema(schema)
        self._options = (formats, depth, recursion)
        super().__init__("the schema", texts, length, end)

    def language(self, longest: int | None) -> Language:
        return ["json", json.dumps(self.schema), *self._options], lambda: self.compiled.dfa

    @once
    def compiled(self) -> Compiled:
        """The schema as an automaton over bytes, and the bounds that it has."""
        return compiled_schema(self.schema, *self._options)


def json_text(instance: Any, schema: Any = True, *, formats: bool = True) -> str:
    """An instance as `Json` writes it under a schema. Where keys repeat, a parser has already kept the last.

    Args:
        formats: as for `Json`.

    Raises:
        InputError: the schema is not valid, or the instance has no such text: it is no JSON, it holds half of a
            surrogate pair, a number that is not finite, or a string or key on which checkers disagree: one that a
            pattern matches in ECMA 262 or in Python alone, or a host name with a label such as "xn--...".
    """
    document = Document(read_schema(schema), formats)
    try:
        return canonical(instance, Place(document, [document.root]))
    except RecursionError:
        raise InputError("the instance is nested too deeply", "write a flatter one") from None
