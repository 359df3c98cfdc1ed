"""Makes the sequences that ship in tasks/amino_acid/data: python -m experiments.amino_acid.make_data FOLDER

FOLDER holds uniprot_le250_train.fasta.gz, uniprot_le250_dev.fasta.gz (Debian package mmseqs2-examples) and
peptides_modlamp.tsv.gz (PyPI package modlamp). No held-out sequence is linked (`natural.Similar`) to one for training.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import sys
from collections import defaultdict
from pathlib import Path

from tasks.amino_acid.natural import DATA, Similar, clusters
from tasks.amino_acid.residues import RESIDUES

#: Share of the clusters of peptides that are held out.
_HELD_OUT = 0.12


def _lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def _proteins(path: Path) -> dict[str, str]:
    """Sequence -> accession, the first of equal ones; only sequences of the 20 residues."""
    accessions: dict[str, str] = {}
    for record in "\n".join(["", *_lines(path)]).split("\n>")[1:]:
        header, *parts = record.splitlines()
        sequence = "".join(parts)
        if sequence and set(sequence) <= set(RESIDUES):
            accessions.setdefault(sequence, header.split("|")[1])
    return accessions


def _peptides(path: Path) -> dict[str, str]:
    """Sequence -> label; those labelled both ways are left out."""
    labels = defaultdict(set)
    for row in csv.DictReader(_lines(path), delimiter="\t"):
        if row["dataset"].startswith("AMP") and row["sequence"] and set(row["sequence"]) <= set(RESIDUES):
            labels[row["sequence"]].add(row["label"])
    return {sequence: next(iter(those)) for sequence, those in sorted(labels.items()) if len(those) == 1}


def _held_out(sequences: list[str]) -> set[str]:
    """The members of those clusters that a hash of their smallest sequence chooses."""
    members = defaultdict(list)
    for sequence, cluster in zip(sequences, clusters(sequences), strict=True):
        members[cluster].append(sequence)
    chosen = set()
    for those in members.values():
        digest = hashlib.sha256(min(those).encode()).digest()
        if int.from_bytes(digest[:8], "big") < _HELD_OUT * 2**64:
            chosen.update(those)
    return chosen


def build(folder: Path) -> dict[str, str]:
    """File name without .gz -> content."""
    train, held_out = (_proteins(folder / f"uniprot_le250_{part}.fasta.gz") for part in ("train", "dev"))
    peptides = _peptides(folder / "peptides_modlamp.tsv.gz")
    held_out_peptides = _held_out(list(peptides))
    proteins_apart, peptides_apart = Similar(held_out), Similar(held_out_peptides)
    train = {
        sequence: name
        for sequence, name in train.items()
        if sequence not in proteins_apart and sequence not in peptides_apart
    }
    rows = [
        f"{sequence}\t{label}\t{'held_out' if sequence in held_out_peptides else 'train'}\n"
        for sequence, label in peptides.items()
        if sequence in held_out_peptides or sequence not in proteins_apart
    ]
    return {
        "uniprot_train.fasta": "".join(f">{name}\n{sequence}\n" for sequence, name in train.items()),
        "uniprot_held_out.fasta": "".join(f">{name}\n{sequence}\n" for sequence, name in held_out.items()),
        "peptides.tsv": "sequence\tlabel\tsplit\n" + "".join(rows),
    }


if __name__ == "__main__":
    for file, content in build(Path(sys.argv[1])).items():
        packed = gzip.compress(content.encode(), mtime=0)
        (DATA / f"{file}.gz").write_bytes(packed)
        print(f"{file}.gz: {len(packed):,} bytes")
