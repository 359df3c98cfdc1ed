"""The baselines for masked residues: by hand on tiny corpora, and on held-out proteins."""

from __future__ import annotations

import numpy as np
import pytest

from constrained_dg.errors import InputError
from tasks.amino_acid.kmer import Context, Kmer, mask_singles, mask_stretch, measure
from tasks.amino_acid.natural import uniprot
from tasks.amino_acid.residues import RESIDUES


@pytest.fixture(scope="module")
def context():
    return Context(uniprot(False)[::8])


def masked(mask, sequences):
    draws = np.random.default_rng(0)
    return [mask(sequence, draws) for sequence in sequences]


def test_rows_are_probabilities_and_known_residues_are_certain(context):
    text = "?CD??F?"
    found = context.log_probs(text)
    assert found.shape == (7, 20) and np.allclose(np.exp(found).sum(1), 1)
    assert [RESIDUES[at] for at in found[[1, 2, 5]].argmax(1)] == list("CDF") and found[1].max() == 0
    assert context.log_probs("").shape == (0, 20)


def test_a_tiny_corpus_by_hand():
    """One residue, so the frequencies are 2/21 for A and 1/21 for each other, and all that is known are both ends."""
    context = Context(["A"])
    frequency = np.full(20, 1 / 21)
    frequency[0] = 2 / 21
    smoothed = frequency / 2  # one kind among one residue: (c + q) / 2
    smoothed[0] += 1 / 2
    # Of a pair, q from both ends.
    apart = smoothed**2 / frequency
    apart /= apart.sum()
    pair = apart / 2
    pair[0] += 1 / 2
    expected = frequency * (smoothed / frequency) ** (12 / 2) * (pair / apart) ** (3 / 2)
    assert np.allclose(np.exp(context.log_probs("?")), expected / expected.sum())


def test_masked_neighbours_say_nothing():
    """Deep inside a masked text only the frequencies are left."""
    context = Context(["ACDA", "AAC"])
    counts = np.ones(20)
    counts[:3] += 4, 2, 1
    assert np.allclose(np.exp(context.log_probs("?" * 13)[6]), counts / counts.sum())


def test_residues_known_far_away_shift_the_frequencies(context):
    few, many = (context.log_probs("?" * 13 + 40 * residue)[0] for residue in "AW")
    assert many[RESIDUES.index("W")] > few[RESIDUES.index("W")] and few[0] > many[0]


def test_kmer_counts_by_hand():
    """Neighbours of C are A (twice) and D; each count is smoothed towards that with less known."""
    kmer = Kmer(["CA", "CA", "CD"])
    counts = np.ones(20)
    counts[[RESIDUES.index(letter) for letter in "ACD"]] += 2, 3, 1
    alone = counts / counts.sum()
    seen = np.zeros(20)
    seen[[RESIDUES.index(letter) for letter in "AD"]] = 2, 1
    left = (seen + 2 * alone) / (3 + 2)
    assert np.allclose(np.exp(kmer.log_probs("C??")[1]), left)
    assert np.allclose(np.exp(kmer.log_probs("C?")[1]), (seen + 2 * left) / (3 + 2))  # the end is a neighbour too
    assert np.allclose(np.exp(kmer.log_probs("???")[1]), alone)
    right = (np.eye(20)[RESIDUES.index("C")] * 2 + 1 * alone) / (2 + 1)
    assert np.allclose(np.exp(kmer.log_probs("??A")[1]), right)
    assert kmer.log_probs("C?A")[0, RESIDUES.index("C")] == 0 == kmer.log_probs("C?A")[2].max()


def test_the_likeliest_residues_are_those_of_the_corpus():
    words = ["MKLVWACDEF", "GHIKLMNPQR", "STVWYACFGH", "DEWRTYIPAS", "FGHKLCVNMQ", "QETYIPSFHK"]
    context = Context(words * 3)
    for word in words:
        for at in range(10):
            likeliest = context.log_probs(word[:at] + "?" + word[at + 1 :]).argmax(1)
            assert "".join(RESIDUES[residue] for residue in likeliest) == word


def test_held_out_proteins_are_told_better_by_the_mix_than_by_kmers_alone(context):
    texts = masked(mask_singles, uniprot(True))
    plain, mixed = (measure(uniprot(True), texts, each.log_probs) for each in (Kmer(uniprot(False)[::8]), context))
    assert mixed["perplexity"]["value"] < plain["perplexity"]["value"] < 18.5


@pytest.mark.parametrize("mask", [mask_singles, mask_stretch])
def test_held_out_proteins_are_told_better_than_by_chance_or_by_frequency(context, mask):
    texts = masked(mask, uniprot(True))
    found = measure(uniprot(True), texts, context.log_probs)
    frequency = context.log_probs("?" * 13)[6]
    alone = measure(uniprot(True), texts, lambda text: np.tile(frequency, (len(text), 1)))
    assert found["perplexity"]["value"] < alone["perplexity"]["value"] < 20
    assert found["recovery"]["value"] > alone["recovery"]["value"] > 0.05
    assert found["recovery"]["ci95"][0] > 0.07 and found["perplexity"]["ci95"][1] < 19


def test_measure_by_hand():
    rows = np.log(np.full((2, 20), 0.5 / 19))
    rows[0, 0] = rows[1, 1] = np.log(0.5)
    found = measure(["AC", "AA", "AA"], ["??", "?A", "AA"], lambda text: rows)
    assert {name: (each["value"], each["n"]) for name, each in found.items()} == {
        "perplexity": (pytest.approx(2.0), 3),
        "recovery": (1.0, 3),
    }
    uniform = measure(["ACD"] * 2, ["???"] * 2, lambda text: np.log(np.full((3, 20), 0.05)))
    assert uniform["perplexity"]["value"] == pytest.approx(20) and uniform["recovery"]["value"] == 1 / 3


def test_masks():
    sequence = uniprot(True)[0]
    for mask in (mask_singles, mask_stretch):
        for text in masked(mask, [sequence] * 50):
            assert all(a in (b, "?") for a, b in zip(text, sequence, strict=True)) and len(text) == len(sequence)
    assert all(text.count("?") == round(0.15 * len(sequence)) for text in masked(mask_singles, [sequence] * 5))
    stretches = [text.strip(RESIDUES) for text in masked(mask_stretch, [sequence] * 300)]
    assert {len(text) for text in stretches} == set(range(5, 21)) and set("".join(stretches)) == {"?"}
    assert masked(mask_stretch, ["AC"]) == ["??"] and masked(mask_singles, ["AC"])[0].count("?") == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: Context([]),
        lambda: Context(["AX"]),
        lambda: Context(["A?"]),
        lambda: Context(["AC"]).log_probs("a?"),
        lambda: measure(["AC"], ["AC"], Context(["AC"]).log_probs),
    ],
)
def test_what_is_refused(call):
    with pytest.raises(InputError):
        call()
