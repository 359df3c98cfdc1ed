"""Context-free grammars as rules on text."""

from __future__ import annotations

from collections.abc import Sequence

from constrained_dg.constraints.automaton import End
from constrained_dg.constraints.language.grammar import read_grammar
from constrained_dg.constraints.text_rule import Language, TextRule
from constrained_dg.errors import check, is_count


class Grammar(TextRule):
    """A context-free grammar, in Lark's syntax, derives the text of the answer.

    A finite automaton holds it up to a depth: rules may stand within themselves so often. Repeats (`*`, `+`, `~`), and
    rules that name themselves only at their begin or end, have no such bound.

    Args:
        grammar: in Lark's syntax; terminals are regular expressions as in `Regex`, and what `%ignore` names may stand
            between any two.
        texts, length, end: see `Regex`.
        start: the rule to begin with.
        recursion: how often a rule may stand within itself, at most.

    Raises:
        InputError: see `Regex`; or not a grammar, or one that is too large at this depth.
    """

    def __init__(
        self,
        grammar: str,
        texts: Sequence[str | bytes | None] | None = None,
        length: int | None = None,
        end: End | None = None,
        *,
        start: str = "start",
        recursion: int = 4,
    ) -> None:
        odd = [each for each in (grammar, start) if not isinstance(each, str)]
        check(not odd, f"the grammar or its start is {odd[:1]}", "give text")
        check(is_count(recursion, 1) and recursion <= 64, f"recursion is {recursion!r}", "give a number from 1 to 64")
        self._options = (grammar, start, recursion)
        super().__init__("the grammar", texts, length, end)

    def language(self, longest: int | None) -> Language:
        return ["grammar", *self._options], lambda: read_grammar(*self._options)
