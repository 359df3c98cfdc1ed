"""The cache: two modes, forks, growth, and what a canvas pass must leave alone."""

import pytest
import torch

from constrained_dg.errors import InputError
from tests.naive_backbone import random_backbone

CLOSE = {"rtol": 1e-5, "atol": 2e-5}
CONFIGS = [{}, {"loops": 3, "causal_loops": 2}, {"sliding_window": 1}]


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def contents(cache) -> list[torch.Tensor]:
    """Everything committed that any pass can still read, copied."""
    return [store.detach().clone() for entry in range(len(cache.entries)) for store in cache.committed(entry)]


def assert_same(cache, other, **tolerance) -> None:
    assert cache.length == other.length
    assert (cache.mask is None and other.mask is None) or torch.equal(cache.mask, other.mask)
    for one, two in zip(contents(cache), contents(other), strict=True):
        torch.testing.assert_close(one, two, **(tolerance or CLOSE))


def padding(*counts: int, length: int) -> torch.Tensor:
    return torch.arange(length) >= torch.tensor(counts)[:, None]


@pytest.mark.parametrize("changes", CONFIGS)
@pytest.mark.parametrize("mask", [None, padding(0, 4, length=9)], ids=["no padding", "padding"])
def test_gradient_mode_equals_buffered_mode(changes, mask):
    model = random_backbone(1, **changes)

    def run():
        cache = model.prefill(tokens(2, 9), mask)
        first = model.denoise(tokens(2, 4, seed=2), cache)
        model.commit(tokens(2, 4, seed=3), cache)
        return cache, first, model.denoise(tokens(2, 5, seed=4), cache)

    plain, *with_gradients = run()
    with torch.no_grad():
        buffered, *without = run()
    assert buffered.buffered and not plain.buffered
    assert_same(plain, buffered)
    for one, two in zip(with_gradients, without, strict=True):
        assert one.requires_grad and not two.requires_grad
        torch.testing.assert_close(one, two, **CLOSE)


def test_a_pass_without_gradients_reads_a_cache_with_gradients():
    # Training: self-conditioning's first pass runs without gradients on the cache that the second one trains through.
    model = random_backbone(1)
    cache, canvas = model.prefill(tokens(2, 9)), tokens(2, 4, seed=2)
    with torch.no_grad():
        first = model.denoise(canvas, cache)
    second = model.denoise(canvas, cache)
    torch.testing.assert_close(first, second, **CLOSE)
    second.sum().backward()
    assert model.layers[0].self_attn.k_proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_gradients_over_a_cache_without_gradients_stop_at_it(name):
    # A frozen prompt: the same buffered cache serves many training steps of the canvas.
    model, canvas = random_backbone(1, name), tokens(2, 4, seed=2)

    def gradients(cache):
        model.zero_grad()
        model.denoise(canvas, cache).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    with torch.no_grad():
        buffered = model.prefill(tokens(2, 9))
        before = contents(buffered)
    stopped = model.prefill(tokens(2, 9))
    stopped.keys, stopped.values = [k.detach() for k in stopped.keys], [v.detach() for v in stopped.values]
    want = gradients(stopped)
    for _ in range(2):
        for one, two in zip(gradients(buffered), want, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
        assert not any(store.requires_grad for store in (*buffered.keys, *buffered.values))
        assert all(torch.equal(one, two) for one, two in zip(before, contents(buffered), strict=True))


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("changes", CONFIGS)
def test_denoise_changes_nothing_committed_and_leaves_no_trace(changes, gradients):
    model = random_backbone(2, **changes)
    with torch.set_grad_enabled(gradients):
        cache = model.prefill(tokens(2, 9), padding(0, 2, length=9))
        before, mask = contents(cache), cache.mask.clone()
        model.denoise(tokens(2, 8, seed=2), cache, model.self_condition(torch.randn(2, 8, 64).softmax(-1)))
        assert cache.length == 9 and torch.equal(cache.mask, mask)
        for one, two in zip(before, contents(cache), strict=True):
            assert torch.equal(one, two)
        # A shorter canvas afterwards reads nothing that the longer one left in the scratch region.
        if cache.buffered:
            for entry, kind in enumerate(cache.entries):
                used = cache.length - (0 if kind.window is None else cache.slid)
                cache.keys[entry][:, used:] = cache.values[entry][:, used:] = float("nan")
        fresh = model.prefill(tokens(2, 9), padding(0, 2, length=9))
        assert torch.equal(model.denoise(tokens(2, 5, seed=3), cache), model.denoise(tokens(2, 5, seed=3), fresh))


@torch.no_grad()
def test_a_canvas_pass_copies_no_buffer():
    model = random_backbone(2)
    cache = model.prefill(tokens(2, 9), room=4)
    where = [store.data_ptr() for store in (*cache.keys, *cache.values)]
    model.denoise(tokens(2, 4), cache)
    model.commit(tokens(2, 4), cache)
    assert where == [store.data_ptr() for store in (*cache.keys, *cache.values)]


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, padding(0, 4, 2, length=9)], ids=["no padding", "padding"])
def test_select_and_fork_equal_a_fresh_prefill(mask):
    model, prompt = random_backbone(3, loops=2, causal_loops=2), tokens(3, 9)
    cache = model.prefill(prompt, mask)
    for chosen, rows in [
        (cache.select(torch.tensor([2, 0, 2])), [2, 0, 2]),
        (cache.fork(2), [0, 0, 1, 1, 2, 2]),
        (cache.fork(1), [0, 1, 2]),
        (cache.select(torch.tensor([1])).fork(3), [1, 1, 1]),
    ]:
        rows = torch.tensor(rows)
        fresh = model.prefill(prompt[rows], None if mask is None else mask[rows])
        assert chosen.rows == len(rows)
        assert_same(chosen, fresh)
        canvas = tokens(len(rows), 4, seed=5)
        torch.testing.assert_close(model.denoise(canvas, chosen), model.denoise(canvas, fresh), **CLOSE)
        assert_same(model.commit(canvas, chosen), model.commit(canvas, fresh))
        torch.testing.assert_close(model.denoise(canvas, chosen), model.denoise(canvas, fresh), **CLOSE)
    assert_same(cache, model.prefill(prompt, mask))  # the original did not notice its forks


def test_fork_keeps_gradients():
    model = random_backbone(3)
    cache = model.prefill(tokens(2, 5)).fork(2)
    model.denoise(tokens(4, 4, seed=2), cache).sum().backward()
    assert model.layers[0].self_attn.k_proj.weight.grad is not None


def test_fork_refuses_no_copies():
    with pytest.raises(InputError, match="into 0 copies"):
        random_backbone(3).prefill(tokens(2, 5)).fork(0)


@torch.no_grad()
@pytest.mark.parametrize("room", [0, 1, 4, 40])
def test_capacity_grows_when_needed(room):
    model, prompt, canvas = random_backbone(4), tokens(2, 9), tokens(2, 4, seed=2)
    cache, roomy = model.prefill(prompt, room=room), model.prefill(prompt, room=100)
    assert cache.keys[0].shape[1] == 9 + room
    for _ in range(3):
        assert torch.equal(model.denoise(canvas, cache), model.denoise(canvas, roomy))
        model.commit(canvas, cache)
        model.commit(canvas, roomy)
        assert_same(cache, roomy, rtol=0, atol=0)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("changes", CONFIGS)
@pytest.mark.parametrize("split", [1, 5, 6, 7, 12])
def test_prefill_in_one_go_equals_a_part_and_the_rest(split, changes, gradients):
    model, prompt = random_backbone(5, num_relations=2, **changes), tokens(2, 13)
    relations = torch.rand(2, 2, 17, 17, generator=torch.Generator().manual_seed(1)) < 0.4
    mask = padding(1, 0, length=13)
    with torch.set_grad_enabled(gradients):
        whole = model.prefill(prompt, mask, relations)
        parts = model.prefill(prompt[:, :split], mask[:, :split], relations)
        model.commit(prompt[:, split:], parts, relations)
        assert_same(whole, parts)
        canvas = tokens(2, 4, seed=2)
        one, two = (model.denoise(canvas, cache, None, relations) for cache in (whole, parts))
        torch.testing.assert_close(one, two, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("changes", CONFIGS)
def test_next_token_equals_causal_logits_at_every_position(changes):
    model, text = random_backbone(6, **changes), tokens(2, 14)
    mask = padding(0, 2, length=3)
    together = model.causal_logits(text[:, 3:], model.prefill(text[:, :3], mask))
    cache = model.prefill(text[:, :3], mask)
    for position in range(3, 14):
        logits = model.next_token(text[:, position : position + 1], cache)
        torch.testing.assert_close(logits, together[:, position - 3], **CLOSE)
    cache = model.prefill(text[:, :3], mask)
    torch.testing.assert_close(model.next_token(text[:, 3:], cache), together[:, -1], **CLOSE)


def test_too_long_a_context_or_canvas_is_refused():
    model = random_backbone(7, max_position_embeddings=12, canvas_length=4)
    cache = model.prefill(tokens(1, 10))
    with pytest.raises(InputError, match=r"13 tokens of context; this model takes up to 12"):
        model.commit(tokens(1, 3), cache)
    with pytest.raises(InputError, match=r"canvas has 5 tokens; this model takes canvases of up to 4"):
        model.denoise(tokens(1, 5), cache)
    assert cache.length == 10
