"""Attention over many keys in bf16 on a CPU, against all scores at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_dg.model import attention, long_attention, native
from constrained_dg.model.attention import attend, partial_by_products
from constrained_dg.model.long_attention import attend_long, serves

needs_kernel = pytest.mark.skipif(
    long_attention.library() is None, reason="needs a C++ compiler and a processor with AVX-512 BF16"
)


def numbers(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).bfloat16()


def cached(*shape: int, seed: int) -> torch.Tensor:
    """(B, G, M, K), laid out as in a cache, (B, M, G, K), of which a part is seen."""
    rows, groups, keys, size = shape
    return numbers(rows, keys + 3, groups, size, seed=seed)[:, 2:-1].transpose(1, 2)


@needs_kernel
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 2),
    groups=st.integers(1, 3),
    queries=st.integers(1, 20),
    keys=st.one_of(st.integers(1, 200), st.sampled_from([512, 513, 1023, 1024, 1025, 2100])),
    blocks=st.integers(1, 4),
    scale=st.sampled_from([0.01, 0.3, 3.0]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_it_equals_its_products(rows, groups, queries, keys, blocks, scale, threads, seed):
    """Whatever does not fill a tile, a block of rows or a vector; one thread and several."""
    q = numbers(rows, groups, queries, 64 * blocks, seed=seed, scale=scale)
    k, v = (
        cached(rows, groups, keys, 64 * blocks, seed=seed + 1),
        cached(rows, groups, keys, 64 * blocks, seed=seed + 2),
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out, total = attend_long(q, k, v)
    finally:
        torch.set_num_threads(before)
    exact, expected = partial_by_products(q.double(), k.double(), v.double(), None)
    torch.testing.assert_close(total, expected.float(), rtol=1e-5, atol=1e-4)
    # Weights and answers are rounded to bf16, 8 bits of mantissa.
    assert (out.double() - exact).abs().max() <= 2**-7 * v.double().abs().max()
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0).double()
    assert (out.double() - exact).norm() <= 1.1 * (theirs - exact).norm() + 1e-9


@needs_kernel
def test_one_key_decides_among_many_however_large_its_score():
    q, k = torch.zeros(1, 1, 70, 64).bfloat16(), torch.zeros(1, 1, 3000, 64).bfloat16()
    v = numbers(1, 1, 3000, 64, seed=0)
    q[..., 0], k[0, 0, 2987, 0] = 100, 100
    out, total = attend_long(q, k, v)
    assert torch.equal(out, v[:, :, 2987:2988].expand_as(out)) and (total == 10_000).all()
    out, total = attend_long(-q, k, v)  # and e^-10000 of it is nothing
    others = torch.cat([v[:, :, :2987], v[:, :, 2988:]], dim=2).float().mean(2)
    torch.testing.assert_close(out[:, :, 0].float(), others, rtol=0.01, atol=1e-3)
    torch.testing.assert_close(total, torch.full_like(total, 2999.0).log())


@needs_kernel
def test_attention_takes_it_where_it_serves_and_only_there(monkeypatch):
    q, k, v = (numbers(1, n, heads, 64, seed=n + heads) for n, heads in ((40, 4), (1100, 2), (1100, 2)))
    calls = []
    monkeypatch.setattr(attention, "attend_long", lambda *given: (calls.append(1), attend_long(*given))[1])
    out = attend(q, k, v, None)  # 2 groups of 80 queries
    assert calls and out.shape == q.shape
    monkeypatch.setattr(attention, "serves", lambda *_: False)
    torch.testing.assert_close(attend(q, k, v, None).float(), out.float(), rtol=0.02, atol=2e-3)
    grouped = [each.transpose(1, 2) for each in (q.repeat(1, 2, 1, 1), k, v)]
    grouped[0] = grouped[0][:, :2]
    assert serves(*grouped)
    few = grouped[0][:, :, : long_attention.FEWEST_QUERIES - 1]
    assert not serves(few, *grouped[1:])
    assert not serves(grouped[0], *(each[:, :, :1023] for each in grouped[1:]))
    assert not serves(*(each.float() for each in grouped))
    assert not serves(*(each[..., :32] for each in grouped))
    learns = [each.clone().requires_grad_() for each in grouped]
    assert not serves(*learns)
    with torch.no_grad():
        assert serves(*learns)


@needs_kernel
def test_torch_accepts_the_operator():
    tensors = (numbers(1, 2, 70, 64, seed=0), cached(1, 2, 1100, 64, seed=1), cached(1, 2, 1100, 64, seed=2))
    torch.library.opcheck(attend_long, tensors, test_utils=("test_schema", "test_faketensor"))


def test_without_a_compiler_torchs_attention_serves(monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    long_attention.library.cache_clear()
    try:
        q, k = numbers(1, 2, 70, 64, seed=0), cached(1, 2, 1100, 64, seed=1)
        assert long_attention.library() is None and not serves(q, k, k)
    finally:
        long_attention.library.cache_clear()
