"""The kernels of attention with learned biases equal the plain products, forward and backward."""

import pytest
import torch

from constrained_dg.model import native
from constrained_dg.model.attention import attend
from tests.naive_backbone import random_backbone


def given(rows: int, queries: int, keys: int, heads: int, groups: int, biases: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(rows, *shape, 8, generator=generator) for shape in ((queries, heads), *[(keys, groups)] * 2))
    bias = 2 * torch.randn(biases, heads, queries, keys, generator=generator)
    bias[:, :, :, 1] = float("-inf")  # a masked key
    return [tensor.to(dtype).requires_grad_() for tensor in (q, k, v)] + [bias.requires_grad_()]


def outcome(function, tensors):
    out = function(*tensors)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, tensors, weights)


@pytest.mark.skipif(native.library(8) is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 3, 1, 1, 1), (2, 9, 16, 2, 2, 1), (3, 13, 33, 4, 2, 3), (2, 70, 900, 2, 1, 1)],
    ids=["one query", "whole tiles", "bias of each row", "several blocks of queries, shared keys"],
)
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_kernels_equal_plain_products(shape, dtype, error):
    tensors = given(*shape, dtype=dtype)
    exact = outcome(attend, [tensor.detach().double().requires_grad_() for tensor in tensors])
    for ours, other in zip(outcome(lambda *t: native.attend_natively(*t)[0], tensors), exact, strict=True):
        torch.testing.assert_close(ours.double(), other, rtol=error, atol=error * float(other.abs().max()))


@pytest.mark.skipif(native.library(8) is None, reason="needs a C++ compiler")
def test_the_operator_is_a_good_citizen_of_torch():
    torch.library.opcheck(native.attend_natively, given(2, 3, 5, 2, 1, 1), test_utils="test_schema")
    torch.library.opcheck(native.attend_natively, given(2, 3, 5, 2, 1, 1), test_utils="test_faketensor")


def test_without_a_compiler_training_takes_the_plain_path(monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    assert native.library.__wrapped__(8) is None
    model = random_backbone(num_relations=1)
    assert not any(layer.self_attn.native for layer in model.layers)
