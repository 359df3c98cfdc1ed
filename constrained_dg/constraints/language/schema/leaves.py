"""The languages of values without items and members, and of any value."""

from __future__ import annotations

from decimal import Decimal
from functools import cache, lru_cache
from math import inf, nextafter

from constrained_dg.constraints.language.construction import automaton
from constrained_dg.constraints.language.dfa import Dfa
from constrained_dg.constraints.language.expression import ANY, EMPTY, Alt, Chars, Expression, Lang, Lit, Rep, Seq, text
from constrained_dg.constraints.language.pattern import matches
from constrained_dg.constraints.language.schema import spelling
from constrained_dg.constraints.language.schema.formats import FORMATS, WIDE
from constrained_dg.constraints.language.schema.spelling import COLON, COMMA


@cache
def anything(depth: int) -> Lang:
    """Any value with so many arrays and objects inside each other."""
    string = Lang(spelling.any_string())
    kinds: list[Expression] = [Lit(b"null"), Lit(b"true"), Lit(b"false"), Lang(spelling.numbers()), string]
    if depth:
        inner = anything(depth - 1)
        member = Seq((string, text(COLON), inner))
        kinds += [listed(b"[", inner, b"]"), listed(b"{", member, b"}")]
    return Lang(automaton(Alt(tuple(kinds))))


def listed(opening: bytes, item: Expression, closing: bytes) -> Expression:
    some = Seq((item, Rep(Seq((text(COMMA), item)), 0, None)))
    return Seq((Lit(opening), Alt((EMPTY, some)), Lit(closing)))


@lru_cache(512)
def strings(
    shortest: int, longest: int | None, patterns: frozenset[tuple[str, bool]], formats: frozenset[str], wide: bool
) -> Dfa:
    """Strings without quotes and escapes; `wide`: all that some checker accepts."""
    found_: Dfa | None = None
    for pattern, holds in sorted(patterns):
        one = matches(pattern, "both" if holds != wide else "either", search=True)
        if not holds:
            one = automaton(Rep(Chars(ANY), 0, None)) - one
        found_ = one if found_ is None else found_ & one
    for name in sorted(formats):
        one = matches((WIDE if wide else FORMATS)[name])
        found_ = one if found_ is None else found_ & one
    if found_ is None:
        return automaton(Rep(Chars(ANY), shortest, longest))
    if found_.states and (shortest > 0 or longest is not None):
        # A length that the patterns never reach needs no states.
        if longest is not None and shortest == 0 and longest >= found_.states and not endless(found_):
            return found_
        found_ = found_ & automaton(Rep(Chars(ANY), shortest, longest))
    return found_


def endless(dfa: Dfa) -> bool:
    """Whether a minimal automaton accepts infinitely many texts."""
    state: dict[int, int] = {}  # 1: open, 2: done
    stack = [(0, False)]
    while stack:
        at, done = stack.pop()
        if done:
            state[at] = 2
            continue
        if state.get(at):
            continue
        state[at] = 1
        stack.append((at, True))
        for to in {int(t) for t in dfa.table[at] if t >= 0}:
            if state.get(to) == 1:
                return True
            if to not in state:
                stack.append((to, False))
    return False


@lru_cache(512)
def numbers_within(
    kinds: frozenset[str],
    low: tuple[Decimal, bool] | None,
    high: tuple[Decimal, bool] | None,
    steps: tuple[tuple[int, bool], ...],
    wide: bool,
) -> Dfa:
    """Numbers within bounds; `wide`: also those that a reader may round out of them."""
    parts = []
    if "integer" in kinds:
        least = None if low is None else _whole(low[0], low[1], 1)
        most = None if high is None else _whole(high[0], high[1], -1)
        if least is None or most is None or least <= most:
            some = spelling.integers() & spelling.between(least, most)
            for step, holds in steps:
                some = some & spelling.multiples(step) if holds else some - spelling.multiples(step)
            parts.append(some)
    if "fraction" in kinds and not any(holds for _, holds in steps):
        # What a bound excludes must stay outside when a reader rounds to 64 bits.
        first, last = (None if each is None else _float(*each, sign) for each, sign in ((low, inf), (high, -inf)))
        if first != inf and last != -inf:
            some = spelling.between(*(None if each is None else Decimal(repr(each)) for each in (first, last)))
            safe = not wide and ("integer" not in kinds or steps)
            parts.append(some & spelling.fractions() if safe else some - spelling.integers())
    return automaton(Alt(tuple(map(Lang, parts))))


@lru_cache(256)
def all_but(names: tuple[str, ...]) -> Dfa:
    """All other keys."""
    return automaton(Rep(Chars(ANY), 0, None)) - automaton(Alt(tuple(map(text, names))))


def listing(dfa: Dfa, most: int) -> list[bytes] | None:
    """All accepted texts, None if there are more."""
    if not dfa.states:
        return []
    if endless(dfa):
        return None
    texts: list[bytes] = []
    stack: list[tuple[int, bytes]] = [(0, b"")]
    while stack:
        state, written = stack.pop()
        if dfa.accepting[state]:
            texts.append(written)
            if len(texts) > most:
                return None
        for byte in range(256):
            to = int(dfa.table[state, dfa.group[byte]])
            if to >= 0:
                stack.append((to, written + bytes([byte])))
    return sorted(texts)


def _whole(bound: Decimal, strict: bool, sign: int) -> int:
    """The first whole number within a bound; sign 1 for a lower one, -1 for an upper one."""
    floor = int(bound.to_integral_value(rounding="ROUND_CEILING" if sign > 0 else "ROUND_FLOOR"))
    return floor + sign if strict and floor == bound else floor


def _float(bound: Decimal, strict: bool, inward: float) -> float:
    """The first float within a bound, on the way to `inward`; that itself if there is none."""
    near = float(bound)
    exact = Decimal(near)
    outside = exact < bound if inward > 0 else exact > bound
    return nextafter(near, inward) if outside or (strict and exact == bound) else near
