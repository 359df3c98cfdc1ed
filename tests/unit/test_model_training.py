"""What training relies on: gradients everywhere, rows that do not mix, low precision, honest initial weights."""

import pytest
import torch

from constrained_dg.diffusion import canvas_loss, next_token_loss
from constrained_dg.model import Backbone, preset
from tests.naive_backbone import random_backbone


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def training_loss(model: Backbone, prompt, canvas, noisy, relations=None):
    cache = model.prefill(prompt[:, :1], relations=relations)
    causal = model.causal_logits(prompt[:, 1:], cache, relations)
    signal = model.self_condition(torch.zeros(*canvas.shape, model.vocab_size).softmax(-1))
    free = torch.zeros(canvas.shape, dtype=torch.bool)
    loss = canvas_loss(model.denoise_loops(noisy, cache, signal, relations), canvas, free)
    return loss + next_token_loss(causal, prompt[:, 1:], torch.zeros_like(prompt[:, 1:], dtype=torch.bool))


@pytest.mark.parametrize("name, changes", [("tiny", {}), ("tiny", {"loops": 2, "causal_loops": 2}), ("small", {})])
def test_gradients_reach_every_parameter(name, changes):
    model = random_backbone(1, name, num_relations=2, **changes).train()
    relations = torch.rand(1, 2, 40, 40, generator=torch.Generator().manual_seed(2)) < 0.5
    training_loss(model, tokens(4, 12), tokens(4, 16, seed=2), tokens(4, 16, seed=3), relations).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


def test_gradients_flow_from_the_canvas_into_the_prompt_pass():
    model, prompt = random_backbone(1), tokens(2, 6)
    signal_free = model.denoise(tokens(2, 4, seed=2), model.prefill(prompt))
    signal_free.sum().backward()
    only_in_prompt = set(prompt.flatten().tolist()) - set(tokens(2, 4, seed=2).flatten().tolist())
    with_prompt = model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    with torch.no_grad():
        cache = model.prefill(prompt)
    model.denoise(tokens(2, 4, seed=2), _detached(cache)).sum().backward()
    differs = (with_prompt - model.embed_tokens.weight.grad).abs().amax(1) > 1e-6
    assert differs[sorted(only_in_prompt)].all()


def _detached(cache):
    cache.keys = [k[:, : cache.length].clone() for k in cache.keys]
    cache.values = [v[:, : cache.length].clone() for v in cache.values]
    cache.buffered = False
    return cache


def test_gradients_agree_with_finite_differences():
    model = random_backbone(2, hidden_size=16, intermediate_size=8, moe_intermediate_size=4, vocab_size=8).double()
    prompt, canvas, noisy = (tokens(1, n, seed=s) % 8 for n, s in ((5, 1), (3, 2), (3, 3)))
    # fp32 inside the norms and the softmax limits the step that makes sense.
    loss = training_loss(model, prompt, canvas, noisy)
    loss.backward()
    step = 1e-2
    for name in ("layers.0.self_attn.k_norm.weight", "layers.1.router.per_expert_scale", "norm.weight"):
        parameter = dict(model.named_parameters())[name]
        with torch.no_grad():
            kept = parameter[0].item()
            values = []
            for sign in (1, -1):
                parameter[0] = kept + sign * step
                values.append(training_loss(model, prompt, canvas, noisy).item())
            parameter[0] = kept
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(parameter.grad[0].item(), rel=0.02, abs=1e-4), name


@pytest.mark.parametrize("gradients", [False, True])
def test_a_row_alone_equals_the_row_in_a_batch(gradients):
    model, prompt, canvas = random_backbone(3, loops=2), tokens(5, 9), tokens(5, 4, seed=2)
    mask = torch.arange(9) >= torch.tensor([0, 4, 2, 0, 8])[:, None]
    fed_back = torch.randn(5, 4, 64, generator=torch.Generator().manual_seed(1))

    def run(rows):
        cache = model.prefill(prompt[rows], mask[rows])
        first = model.denoise(canvas[rows], cache, model.self_condition(fed_back[rows].softmax(-1)))
        model.commit(canvas[rows], cache)
        return first, model.denoise(canvas[rows], cache)

    with torch.set_grad_enabled(gradients):
        together = run(torch.arange(5))
        for row in range(5):
            for whole, alone in zip(together, run(torch.tensor([row])), strict=True):
                torch.testing.assert_close(whole[row : row + 1], alone, rtol=1e-4, atol=1e-4)
        shuffled = run(torch.tensor([4, 2, 0, 1, 3]))
        torch.testing.assert_close(shuffled[1], together[1][torch.tensor([4, 2, 0, 1, 3])], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gradients", [False, True])
def test_bf16_autocast_is_near_fp32(gradients):
    # Every expert is chosen: a router that flips between two would hide everything else.
    model = random_backbone(4, num_relations=2, top_k_experts=4, loops=2)
    relations = torch.rand(1, 2, 20, 20, generator=torch.Generator().manual_seed(2)) < 0.5
    prompt, canvas = tokens(2, 8), tokens(2, 4, seed=2)

    def run():
        cache = model.prefill(prompt, relations=relations)
        model.commit(canvas, cache, relations)
        first = model.denoise(canvas, cache, None, relations)
        return cache, model.denoise(canvas, cache, model.self_condition(first.softmax(-1)), relations)

    with torch.set_grad_enabled(gradients):
        _, exact = run()
        with torch.autocast("cpu", torch.bfloat16):
            cache, near = run()
    assert cache.keys[0].dtype == torch.bfloat16
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().mean() < 0.05 * exact.std()
    if gradients:
        near.square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_bf16_weights_work_and_give_fp32_logits():
    model = random_backbone(4, top_k_experts=4)
    exact = model.denoise(tokens(2, 4), model.prefill(tokens(2, 8)))
    near = model.bfloat16().denoise(tokens(2, 4), model.prefill(tokens(2, 8)))
    assert near.dtype == torch.float32
    assert (near - exact).abs().mean() < 0.1 * exact.std()


@torch.no_grad()
def test_logits_are_soft_capped():
    model = random_backbone(5)
    model.norm.weight.mul_(1000)
    logits = model.denoise(tokens(1, 4), model.prefill(tokens(1, 3)))
    assert logits.abs().max() <= 30 and logits.abs().max() > 29


@torch.no_grad()
def test_initial_weights_follow_the_generator_and_start_sane():
    models = [
        Backbone(preset("tiny", num_relations=3)).init_weights(torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    ]
    one, two, other = (m.state_dict() for m in models)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["embed_tokens.weight"], other["embed_tokens.weight"])
    attention = models[0].layers[0].self_attn
    assert (attention.q_norm.weight * attention.k_norm.weight)[0].item() == pytest.approx(8**-0.5)
    # Heads are tied to relations in turn: 4 heads, 3 relations.
    assert (attention.relation_bias != 0).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    logits = models[0].denoise(tokens(4, 16), models[0].prefill(tokens(4, 3)))
    assert logits.std() < 3, "an untrained model must not be certain"
