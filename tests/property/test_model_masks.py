"""Masks and rotation against loops over positions."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.model.images import ATTENTION, Images
from constrained_dg.model.masks import causal_mask, first_visible, uncut, with_images
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


@st.composite
def pictured(draw: st.DrawFn) -> torch.Tensor:
    """(B, S): to which picture of its row a token belongs, -1 at text; pictures are runs."""
    length = draw(st.integers(1, 14))
    present = draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=2))
    rows = torch.tensor(present)
    begins = rows & ~torch.nn.functional.pad(rows, (1, 0))[:, :-1]
    return torch.where(rows, begins.cumsum(1) - 1, -1)


@given(pictured(), windows, st.sampled_from(ATTENTION), st.integers(0, 13), st.integers(0, 13))
def test_the_mask_of_pictures_equals_a_loop(blocks, window, attention, lo, first):
    length = blocks.shape[1]
    lo = min(lo, length - 1)
    first = min(first, lo)
    causal = causal_mask(lo, length - lo, window, first=first)
    mask = with_images(causal, blocks[:, lo:], blocks[:, first:], window, attention, lo, first)
    mask = mask.expand(len(blocks), -1, -1)
    for row in range(len(blocks)):
        for i in range(lo, length):
            for j in range(first, length):
                near = window is None or i - window < j
                same = bool(blocks[row, i] == blocks[row, j] >= 0)
                if attention == "all_layers":
                    want = (j <= i and near) or same
                else:
                    want = near and (j <= i or (same and window is not None))
                assert mask[row, i - lo, j - first] == want


@given(pictured(), st.integers(1, 16))
def test_pieces_cover_everything_and_cut_no_picture(blocks, size):
    length = blocks.shape[1]
    inside = [False] + [any(bool(row[at - 1] == row[at] >= 0) for row in blocks) for at in range(1, length)]
    assert Images(blocks, None).inside == inside
    pieces = uncut(0, length, size, inside)
    assert [at for lo, hi in pieces for at in range(lo, hi)] == list(range(length))
    assert not any(inside[hi] for _, hi in pieces[:-1])
    for lo, hi in pieces:  # longer than asked for only where there is no other place to end
        assert hi - lo <= size or all(inside[lo + 1 : lo + size + 1])
    assert uncut(0, length, size, None) == [(at, min(at + size, length)) for at in range(0, length, size)]


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
