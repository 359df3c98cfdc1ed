"""Statistics of made sequences against small cases by hand, and against natural sequences themselves."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from constrained_dg.errors import InputError
from tasks.amino_acid import distances
from tasks.amino_acid.natural import uniprot


def test_divergence_by_hand():
    """p = (1, 0), q = (1/2, 1/2): the middle is (3/4, 1/4)."""
    expected = (log2(4 / 3) + (log2(2 / 3) + log2(2)) / 2) / 2
    assert distances.divergence(np.array([3, 0]), np.array([2, 2])) == pytest.approx(expected)
    assert distances.divergence(np.array([2, 2]), np.array([3, 0])) == pytest.approx(expected)
    assert distances.divergence(np.array([1, 3]), np.array([2, 6])) == 0
    assert distances.divergence(np.array([1, 0, 0]), np.array([0, 1, 1])) == 1


def test_divergence_is_the_entropy_of_the_middle_less_the_mean_entropy():
    def entropy(p):
        return -sum(x * log2(x) for x in p if x)

    p, q = np.random.default_rng(0).dirichlet(np.ones(20), 2)
    expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert distances.divergence(p, q) == pytest.approx(expected)


def test_residues_and_pairs():
    assert distances.residue_divergence(["AACC"], ["AC", "CA"]) == {"value": 0.0, "n": 1, "ci95": [0.0, 0.0]}
    assert distances.residue_divergence(["AA", "A"], ["WW"])["value"] == 1
    # AA, AC, CC against AC and CA.
    expected = distances.divergence(np.array([1, 1, 1, 0]), np.array([0, 1, 0, 1]))
    assert distances.pair_divergence(["AACC", "A"], ["AC", "CA"])["value"] == pytest.approx(expected)


def test_natural_sequences_are_at_the_floor_and_others_above():
    train, few = uniprot(False)[::5], uniprot(False)[1::50]
    draws = np.random.default_rng(0)
    shuffled = ["".join(draws.permutation(list(text))) for text in few]
    measures = (distances.residue_divergence, distances.pair_divergence)
    for width, measure in enumerate(measures, 1):
        floor = distances.sampling_floor(len(few), train, width)
        found = measure(few, train)
        assert found["n"] == floor["n"] == len(few) and found["ci95"][0] <= found["value"] <= found["ci95"][1]
        assert 0 < floor["ci95"][0] < floor["value"] < floor["ci95"][1] and found["value"] < 2 * floor["value"]
    assert distances.residue_divergence(shuffled, train)["value"] == pytest.approx(
        distances.residue_divergence(few, train)["value"]
    )
    assert distances.pair_divergence(shuffled, train)["value"] > floor["ci95"][1]
    # Fewer sequences, a higher floor.
    assert distances.sampling_floor(10, train, 2)["value"] > 2 * floor["value"]


def test_diversity():
    assert distances.diversity(["ACDEF"] * 5) == {"value": 0.0, "n": 2, "ci95": [0.0, 0.0]}
    assert distances.diversity(["AAAA", "CCCC", "DDDD", "EEEE"])["value"] == 1
    assert distances.diversity(uniprot(True)[:9]) == distances.diversity(uniprot(True)[:9])
    assert 0.7 < distances.diversity(uniprot(True)[:60])["value"] < 0.8
    # Half of the longer one, whichever comes first in its pair.
    assert distances.diversity(["ACDE", "ACDEFGHI"] * 2, seed=1)["value"] in (0, 0.25, 0.5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: distances.residue_divergence(["AXA"], ["AC"]),
        lambda: distances.residue_divergence([], ["AC"]),
        lambda: distances.pair_divergence(["A", "C"], ["AC"]),
        lambda: distances.sampling_floor(0, ["AC"], 1),
        lambda: distances.diversity(["AC"] * 3),
        lambda: distances.diversity(["AC", "", "AC", "AC"]),
    ],
)
def test_what_is_refused(call):
    with pytest.raises(InputError):
        call()
