"""PROSITE patterns: what the syntax means, what is refused, and the automata of known patterns."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pytest

from constrained_dg.cli import ROOT
from constrained_dg.errors import InputError
from tasks.amino_acid.prosite import at, avoids, contains, occurrences, parse_pattern, read_prosite
from tasks.amino_acid.residues import RESIDUES
from tests.automata import accepts

SHARED = ROOT.parent / "shared" / "data" / "protein" / "biopython_tests"
RECORD = "ID   ONE; PATTERN.\nAC   PS00001;\nPA   [AC]-x-\nPA   V.\n//\n"


@pytest.mark.parametrize(
    ("text", "regex", "shortest", "longest"),
    [
        ("A", "[A]", 1, 1),
        ("x", f"[{RESIDUES}]", 1, 1),
        ("[AC]-D-E(2).", "[AC][D][E]{2,2}", 4, 4),
        ("{AM}", f"[{RESIDUES.replace('A', '').replace('M', '')}]", 1, 1),
        ("B-Z-{B}", f"[DN][EQ][{RESIDUES.replace('D', '').replace('N', '')}]", 3, 3),
        ("[ZA](0,2)", "[AEQ]{0,2}", 0, 2),
        ("<A-C>", r"^[A][C]\Z", 2, 2),
        ("F-[G>]", r"[F](?:[G]|\Z)", 1, 2),
        ("[<M]-F", "(?:[M]|^)[F]", 1, 2),
        ("<{C}*>", f"^[{RESIDUES.replace('C', '')}]{{0,}}\\Z", 0, None),
        ("A-x*-[CD]*-E", f"[A][{RESIDUES}]{{0,}}[CD]{{0,}}[E]", 2, None),
        ("[<M>]", r"(?:[M]|^|\Z)", 0, 1),
        (" [A C]\n- D (1, 3)\t. ", "[AC][D]{1,3}", 2, 4),
    ],
)
def test_what_patterns_mean(text, regex, shortest, longest):
    pattern = parse_pattern(text)
    assert (pattern.regex, pattern.shortest, pattern.longest) == (regex, shortest, longest)
    assert parse_pattern(pattern.text) == pattern


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the pattern '' is empty; write PROSITE syntax"),
        (" . ", "is empty"),
        ("<>", "is empty"),
        ("A-U-C", "the pattern 'A-U-C': 'U' in 'U' is not a residue; write ACDEFGHIKLMNPQRSTVWY"),
        ("A-O", "'O' in 'O' is not a residue"),
        ("[AJ]", "'J' in '[AJ]' is not a residue"),
        ("{Ü}", "'Ü' in '{Ü}' is not a residue"),
        ("a-C", "'a' in 'a' is not a residue"),
        (
            "A-[Cx]",
            "'x' in '[Cx]' is not a residue; write ACDEFGHIKLMNPQRSTVWY, B for [DN], Z for [EQ]; x is alone",
        ),
        ("{x}", "'x' in '{x}' is not a residue"),
        ("A-[<M]", "'<' in '[<M]' is not a residue"),
        ("[G>]-A", "'>' in '[G>]' is not a residue"),
        ("A-{G>}", "'>' in '{G>}' is not a residue"),
        ("A-[>]", "'[>]' names no residue; list some, as in [ALT] or {AM}"),
        ("[]", "'[]' names no residue"),
        ("A-{}", "'{}' names no residue"),
        ("{" + RESIDUES + "}", "leaves no residue"),
        ("A-[CD", "'[CD' has a bracket without its partner"),
        ("A-CD]", "'CD]' has a bracket without its partner"),
        ("A(2", "'A(2' has a bracket without its partner"),
        ("A-[C-D]", "'[C' has a bracket without its partner"),
        ("AC", "a dash is missing in 'AC'"),
        ("A-[CD]x(2)-E", "a dash is missing in '[CD]x(2)'"),
        ("A--C", "an element is missing next to a dash"),
        ("A-", "an element is missing next to a dash"),
        ("-A", "an element is missing next to a dash"),
        ("x(4,2)", "bad repetition in 'x(4,2)'; repeat as in x(3) or x(2,4)"),
        ("x(0)", "bad repetition in 'x(0)'"),
        ("x(0,0)", "bad repetition in 'x(0,0)'"),
        ("x(-1)", "'x(' has a bracket without its partner"),
        ("x()", "bad repetition in 'x()'"),
        ("x(2,)", "bad repetition in 'x(2,)'"),
        ("x(two)", "bad repetition in 'x(two)'"),
        ("x(" + "9" * 5000 + ")", "bad repetition in 'x(999"),
        ("[<M](2)-A", "'[<M](2)' repeats an end of the sequence; write [<M] alone"),
        ("A-[G>](1)", "'[G>](1)' repeats an end of the sequence"),
        ("A-<C", "'<C' is not an element; write PROSITE syntax"),
        ("A>-C", "'A>' is not an element"),
        ("A**", "'A**' is not an element"),
        ("A*(2)", "'A*(2)' is not an element"),
        ("[<M]*-A", "'[<M]*' repeats an end of the sequence; write [<M] alone"),
        ("A..", "'A.' is not an element"),
        ("(2)", "'(2)' is not an element"),
        ("[[A]]", "'[[A]]' is not an element"),
        ("A-x(999)-C", "spans 1,001 positions; give at most 1,000: shorten its repetitions"),
        ("x(999999999)", "spans 999,999,999 positions"),
    ],
)
def test_what_is_no_pattern(text, words):
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        parse_pattern(text)
    assert str(caught.value).startswith("the pattern ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_automaton_is_the_smallest_and_its_states_are_in_order():
    found = contains(parse_pattern("A-C"))
    assert found.table.shape == (3, 20) and found.table.dtype == np.int64
    assert found.table[:, :3].tolist() == [[1, 0, 0], [1, 2, 0], [2, 2, 2]]
    assert (found.start, found.accepting) == (0, frozenset({2}))
    avoided = avoids(parse_pattern("A-C"))
    assert avoided.table[:, :3].tolist() == [[1, 0, 0], [1, -1, 0]] and avoided.accepting == frozenset({0, 1})
    there = at(parse_pattern("A-C>"), 2)
    assert there.table[:, :3].tolist() == [[1, 1, 1], [2, -1, -1], [-1, 3, -1], [-1, -1, -1]]


def test_a_zinc_finger_has_many_states_and_fits():
    """PS00028."""
    assert len(contains(parse_pattern("C-x(2,4)-C-x(3)-[LIVMFYWC]-x(8)-H-x(3,5)-H")).table) == 12_955


@pytest.mark.parametrize(
    ("one", "other"),
    [("A-A-A", "A(3)"), ("x", f"[{RESIDUES}]"), ("<A(1,2)>", "<A-A(0,1)>"), ("A-x*", "A"), ("A*-C", "C")],
)
def test_equal_languages_give_equal_automata(one, other):
    for make in (contains, avoids):
        first, second = make(parse_pattern(one)), make(parse_pattern(other))
        assert np.array_equal(first.table, second.table) and first.accepting == second.accepting


def test_what_accepts_everything_and_nothing():
    every = contains(parse_pattern("x(0,3)"))
    assert every.table.tolist() == [[0] * 20] and every.accepting == {0}
    none = avoids(parse_pattern("x(0,3)"))
    assert none.table.tolist() == [[-1] * 20] and none.accepting == frozenset()
    assert accepts(every, "") and not accepts(none, "") and not accepts(none, "AC")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("F-[GSTV]-P-R-L-[G>]", ["FGPRLGA", "AFGPRL"], ["FGPRLA", "FGPR"]),
        ("[<M]-A", ["A", "MAC", "CMA"], ["CA", "M"]),
        ("<A-x-[ST](2)-x(0,1)-V.", ["ACSTV", "ACSTCVA"], ["CACSTV", "ACSTCCV"]),
        ("C>", ["C", "CAC"], ["CA", ""]),
        ("<x(2,3)>", ["AC", "ACD"], ["A", "ACDE"]),
        ("[<G>]", ["", "A"], []),
        ("<{C}*>", ["", "A" * 300], ["C", "A" * 300 + "C"]),
        ("<A-x*-C>", ["AC", "A" + "D" * 300 + "C", "ACC"], ["A", "C", "ACA", "DAC"]),
        ("A-[CD]*-E", ["AE", "WACDCDEW"], ["ACAW", "ACWE", "E"]),
    ],
)
def test_anchors(text, inside, outside):
    pattern = parse_pattern(text)
    assert all(accepts(contains(pattern), text) and not accepts(avoids(pattern), text) for text in inside)
    assert not any(accepts(contains(pattern), text) or not accepts(avoids(pattern), text) for text in outside)


def test_occurrences_overlap_and_are_the_longest():
    assert occurrences(parse_pattern("A-x-A"), "AAAAC?A") == [(0, 3), (1, 4)]
    assert occurrences(parse_pattern("A(1,2)-C(0,3)"), "AACC") == [(0, 4), (1, 4)]
    assert occurrences(parse_pattern("<A"), "AA") == [(0, 1)] and occurrences(parse_pattern("A>"), "AA") == [(1, 2)]
    assert occurrences(parse_pattern("C-[A>]"), "CAC") == [(0, 2), (2, 3)]
    assert occurrences(parse_pattern("A"), "") == []


def test_what_an_automaton_refuses():
    for position in (0, -1, 1001, True, 1.0):
        with pytest.raises(InputError, match=f"position {position}; give 1 to 1,000"):
            at(parse_pattern("A"), position)
    with pytest.raises(InputError, match="'<A' cannot match at position 2; give position 1, or leave < out"):
        at(parse_pattern("<A"), 2)
    with pytest.raises(InputError, match=r"needs more than 32,768 states; shorten its repetitions of x, or name"):
        contains(parse_pattern("A-x(30)-C"))
    with pytest.raises(InputError, match=r"needs more than 32,768 states; .*, or give an earlier position"):
        at(parse_pattern("x(0,30)-A-x(16,30)-C-x(0,30)-D-x(16,30)-E"), 3)


def test_patterns_are_read_from_records(tmp_path):
    path = tmp_path / "prosite.dat.gz"
    header = "CC   PROSITE\n//\n"
    profile = "ID   TWO; MATRIX.\nAC   PS50001;\nMA   /GENERAL_SPEC:\n//\n"
    path.write_bytes(gzip.compress((header + RECORD + profile + RECORD.replace("V", "<W").replace("x-", "x")).encode()))
    with pytest.raises(InputError, match=r"prosite.dat.gz, PS00001: the pattern '\[AC\]-x<W': 'x<W' is not an element"):
        read_prosite(path)
    path.write_bytes(gzip.compress((header + RECORD + profile).encode()))
    assert [pattern.text for pattern in read_prosite(path)] == ["[AC]-x-V"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RECORD[:-3], "does not end with //; it may be cut short"),
        ("", "does not end with //"),
        ("//\n", "holds no pattern; patterns are in lines that begin with PA"),
        ("hello\n//\n", "holds no PROSITE records .*; give records as in prosite.dat"),
        ("ID   ONE; PATTERN.\nNR   /TOTAL=x;\n//\n", "holds no PROSITE records"),
        (RECORD.replace("PA   V", "PA   J"), "PS00001: the pattern '.*': 'J' in 'J' is not a residue"),
    ],
)
def test_what_is_no_file_of_patterns(tmp_path, text, words):
    path = tmp_path / "prosite.dat"
    with pytest.raises(InputError, match=r"no file .*; give a file of PROSITE records"):
        read_prosite(path)
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_prosite(path)


@pytest.mark.parametrize(
    ("name", "states"), [("00107", 3290), ("00159", 23), ("00165", 267), ("00432", 11), ("00488", 24), ("00546", 11)]
)
def test_the_shared_patterns(name, states):
    if not SHARED.is_dir():
        pytest.skip("../shared is not here")
    [pattern] = read_prosite(SHARED / f"ps{name}.txt")
    assert len(contains(pattern).table) == states == len(avoids(pattern).table) + (not pattern.end)
