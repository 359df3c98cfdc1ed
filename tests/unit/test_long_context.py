"""What a long context rests on: parts of keys that are merged, 8 bits, layers computed again, the last positions."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from constrained_dg.model import attention, backbone, plan
from constrained_dg.model.attention import attend, attend_parts, partial, partial_by_products
from constrained_dg.model.cache import FP8, as_stored
from constrained_dg.model.canvas_pass import canvas_loop, soft_capped
from constrained_dg.model.rope import inverse_frequencies, rotation
from tests.naive_backbone import random_backbone

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- parts of the keys ------------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 2), queries=st.integers(1, 4), keys=st.integers(1, 9), mask=st.sampled_from(["", "few", "many"])
)
def test_a_part_equals_its_products_also_where_it_is_hidden(rows, queries, keys, mask):
    q, k, v = numbers(rows, 2, queries, 8), numbers(rows, 2, keys, 8, seed=1), numbers(rows, 2, keys, 8, seed=2)
    bias = None
    if mask:
        hidden = numbers(rows, 1, queries if mask == "few" else 1, keys, seed=3) < (0 if mask == "few" else 1)
        bias = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
    for one, two in zip(partial(q, k, v, bias), partial_by_products(q, k, v, bias), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), hidden=st.integers(0, 5), scale=st.floats(0.1, 30))
def test_parts_together_equal_attention_over_all(sizes, hidden, scale):
    q, k, v = scale * numbers(2, 3, 4, 8), numbers(2, sum(sizes), 2, 8, seed=1), numbers(2, sum(sizes), 2, 8, seed=2)
    bias = torch.zeros(2, 1, 1, sum(sizes))
    bias[1, ..., : min(hidden, sum(sizes) - 1)] = -torch.inf  # perhaps whole parts
    cuts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    spans = [slice(lo, hi) for lo, hi in pairwise(cuts)]
    got = attend_parts(q, [(k[:, span], v[:, span], bias[..., span]) for span in spans])
    torch.testing.assert_close(got, attend(q, k, v, bias), rtol=1e-4, atol=1e-5)


# -- keys and values of 8 bits ----------------------------------------------------------------------------------------


def test_8_bits_change_a_number_by_a_sixteenth_of_itself_at_most():
    x = torch.cat([numbers(10_000) * 2.0**power for power in range(-5, 8)])
    stored = as_stored(x, FP8).float()
    normal = (x.abs() >= 2**-6) & (x.abs() <= 448)
    assert ((stored - x).abs() / x.abs())[normal].max() <= 1 / 16
    assert (stored - x).abs()[x.abs() < 2**-6].max() <= 2**-10
    assert as_stored(torch.tensor([1e4, -1e4]), FP8).tolist() == [448, -448]
    assert as_stored(x, torch.float32) is x


@pytest.mark.parametrize("tile", [1, 4, 100])
def test_attention_over_8_bits_equals_attention_over_the_same_numbers_widened(tile):
    q, k, v = numbers(2, 3, 4, 8), as_stored(numbers(2, 9, 2, 8, seed=1), FP8), as_stored(numbers(2, 9, 2, 8), FP8)
    bias = numbers(1, 4, 3, 9, seed=4)
    with mock.patch.object(attention, "TILE", tile):
        for given_bias in (None, bias):
            want = attend(q, k.float(), v.float(), given_bias)
            torch.testing.assert_close(attend(q, k, v, given_bias), want, rtol=1e-4, atol=1e-5)


def narrowed(model):
    model.narrow_cache = True
    return model


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_full_layers_take_one_byte_a_number_and_logits_barely_change(padded):
    prompt, canvas = tokens(4, 200), tokens(4, 16, seed=2)
    mask = torch.arange(200) >= torch.tensor([0, 150, 3, 40])[:, None] if padded else None
    wide, narrow = random_backbone(1, canvas_length=16), narrowed(random_backbone(1, canvas_length=16))
    caches = [model.prefill(prompt, mask) for model in (wide, narrow)]
    assert [keys.dtype for keys in caches[1].keys] == [torch.float32, torch.float32, FP8]
    full = [cache.keys[2].nbytes + cache.values[2].nbytes for cache in caches]
    assert full[0] == 4 * full[1] and caches[0].nbytes - full[0] == caches[1].nbytes - full[1]
    one, two = (model.denoise(canvas, cache) for model, cache in zip((wide, narrow), caches, strict=True))
    # Measured: 0.0044 of the spread of the logits on average, 0.0053 with padding; weights in bf16 make 0.025.
    assert 0 < (one - two).abs().mean() < 0.01 * one.std()
    assert (one.argmax(-1) == two.argmax(-1)).float().mean() > 0.9


@torch.no_grad()
@pytest.mark.parametrize("chunk, block", [(5, 3), (16, 16), (7, 100)])
def test_with_8_bits_it_makes_no_difference_how_a_prompt_is_cut(chunk, block):
    model, prompt, canvas = narrowed(random_backbone(1)), tokens(2, 40), tokens(2, 8, seed=2)
    whole = model.prefill(prompt)
    cut = mock.patch.multiple(backbone, PREFILL_CHUNK=chunk, QUERY_BLOCK=block)
    with cut, mock.patch.object(plan, "SPLIT", 0):
        cut = model.prefill(prompt)
    for entry in range(3):
        for one, two in zip(whole.committed(entry), cut.committed(entry), strict=True):
            torch.testing.assert_close(one.float(), two.float(), rtol=0.07, atol=1e-2)  # a rounding falls otherwise
    torch.testing.assert_close(model.denoise(canvas, whole), model.denoise(canvas, cut), rtol=0.05, atol=0.05)


@torch.no_grad()
def test_a_cache_of_8_bits_forks_selects_grows_and_commits():
    model, canvas = narrowed(random_backbone(1)), tokens(2, 8, seed=2)
    cache = model.prefill(tokens(1, 20), room=0).fork(2).select(torch.tensor([1, 0]))
    fresh = model.prefill(tokens(1, 20).expand(2, -1), room=100)
    for _ in range(3):
        model.commit(canvas, cache)
        model.commit(canvas, fresh)
    torch.testing.assert_close(model.denoise(canvas, cache), model.denoise(canvas, fresh), **CLOSE)


def test_gradients_over_a_frozen_prompt_of_8_bits():
    model, canvas = narrowed(random_backbone(1)), tokens(2, 8, seed=2)
    with torch.no_grad():
        cache = model.prefill(tokens(2, 20))
        want = model.denoise(canvas, cache)
    logits = model.denoise(canvas, cache)
    torch.testing.assert_close(logits, want, rtol=0.05, atol=0.1)  # the canvas itself is not rounded here
    logits.square().sum().backward()
    assert model.layers[2].self_attn.k_proj.weight.grad.abs().max() > 0


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiled_canvas_pass_takes_8_bits():
    model, canvas = narrowed(random_backbone(1, canvas_length=8)), tokens(2, 8, seed=2)
    torch._dynamo.reset()
    want = [model.denoise(canvas, model.prefill(tokens(2, length))) for length in (20, 30)]
    model._compiled = torch.compile(canvas_loop, backend="eager"), torch.compile(soft_capped, backend="eager")
    for length, logits in zip((20, 30), want, strict=True):
        torch.testing.assert_close(model.denoise(canvas, model.prefill(tokens(2, length))), logits, **CLOSE)


# -- layers computed again --------------------------------------------------------------------------------------------


def gradients(recompute: bool, length: int, relations: torch.Tensor | None) -> tuple[dict[str, torch.Tensor], int]:
    """Of a canvas behind a prompt, and the bytes that autograd keeps for the backward pass."""
    model, kept = random_backbone(1, num_relations=2, loops=2), {}
    model.recompute = recompute

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cache = model.prefill(tokens(2, length), None, relations)
        loss = model.denoise(tokens(2, 8, seed=2), cache, None, relations).square().mean()
        loss = loss + model.causal_logits(tokens(2, 4, seed=3), cache, relations).square().mean()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, sum(kept.values())


@pytest.mark.parametrize("related", [False, True])
def test_layers_computed_again_give_the_same_gradients_and_keep_less(related):
    relations = torch.rand(1, 2, 80, 80, generator=torch.Generator().manual_seed(2)) < 0.5 if related else None
    (plain, kept), (again, fewer) = (gradients(recompute, 60, relations) for recompute in (False, True))
    assert plain.keys() == again.keys() and fewer < 0.5 * kept
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, rtol=0, atol=0, msg=name) if grad is not None else None


def test_a_long_prompt_with_gradients_attends_block_by_block():
    model, prompt = random_backbone(1), tokens(2, 40)
    whole = model.causal_logits(prompt, model.empty_cache(2, 40))
    with mock.patch.multiple(backbone, AT_ONCE=16, QUERY_BLOCK=7):
        parts = model.causal_logits(prompt, model.empty_cache(2, 40))
    torch.testing.assert_close(whole, parts, **CLOSE)
    one, two = (torch.autograd.grad(each.square().sum(), list(model.layers.parameters())) for each in (whole, parts))
    for left, right in zip(one, two, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


# -- the last positions -----------------------------------------------------------------------------------------------


def test_rotations_of_the_last_positions():
    positions = torch.tensor([0, 1, 65_535, 262_142, 262_143])
    for head, theta, share in ((256, 10_000.0, 1.0), (512, 1_000_000.0, 0.25)):
        frequencies = inverse_frequencies(head, theta, share)
        cosine, sine = rotation(positions, frequencies, torch.float32)
        exact = positions.double()[:, None] * torch.cat([frequencies, frequencies]).double()
        # fp32 holds an angle of 262,143 with an error of 0.016.
        assert (cosine - exact.cos()).abs().max() < 0.02 and (sine - exact.sin()).abs().max() < 0.02


@torch.no_grad()
def test_the_last_position_is_read_and_the_next_one_refused():
    most = 262_144
    model = random_backbone(1, max_position_embeddings=most, canvas_length=8)
    cache = model.empty_cache(1, most)
    for stores in (cache.keys, cache.values):
        for store in stores:
            store.normal_(generator=torch.Generator().manual_seed(3))
    cache.length, cache.slid = most - 9, most - 9 - 5
    assert sum(keys.shape[1] for keys in cache.keys) == most + 2 * (5 + 8)  # sliding layers keep their window alone
    assert model.denoise(tokens(1, 8), cache).isfinite().all()
    assert model.next_token(tokens(1, 1), cache).isfinite().all()
    model.denoise(tokens(1, 8), cache)
    for call in (lambda: model.commit(tokens(1, 9), cache), lambda: model.next_token(tokens(1, 9), cache)):
        with pytest.raises(InputError, match="262145 tokens of context; this model takes up to 262144"):
            call()
    model.commit(tokens(1, 8), cache)
    assert cache.length == most
    with pytest.raises(InputError, match="262145 tokens"):
        model.denoise(tokens(1, 1), cache)
