"""Norms, embedding, rotation, masks, self-conditioning and balance, each alone."""

import math

import pytest
import torch

from constrained_dg.model import RoutingRecord
from constrained_dg.model.layers import RMSNorm, ScaledEmbedding, gated_gelu
from constrained_dg.model.masks import causal_mask, first_visible
from constrained_dg.model.moe import Router, balance_loss
from constrained_dg.model.rope import inverse_frequencies, rotate, rotation
from tests.naive_backbone import random_backbone


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def drawing(mask: torch.Tensor) -> list[str]:
    return ["".join("1" if seen else "." for seen in row) for row in mask.tolist()]


# -- norms and embedding ----------------------------------------------------------------------------------------------


def test_norm_by_hand():
    norm = RMSNorm(2, 1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 0.0]))
    # mean square of (3, 4) is 12.5; the weight multiplies plainly, so 0 gives 0 (a 1 + w norm would not).
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), torch.tensor([2 * 3 / math.sqrt(12.5), 0.0]))
    assert norm(torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]
    assert RMSNorm(2, 1e-6, scaled=False).weight is None


def test_norm_works_in_fp32_and_rounds_once():
    norm = RMSNorm(64, 1e-6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert torch.equal(norm(x), norm(x.float()).bfloat16())
    half = RMSNorm(64, 1e-6, scaled=False)(torch.full((1, 64), 300.0, dtype=torch.float16))
    assert torch.equal(half, torch.ones(1, 64, dtype=torch.float16)), "300^2 overflows fp16, so the mean needs fp32"


def test_gelu_is_the_tanh_form():
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    want = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(gated_gelu(x, torch.full_like(x, 3.0)), 3 * want)


def test_embedding_factor_is_rounded_to_the_weight_dtype():
    table = ScaledEmbedding(3, 2816)
    assert table.rounded_scale().item() == pytest.approx(53.0659966)
    table = table.bfloat16()
    assert table.rounded_scale().item() == 53.0
    assert torch.equal(table(torch.tensor([2])), table.weight[2:] * 53.0)


@torch.no_grad()
def test_expected_embedding_of_a_certain_token_is_its_embedding():
    table = ScaledEmbedding(5, 8)
    torch.testing.assert_close(table.expected(torch.eye(5)), table(torch.arange(5)))
    torch.testing.assert_close(table.expected(torch.full((5,), 0.2)), table(torch.arange(5)).mean(0))


# -- rotation ---------------------------------------------------------------------------------------------------------


def test_proportional_frequencies_of_the_released_model():
    frequencies = inverse_frequencies(512, 1e6, 0.25)
    assert frequencies.shape == (256,)
    assert (frequencies[64:] == 0).all()
    want = torch.tensor([1e6 ** (-2 * i / 512) for i in range(64)])  # over the whole head size, not the 128 that turn
    torch.testing.assert_close(frequencies[:64], want)
    assert frequencies[63] > 0.02  # 1e6 ** (-126 / 128) would be 1e-6


def test_default_frequencies_of_the_released_model():
    want = torch.tensor([1e4 ** (-2 * i / 256) for i in range(128)])
    torch.testing.assert_close(inverse_frequencies(256, 1e4), want)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_scores_depend_on_the_distance_alone(share):
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(1, 1, 16, generator=generator), torch.randn(1, 1, 16, generator=generator)
    frequencies = inverse_frequencies(16, 100.0, share)

    def score(i, j):
        turned = [rotate(x, *rotation(torch.tensor([at]), frequencies, x.dtype)) for x, at in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum().item()

    for i, j in [(0, 0), (3, 1), (1, 3), (7, 0)]:
        for shift in (1, 5, 50):
            assert score(i + shift, j + shift) == pytest.approx(score(i, j), abs=1e-4)
    assert abs(score(3, 1) - score(1, 3)) > 1e-2
    assert abs(score(3, 1) - score(3, 2)) > 1e-2


def test_pairs_are_split_half_and_still_channels_pass_through():
    frequencies = inverse_frequencies(8, 100.0, 0.5)
    x = torch.zeros(1, 1, 8)
    x[0, 0, 0] = 1.0
    turned = rotate(x, *rotation(torch.tensor([1]), frequencies, x.dtype))[0, 0]
    torch.testing.assert_close(turned, torch.tensor([math.cos(1), 0, 0, 0, math.sin(1), 0, 0, 0]))
    still = torch.tensor([0.0, 0, 3, 4, 0, 0, 5, 6])[None, None]
    assert torch.equal(rotate(still, *rotation(torch.tensor([123]), frequencies, x.dtype)), still)


def test_angles_are_computed_in_fp32():
    cosine, _ = rotation(torch.tensor([1001]), inverse_frequencies(16, 1e4), torch.bfloat16)
    assert cosine.dtype == torch.bfloat16
    assert cosine[0, 0].item() == pytest.approx(math.cos(1001), abs=4e-3)  # bf16 would make it 1000 or 1004


# -- masks ------------------------------------------------------------------------------------------------------------


def test_masks_as_drawn_in_their_docstring():
    assert drawing(causal_mask(0, 3, None)) == ["1..", "11.", "111"]
    assert drawing(causal_mask(0, 3, 2)) == ["1..", "11.", ".11"]
    assert drawing(causal_mask(2, 2, 3)) == ["111.", ".111"]
    assert first_visible(4, None) == 0
    assert first_visible(4, 3) == 2


@pytest.mark.parametrize(
    "committed, window, first", [(0, 1, 0), (5, 1, 5), (5, 5, 1), (5, 6, 0), (5, 7, 0), (1024, 1024, 1)]
)
def test_a_canvas_sees_the_last_window_minus_one(committed, window, first):
    assert first_visible(committed, window) == first


# -- self-conditioning ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_no_signal_equals_a_masked_signal_bit_for_bit_and_not_zero_logits():
    model, canvas = random_backbone(1), tokens(2, 4)
    cache = model.prefill(tokens(2, 5))
    nothing = model.denoise(canvas, cache)
    fed_back = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(1))
    masked = model.denoise(canvas, cache, model.self_condition(fed_back.softmax(-1), torch.zeros(2, dtype=torch.bool)))
    assert torch.equal(nothing, masked)
    zeros = model.denoise(canvas, cache, model.self_condition(torch.zeros(2, 4, 64).softmax(-1)))
    assert (zeros - nothing).abs().max() > 1e-2
    everyone = model.self_condition(fed_back.softmax(-1), torch.ones(2, dtype=torch.bool))
    assert torch.equal(everyone, model.self_condition(fed_back.softmax(-1)))


@torch.no_grad()
def test_signal_of_certain_logits_is_the_embedding_and_masked_tokens_weigh_nothing():
    model = random_backbone(1)
    certain = torch.full((1, 2, 64), float("-inf"))
    certain[0, 0, 7] = certain[0, 1, 9] = 3.0
    torch.testing.assert_close(model.self_condition(certain.softmax(-1)), model.embed_tokens(torch.tensor([[7, 9]])))


@torch.no_grad()
def test_a_canvas_enters_with_unit_rms_and_a_prompt_as_it_is():
    model, entered = random_backbone(1), []
    hook = model.layers[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    cache = model.prefill(tokens(2, 5))
    assert torch.equal(entered[-1], model.embed_tokens(tokens(2, 5)))
    probabilities = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(1)).softmax(-1)
    for signal in (None, model.self_condition(probabilities)):
        model.denoise(tokens(2, 4), cache, signal)
        rms = entered[-1].square().mean(-1).sqrt()
        torch.testing.assert_close(rms, torch.ones(2, 4), rtol=1e-4, atol=1e-4)
    hook.remove()


# -- router -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_router_is_fed_the_raw_residual_that_the_norms_are_fed_too():
    model, seen = random_backbone(1), {}
    layer = model.layers[1]
    names = ("router", "pre_feedforward_layernorm", "pre_feedforward_layernorm_2")
    for name in names:
        getattr(layer, name).register_forward_pre_hook(
            lambda _, args, n=name: seen.__setitem__(n, args[0].flatten(0, -2))
        )
    model.prefill(tokens(2, 5))
    for name in names[1:]:
        assert torch.equal(seen["router"], seen[name])


@torch.no_grad()
def test_router_survives_ties():
    model = random_backbone(1)
    router = model.layers[0].router
    router.proj.weight.zero_()
    weights, chosen, probabilities = router(torch.randn(5, 32, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(probabilities, torch.full((5, 4), 0.25))
    assert (chosen[:, 0] != chosen[:, 1]).all()
    torch.testing.assert_close(weights, 0.5 * router.per_expert_scale[chosen])
    assert model.denoise(tokens(1, 4), model.prefill(tokens(1, 3))).isfinite().all()


@torch.no_grad()
def test_router_weights_by_hand():
    model = random_backbone(1)
    router: Router = model.layers[0].router
    router.scale.fill_(1.0)
    router.proj.weight.zero_()
    router.proj.weight[0, 0] = router.proj.weight[1, 1] = 32**0.5  # D^(1/2), so that u W^T is the normed channel
    router.per_expert_scale.copy_(torch.tensor([2.0, 3.0, 5.0, 7.0]))
    r = torch.zeros(1, 32)
    r[0, 0], r[0, 1] = 2.0, 1.0
    rms = math.sqrt(5 / 32 + 1e-6)
    e = [math.exp(2 / rms), math.exp(1 / rms), 1.0, 1.0]
    weights, chosen, probabilities = router(r)
    assert chosen.tolist() == [[0, 1]]
    torch.testing.assert_close(probabilities[0], torch.tensor(e) / sum(e))
    torch.testing.assert_close(weights[0], torch.tensor([2.0 * e[0], 3.0 * e[1]]) / (e[0] + e[1]))


@torch.no_grad()
def test_router_record_holds_every_layer_of_every_loop():
    model = random_backbone(1, loops=2)
    model.routing = RoutingRecord([], [])
    cache = model.prefill(tokens(2, 5))
    assert [p.shape for p in model.routing.probabilities] == [(10, 4)] * 2, "the last layer routes no prompt"
    model.denoise(tokens(2, 4), cache)
    assert [c.shape for c in model.routing.chosen[2:]] == [(8, 2)] * 6
    model.causal_logits(tokens(2, 5), cache)
    assert [c.shape for c in model.routing.chosen[8:]] == [(10, 2)] * 3


@torch.no_grad()
def test_padding_is_left_out_of_the_record():
    """What is recorded of padded rows is what their prompts alone give, row by row, and so is the balance loss."""
    model, lengths = random_backbone(3), [7, 2, 5]
    prompt, canvas = tokens(3, 7), tokens(3, 4)
    mask = torch.arange(7) >= 7 - torch.tensor(lengths)[:, None]

    def record(prompt, canvas, mask=None):
        model.routing = RoutingRecord([], [])
        cache = model.prefill(prompt, mask)
        model.denoise(canvas, cache)
        model.commit(canvas, cache)  # whose tokens all count
        return model.routing

    padded = record(prompt, canvas, mask)
    alone = [record(prompt[[row], 7 - n :], canvas[[row]]) for row, n in enumerate(lengths)]
    assert [len(c) for c in padded.chosen] == [14, 14, 12, 12, 12, 12, 12]
    for index, (probabilities, chosen) in enumerate(zip(padded.probabilities, padded.chosen, strict=True)):
        expected = torch.cat([one.probabilities[index] for one in alone])
        torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(chosen, torch.cat([one.chosen[index] for one in alone]))
        share = [(chosen == expert).sum().item() / chosen.numel() for expert in range(4)]
        loss = 4 * sum(share[expert] * expected[:, expert].mean().item() for expert in range(4))
        assert balance_loss(probabilities, chosen).item() == pytest.approx(loss, rel=1e-5)
    whole = record(prompt, canvas)
    every = record(prompt, canvas, torch.ones_like(mask))
    assert all(map(torch.equal, whole.probabilities, every.probabilities)), "without padding nothing changes"


def test_balance_loss_is_one_when_balanced_and_e_when_collapsed():
    experts = 4
    chosen = torch.arange(8).view(4, 2) % experts
    assert balance_loss(torch.full((4, experts), 1 / experts), chosen).item() == pytest.approx(1)
    spread = torch.full((8, experts), 0.1) + 0.6 * torch.eye(experts).repeat(2, 1)
    assert balance_loss(spread, spread.topk(1).indices).item() == pytest.approx(1)
    collapsed = torch.nn.functional.one_hot(torch.zeros(4, dtype=torch.long), experts).float()
    assert balance_loss(collapsed, torch.zeros(4, 1, dtype=torch.long)).item() == pytest.approx(experts)
    uneven = torch.tensor([[0.7, 0.1, 0.1, 0.1]] * 3 + [[0.1, 0.7, 0.1, 0.1]])
    assert 1 < balance_loss(uneven, uneven.topk(1).indices).item() < experts


def test_balance_loss_pushes_towards_balance():
    logits = torch.tensor([[2.0, 0.0, 0.0]] * 6, requires_grad=True)
    probabilities = logits.softmax(-1)
    balance_loss(probabilities, probabilities.topk(1).indices).backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1:] < 0).all()
