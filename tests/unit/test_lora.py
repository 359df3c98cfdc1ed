"""Adapters: nothing changes when they are added, merging changes nothing, and only they learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from constrained_dg.errors import InputError
from constrained_dg.model import Backbone
from constrained_dg.model.lora import Adapted, adapt, freeze_routers, merge
from tests.naive_backbone import random_backbone


def passes(model: Backbone) -> list[torch.Tensor]:
    """Logits of both modes, with self-conditioning, so that every linear layer is used."""
    prompt, canvas = torch.arange(20).view(2, 10), torch.arange(14).view(2, 7)
    probabilities = torch.rand(2, 7, model.vocab_size, generator=torch.Generator().manual_seed(0)).softmax(-1)
    cache = model.prefill(prompt)
    signal = model.self_condition(probabilities)
    return [model.denoise(canvas, cache, signal), model.causal_logits(prompt, model.empty_cache(2, 10))]


def nudge(model: Backbone, seed: int = 1) -> Backbone:
    """Adapters as training may leave them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(0.0, 0.1, generator=generator)
    return model


def test_a_new_adapter_changes_no_bit_and_shares_the_weights() -> None:
    model = random_backbone(1)
    before = [logits.clone() for logits in passes(model)]
    where = {name: p.data_ptr() for name, p in model.named_parameters()}
    adapt(model, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, passes(model), strict=True))
    assert where == {name: p.data_ptr() for name, p in model.named_parameters() if "lora" not in name}


def test_every_linear_layer_but_the_routers_has_an_adapter_and_only_adapters_learn() -> None:
    model = nudge(adapt(random_backbone(1), 3))
    bare = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert bare == [f"layers.{i}.router.proj" for i in range(len(model.layers))]
    assert "self_conditioning.gate_proj" in {n for n, m in model.named_modules() if isinstance(m, Adapted)}
    sum(logits.square().mean() for logits in passes(model)).backward()
    for name, parameter in model.named_parameters():
        trained = "lora" in name
        assert parameter.requires_grad == trained and (parameter.grad is not None) == trained, name
        # An adapter that a pass goes around would get nothing.
        assert not trained or parameter.grad.any(), name


def test_merging_is_equal_to_rounding_and_leaves_the_plain_model() -> None:
    model = random_backbone(1)
    names, untouched = list(model.state_dict()), [logits.clone() for logits in passes(model)]
    nudge(adapt(model, 3))
    before = passes(model)
    assert (before[0] - untouched[0]).abs().max() > 0.1 and (before[1] - untouched[1]).abs().max() > 0.1
    expected = model.layers[0].self_attn.q_proj
    expected = expected.weight + expected.lora_b @ expected.lora_a
    merge(model)
    for ours, theirs in zip(passes(model), before, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-4)
    assert list(model.state_dict()) == names
    assert torch.allclose(model.layers[0].self_attn.q_proj.weight, expected, atol=1e-6)


def test_merging_twice_is_refused_and_changes_nothing() -> None:
    model = merge(nudge(adapt(random_backbone(1), 2)))
    before = model.layers[0].self_attn.q_proj.weight.clone()
    with pytest.raises(InputError, match="no adapters"):
        merge(model)
    assert torch.equal(before, model.layers[0].self_attn.q_proj.weight)


def test_a_second_set_of_adapters_and_a_rank_below_one_are_refused() -> None:
    model = random_backbone(1)
    for rank in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="rank"):
            adapt(model, rank)
    with pytest.raises(InputError, match="adapters already"):
        adapt(adapt(model, 2), 2)


def test_a_product_too_small_for_bf16_is_rounded_once() -> None:
    model = adapt(random_backbone(1).bfloat16(), 2)
    layer = nudge(model).layers[0].mlp.up_proj
    assert layer.lora_a.dtype == torch.float32 and layer(torch.ones(1, layer.in_features).bfloat16()).dtype == (
        torch.bfloat16
    )
    with torch.no_grad():
        expected = (layer.weight.double() + layer.lora_b.double() @ layer.lora_a.double()).bfloat16()
    merge(model)
    # fp32 and fp64 sums may fall on two sides of a rounding point, one step of bf16 apart.
    wrong = model.layers[0].mlp.up_proj.weight != expected
    assert wrong.float().mean() < 0.01


def test_the_seed_decides_the_adapters() -> None:
    first, again, other = (
        adapt(random_backbone(1), 2, torch.Generator().manual_seed(seed)).layers[0].mlp.up_proj.lora_a
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_frozen_routers_leave_the_rest_to_learn() -> None:
    model = freeze_routers(random_backbone(1))
    frozen = {name.split(".", 3)[-1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"scale", "proj.weight", "per_expert_scale"}
    assert all((".router." in name) != p.requires_grad for name, p in model.named_parameters())
