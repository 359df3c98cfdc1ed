"""Natural proteins and peptides that ship with the task, and the similarity of sequences to training sequences."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from constrained_dg.errors import check, needs

DATA = Path(__file__).parent / "data"
#: Residues of the short words by which sequences are compared.
_WORD = 3
#: Number of training sequences, those with most shared words, that a sequence is aligned with.
_ALIGNED = 20


@lru_cache
def uniprot(held_out: bool) -> tuple[str, ...]:
    """UniProt sequences of 20 to 250 residues, for training or held out; see data/LICENSES.md."""
    lines = gzip.decompress((DATA / f"uniprot_{'held_out' if held_out else 'train'}.fasta.gz").read_bytes())
    return tuple(lines.decode().splitlines()[1::2])


@lru_cache
def peptides(held_out: bool) -> tuple[tuple[str, int], ...]:
    """Peptides with 1 where they are antimicrobial and 0 where not, for training or held out; see data/LICENSES.md."""
    _, *lines = gzip.decompress((DATA / "peptides.tsv.gz").read_bytes()).decode().splitlines()
    rows = [line.split("\t") for line in lines]
    return tuple((text, int(label)) for text, label, part in rows if part == ("held_out" if held_out else "train"))


def words(sequence: str) -> set[str]:
    """The distinct stretches of three residues."""
    return {sequence[at : at + _WORD] for at in range(len(sequence) - _WORD + 1)}


class Similar:
    """Finds which of N sequences are linked to another one; `sequence in Similar(sequences)`: whether any is.

    Two sequences are linked if they are equal or share at least half of the distinct words (stretches of three
    residues) of the one with fewer. Sequences that differ in one of five random places share about half.
    """

    def __init__(self, sequences: Iterable[str]) -> None:
        self.sequences = tuple(sequences)
        self._equal: dict[str, list[int]] = defaultdict(list)
        holders: dict[str, list[int]] = defaultdict(list)
        for at, sequence in enumerate(self.sequences):
            self._equal[sequence].append(at)
            for word in words(sequence):
                holders[word].append(at)
        self._holders = {word: np.array(those) for word, those in holders.items()}
        self._sizes = np.array([len(words(sequence)) for sequence in self.sequences], np.int64)

    def shared(self, sequence: str) -> np.ndarray:
        """(N) int64, the number of distinct words that each sequence shares with this one."""
        positions = [self._holders[word] for word in words(sequence) if word in self._holders]
        empty = np.zeros(0, np.int64)
        return np.bincount(np.concatenate([empty, *positions]), minlength=len(self.sequences))

    def linked(self, sequence: str) -> np.ndarray:
        """(L) int64, ascending indices of the sequences linked to this one."""
        shared = self.shared(sequence)
        links = (shared > 0) & (2 * shared >= np.minimum(self._sizes, len(words(sequence))))
        links[self._equal.get(sequence, [])] = True  # shorter than a word
        return np.flatnonzero(links)

    def __contains__(self, sequence: str) -> bool:
        return len(self.linked(sequence)) > 0


def clusters(sequences: Sequence[str]) -> np.ndarray:
    """(N) int64, the first member of each sequence's cluster (the connected components of links)."""
    similar, first = Similar(sequences), np.full(len(sequences), -1)
    for start in range(len(sequences)):
        waiting = [start] if first[start] < 0 else []
        first[waiting] = start
        while waiting:
            linked = similar.linked(sequences[waiting.pop()])
            linked = linked[first[linked] < 0]
            first[linked] = start
            waiting += linked.tolist()
    return first


def identical(one: str, other: str, free_ends: bool = False) -> int:
    """Number of equal residues in a best global alignment: match 2, mismatch -1, gap -2 and -0.5 for further residues.

    Args:
        free_ends: residues of `other` before and after `one` cost nothing: `one` may be a fragment.
    """
    with needs("biopython", "aligning sequences"):
        from Bio.Align import PairwiseAligner

    # Renamed in Biopython 1.86.
    name = "end_deletion_score" if hasattr(PairwiseAligner, "end_deletion_score") else "query_end_gap_score"
    ends = {name: 0.0} if free_ends else {}
    scores = {"match_score": 2, "mismatch_score": -1, "open_gap_score": -2, "extend_gap_score": -0.5}
    best = PairwiseAligner(mode="global", **scores, **ends).align(other, one)[0]
    pieces = zip(*best.aligned, strict=True)  # runs without a gap
    return sum(a == b for (i, j), (k, m) in pieces for a, b in zip(other[i:j], one[k:m], strict=True))


def nearest(sequences: Sequence[str], training: Sequence[str]) -> np.ndarray:
    """(N) float64 identity of each sequence to its nearest training sequence, between 0 and 1.

    Identity is the equal residues of an alignment (`identical` with free ends) divided by the length of the sequence;
    shuffled proteins have about 0.4, short peptides 0.6. Only the 20 training sequences with most shared words are
    aligned. About 50 milliseconds for a protein of 250 residues.

    Raises:
        InputError: an empty sequence.
    """
    check(all(sequences), "an empty sequence has no identity", "leave it out")
    similar = Similar(training)
    best = np.zeros(len(sequences))
    for at, sequence in enumerate(sequences):
        shared = similar.shared(sequence)
        closest = [other for other in np.argsort(-shared, kind="stable")[:_ALIGNED] if shared[other]]
        equal = [identical(sequence, training[other], free_ends=True) for other in closest]
        best[at] = max(equal, default=0) / len(sequence)
    return best
