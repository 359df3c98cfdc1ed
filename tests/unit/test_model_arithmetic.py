"""The backbone against tests/naive_backbone.py, which was written apart from it, token by token."""

import pytest
import torch

from tests.naive_backbone import NaiveRow, random_backbone

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
WINDOW = 6  # of the preset "tiny"
CANVAS = 4


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def naive_rows(model, rows, relations=None):
    """One naive twin a row; relations (B, R, N, N) or None."""
    state = model.state_dict()
    return [NaiveRow(model.config, state, None if relations is None else relations[i]) for i in range(rows)]


def stacked(results):
    return torch.stack(list(results)).float()


@torch.no_grad()
def compare_cache(cache, rows, real=None):
    for entry in range(len(cache.keys)):
        for got, naive in zip(cache.committed(entry), ("keys", "values"), strict=True):
            want = stacked(torch.stack(getattr(row, naive)[entry]) for row in rows)
            window = cache.entries[entry].window
            held = cache.length if window is None else min(cache.length, window - 1)
            assert got.shape[1] == held
            want = want[:, cache.length - held :]
            if real is not None:
                got, want = got[real[:, cache.length - held :]], want[real[:, cache.length - held :]]
            torch.testing.assert_close(got, want, **CLOSE, msg=lambda m, e=entry, n=naive: f"{n} of entry {e}: {m}")


# The last two lie beyond the window; 0 is a model that writes without a prompt.
@pytest.mark.parametrize("length", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 1])
@torch.no_grad()
def test_prompt_below_at_and_beyond_the_window(length):
    model, prompt = random_backbone(3), tokens(2, length)
    rows = naive_rows(model, 2)
    cache = model.prefill(prompt[:, :0])
    if length:
        got = model.causal_logits(prompt, cache)
        torch.testing.assert_close(
            got, stacked(r.commit(p.tolist()) for r, p in zip(rows, prompt, strict=True)), **CLOSE
        )
        compare_cache(cache, rows)
        compare_cache(model.prefill(prompt), rows)
    canvas = tokens(2, CANVAS, seed=2)
    got = model.denoise(canvas, cache)
    torch.testing.assert_close(got, stacked(r.denoise(c.tolist()) for r, c in zip(rows, canvas, strict=True)), **CLOSE)


@torch.no_grad()
def test_self_conditioning_without_with_and_masked_by_row():
    model, prompt, canvas = random_backbone(4), tokens(2, 9), tokens(2, CANVAS, seed=2)
    rows = naive_rows(model, 2)
    for row, p in zip(rows, prompt, strict=True):
        row.commit(p.tolist())
    cache = model.prefill(prompt)
    fed_back = torch.randn(2, CANVAS, 64, generator=torch.Generator().manual_seed(5)) * 3
    without = stacked(r.denoise(c.tolist()) for r, c in zip(rows, canvas, strict=True))
    conditioned = stacked(r.denoise(c.tolist(), f) for r, c, f in zip(rows, canvas, fed_back, strict=True))
    assert (without - conditioned).abs().max() > 0.1
    got = model.denoise(canvas, cache, model.self_condition(fed_back.softmax(-1)))
    torch.testing.assert_close(got, conditioned, **CLOSE)
    got = model.denoise(canvas, cache, model.self_condition(fed_back.softmax(-1), torch.tensor([False, True])))
    torch.testing.assert_close(got, torch.stack([without[0], conditioned[1]]), **CLOSE)


@torch.no_grad()
def test_left_padding_is_masked_in_every_pass():
    model, prompt = random_backbone(5), tokens(3, 9)
    real = torch.arange(9) >= torch.tensor([0, 3, 8])[:, None]
    canvas, following = tokens(3, CANVAS, seed=2), tokens(3, CANVAS, seed=3)
    rows = naive_rows(model, 3)
    for row, p, r in zip(rows, prompt, real, strict=True):
        row.commit(p.tolist(), r.tolist())
    cache = model.prefill(prompt, real)
    compare_cache(cache, rows, real)
    got = model.denoise(canvas, cache)
    torch.testing.assert_close(got, stacked(r.denoise(c.tolist()) for r, c in zip(rows, canvas, strict=True)), **CLOSE)
    got = model.causal_logits(canvas, cache)
    torch.testing.assert_close(got, stacked(r.commit(c.tolist()) for r, c in zip(rows, canvas, strict=True)), **CLOSE)
    got = model.denoise(following, cache)
    want = stacked(r.denoise(c.tolist()) for r, c in zip(rows, following, strict=True))
    torch.testing.assert_close(got, want, **CLOSE)


@torch.no_grad()
def test_left_padding_changes_nothing_but_rounding():
    model, prompt, canvas = random_backbone(6), tokens(1, 7), tokens(1, CANVAS, seed=2)
    padded = torch.cat([tokens(1, 5, seed=9), prompt], dim=1)
    mask = torch.tensor([[False] * 5 + [True] * 7])
    plain = model.denoise(canvas, model.prefill(prompt))
    torch.testing.assert_close(model.denoise(canvas, model.prefill(padded, mask)), plain, **CLOSE)
    assert (model.denoise(canvas, model.prefill(padded)) - plain).abs().max() > 1e-2, "the pads must be masked"


@pytest.mark.parametrize("loops, causal_loops", [(1, 1), (2, 2), (3, 2)])
@torch.no_grad()
def test_canvas_after_canvas_with_relations_and_loops(loops, causal_loops):
    model = random_backbone(7, loops=loops, causal_loops=causal_loops, num_relations=2)
    prompt, total = tokens(2, 5), 5 + 3 * CANVAS
    relations = torch.rand(2, 2, total, total, generator=torch.Generator().manual_seed(8)) < 0.4
    rows = naive_rows(model, 2, relations)
    cache = model.prefill(prompt, relations=relations)
    for row, p in zip(rows, prompt, strict=True):
        row.commit(p.tolist())
    compare_cache(cache, rows)
    for number in range(3):
        canvas = tokens(2, CANVAS, seed=10 + number)
        got = model.denoise(canvas, cache, relations=relations)
        want = stacked(r.denoise(c.tolist()) for r, c in zip(rows, canvas, strict=True))
        torch.testing.assert_close(got, want, **CLOSE)
        if number < 2:
            assert model.commit(canvas, cache, relations) is cache
            for row, c in zip(rows, canvas, strict=True):
                row.commit(c.tolist())
    assert cache.length == 5 + 2 * CANVAS
    compare_cache(cache, rows)


@torch.no_grad()
def test_the_last_layer_is_forced_to_full():
    model = random_backbone(8, num_hidden_layers=5, sliding_layers_per_full=3, num_experts=6, top_k_experts=3)
    assert [model.config.is_full(i) for i in range(5)] == [False, False, False, True, True]
    prompt, canvas = tokens(1, 8), tokens(1, CANVAS, seed=2)
    row = NaiveRow(model.config, model.state_dict())
    row.commit(prompt[0].tolist())
    cache = model.prefill(prompt)
    compare_cache(cache, [row])
    torch.testing.assert_close(model.denoise(canvas, cache), row.denoise(canvas[0].tolist()).float()[None], **CLOSE)


@torch.no_grad()
def test_window_of_one_sees_the_canvas_alone():
    """The laptop preset: sliding layers of a canvas see no committed token, those of a prompt only the token itself."""
    model = random_backbone(9, sliding_window=1)
    prompt, canvas = tokens(1, 5), tokens(1, CANVAS, seed=2)
    row = NaiveRow(model.config, model.state_dict())
    row.commit(prompt[0].tolist())
    got = model.denoise(canvas, model.prefill(prompt))
    torch.testing.assert_close(got, row.denoise(canvas[0].tolist()).float()[None], **CLOSE)


@torch.no_grad()
def test_every_neutral_looking_parameter_matters():
    """If a norm weight, scale or scalar could change without a trace, the comparison above would prove nothing."""
    model = random_backbone(10, num_relations=1)
    prompt, canvas = tokens(2, 8), tokens(2, 8, seed=2)
    relations = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    signal = model.self_condition(torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(3)).softmax(-1))

    def outputs():
        cache = model.prefill(prompt, relations=relations)
        return model.denoise(canvas, cache, signal, relations)

    before = outputs()
    for name, tensor in model.state_dict().items():
        kept = tensor.clone()
        tensor.mul_(1 + 0.5 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(4)))
        after = outputs()
        tensor.copy_(kept)
        # What the last layer gives a prompt after its keys and values feeds no cache: only causal logits show it.
        if name != "layers.2.encoder_layer_scalar":
            assert not torch.equal(after, before), name
