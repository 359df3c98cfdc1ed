"""PROSITE patterns of amino-acid sequences: syntax, occurrences, and finite automata.

The syntax is that of the PA lines in the PROSITE user manual (https://prosite.expasy.org/prosuser.html), and the * of
ScanProsite (https://prosite.expasy.org/scanprosite/scanprosite_doc.html).
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from constrained_dg.errors import InputError, check, is_count, needs
from constrained_dg.files import read_text

from .residues import RESIDUES

#: The most residues of a pattern, not counting *, and the most states of an automaton before it is minimised: PS00028
#: needs 31,440. A sweep of as many over 250 residues takes seconds.
LONGEST, MOST_STATES = 1_000, 32_768
ANY = frozenset(RESIDUES)
#: Codes for one of two residues.
EITHER = {"B": "DN", "Z": "EQ"}
SYNTAX = "write PROSITE syntax, such as <[AC]-x-V-x(2,4)-{ED}"
ONE = r"(?:[^\W\d_]|\[[^][(){}]*\]|\{[^][(){}]*\})"
ELEMENT = re.compile(rf"({ONE})(?:\(([0-9]{{1,9}})(?:,([0-9]{{1,9}}))?\)|(\*))?")

#: Residues, and how often they are repeated: at least, and at most or None for *.
Element = tuple[frozenset[str], int, int | None]


@dataclass(frozen=True)
class Pattern:
    """A PROSITE pattern. Make one with `parse_pattern`, which checks.

    Attributes:
        text: without whitespace and the final period.
        elements: see `Element`.
        start, end: whether a match begins at the start (<), ends at the end (>) of the sequence.
        start_optional, end_optional: whether the first element may be missing at the start, as in [<M], and the last
            one at the end, as in [G>].
    """

    text: str
    elements: tuple[Element, ...]
    start: bool
    end: bool
    start_optional: bool
    end_optional: bool

    @property
    def shortest(self) -> int:
        """Residues of the shortest match."""
        return max(0, sum(least for _, least, _ in self.elements) - self.start_optional - self.end_optional)

    @property
    def longest(self) -> int | None:
        """Residues of the longest match; None with *."""
        most = [most for _, _, most in self.elements if most is not None]
        return sum(most) if len(most) == len(self.elements) else None

    @property
    def regex(self) -> str:
        """The pattern for `re.search`, independent of the automata, so that tests can compare them."""
        parts = []
        for at, (residues, least, most) in enumerate(self.elements):
            repeated = "" if least == most == 1 else f"{{{least},{'' if most is None else most}}}"
            bare = f"[{''.join(sorted(residues))}]" + repeated
            instead = "|^" * (self.start_optional and at == 0)
            instead += r"|\Z" * (self.end_optional and at == len(self.elements) - 1)
            parts.append(f"(?:{bare}{instead})" if instead else bare)
        return "^" * self.start + "".join(parts) + r"\Z" * self.end


def parse_pattern(text: str) -> Pattern:
    """A pattern in PROSITE syntax; whitespace and a final period are ignored.

    Elements are separated by -: a residue, x for any, [ALT] for one of these, {AM} for any except these; B is D or N,
    and Z is E or Q. (3) or (2,4) after an element repeats it, * any number of times. < at the beginning and > at the
    end bind matches to the ends of the sequence; inside the brackets of the first or last element they are an
    alternative.

    Raises:
        InputError: not such a pattern, or one of more than 1,000 residues, * not counted.
    """
    text = "".join(text.split()).removesuffix(".")
    what = f"the pattern {_short(text)}"
    parts = text.removeprefix("<").removesuffix(">").split("-")
    check(parts != [""], f"{what} is empty", SYNTAX)
    elements = []
    start_optional = end_optional = False
    for at, part in enumerate(parts):
        element = ELEMENT.fullmatch(part)
        if element is None:
            raise InputError(f"{what}: {_fault(part)}", SYNTAX)
        one, low, high, star = element.groups()
        bare = one
        if at == 0 and one.startswith("[<"):
            bare, start_optional = f"[{bare[2:]}", True
        if at == len(parts) - 1 and one.endswith(">]"):
            bare, end_optional = f"{bare[:-2]}]", True
        once = bare == one or (low is None and star is None)
        check(once, f"{what}: {_short(part)} repeats an end of the sequence", f"write {one} alone")
        least = 0 if star else int(low or 1)
        most = None if star else int(high or least)
        repeats = most is None or 1 <= most >= least
        check(repeats, f"{what}: bad repetition in {_short(part)}", "repeat as in x(3) or x(2,4)")
        elements.append((_residues(bare, part, what), least, most))
    pattern = Pattern(text, tuple(elements), text[0] == "<", text[-1] == ">", start_optional, end_optional)
    spanned = sum(least if most is None else most for _, least, most in elements)
    hint = f"give at most {LONGEST:,}: shorten its repetitions"
    check(spanned <= LONGEST, f"{what} spans {spanned:,} positions", hint)
    return pattern


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _residues(one: str, part: str, what: str) -> frozenset[str]:
    """The residues of an element without its repetition and the ends of the sequence."""
    if one in ("x", "X"):
        return ANY
    letters = one.strip("[]{}")
    check(bool(letters), f"{what}: {_short(part)} names no residue", "list some, as in [ALT] or {AM}")
    hint = f"write {RESIDUES}, B for [DN], Z for [EQ]; x is alone, < in the first and > in the last of []"
    for letter in letters:
        check(letter in ANY or letter in EITHER, f"{what}: {letter!r} in {_short(part)} is not a residue", hint)
    named = frozenset("".join(EITHER.get(letter, letter) for letter in letters))
    residues = ANY - named if one.startswith("{") else named
    check(bool(residues), f"{what}: {_short(part)} leaves no residue", "list fewer in the braces")
    return residues


def _fault(part: str) -> str:
    """The fault of a text between two dashes that is not an element."""
    if not part:
        return "an element is missing next to a dash"
    if any(part.count(one) != part.count(other) for one, other in ("[]", "{}", "()")):
        return f"{_short(part)} has a bracket without its partner"
    if re.fullmatch(rf"{ONE}\([^()]*\)", part):
        return f"bad repetition in {_short(part)}"
    if re.fullmatch(rf"(?:{ELEMENT.pattern})+", part):
        return f"a dash is missing in {_short(part)}"
    return f"{_short(part)} is not an element"


@dataclass(frozen=True, eq=False)
class Dfa:
    """A finite automaton over residues.

    Attributes:
        table: (Q, 20) int64, the state after each residue of RESIDUES in each state; -1 where no answer is accepted.
        start: state.
        accepting: states in which a sequence may end; empty where no sequence is accepted.
    """

    table: np.ndarray
    start: int
    accepting: frozenset[int]


@lru_cache(maxsize=64)
def automaton(pattern: Pattern, kind: str | int) -> Dfa:
    """The automaton of `contains`, `avoids` or `at`, cached.

    Args:
        kind: "contains", "avoids", or the position, the first of which is 1.

    Raises:
        InputError: a position out of range, < at another position than 1, or more than 32,768 states before the
            automaton is minimised.
    """
    if isinstance(kind, int):
        return at(pattern, kind)
    return contains(pattern) if kind == "contains" else avoids(pattern)


def contains(pattern: Pattern) -> Dfa:
    """The smallest automaton of the sequences in which the pattern matches somewhere. Raises as `automaton`."""
    return _minimised(_determinised(pattern))


def avoids(pattern: Pattern) -> Dfa:
    """The smallest automaton of the sequences in which the pattern matches nowhere. Raises as `automaton`."""
    matching = _determinised(pattern)
    rejecting = frozenset(range(len(matching.table))) - matching.accepting
    return _minimised(Dfa(matching.table, matching.start, rejecting))


def at(pattern: Pattern, position: int) -> Dfa:
    """The smallest automaton of the sequences in which a match begins at a position. Raises as `automaton`."""
    inside = is_count(position, 1) and position <= LONGEST
    check(inside, f"position {position}", f"give 1 to {LONGEST:,}")
    hint = "give position 1, or leave < out"
    check(not pattern.start or position == 1, f"{_short(pattern.text)} cannot match at position {position}", hint)
    return _minimised(_determinised(pattern, position))


def occurrences(pattern: Pattern, text: str) -> list[tuple[int, int]]:
    """All matches as (begin, end), half-open and from 0, also overlapping ones; the longest one from each beginning.

    A letter that is not a residue, such as ?, matches nothing.
    """
    regex = re.compile(pattern.regex)
    # Repetitions are greedy and only repetitions have variable lengths, so the first match is the longest.
    return [match.span() for begin in range(len(text) + 1) if (match := regex.match(text, begin))]


def read_prosite(path: Path | str) -> list[Pattern]:
    """The patterns of a file of PROSITE records, optionally .gz; records without one (profiles) are skipped.

    Raises:
        InputError: a file that cannot be read or has other content; it names the file and the record.
    """
    with needs("biopython", "reading a PROSITE file"):
        from Bio.ExPASy import Prosite

    text = read_text(path, "give a file of PROSITE records, such as prosite.dat")
    # Biopython ignores a record that is cut short.
    check(text.rstrip().endswith("//"), f"{path} does not end with //", "it may be cut short, or another kind of file")
    try:
        records = list(Prosite.parse(io.StringIO(text)))
    except Exception as error:  # Biopython raises errors of many types
        reason = " ".join(str(error).split())
        raise InputError(f"{path} holds no PROSITE records ({reason})", "give records as in prosite.dat") from None
    patterns = []
    for record in records:
        if record.pattern:
            try:
                patterns.append(parse_pattern(record.pattern))
            except InputError as error:
                raise InputError(f"{path}, {record.accession or record.name}: {error}") from None
    check(bool(patterns), f"{path} holds no pattern", "patterns are in lines that begin with PA")
    return patterns


def _determinised(pattern: Pattern, position: int | None = None) -> Dfa:
    """An automaton without -1 of the sequences that match somewhere, or from a position on.

    The pattern has a place for each residue of a match. A state is a set of places, the bits of an integer, which says
    how far each partial match has come; the last bit means a complete match. Places that may be skipped come first in
    their element, so that matches with different beginnings share states: PS00107 needs half as many.
    """
    # 1. Places: what each reads, whether it may be skipped, and whether it may be repeated (*).
    elements: tuple[Element, ...] = (*[(ANY, 1, 1)] * ((position or 1) - 1), *pattern.elements)
    places: list[tuple[frozenset[str], bool]] = []
    again = 0
    for residues, least, most in elements:
        if most is None:
            again |= 1 << len(places)
        places += [(residues, most is None or k < most - least) for k in range(1 if most is None else most)]
    reads = [sum(1 << k for k, (residues, _) in enumerate(places) if letter in residues) for letter in RESIDUES]
    optional = sum(1 << k for k, (_, may_skip) in enumerate(places) if may_skip)
    # Runs of places that may be skipped, each with the next place: their bits, their lowest, their highest.
    runs, lowest, highest = optional | optional << 1, optional & ~(optional << 1), (optional << 1) & ~optional

    def skipping(active: int) -> int:
        """Adds the places reached without a residue: in each run, all above the lowest active one.

        Subtraction carries from the lowest place of a run to that one (Navarro and Raffinot, 2003).
        """
        bounded = active | highest
        return active | runs & ~((bounded - lowest) ^ bounded)

    # 2. States, in the order in which they are reached.
    complete = 1 << len(places)
    final = 0 if pattern.end else complete
    fresh = 1 if position is None and not pattern.start else 0
    begin = skipping(3 if pattern.start_optional and (position or 1) == 1 else 1)
    number = {final if begin & final else begin: 0}
    distinct = sorted(set(reads))
    rows: list[list[int]] = []
    for active in (order := list(number)):  # grows as states are found
        row = []
        for read in distinct:
            to = active if active & final else skipping((active & read) << 1 | active & read & again | fresh)
            to = final if to & final else to
            if to not in number:
                few = len(number) < MOST_STATES
                instead = "give an earlier position" if position else "name its place: at=POSITION:PATTERN"
                hint = f"shorten its repetitions of x, or {instead}"
                check(few, f"the pattern {_short(pattern.text)} needs more than {MOST_STATES:,} states", hint)
                number[to] = len(number)
                order.append(to)
            row.append(number[to])
        rows.append(row)
    # [G>]: at the end of the sequence, a match that needs only the last place is complete.
    last = complete | (complete >> 1 if pattern.end_optional else 0)
    table = np.array(rows, dtype=np.int64)[:, [distinct.index(read) for read in reads]]
    return Dfa(table, 0, frozenset(state for active, state in number.items() if active & last))


def _minimised(dfa: Dfa) -> Dfa:
    """The same language with the fewest states, numbered in the order in which they are reached from the start.

    Groups of states are split by their successors until they are stable (Moore, 1956). Equal languages give equal
    automata.
    """
    states = len(dfa.table)
    columns = np.unique(dfa.table, axis=1).T
    groups = np.isin(np.arange(states), list(dfa.accepting)).astype(np.int64)
    count = 0
    while count < (count := len(np.unique(groups))):
        for column in columns:
            _, groups = np.unique(groups * (states + 1) + groups[column], return_inverse=True)
    _, first = np.unique(groups, return_index=True)
    table = groups[dfa.table[first]]
    accepting = np.isin(first, list(dfa.accepting))
    # At most one state is left that cannot reach an accepting one: it leads to itself alone.
    dead = ~accepting & (table == np.arange(count)[:, None]).all(1)
    number = np.full(count, -1)
    order = [int(groups[dfa.start])]
    number[order] = 0
    for state in order:  # grows as states are found
        for to in table[state].tolist():
            if number[to] < 0 and not dead[to]:
                number[to] = len(order)
                order.append(to)
    number[dead] = -1
    return Dfa(number[table[order]], 0, frozenset(np.flatnonzero(accepting[order]).tolist()))
