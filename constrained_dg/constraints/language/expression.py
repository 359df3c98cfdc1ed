"""Languages as expressions: see `construction` for their automata.

Characters are written in UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from constrained_dg.constraints.language.dfa import Dfa
from constrained_dg.constraints.running import once

#: Code points from a first to a last, inclusive, in order and without neighbours.
Ranges = tuple[tuple[int, int], ...]

_SURROGATES = (0xD800, 0xDFFF)
#: All characters.
ANY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))


class _Measured:
    """Properties of an expression, computed once for each part."""

    # mypy: every subclass of this is in `Expression`, which a mixin cannot say.

    @once
    def size(self) -> int:
        """States before the subset construction, at most."""
        return _size(self)  # type: ignore[arg-type]

    @once
    def empty(self) -> bool:
        """Whether no text fits."""
        return _empty(self)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Lit(_Measured):
    """Bytes as they are."""

    data: bytes


@dataclass(frozen=True)
class Chars(_Measured):
    """One character of some ranges."""

    ranges: Ranges


@dataclass(frozen=True)
class Seq(_Measured):
    """One after the other."""

    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Alt(_Measured):
    """One of them."""

    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Rep(_Measured):
    """`low` to `high` times; None: endless."""

    item: Expression
    low: int
    high: int | None


@dataclass(frozen=True, eq=False)
class Lang(_Measured):
    """What an automaton accepts."""

    dfa: Dfa


@dataclass(frozen=True)
class At(_Measured):
    """The empty text, where nothing was read yet ("begin"), or nothing follows ("end"), or a newline at most
    ("last line")."""

    where: Literal["begin", "end", "last line"]


@dataclass(frozen=True, eq=False)
class Look(_Measured):
    """The empty text, where what stands before and behind it fits.

    Attributes:
        fails: all texts with a `MARK` at a place that does not fit.
    """

    fails: Dfa


@dataclass(frozen=True, eq=False)
class Net(_Measured):
    """The ways from the first of some places to the last; each edge leads from a place, through an expression, to
    another."""

    places: int
    edges: tuple[tuple[int, Expression, int], ...]


Expression = Lit | Chars | Seq | Alt | Rep | Lang | At | Look | Net
EMPTY, NOTHING, ANYTHING = Seq(()), Alt(()), Rep(Chars(ANY), 0, None)
#: A place in a text: a byte that UTF-8 never has.
MARK = Lit(b"\xf5")


def text(data: str) -> Expression:
    """A fixed text."""
    return Lit(data.encode())


def seq(*items: Expression) -> Expression:
    return Seq(items)


def alt(items: Iterable[Expression]) -> Expression:
    items = tuple(items)
    return items[0] if len(items) == 1 else Alt(items)


def shortened(expression: Expression, longest: int) -> Expression:
    """The same for texts of up to so many bytes, with fewer copies: a repeat beyond them is endless."""
    match expression:
        case Seq(items):
            return Seq(tuple(shortened(item, longest) for item in items))
        case Alt(items):
            return Alt(tuple(shortened(item, longest) for item in items))
        case Rep(item, low, high):
            item, least = shortened(item, longest), _least(item)
            most = longest // max(least, 1)
            low = 0 if _nullable(item) else low
            if least and low > most:
                return NOTHING
            return Rep(item, low, None if high is None or high >= most else high)
    return expression


def _least(expression: Expression) -> int:
    """The fewest characters of a text; 0 where that is not known."""
    match expression:
        case Lit(data):
            return len(data)
        case Chars():
            return 1
        case Seq(items):
            return sum(map(_least, items))
        case Alt(items):
            return min(map(_least, items), default=0)
        case Rep(item, low, _):
            return low * _least(item)
    return 0


def _nullable(expression: Expression) -> bool:
    """Whether the empty text fits, wherever it stands."""
    match expression:
        case Lit(data):
            return not data
        case Seq(items):
            return all(map(_nullable, items))
        case Alt(items):
            return any(map(_nullable, items))
        case Rep(item, low, _):
            return low == 0 or _nullable(item)
        case Lang(dfa):
            return dfa.states > 0 and bool(dfa.accepting[0])
    return False


def _size(expression: Expression) -> int:
    match expression:
        case Lit(data):
            return len(data)
        case Chars(ranges):
            return 1 + (3 * len(ranges) if ranges and ranges[-1][1] > 127 else 0)
        case Seq(items) | Alt(items):
            return 1 + sum(item.size for item in items)
        case Rep(item, low, high):
            return 2 + item.size * max(1, low if high is None else high)
        case Lang(dfa):
            return 1 + dfa.states
        case Net(places, edges):
            return places + sum(1 + item.size for _, item, _ in edges)
    return 1


def _empty(expression: Expression) -> bool:
    match expression:
        case Seq(items):
            return any(item.empty for item in items)
        case Alt(items):
            return all(item.empty for item in items)
        case Rep(item, low, _):
            return low > 0 and item.empty
        case Lang(dfa):
            return dfa.states == 0
        case Chars(ranges):
            return not ranges
        case Net(places, edges):
            reached = {0}
            while True:
                more = {to for at, item, to in edges if at in reached and to not in reached and not item.empty}
                if not more:
                    return places - 1 not in reached
                reached |= more
    return False


def has_places(expression: Expression) -> bool:
    """Whether an expression holds `At` or `Look`, which see what stands around them."""
    match expression:
        case At() | Look():
            return True
        case Seq(items) | Alt(items):
            return any(map(has_places, items))
        case Rep(item):
            return has_places(item)
    return False


# -- characters as bytes ----------------------------------------------------------------------------------------------


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges in order, overlaps and neighbours joined, without surrogates, which no text holds."""
    parts: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        for a, b in ((low, min(high, _SURROGATES[0] - 1)), (max(low, _SURROGATES[1] + 1), high)):
            if a > b:
                continue
            if parts and a <= parts[-1][1] + 1:
                parts[-1] = (parts[-1][0], max(b, parts[-1][1]))
            else:
                parts.append((a, b))
    return tuple(parts)


def opposite(ranges: Ranges) -> Ranges:
    """All other characters."""
    ends = [-1, *(high for _, high in ranges)]
    starts = [*(low for low, _ in ranges), 0x110000]
    return joined((a + 1, b - 1) for a, b in zip(ends, starts, strict=True) if b - a > 1)
