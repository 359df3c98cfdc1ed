"""Amino-acid sequences from FASTA files and to them."""

from __future__ import annotations

import gzip
import io
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from constrained_dg.errors import InputError, check, needs
from constrained_dg.files import read_text

from .residues import RESIDUES

log = logging.getLogger(__name__)

#: The letters of a sequence: residues in either case, and ? for a masked one.
LETTERS = frozenset(RESIDUES + RESIDUES.lower() + "?")
#: Letters of FASTA for other amino acids than the twenty, or for one of two of them.
OTHERS = frozenset("BZJUObzjuo")
#: Length from which a sequence of A, C, G, T, U and N alone counts as DNA or RNA.
_NUCLEOTIDES = 40
WIDTH = 60


def read_fasta(path: Path | str) -> list[tuple[str, str]]:
    """The records of a FASTA file, optionally .gz: the first word of the header, and the sequence in capitals.

    ? and X are masked residues (returned as ?); a final * is dropped. Records with B, Z, J, U or O are left out, and
    their number is logged.

    Raises:
        InputError: a file that cannot be read, other content such as DNA, or no usable record; it names the file and
            the record.
    """
    with needs("biopython", "reading FASTA"):
        from Bio import SeqIO

    text = read_text(path, "give a FASTA file (.fasta, .fasta.gz)").lstrip()
    check(bool(text), f"{path} holds no record", "a record is a line >NAME and lines of residues")
    check(text.startswith(">"), f"{path} begins with {text[:20]!r}, not with '>'", "give a FASTA file")
    records, left_out = [], []
    for at, record in enumerate(SeqIO.parse(io.StringIO(text), "fasta"), 1):
        check(bool(record.id), f"{path}, record {at} has no name", "write it directly after '>'")
        sequence = bytes(record.seq).decode().removesuffix("*").replace("x", "?").replace("X", "?")
        where = f"{path}, record {at} ({record.id[:60]})"
        nucleotides = re.fullmatch("[ACGTUN?]*", sequence.upper()) and len(set(sequence.upper()) - {"N", "?"}) > 2
        nucleotides = nucleotides and len(sequence) >= _NUCLEOTIDES
        check(not nucleotides, f"{where} is DNA or RNA: {len(sequence)} letters, all of ACGTUN", "give proteins")
        _check_sequence(where, sequence.translate({ord(letter): "A" for letter in OTHERS}))
        if OTHERS.isdisjoint(sequence):
            records.append((record.id, sequence.upper()))
        else:
            left_out.append(record.id)
    if left_out:
        total = len(records) + len(left_out)
        what = f"{len(left_out)} of {total} records of {path} hold B, Z, J, U or O, which are not among the 20 residues"
        check(bool(records), what, f"residues are {RESIDUES}, and ? or X for a masked one")
        log.warning("%s: left out, the first is %s", what, left_out[0][:60])
    return records


def write_fasta(path: Path | str, records: Iterable[tuple[str, str]]) -> None:
    """Write records of a name and a sequence, 60 letters on each line, gzipped if the file ends in .gz.

    Raises:
        InputError: the file exists or cannot be written, or `read_fasta` would refuse a record.
    """
    path = Path(path)
    lines = []
    for at, (name, sequence) in enumerate(records, 1):
        one_line = name.splitlines() == [name] and name == name.strip()
        check(one_line, f"record {at} is named {name[:40]!r}", "a name is one line without spaces around it")
        _check_sequence(f"record {at} ({name})", sequence)
        lines += [f">{name}", *(sequence[begin : begin + WIDTH] for begin in range(0, len(sequence), WIDTH))]
    data = "".join(f"{line}\n" for line in lines).encode()
    try:
        with path.open("xb") as file:
            # mtime=0: the same records give the same file.
            file.write(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except FileExistsError:
        raise InputError(f"{path} exists", "nothing is overwritten: name another file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error})", "name a file in a folder that exists") from None


def _check_sequence(where: str, sequence: str) -> None:
    check(bool(sequence), f"{where} has no residues", "write them in the lines after its name")
    if not LETTERS.issuperset(sequence):
        at = next(at for at, letter in enumerate(sequence) if letter not in LETTERS)
        hint = f"residues are {RESIDUES}, and ? for a masked one"
        raise InputError(f"{where}: {sequence[at]!r} at position {at + 1} is not a residue", hint)
