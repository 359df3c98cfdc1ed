"""Regular expressions as rules, over the texts of a vocabulary or the symbols of a task."""

from __future__ import annotations

from collections.abc import Sequence

from constrained_dg.constraints.automaton import End
from constrained_dg.constraints.language.construction import automaton
from constrained_dg.constraints.language.expression import shortened
from constrained_dg.constraints.language.pattern import read, shown
from constrained_dg.constraints.text_rule import Language, TextRule
from constrained_dg.errors import check


class Regex(TextRule):
    r"""The text of the answer matches a regular expression, as in Python's `re.fullmatch`.

    All of `re` that finite automata do: classes (`\w`, `\d` and `\s` are Unicode, `.` is anything but a newline),
    anchors, word boundaries and look-around anywhere, lazy repeats, groups, the flags i, s, m, a and x. Refused by
    name: back-references, conditional groups, atomic groups, possessive repeats. Counted repeats that an answer cannot
    exhaust are endless.

    Args:
        pattern: the regular expression.
        texts: what each of the V tokens writes, as str or bytes: characters, or texts of any length. None for a token
            that is no text and is not permitted before the end. See `TextRule`.
        length: T.
        end: see `Automaton`.

    Raises:
        InputError: not a valid regular expression or too large a one; a text of no answer of this length matches.
    """

    def __init__(
        self,
        pattern: str,
        texts: Sequence[str | bytes | None] | None = None,
        length: int | None = None,
        end: End | None = None,
    ) -> None:
        check(isinstance(pattern, str), f"the pattern is {pattern!r}", "give text")
        self.pattern, self._expression = pattern, read(pattern)
        super().__init__(f"the pattern {shown(pattern)}", texts, length, end)

    def language(self, longest: int | None) -> Language:
        expression = self._expression if longest is None else shortened(self._expression, longest)
        return ["regex", self.pattern, longest], lambda: automaton(expression)
