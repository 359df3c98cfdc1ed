import pytest
import torch

from constrained_dg import rng
from constrained_dg.errors import InputError


def test_bits_are_pinned_forever():
    # Published numbers name their seeds: these bits must never change.
    assert rng.random_bits(torch.tensor([0]), 1, 2, count=2).tolist() == [[-8809461761011133034, -470690994104193459]]
    assert rng.row_seeds(0, 2).tolist() == [5876733520225071, 6315957190297641]


def test_first_step_is_splitmix64():
    # The reference implementation, seeded with 0, returns this first (Vigna, splitmix64.c).
    assert rng._mix(torch.tensor([rng._GOLDEN])).item() == rng._signed(0xE220A8397B1DCDAF)


def test_uniform_is_uniform_and_stays_inside():
    draws = rng.uniform(rng.row_seeds(3, 200), 0, 7, count=1000)
    assert draws.dtype == torch.float32 and draws.min() > 0 and draws.max() < 1
    counts = torch.histc(draws, bins=50, min=0, max=1)
    expected = draws.numel() / 50
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 100  # 49 degrees of freedom: mean 49, standard deviation 10


def test_the_largest_draw_is_below_one():
    assert (torch.tensor([2**23 - 1]).to(torch.float32) + 0.5) * 2.0**-23 < 1


@pytest.mark.parametrize("other", [(0, 8), (1, 7), (7, 0), (0, 7, 0)])
def test_other_counters_are_uncorrelated(other):
    seeds = rng.row_seeds(3, 100)
    first, second = rng.uniform(seeds, 0, 7, count=500), rng.uniform(seeds, *other, count=500)
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    assert abs(correlation) < 0.02  # 4.5 standard deviations


def test_neighbouring_positions_and_rows_are_uncorrelated():
    draws = rng.uniform(torch.arange(300), 0, count=300)
    for first, second in ((draws[:, 1:], draws[:, :-1]), (draws[1:], draws[:-1])):
        assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.02


def test_a_row_does_not_depend_on_its_batch():
    seeds = rng.row_seeds(11, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    together = rng.uniform(seeds, 4, 2, count=33)
    assert torch.equal(together[order], rng.uniform(seeds[order], 4, 2, count=33))
    assert torch.equal(together[3:4], rng.uniform(seeds[3:4], 4, 2, count=33))
    assert torch.equal(together[:, :5], rng.uniform(seeds, 4, 2, count=5))
    assert torch.equal(seeds[:4], rng.row_seeds(11, 4))


def test_integers_cover_their_range_evenly():
    draws = rng.integers(rng.row_seeds(5, 100), 1, count=600, low=3, high=9)
    counts = torch.bincount(draws.flatten(), minlength=10)
    assert counts[:3].sum() == 0 and counts[9:].sum() == 0
    assert ((counts[3:9] - 10_000).abs() < 500).all()


def test_row_seeds_differ_and_survive_json():
    seeds = torch.cat([rng.row_seeds(seed, 1000) for seed in (0, 1, -5, 2**63 + 1)])
    assert len(seeds.unique()) == 4000 and seeds.min() >= 0 and seeds.max() < 2**53


@pytest.mark.parametrize("low, high", [(3, 3), (4, 3), (0, 2**31 + 1)])
def test_bad_ranges_are_refused(low, high):
    with pytest.raises(InputError, match="nothing can be drawn"):
        rng.integers(torch.tensor([0]), count=1, low=low, high=high)
