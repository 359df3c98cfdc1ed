"""FASTA files there and back, and what is refused."""

from __future__ import annotations

import gzip
import re

import pytest

from constrained_dg.cli import ROOT
from constrained_dg.errors import InputError
from tasks.amino_acid.files import read_fasta, write_fasta

SHARED = ROOT.parent / "shared" / "data" / "protein"


@pytest.mark.parametrize(
    "text",
    [
        ">one a protein\nACDE\nFG?\n>two\nac\n",
        "\n\n>one\r\nACDEFG?\r\n\r\n>two x|y\r\nA C*\r\n",
        "\ufeff>one\rACDEF\rG?\r>two\rAC",
        ">one ü\nACDEFG?*\n>two\nA\tc",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_way_to_write_two_records(tmp_path, text, packed):
    path = tmp_path / ("a.fasta" + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert read_fasta(path) == read_fasta(str(path)) == [("one", "ACDEFG?"), ("two", "AC")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "a.fasta holds no record; a record is a line >NAME and lines of residues"),
        (b" \n\n", "holds no record"),
        (b"ACDE\n", "begins with 'ACDE\\n', not with '>'; give a FASTA file"),
        (b"; old\n>one\nA\n", "begins with '; old"),
        (b">one\nAC\n>\nAC\n", "a.fasta, record 2 has no name; write it directly after '>'"),
        (b">one\n>two\nAC\n", "a.fasta, record 1 (one) has no residues"),
        (b">one\nAC\n>two\n", "a.fasta, record 2 (two) has no residues"),
        (b">one\n*\n", "record 1 (one) has no residues"),
        (
            b">one\nAC\n>two\nACD\nE1A\n",
            "record 2 (two): '1' at position 5 is not a residue; residues are ACDEFG",
        ),
        (b">one\nA*C\n", "record 1 (one): '*' at position 2 is not a residue"),
        (b">one\nA\n>two\n" + b"ACGT" * 15, "record 2 (two) is DNA or RNA: 60 letters, all of ACGTUN; give proteins"),
        (b">one\n" + b"acgun" * 9, "record 1 (one) is DNA or RNA"),
        (b">one\nAUA\n>two\nAB", "2 of 2 records of"),
        (b">one\nAUA\n>two\nA1B", "record 2 (two): '1' at position 2"),
        (b">one\nA-C\n", "'-' at position 2 is not a residue"),
        (">one\nAſ\n".encode(), "'ſ' at position 2 is not a residue"),
        (b"\xff\xfe>one\nAC\n", "cannot be read"),
    ],
)
def test_broken_files_are_named_with_their_record(tmp_path, text, words):
    path = tmp_path / "a.fasta"
    path.write_bytes(text)
    with pytest.raises(InputError, match=re.escape(words)):
        read_fasta(path)


def test_unknown_residues_are_to_be_found_and_other_amino_acids_leave_their_record_out(tmp_path, caplog):
    path = tmp_path / "a.fasta"
    path.write_text(">one\nAXC?x\n>two\nMUK\n>three\nACGT\n>four\nabz\n>five\nJO*\n")
    assert read_fasta(path) == [("one", "A?C??"), ("three", "ACGT")]
    assert "3 of 5 records" in caplog.text and "the first is two" in caplog.text


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"no file .*none.fasta'; give a FASTA file"):
        read_fasta(tmp_path / "none.fasta")
    with pytest.raises(InputError, match="cannot be read"):
        read_fasta(tmp_path)
    path = tmp_path / "cut.fasta.gz"
    for data in (gzip.compress(b">one\nAC\n" * 1000)[:-9], b"no gzip"):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"cut.fasta.gz cannot be read .*; it may be cut short"):
            read_fasta(path)


@pytest.mark.parametrize("name", ["a.fasta", "a.fasta.gz"])
def test_what_is_written_is_read_and_never_overwritten(tmp_path, name):
    records = [("one", "A" * 121), ("two", "C" * 60), ("three", "?")]
    path = tmp_path / name
    write_fasta(path, iter(records))
    assert read_fasta(path) == records
    data = path.read_bytes()
    text = (gzip.decompress(data) if name.endswith("gz") else data).decode()
    assert [len(line) for line in text.splitlines()] == [4, 60, 60, 1, 4, 60, 6, 1]
    with pytest.raises(InputError, match=f"{name} exists; nothing is overwritten"):
        write_fasta(path, [("one", "A")])
    assert path.read_bytes() == data
    write_fasta(tmp_path / f"again.{name}", records)
    assert (tmp_path / f"again.{name}").read_bytes() == data


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (("", "A"), "record 1 is named ''; a name is one line"),
        (("a\nb", "A"), r"record 1 is named 'a\\nb'"),
        ((" a", "A"), "record 1 is named ' a'"),
        (("a", ""), r"record 1 \(a\) has no residues"),
        (("a", "AJ"), r"record 1 \(a\): 'J' at position 2 is not a residue"),
    ],
)
def test_what_is_not_written(tmp_path, record, words):
    with pytest.raises(InputError, match=words):
        write_fasta(tmp_path / "a.fasta", [record])
    assert not (tmp_path / "a.fasta").exists()
    with pytest.raises(InputError, match=r"cannot be written .*; name a file in a folder that exists"):
        write_fasta(tmp_path / "none" / "a.fasta", [("a", "A")])


def test_the_shared_files():
    if not SHARED.is_dir():
        pytest.skip("../shared is not here")
    assert len(read_fasta(SHARED / "uniprot_le250_dev.fasta.gz")) == 344
    assert len(read_fasta(SHARED / "biopython_tests" / "protein_lib.fa")) == 12
