"""How JSON is written, so that each value has one text: the conventions of `Json`.

- Items and members are divided by ", ", keys and values by ": "; there is no other white space.
- Declared keys come in the order in which the schema names them; others follow, in any order.
- Numbers are plain decimals: no exponent, no zeros at the end of a fraction, no "-0", no "1.0".
- Strings are in UTF-8; only `"`, `\\` and characters below U+0020 are escaped, as `json.dumps` does it.
"""

from __future__ import annotations

import json
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from functools import cache, lru_cache
from math import inf, isfinite, nextafter
from typing import Any

import numpy as np

from constrained_dg.constraints.language.construction import automaton
from constrained_dg.constraints.language.dfa import Dfa
from constrained_dg.constraints.language.expression import ANY, EMPTY, Alt, Chars, Expression, Lang, Lit, Rep, Seq, text
from constrained_dg.errors import InputError

COMMA, COLON = ", ", ": "
_ESCAPES = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\"}


def number(value: int | float | Decimal) -> str:
    """A number as a plain decimal.

    Raises:
        InputError: it is not finite.
    """
    if isinstance(value, int):
        return str(value)
    if not (value.is_finite() if isinstance(value, Decimal) else isfinite(value)):
        raise InputError(f"{value} is no number of JSON", "write a finite one")
    if isinstance(value, float) and abs(value) >= 2**53:  # `repr` rounds it, and a reader would find another integer
        return str(int(value))
    written = format(Decimal(repr(value)) if isinstance(value, float) else value, "f")
    if "." in written:
        written = written.rstrip("0").rstrip(".")
    return "0" if written in ("-0", "") else written


def string(value: str) -> str:
    """A string with its quotes.

    Raises:
        InputError: it holds half of a surrogate pair, which UTF-8 cannot write.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{value!r} holds half of a surrogate pair", "write whole characters") from None
    return json.dumps(value, ensure_ascii=False)


def scalar(value: Any) -> str:
    """null, a boolean, a number or a string."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return string(value) if isinstance(value, str) else number(value)


@lru_cache(1024)
def spelled(dfa: Dfa) -> Dfa:
    """The strings of an automaton over characters, with quotes and escapes."""
    if not dfa.states:
        return dfa
    states = dfa.states
    special = [*range(0x20), 34, 92]
    # 1. Bytes of their own groups: those that escapes are written with. What must be escaped is never written.
    own = b'"\\bfnrtu0123456789acde'
    codes = np.where(np.isin(np.arange(256), special), 255, dfa.group.astype(np.int64))
    codes[list(own)] = 256 + np.arange(len(own))
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    body = np.where(dfa.table >= 0, dfa.table + 2, -1)
    has = np.flatnonzero((dfa.table[:, dfa.group[special]] >= 0).any(1))
    # 2. State 0 is before the quote, 1 the end; then the states; then six for each that has escapes.
    table = np.full((2 + states + 6 * len(has), len(first)), -1, np.int32)
    plain = np.flatnonzero(~np.isin(first, special))
    table[2 : 2 + states, plain] = body[:, dfa.group[first[plain]]]
    table[0, group[34]] = 2
    table[2 + np.flatnonzero(dfa.accepting), group[34]] = 1
    escape = 2 + states + 6 * np.arange(len(has))
    table[2 + has, group[92]] = escape
    for code, letter in _ESCAPES.items():
        table[escape, group[ord(letter)]] = body[has, dfa.group[code]]
    for step, letter in enumerate("u00"):
        table[escape + step, group[ord(letter)]] = escape + step + 1
    for high in (0, 1):
        table[escape + 3, group[ord("01"[high])]] = escape + 4 + high
        for low in range(16):
            code = 16 * high + low
            if code not in _ESCAPES:
                table[escape + 4 + high, group[ord("0123456789abcdef"[low])]] = body[has, dfa.group[code]]
    accepting = np.zeros(len(table), bool)
    accepting[1] = True
    return Dfa.of(table, group.astype(np.uint8), accepting)


@cache
def any_string() -> Dfa:
    return spelled(automaton(Rep(Chars(ANY), 0, None)))


def _digits(low: int, high: int = 9) -> Expression:
    return Chars(((48 + low, 48 + high),)) if low <= high else Alt(())


_SOME = Rep(_digits(0), 0, None)
_FRACTION = Seq((Lit(b"."), _SOME, _digits(1)))
_POSITIVE_INTEGER = Seq((_digits(1), _SOME))
_INTEGER = Alt((Lit(b"0"), _POSITIVE_INTEGER))


@cache
def numbers() -> Dfa:
    """All numbers."""
    without_sign = Seq((_INTEGER, Alt((EMPTY, _FRACTION))))
    return automaton(Seq((Alt((EMPTY, Lit(b"-"))), without_sign))) - automaton(Lit(b"-0"))


@cache
def integers() -> Dfa:
    return automaton(Alt((Lit(b"0"), Seq((Alt((EMPTY, Lit(b"-"))), _POSITIVE_INTEGER)))))


def _at_most(bound: str) -> Dfa:
    """Numbers from 0 to a bound that is not negative, without their sign."""
    whole, _, fraction = bound.partition(".")
    any_fraction = Alt((EMPTY, _FRACTION))
    parts: list[Expression] = [Lit(whole.encode())]
    if len(whole) > 1:
        parts.append(Seq((Alt((Lit(b"0"), Seq((_digits(1), Rep(_digits(0), 0, len(whole) - 2))))), any_fraction)))
    for at, digit in enumerate(whole):
        smaller = _digits(1 if at == 0 and len(whole) > 1 else 0, int(digit) - 1)
        rest = Rep(_digits(0), len(whole) - at - 1, len(whole) - at - 1)
        parts.append(Seq((Lit(whole[:at].encode()), smaller, rest, any_fraction)))
    for at, digit in enumerate(fraction):
        head = Lit(f"{whole}.{fraction[:at]}".encode())
        smaller = _digits(0, int(digit) - 1)
        parts += [Seq((head, smaller, _SOME, _digits(1))), Seq((head, _digits(1, int(digit) - 1)))]
        parts.append(Lit(f"{whole}.{fraction[: at + 1]}".encode()) if digit != "0" else Alt(()))
    return automaton(Alt(tuple(parts)))


@lru_cache(1024)
def between(low: int | Decimal | None, high: int | Decimal | None) -> Dfa:
    """Numbers from a bound to another, inclusive; None: without it."""
    found = numbers()
    minus, zero = Lit(b"-"), Decimal(0)
    negative = found & automaton(Seq((minus, Lang(numbers()))))
    positive = found - negative
    parts: list[Expression] = []
    # 1. Those that are not negative.
    if high is None or high >= 0:
        some = positive if high is None else positive & _at_most(number(high))
        if low is not None and low > 0:
            some = some - (_at_most(number(low)) - automaton(Lit(number(low).encode())))
        parts.append(Lang(some))
    # 2. Those below 0, without their sign.
    if low is None or low < 0:
        some = positive - automaton(Lit(b"0"))
        if low is not None:
            some = some & _at_most(number(-low))
        if high is not None and high < zero:
            some = some - (_at_most(number(-high)) - automaton(Lit(number(-high).encode())))
        parts.append(Seq((minus, Lang(some))))
    return automaton(Alt(tuple(parts)))


@cache
def fractions() -> Dfa:
    """Numbers that no reader rounds to an integer (all fractions but those within 1e-15 of one, relative to it)."""
    bad: list[Expression] = []
    for digits in range(1, 16):  # a half of the distance between floats below 10**digits is less than 10**(digits - 16)
        whole = Seq((_digits(1), Rep(_digits(0), digits - 1, digits - 1)))
        near = Alt((Lit(b"0" * (16 - digits)), Lit(b"9" * (16 - digits))))
        bad.append(Seq((whole, Lit(b"."), near, _SOME)))
    bad.append(Seq((_digits(1), Rep(_digits(0), 15, None), Lit(b"."), _SOME)))
    bad.append(Seq((Lit(b"0."), Alt((Lit(b"0" * 300), Lit(b"9" * 16))), _SOME)))
    return (numbers() - integers()) - automaton(Seq((Alt((EMPTY, Lit(b"-"))), Alt(tuple(bad)))))


@lru_cache(256)
def equal(value: float) -> Expression:
    """The texts that a reader takes for a number: its own, and those that are rounded to it."""
    own: Expression = text(number(value))
    near = float(value) if abs(value) < 2**1023 else inf
    if near != value:  # no float is this integer
        return own
    with localcontext() as context:
        context.prec, context.rounding = 40, ROUND_FLOOR
        low = (Decimal(near) + Decimal(nextafter(near, -inf))) / 2
        context.rounding = ROUND_CEILING
        high = (Decimal(near) + Decimal(nextafter(near, inf))) / 2
    return Alt((own, Lang(between(low, high) - integers())))


@lru_cache(64)
def multiples(step: int) -> Dfa:
    """The multiples of a whole number among the integers."""
    table = np.full((step + 3, 256), -1, np.int32)
    # State 0 is the begin, 1 a zero, 2 a sign, 3 + r the remainder r.
    table[0, ord("0")], table[0, ord("-")] = 1, 2
    remainders = np.arange(step)
    for digit in range(10):
        if digit:
            table[[0, 2], 48 + digit] = 3 + digit % step
        table[3:, 48 + digit] = 3 + (10 * remainders + digit) % step
    accepting = np.zeros(step + 3, bool)
    accepting[[1, 3]] = True
    return Dfa.of(table, np.arange(256, dtype=np.uint8), accepting)
