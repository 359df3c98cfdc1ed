"""Whatever a text or a file holds, the readers of the sequence tasks take it or refuse it in one short line."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from tasks.amino_acid import Design, Infill
from tasks.amino_acid.files import read_fasta
from tasks.sudoku import Sudoku
from tasks.text.task import read_pairs
from tests.property.examples import many

#: Pieces that the formats are made of, and a few that they are not.
WORDS = "1 0 A G x - + | │ ─ # , ; [Puzzle] [ ] { } ( ) puzzle quizzes source \" ' \\ é ² : .. % @"
WORDS += ' 30 1e9 nan inf < > * ? U J length= contains= avoids= at= charge= mass= composition= sequence= kind= "prompt"'
PIECES = [*WORDS.split(), "9" * 81, "." * 16, "1" * 5000, "[" * 3000, "ACGT" * 20, '{"prompt": "a", "answer": "b"}']
PIECES += ["\t", " ", "\n", "\r\n", ">name\n", "\x00", "\ud800", "\ufeff", "\u2028"]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def taken_or_refused(call, *arguments) -> None:
    try:
        call(*arguments)
    except InputError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 700


@many
@given(texts)
def test_any_text_is_taken_or_refused(text):
    for task in (Sudoku(), Design(), Infill()):
        taken_or_refused(task.parse, text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readers")


@many
@given(texts, st.sampled_from(["plain", "packed", "cut", "noise"]))
def test_any_file_is_taken_or_refused(folder, text, kind):
    data = text.encode("utf-8", "surrogatepass")
    data = {"plain": data, "packed": gzip.compress(data), "cut": gzip.compress(data)[:-3]}.get(kind, data)
    data = random.Random(len(text)).randbytes(50) if kind == "noise" else data
    for name, read in (
        ("some.txt", Sudoku().read),
        ("some.rules", Design().read),
        ("some.fasta", Infill().read),
        ("some.fa", read_fasta),
        ("some.jsonl", read_pairs),
    ):
        path = folder / (name + ".gz" * (kind in ("packed", "cut")))
        path.write_bytes(data)
        taken_or_refused(read, str(path))
