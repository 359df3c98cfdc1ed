"""What makes passes cheap: skipped work, compiled canvas passes, bounded memory; none of it changes a number."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from constrained_dg.errors import InputError
from constrained_dg.model import backbone
from constrained_dg.model.canvas_pass import canvas_loop, soft_capped
from constrained_dg.training.module import can_compile
from tests.naive_backbone import random_backbone

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_prompt_costs_no_head_and_of_the_last_layer_its_keys_alone(monkeypatch):
    monkeypatch.setattr(backbone, "PREFILL_CHUNK", 4)
    model, calls = random_backbone(1, loops=2, causal_loops=2), []
    for name in ("self_attn.q_proj", "self_attn.k_proj", "experts"):
        part = model.layers[-1].get_submodule(name)
        part.register_forward_pre_hook(lambda _, args, n=name: calls.append((n, args[0].numel() // args[0].shape[-1])))
    model.norm.register_forward_pre_hook(lambda *_: calls.append("head"))
    everything = [("self_attn.q_proj", 4), ("self_attn.k_proj", 4), ("experts", 4)]

    cache = model.prefill(tokens(1, 8))
    assert calls == [*everything, ("self_attn.k_proj", 4)] * 2  # both causal loops of both chunks
    calls.clear()
    model.commit(tokens(1, 4), cache)
    assert calls == [*everything, ("self_attn.k_proj", 4)]
    calls.clear()
    model.next_token(tokens(1, 8), cache)
    assert calls == [*everything, ("self_attn.k_proj", 4), *everything, *everything, "head"]
    calls.clear()
    model.causal_logits(tokens(1, 4), cache)
    assert calls == [*everything, *everything, "head"]


@torch.no_grad()
def test_logits_of_no_tokens_and_of_a_wrong_mask():
    model = random_backbone(2)
    cache = model.prefill(tokens(2, 9))
    assert model.causal_logits(tokens(2, 0), cache).shape == (2, 0, 64)
    with pytest.raises(InputError, match=r"padding mask is \(2, 9\) for tokens \(2, 4\)"):
        model.causal_logits(tokens(2, 4), cache, mask=torch.ones(2, 9, dtype=torch.bool))


def test_a_canvas_beyond_the_context_is_refused():
    model = random_backbone(3, max_position_embeddings=12, canvas_length=8)
    cache = model.prefill(tokens(1, 9))
    model.denoise(tokens(1, 3), cache)
    with pytest.raises(InputError, match="13 tokens of context; this model takes up to 12"):
        model.denoise(tokens(1, 4), cache)
    with pytest.raises(InputError, match="13 tokens of context"):
        model.prefill(tokens(1, 13))


def test_a_causal_pass_with_gradients_on_a_frozen_prompt_stores_what_it_made():
    model, text = random_backbone(4, canvas_length=3), tokens(2, 13)
    with torch.no_grad():
        cache, want = model.prefill(text[:, :9]), model.prefill(text)
        logits = model.causal_logits(text[:, 9:], model.prefill(text[:, :9]))
    made = model.causal_logits(text[:, 9:], cache)
    torch.testing.assert_close(made, logits, **CLOSE)
    made.square().sum().backward()
    assert model.layers[0].self_attn.k_proj.weight.grad.abs().max() > 0
    assert not any(store.requires_grad for store in (*cache.keys, *cache.values))
    for entry in range(len(cache.entries)):
        for one, two in zip(cache.committed(entry), want.committed(entry), strict=True):
            torch.testing.assert_close(one, two, **CLOSE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, while it loads its own compiler
@pytest.mark.parametrize(
    "backend",
    [
        "eager",  # the same graphs, traced but not compiled: seconds instead of minutes
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not can_compile("cpu"), reason="torch.compile needs a C++ compiler"),
            ],
        ),
    ],
)
@torch.no_grad()
def test_the_compiled_canvas_pass_equals_the_eager_one_and_stays_compiled(backend):
    shape = {"num_hidden_layers": 2, "sliding_layers_per_full": 1, "canvas_length": 4, "moe_intermediate_size": 48}
    eager, model = random_backbone(5, **shape), random_backbone(5, **shape)
    torch._dynamo.reset()  # graphs of earlier tests would count
    counter = CompileCounterWithBackend(backend)
    model.compile_canvas_pass()
    model._compiled = torch.compile(canvas_loop, backend=counter), torch.compile(soft_capped, backend=backend)
    held = []
    for length in (3, 7, 16):  # below the window of 6, just above it, far beyond
        caches = [m.prefill(tokens(3, length), room=30) for m in (model, eager)]
        for number in range(3):
            canvas = tokens(caches[0].rows, 4, seed=number)
            probabilities = torch.randn(*canvas.shape, 64, generator=torch.Generator().manual_seed(number)).softmax(-1)
            made = model.denoise(canvas, caches[0], model.self_condition(probabilities))
            want = eager.denoise(canvas, caches[1], eager.self_condition(probabilities))
            torch.testing.assert_close(made, want, **CLOSE)
            held.append((made, made.clone()))
            for m, cache in zip((model, eager), caches, strict=True):
                m.commit(canvas, cache)
            if number == 1:
                caches = [cache.select(torch.tensor([2, 0])) for cache in caches]
    assert all(torch.equal(kept, copy) for kept, copy in held), "a later pass wrote into the logits of an earlier one"
    assert counter.frame_count <= 3, f"{counter.frame_count} graphs"
    with torch.enable_grad():  # training is none of its business
        assert model.denoise(tokens(1, 4), model.prefill(tokens(1, 3))).requires_grad


@pytest.mark.parametrize(
    "rows, committed, dtype", [(1, 12, torch.float32), (3, 40, torch.float32), (2, 40, torch.bfloat16)]
)
@torch.no_grad()
def test_memory_needed_covers_what_a_generation_holds_and_not_much_more(rows, committed, dtype):
    model = random_backbone(6, canvas_length=4, vocab_size=2048).to(dtype)
    cache = model.prefill(tokens(rows, committed - 4))
    model.commit(tokens(rows, 4), cache)
    logits = model.denoise(tokens(rows, 4), cache)
    probabilities = logits.softmax(-1).to(dtype)
    held = cache.nbytes + logits.nbytes + probabilities.nbytes
    if rows > 1:
        held += cache.select(torch.arange(rows - 1)).nbytes
    estimate = model.memory_needed(rows, committed, 4)
    activations = 4 * rows * committed * 2000 * logits.element_size()
    assert held <= estimate <= held + activations + logits.nbytes
    # More context costs the full layers alone: one of three, with 1 head of 16 numbers for keys and for values. It has
    # no mask before a block of queries.
    more = model.memory_needed(1, 100_001, 4) - model.memory_needed(1, 100_000, 4)
    assert more == 2 * 16 * model.embed_tokens.weight.element_size()
