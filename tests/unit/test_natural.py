"""Natural sequences that ship: the split keeps similar ones apart, and how near sequences are to others."""

from __future__ import annotations

import gzip
from collections import Counter

import numpy as np
import pytest

from constrained_dg.cli import ROOT
from constrained_dg.errors import InputError
from experiments.amino_acid.make_data import build
from tasks.amino_acid.natural import DATA, Similar, clusters, identical, nearest, peptides, uniprot
from tasks.amino_acid.residues import RESIDUES

SOURCES = ROOT.parent / "shared" / "data" / "protein"


def linked(one: str, other: str) -> bool:
    """The slow twin."""
    first, second = ({text[i : i + 3] for i in range(len(text) - 2)} for text in (one, other))
    fewer = min(len(first), len(second))
    return one == other or (fewer > 0 and len(first & second) >= fewer / 2)


def split() -> tuple[list[str], list[str]]:
    """All for training, all held out."""
    train, held_out = ([*uniprot(part), *(text for text, _ in peptides(part))] for part in (False, True))
    return train, held_out


def test_counts():
    assert (len(uniprot(False)), len(uniprot(True))) == (5269, 344)
    assert Counter(label for _, label in peptides(False)) == {1: 1857, 0: 1705}
    assert Counter(label for _, label in peptides(True)) == {1: 305, 0: 195}


def test_every_sequence_is_of_the_20_residues_and_stands_once():
    for held_out in (False, True):
        for texts in (uniprot(held_out), [text for text, _ in peptides(held_out)]):
            assert set("".join(texts)) == set(RESIDUES) and len(set(texts)) == len(texts)
        assert all(20 <= len(text) <= 250 for text in uniprot(held_out))
    assert uniprot(True) is uniprot(True)


def test_no_held_out_sequence_is_linked_to_one_for_training():
    train, held_out = split()
    similar = Similar(held_out)
    assert [text for text in train if text in similar] == []


def test_the_same_pair_by_pair():
    draws = np.random.default_rng(0)
    train, held_out = (draws.choice(np.array(texts), 150, replace=False).tolist() for texts in split())
    assert not any(linked(one, other) for one in train for other in held_out)


def test_the_data_are_what_their_maker_makes():
    if not SOURCES.exists():
        pytest.skip(f"{SOURCES} is not there: the sources of the data are not shipped")
    for name, content in build(SOURCES).items():
        # Not their compressed bytes, which depend on zlib.
        assert gzip.decompress((DATA / f"{name}.gz").read_bytes()).decode() == content, name


def test_links_are_those_of_the_slow_twin():
    draws = np.random.default_rng(1)
    texts = ["".join(draws.choice(list("ACD"), size)) for size in draws.integers(0, 9, 120)]
    similar = Similar(texts)
    for text in [*texts, "", "AC", "ACDACDACD", "XYZ"]:
        assert similar.linked(text).tolist() == [at for at, other in enumerate(texts) if linked(text, other)]
        assert (text in similar) == any(linked(text, other) for other in texts)
    assert "ACD" not in Similar([])


def test_shared_words_count_once():
    assert Similar(["ACDACD", "CDA", "WWW"]).shared("ACDACDAC").tolist() == [3, 1, 0]


def test_clusters_join_what_is_linked_by_way_of_others():
    assert not linked("ACDEF", "EFGHI") and linked("ACDEF", "CDEFGH") and linked("CDEFGH", "EFGHI")
    assert clusters(["ACDEF", "WWWW", "EFGHI", "CDEFGH", "WWWWW"]).tolist() == [0, 1, 0, 0, 1]
    assert clusters([]).tolist() == []


def test_identical_residues_of_an_alignment():
    assert identical("ACDEF", "ACDEF") == 5 and identical("ACDEF", "ACWEF") == 4
    assert identical("ACDEFGH", "ACDFGH") == 6  # a gap
    assert identical("ACDEF", "GGGACDEFKK", free_ends=True) == 5
    assert identical("AAAA", "WWWW") == 0


def test_the_nearest_of_a_training_sequence_is_itself():
    chosen = uniprot(False)[::1000]
    assert nearest(chosen, uniprot(False)).tolist() == [1.0] * len(chosen)
    fragment = uniprot(False)[7][5:25]
    other = "W" if fragment[10] != "W" else "Y"
    changed = fragment[:10] + other + fragment[11:]
    assert nearest([fragment, changed], uniprot(False)).tolist() == [1.0, 0.95]


def test_held_out_proteins_are_far_from_training():
    assert nearest(uniprot(True)[::20], uniprot(False)).max() < 0.7


def test_nearest_without_a_shared_word():
    assert nearest(["WWWWW"], ["ACDEF"]).tolist() == [0.0] and nearest([], ["ACDEF"]).shape == (0,)
    with pytest.raises(InputError, match="empty sequence"):
        nearest([""], ["ACDEF"])
