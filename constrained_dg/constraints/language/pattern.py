"""Regular expressions in the syntax of Python's `re`, read by Python's own parser, as expressions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from functools import cache, lru_cache
from re import (  # type: ignore[attr-defined]  # as the next line
    _casefix,
    _parser,
)
from re import _constants as op  # type: ignore[attr-defined]  # as in hypothesis: Python has no public parser
from typing import Any, Literal

from constrained_dg.constraints.language.construction import automaton
from constrained_dg.constraints.language.dfa import Dfa
from constrained_dg.constraints.language.expression import (
    ANYTHING,
    EMPTY,
    MARK,
    At,
    Chars,
    Expression,
    Lang,
    Look,
    Ranges,
    Rep,
    Seq,
    alt,
    joined,
    opposite,
)
from constrained_dg.constraints.running import check_time
from constrained_dg.errors import InputError, check

#: "python": as `re.fullmatch` reads it. "ecma": as ECMA 262 does, whose patterns JSON Schema has; most checkers read
#: them in their own language, though. What `$`, `.`, `\d`, `\w`, `\s` and their opposites match in "both", or "either".
Dialect = Literal["python", "ecma", "both", "either"]
_OPPOSITE: dict[Dialect, Dialect] = {"python": "python", "ecma": "ecma", "both": "either", "either": "both"}

_REFUSED = {
    op.GROUPREF: "a back-reference",
    op.GROUPREF_EXISTS: "a conditional group (?(...)...)",
    op.ATOMIC_GROUP: "an atomic group (?>...)",
    op.POSSESSIVE_REPEAT: "a possessive repeat such as a++",
}
_CLASSES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}
#: Characters of a pattern; Python's parser needs a second for so many. Characters of one that errors name.
LONGEST, _SHOWN = 2**17, 200
_FLAGS = re.IGNORECASE | re.DOTALL | re.ASCII


def shown(pattern: str) -> str:
    """A pattern in a sentence: its beginning, where it is long."""
    return repr(pattern) if len(pattern) <= _SHOWN else f"{pattern[:_SHOWN]!r}..."


def read(pattern: str, dialect: Dialect = "python", search: bool = False) -> Expression:
    """The expression of the texts that a pattern matches in full, or, with `search`, somewhere.

    Raises:
        InputError: not a valid regular expression, too long a one, or something that no automaton here does, by name.
    """
    check(len(pattern) <= LONGEST, f"{shown(pattern)} has {len(pattern):,} characters", f"write at most {LONGEST:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of sets whose meaning may change
            tree = _parser.parse(pattern)
        flags = re.RegexFlag(tree.state.flags) & ~re.UNICODE
        inner = _Reader(pattern, dialect).sequence(tree, flags)
        return Seq((ANYTHING, inner, ANYTHING)) if search else inner
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"{shown(pattern)} is not a valid regular expression ({str(error) or type(error).__name__})",
            "write it in the syntax of Python's re",
        ) from None


@lru_cache(256)
def matches(pattern: str, dialect: Dialect = "python", search: bool = False) -> Dfa:
    """The automaton of `read`, over bytes."""
    return automaton(read(pattern, dialect, search))


class _Reader:
    def __init__(self, pattern: str, dialect: Dialect) -> None:
        self.pattern, self.dialect = pattern, dialect

    def refuse(self, what: str) -> None:
        raise InputError(f"{shown(self.pattern)} has {what}, which no automaton here does", "leave it out")

    def sequence(self, items: Iterable[Any], flags: int) -> Expression:
        parts = tuple(self.item(kind, value, flags) for kind, value in items)
        return parts[0] if len(parts) == 1 else Seq(parts)

    def item(self, kind: Any, value: Any, flags: int) -> Expression:
        check_time()
        if kind in _REFUSED:
            self.refuse(_REFUSED[kind])
        if kind in (op.ASSERT, op.ASSERT_NOT):
            direction, inner = value
            return self.look(kind is op.ASSERT, direction, inner, flags)
        if kind is op.AT:
            return self.place(value, flags)
        if kind is op.SUBPATTERN:
            _, added, removed, inner = value
            return self.sequence(inner, _within(flags, added, removed))
        if kind is op.BRANCH:
            return alt(self.sequence(branch, flags) for branch in value[1])
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            low, high, inner = value
            return Rep(self.sequence(inner, flags), low, None if high is op.MAXREPEAT else high)
        known = flags & ~re.UNICODE & ~re.VERBOSE & ~re.MULTILINE & ~re.DEBUG
        if known & ~_FLAGS:
            raise InputError(f"{shown(self.pattern)} sets {re.RegexFlag(known & ~_FLAGS)!r}", "leave it out")
        return Chars(_ranges(kind, _frozen(value), int(known & _FLAGS), self.dialect))

    def place(self, where: Any, flags: int) -> Expression:
        if where in (op.AT_BOUNDARY, op.AT_NON_BOUNDARY):
            return _boundary(where is op.AT_BOUNDARY, bool(flags & re.ASCII), self.dialect)
        if where in (op.AT_BEGINNING, op.AT_END) and flags & re.MULTILINE:
            return _line(where is op.AT_BEGINNING, self.dialect)
        if where in (op.AT_BEGINNING, op.AT_BEGINNING_STRING):
            return At("begin")
        return At("end" if where is op.AT_END_STRING or self.dialect in ("ecma", "both") else "last line")

    def look(self, holds: bool, direction: int, inner: Any, flags: int) -> Expression:
        """What is seen before or behind a place."""
        low, high = inner.getwidth()
        if direction < 0 and low != high:
            raise re.error("look-behind requires fixed-width pattern")
        seen = (self if holds else _Reader(self.pattern, _OPPOSITE[self.dialect])).sequence(inner, flags)
        parts = (ANYTHING, MARK, seen, ANYTHING) if direction > 0 else (ANYTHING, seen, MARK, ANYTHING)
        there = automaton(Seq(parts))
        return Look(_somewhere() - there if holds else there)


@cache
def _somewhere() -> Dfa:
    return automaton(Seq((ANYTHING, MARK, ANYTHING)))


@cache
def _boundary(holds: bool, ascii: bool, dialect: Dialect) -> Look:
    """Between a character of a word and another one, or an end of the text; or not there."""
    if dialect in ("both", "either"):  # the words of ECMA 262 are those of ASCII
        one, other = _boundary(holds, ascii, "python").fails, _boundary(holds, ascii, "ecma").fails
        return Look(automaton(alt((Lang(one), Lang(other)))) if dialect == "both" else one & other)
    word = _found(r"\w", re.ASCII if ascii or dialect == "ecma" else 0)
    sides = [(Seq((ANYTHING, Chars(word))), True), (alt((EMPTY, Seq((ANYTHING, Chars(opposite(word)))))), False)]
    ahead = [(Seq((Chars(word), ANYTHING)), True), (alt((EMPTY, Seq((Chars(opposite(word)), ANYTHING)))), False)]
    fails: list[Expression] = [Seq((a, MARK, b)) for a, one in sides for b, other in ahead if (one != other) != holds]
    if not holds and dialect == "python" and not re.fullmatch(r"\B", ""):  # so until Python 3.14
        fails.append(MARK)
    return Look(automaton(alt(fails)))


@cache
def _line(begins: bool, dialect: Dialect) -> Look:
    """The begin or the end of a line."""
    inside = Chars(_ranges(op.ANY, None, 0, "both" if dialect in ("ecma", "either") else "python"))
    return Look(automaton(Seq((ANYTHING, inside, MARK, ANYTHING) if begins else (ANYTHING, MARK, inside, ANYTHING))))


def _within(flags: int, added: int, removed: int) -> int:
    """The flags in a group: of a, L and u the last one counts."""
    kinds = re.ASCII | re.LOCALE | re.UNICODE
    return (flags & ~(kinds if added & kinds else 0) | added) & ~removed


# -- characters -------------------------------------------------------------------------------------------------------


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


@lru_cache(4096)
def _ranges(kind: Any, value: Any, flags: int, dialect: Dialect) -> Ranges:
    """The characters that one item matches."""
    if kind is op.ANY:
        # ECMA 262 ends lines in four ways.
        lines = () if flags & re.DOTALL else (10, 13, 0x2028, 0x2029) if dialect in ("ecma", "both") else (10,)
        return opposite(joined((code, code) for code in lines))
    if kind is op.NOT_LITERAL:
        return opposite(_ranges(op.LITERAL, value, flags, dialect))
    if kind is op.LITERAL:
        codes = _cases(value, flags) if flags & re.IGNORECASE else (value,)
        return joined((code, code) for code in codes)
    if kind is op.CATEGORY:
        source = _CLASSES[value]
        if dialect != "python":
            unicode, ascii = _found(source, flags & ~re.ASCII), _found(source, flags | re.ASCII)
            if source in (r"\s", r"\S"):  # ECMA 262 has the Unicode spaces and U+FEFF, Python also U+001C to U+001F
                ecma = joined(
                    [*opposite(joined([*opposite(_found(r"\s", 0)), (0x1C, 0x1F), (0x85, 0x85)])), (0xFEFF,) * 2]
                )
                ascii = ecma if source == r"\s" else opposite(ecma)
            if dialect == "ecma":
                return ascii
            if dialect == "either":
                return joined([*unicode, *ascii])
            return opposite(joined([*opposite(unicode), *opposite(ascii)]))
        return _found(source, flags)
    if kind is op.IN:
        negated = value[0][0] is op.NEGATE
        inner = value[1:] if negated else value
        if flags & re.IGNORECASE and any(k is op.RANGE for k, _ in inner):
            found = _found("[" + "".join(map(_source, inner)) + "]", flags)
        else:
            inside = _OPPOSITE[dialect] if negated else dialect
            found = joined(r for k, v in inner for r in _ranges(k, v, flags, inside))
        return opposite(found) if negated else found
    assert kind is op.RANGE
    return joined([value])


def _source(item: Any) -> str:
    kind, value = item
    if kind is op.RANGE:
        return f"\\U{value[0]:08x}-\\U{value[1]:08x}"
    return _CLASSES[value] if kind is op.CATEGORY else f"\\U{value:08x}"


@cache
def _everything() -> str:
    return "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))


@lru_cache(256)
def _found(source: str, flags: int) -> Ranges:
    """The characters that a class matches, as Python itself says."""
    text = _everything()
    spans = (found.span() for found in re.finditer(f"(?:{source})+", text, flags & ~re.DOTALL))
    return joined((ord(text[a]), ord(text[b - 1])) for a, b in spans)


@cache
def _lowered() -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for code in range(0x110000):
        low = chr(code).lower()[0]  # of U+0130 `lower` makes two characters; `re` takes the first
        if ord(low) != code:
            table.setdefault(low, []).append(chr(code))
    return table


def _cases(code: int, flags: int) -> list[int]:
    """The characters that a literal matches with `(?i)`."""
    character = chr(code)
    low = character.lower()[0]
    lows = {low, *map(chr, _casefix._EXTRA_CASES.get(ord(low), ()))}
    tried = {character, *lows, *(c for each in lows for c in _lowered().get(each, ()))}
    pattern = re.compile(re.escape(character), flags)
    return [ord(each) for each in tried if pattern.fullmatch(each)]
