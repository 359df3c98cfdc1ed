"""A given text with holes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from constrained_dg.constraints.automaton import End
from constrained_dg.constraints.language.construction import automaton
from constrained_dg.constraints.language.dfa import Dfa
from constrained_dg.constraints.language.expression import ANY, Chars, Expression, Lang, Lit, Rep, Seq
from constrained_dg.constraints.text_rule import Language, TextRule
from constrained_dg.errors import check


class Holes(TextRule):
    """The text of the answer is a given one, with holes of any length filled in.

    Tokens need not end where a hole begins: what is given is kept byte for byte, in whatever tokens.

    Args:
        parts: in order, what is given (str or bytes) and the holes: a rule on text without texts of its own, such as
            `Regex("[a-z]+")` or `Json(schema)`, or None for any text.
        texts, length, end: see `Regex`.

    Raises:
        InputError: see `TextRule`; or a part is none of these.
    """

    def __init__(
        self,
        parts: Sequence[str | bytes | TextRule | None],
        texts: Sequence[str | bytes | None] | None = None,
        length: int | None = None,
        end: End | None = None,
    ) -> None:
        check(isinstance(parts, Sequence), f"the parts are {parts!r}", "give a list")
        odd = [part for part in parts if not isinstance(part, str | bytes | TextRule | None) or _has_half(part)]
        check(len(parts) > 0 and not odd, f"a part is {odd[:1] or 'missing'}", "give text, rules on text, and None")
        self.pieces = tuple(parts)
        super().__init__("the text with holes", texts, length, end)

    def language(self, longest: int | None) -> Language:
        keys: list[object] = []
        makers: list[bytes | Callable[[], Dfa] | None] = []
        for part in self.pieces:
            if isinstance(part, TextRule):
                key, make = part.language(longest)
                keys.append(key)
                makers.append(make)
            else:
                data = part.encode() if isinstance(part, str) else part
                keys.append(None if data is None else data.hex())
                makers.append(data)

        def made() -> Dfa:
            items: list[Expression] = []
            for maker in makers:
                if maker is None:
                    items.append(Rep(Chars(ANY), 0, None))
                else:
                    items.append(Lit(maker) if isinstance(maker, bytes) else Lang(maker()))
            return automaton(Seq(tuple(items)))

        return ["holes", keys], made


def _has_half(part: object) -> bool:
    """Whether a text holds half of a surrogate pair, which UTF-8 cannot write."""
    return isinstance(part, str) and any(0xD800 <= ord(each) <= 0xDFFF for each in part)
