"""Masks and rotation against loops over positions."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.model.masks import causal_mask, first_visible
from constrained_dg.model.rope import inverse_frequencies, rotate, rotation
from tests.naive_backbone import turn

counts = st.integers(0, 12)
windows = st.none() | st.integers(1, 14)


@given(counts, counts, windows)
def test_causal_mask_equals_a_loop(cached, new, window):
    mask = causal_mask(cached, new, window)
    assert mask.shape == (new, cached + new) and mask.dtype == torch.bool
    for row in range(new):
        i = cached + row
        for j in range(cached + new):
            assert mask[row, j] == (j <= i and (window is None or i - window < j))


@given(counts, st.integers(1, 12), windows)
def test_causal_pass_loses_nothing_by_starting_at_first_visible(cached, new, window):
    mask = causal_mask(cached, new, window)
    first = first_visible(cached, window)
    assert not mask[:, :first].any()
    assert first == cached or mask[0, first]  # and it starts no earlier than it must


@given(counts, windows)
def test_a_canvas_sees_what_a_loop_says(committed, window):
    seen = [j for j in range(committed) if window is None or j >= committed - (window - 1)]
    assert list(range(first_visible(committed, window), committed)) == seen


@given(
    st.integers(1, 8),
    st.sampled_from([1.0, 0.5, 0.25]),
    st.sampled_from([100.0, 1e4, 1e6]),
    st.lists(st.integers(0, 200), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
def test_rotation_equals_a_loop_and_keeps_lengths(pairs, share, theta, positions, seed):
    share = share if (share * pairs).is_integer() else 1.0
    x = torch.randn(len(positions), 2, 2 * pairs, generator=torch.Generator().manual_seed(seed))
    frequencies = inverse_frequencies(2 * pairs, theta, share)
    got = rotate(x, *rotation(torch.tensor(positions), frequencies, x.dtype))
    for n, position in enumerate(positions):
        for head in range(2):
            want = turn(x[n, head].double(), position, theta, share).float()
            torch.testing.assert_close(got[n, head], want, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got.norm(dim=-1), x.norm(dim=-1))


@given(st.integers(1, 8), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 2**32))
def test_scores_do_not_change_when_both_positions_shift(pairs, i, j, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, 1, 2 * pairs, generator=generator).double()
    frequencies = inverse_frequencies(2 * pairs, 1e4)

    def score(i, j):
        a, b = (rotate(x, *rotation(torch.tensor([p]), frequencies, x.dtype)) for x, p in ((q, i), (k, j)))
        return float((a * b).sum())

    assert math.isclose(score(i + shift, j + shift), score(i, j), rel_tol=1e-3, abs_tol=1e-3)
