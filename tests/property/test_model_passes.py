"""The bounded cache against one that keeps and concatenates everything; fast attention against a slow one.

The twin is the gradient mode: plain tensors, one block of queries, one chunk. What that mode computes is held to
tests/naive_backbone.py elsewhere.
"""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from constrained_dg.model import backbone as module
from constrained_dg.model import plan
from constrained_dg.model.attention import Block, attend, attend_blocks
from constrained_dg.model.masks import causal_mask, first_visible
from tests.naive_backbone import random_backbone

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CANVAS, WINDOW = 4, 6
#: Wide enough that sampling takes the grouped experts.
WIDE = {"moe_intermediate_size": 48, "canvas_length": CANVAS}
MODELS = {
    (window, loops): random_backbone(1, sliding_window=window, loops=2, causal_loops=loops, num_relations=2, **WIDE)
    for window in (1, WINDOW, 13)  # 13: some chunks are longer than the scratch and shorter than the window
    for loops in (1, 2)
}


def tokens(rows: int, count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 64, (rows, count), generator=torch.Generator().manual_seed(seed))


def steps() -> st.SearchStrategy:
    commits = st.tuples(st.sampled_from(["commit", "next_token", "causal_logits"]), st.integers(1, 17))
    canvases = st.tuples(st.just("denoise"), st.integers(1, CANVAS))
    return st.lists(commits | canvases | st.tuples(st.just("select"), st.integers(0, 2)), max_size=6)


@settings(max_examples=40)
@given(
    model=st.sampled_from(sorted(MODELS)),
    prompt=st.integers(0, 20),
    padding=st.none() | st.lists(st.integers(0, 20), min_size=3, max_size=3),
    related=st.booleans(),
    room=st.sampled_from([0, 3, None, 60]),
    chunk=st.integers(1, 9),
    block=st.integers(1, 5),
    steps=steps(),
)
def test_the_bounded_cache_equals_one_that_keeps_everything(model, prompt, padding, related, room, chunk, block, steps):
    model = MODELS[model]
    generator = torch.Generator().manual_seed(1)
    relations = torch.rand(1, 2, 150, 150, generator=generator) < 0.4 if related else None
    mask = None if padding is None else torch.arange(prompt) >= torch.tensor(padding)[:, None]

    def run(bounded: bool) -> list[torch.Tensor]:
        with torch.set_grad_enabled(not bounded):
            cache, out = model.prefill(tokens(3, prompt, 1), mask, relations, room), []
            assert cache.buffered == bounded
            for seed, (name, count) in enumerate(steps):
                if name == "select":
                    cache = cache.select(torch.arange(cache.rows).roll(1)[: max(1, cache.rows - count)])
                elif name == "denoise":
                    out.append(model.denoise(tokens(cache.rows, count, seed), cache, None, relations))
                elif name == "causal_logits":
                    out.append(model.causal_logits(tokens(cache.rows, count, seed), cache, relations))
                else:
                    made = getattr(model, name)(tokens(cache.rows, count, seed), cache, relations)
                    out += [made] if name == "next_token" else []
            if bounded:
                for keys, entry in zip(cache.keys, cache.entries, strict=True):
                    assert entry.window is None or keys.shape[1] <= entry.window - 1 + CANVAS
            out += [store for entry in range(len(cache.entries)) for store in cache.committed(entry)]
            return [tensor.detach() for tensor in out]

    with mock.patch.multiple(module, PREFILL_CHUNK=chunk, QUERY_BLOCK=block):
        with mock.patch.object(plan, "SPLIT", 0):  # what lies before a block apart, and the twin all at once
            apart = run(True)
        for one, two, three in zip(run(True), run(False), apart, strict=True):
            assert one.isfinite().all()
            torch.testing.assert_close(one, two, **CLOSE)
            torch.testing.assert_close(one, three, **CLOSE)


# -- what a pass may not do -------------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """The largest tensor that any operation makes; operations that wait for the device, or copy numbers to it, fail."""

    WAITING = frozenset(
        {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "equal", "is_nonzero", "lift_fresh"}
    )
    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.WAITING, f"{function} waits for the device"
        out = function(*args, **(kwargs or {}))
        view = any(r.alias_info is not None for r in function._schema.returns)
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and not view:
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("changes", [{}, {"num_relations": 2}, WIDE])
@torch.no_grad()
def test_no_pass_waits_for_the_device(changes):
    model = random_backbone(1, **changes)
    relations = torch.rand(1, 2, 40, 40) < 0.5 if "num_relations" in changes else None
    mask, rows = torch.arange(9) >= torch.tensor([0, 3])[:, None], torch.tensor([1])
    prompt, canvas, probabilities = tokens(2, 9, 1), tokens(2, 4, 2), torch.randn(2, 4, 64).softmax(-1)
    with Watch():
        cache = model.prefill(prompt, mask, relations)
        model.denoise(canvas, cache, model.self_condition(probabilities), relations)
        model.commit(canvas, cache, relations)
        cache = cache.select(rows)
        model.denoise(canvas[:1], cache, None, relations)
        model.next_token(canvas[:1], cache, relations)


@torch.no_grad()
def test_prefill_makes_nothing_that_grows_with_the_square_of_the_prompt():
    model, largest = random_backbone(1, **WIDE), []
    with mock.patch.multiple(module, PREFILL_CHUNK=32, QUERY_BLOCK=8):
        for length in (128, 256, 512):
            with Watch() as watch:
                model.prefill(tokens(1, length, 1))
            largest.append(watch.largest)
    assert largest[2] <= 2 * largest[1] <= 4 * largest[0]
    assert largest[2] < 512 * 512 / 4


@torch.no_grad()
def test_memory_of_sliding_layers_is_bounded_by_the_window():
    model = random_backbone(1, **WIDE)
    cache = model.prefill(tokens(2, 5, 1))
    for number in range(30):
        model.commit(tokens(2, CANVAS, number), cache)
        model.denoise(tokens(2, CANVAS, number), cache)
    assert cache.length == 125
    widths = [keys.shape[1] for keys in cache.keys]
    assert widths[:2] == [WINDOW - 1 + CANVAS] * 2 and 125 + CANVAS <= widths[2] <= 125 + 3 * CANVAS


# -- attention --------------------------------------------------------------------------------------------------------


def repeating_attention(q, k, v, bias):
    """Every query head gets its own copy of keys and values; the scores are written out."""
    repeats = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeats, dim=2), v.repeat_interleave(repeats, dim=2)
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k)
    return torch.einsum("bhnm,bmhd->bnhd", (scores if bias is None else scores + bias).softmax(-1), v)


@given(
    rows=st.integers(1, 3),
    groups=st.integers(1, 3),
    shared=st.integers(1, 3),
    queries=st.integers(1, 5),
    keys=st.integers(1, 7),
    bias=st.sampled_from(["none", "added", "learned"]),
    axes=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 2**32),
)
def test_attention_equals_the_one_that_repeats(rows, groups, shared, queries, keys, bias, axes, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, queries, groups * shared, 4), (rows, keys, groups, 4), (rows, keys, groups, 4)]
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    added = None
    if bias != "none":
        sizes = [size if whole else 1 for size, whole in zip((rows, groups * shared, queries), axes, strict=True)]
        added = torch.randn(*sizes, keys, generator=generator, requires_grad=bias == "learned")
        inputs += [added] if bias == "learned" else []
    direction = torch.randn(shapes[0], generator=generator)

    def run(path):
        out = path(*inputs[:3], added)
        return [out, *torch.autograd.grad((out * direction).sum(), inputs)]

    for got, want in zip(run(attend), run(repeating_attention), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 9), st.integers(1, 9), st.none() | st.integers(1, 6), st.integers(1, 5), st.integers(0, 9))
def test_blocks_of_queries_equal_one_mask_over_everything(cached, new, window, block, padding):
    generator = torch.Generator().manual_seed(1)
    total = cached + new
    q, k, v = (torch.randn(1, n, h, 4, generator=generator) for n, h in ((new, 4), (total, 2), (total, 2)))

    def hidden(lo, hi, first):
        see = causal_mask(lo, hi - lo, window, first=first)
        return torch.zeros(see.shape).masked_fill(~see, float("-inf"))[None, None]

    ends = [(lo, min(lo + block, total)) for lo in range(cached, total, block)]
    start = first_visible(cached, window)
    blocks = [Block(hidden(lo, hi, first_visible(lo, window))) for lo, hi in ends]
    got = attend_blocks(q, k[:, start:], v[:, start:], blocks)
    torch.testing.assert_close(got, repeating_attention(q, k, v, hidden(cached, total, 0)), rtol=1e-4, atol=1e-5)
    if window is None:  # what lies before a block without a mask, but for padding
        padded = torch.zeros(1, 1, 1, total)
        padded[..., : min(padding, cached)] = float("-inf")
        blocks = [Block(hidden(lo, hi, lo), lo > 0, padded[..., :lo] if padding else None) for lo, hi in ends]
        with torch.no_grad():
            got = attend_blocks(q, k, v, blocks)
        want = repeating_attention(q, k, v, hidden(cached, total, 0) + padded)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
