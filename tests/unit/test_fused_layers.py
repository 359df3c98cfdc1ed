"""Training with fused layers and compiled kernels gives the losses and gradients of plain layers."""

from copy import deepcopy

import pytest
import torch

from constrained_dg.diffusion import canvas_loss
from constrained_dg.model import fused, native
from constrained_dg.model.lora import adapt
from tests.naive_backbone import random_backbone

needs_compiler = pytest.mark.skipif(native.library(8) is None, reason="needs a C++ compiler")


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def with_fused_layers(model):
    model = deepcopy(model)
    for layer in model.layers:
        layer.fused = fused.fits(layer)
        assert layer.fused
    return model


def losses(model, prompt, canvas, relations, mask):
    """Of the causal and of the canvas pass, and their gradients."""
    cache = model.prefill(prompt, mask, relations)
    logits = model.denoise_loops(tokens(*canvas.shape, seed=3), cache, None, relations)
    causal = model.causal_logits(canvas, cache, relations)
    loss = canvas_loss([*logits, causal], canvas, torch.zeros(canvas.shape, dtype=torch.bool))
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def same_gradients(ours, plain):
    assert plain.keys() == ours.keys()
    for name, grad in plain.items():
        if grad is None:
            assert ours[name] is None
        else:
            near = 1e-6 + 1e-4 * float(grad.abs().max())
            torch.testing.assert_close(ours[name], grad, rtol=1e-3, atol=near, msg=name)


@needs_compiler
@pytest.mark.parametrize("prompt", [0, 5])
@pytest.mark.parametrize("canvas", [1, 9, 31])
@pytest.mark.parametrize("rows", [1, 3])
def test_losses_and_gradients_are_those_of_plain_layers(prompt, canvas, rows):
    # Heads share keys, values made of keys or not, windows, several loops, relations of one row or of each.
    model = random_backbone(1, num_relations=2, loops=2, causal_loops=2 if prompt else 1)
    relations = torch.rand(rows, 2, 70, 70, generator=torch.Generator().manual_seed(2)) < 0.5
    mask = torch.arange(prompt) >= torch.tensor([0, 2, 1])[:, None] if prompt and rows > 1 else None
    given = tokens(3, prompt), tokens(3, canvas, seed=2), relations, mask
    (loss, plain), (other, ours) = losses(model, *given), losses(with_fused_layers(model), *given)
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-5)
    same_gradients(ours, plain)


@needs_compiler
@pytest.mark.parametrize("padded", [False, True])
def test_without_relations_the_fused_layers_are_plain_too(padded):
    mask = torch.arange(5) >= torch.tensor([0, 2, 1])[:, None] if padded else None
    model, given = random_backbone(1, loops=2), (tokens(3, 5), tokens(3, 9, seed=2), None, mask)
    (loss, plain), (other, ours) = losses(model, *given), losses(with_fused_layers(model), *given)
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-5)
    same_gradients(ours, plain)


@needs_compiler
def test_many_keys_are_attended_in_several_blocks_of_queries():
    model = random_backbone(1, num_relations=1)
    relations = torch.rand(1, 1, 960, 960, generator=torch.Generator().manual_seed(2)) < 0.5
    given = tokens(1, 900), tokens(1, 60, seed=2), relations, None
    (loss, plain), (other, ours) = losses(model, *given), losses(with_fused_layers(model), *given)
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-5)
    name = "layers.2.self_attn.relation_bias"
    torch.testing.assert_close(ours[name], plain[name], rtol=1e-3, atol=1e-4 * float(plain[name].abs().max()))


@needs_compiler
def test_in_bf16_they_are_as_near_to_exact_ones():
    # Every expert is chosen: a router that flips between two would hide everything else.
    model = random_backbone(1, num_relations=2, top_k_experts=4)
    relations = torch.rand(1, 2, 70, 70, generator=torch.Generator().manual_seed(2)) < 0.5
    given = tokens(8, 5), tokens(8, 9, seed=2), relations, None
    _, exact = losses(deepcopy(model), *given)
    with torch.autocast("cpu", torch.bfloat16):
        (_, plain), (_, ours) = losses(model, *given), losses(with_fused_layers(model), *given)

    def error(grads):
        return sum((grads[name] - grad).norm() / grad.norm() for name, grad in exact.items() if grad is not None)

    assert 0 < error(ours) < 1.2 * error(plain)


@needs_compiler
def test_the_operator_is_a_good_citizen_of_torch():
    shapes = [(2, 3, 4 * 8), (2, 1, 1, 8), (2, 1, 1, 8), (1, 2, 3, 4), (8,), (8,), (3, 8), (3, 8)]
    tensors = [torch.rand(shape).requires_grad_(shape != (3, 8)) for shape in shapes]
    torch.library.opcheck(native.attend, (*tensors, 1e-6), test_utils=("test_schema", "test_faketensor"))


def test_without_a_compiler_or_with_adapters_layers_stay_plain(monkeypatch):
    model = random_backbone(num_relations=1)
    assert not any(fused.fits(layer) for layer in adapt(deepcopy(model), rank=2).layers)
    assert not any(fused.fits(layer) for layer in random_backbone(num_relations=1, num_experts=64).layers)
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    native.library.cache_clear()
    try:
        assert not any(fused.fits(layer) for layer in model.layers)
    finally:
        native.library.cache_clear()
