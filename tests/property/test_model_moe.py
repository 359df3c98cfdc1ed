"""Experts: the grouped and the dense path against a loop over tokens."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.model import preset
from constrained_dg.model.moe import Experts, balance_loss, grouped_linear


@st.composite
def routed_tokens(draw):
    """Experts, tokens (N, D), weights (N, k) and choices (N, k), where some experts may get no token."""
    count = draw(st.integers(1, 6))
    usable = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))
    top_k, rows = draw(st.integers(1, len(usable))), draw(st.integers(0, 7))
    size, width = draw(st.sampled_from([1, 3, 4, 8])), draw(st.sampled_from([2, 4, 12]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    experts = Experts(
        preset("tiny", num_experts=count, top_k_experts=top_k, hidden_size=size, moe_intermediate_size=width)
    )
    for parameter in experts.parameters():
        parameter.data.normal_(generator=generator)
    chosen = [torch.tensor(usable)[torch.randperm(len(usable), generator=generator)[:top_k]] for _ in range(rows)]
    z, weights = (torch.randn(rows, n, generator=generator).requires_grad_() for n in (size, top_k))
    return experts, z, weights, torch.stack(chosen) if rows else torch.zeros(0, top_k, dtype=torch.long)


def token_by_token(experts, z, weights, chosen):
    rows = []
    for n in range(len(z)):
        total = torch.zeros_like(z[n])
        for k, e in enumerate(chosen[n].tolist()):
            both = experts.gate_up_proj[e] @ z[n]
            gate, up = both[: len(both) // 2], both[len(both) // 2 :]
            total = total + weights[n, k] * (experts.down_proj[e] @ (F.gelu(gate, approximate="tanh") * up))
        rows.append(total)
    return torch.stack(rows) if rows else z * 0


@given(routed_tokens())
def test_both_paths_equal_a_loop_over_tokens_in_values_and_gradients(case):
    experts, z, weights, chosen = case
    inputs = [z, weights, *experts.parameters()]
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))

    def run(path):
        out = path(z, weights, chosen)
        return [out, *torch.autograd.grad((out * direction).sum(), inputs, allow_unused=True, materialize_grads=True)]

    want = run(lambda *args: token_by_token(experts, *args))
    fits = len(z) > 0 and z.shape[1] % 4 == experts.down_proj.shape[2] % 4 == 0  # 16 bytes are 4 numbers
    assert experts._fits_grouped(z) == fits
    for path in (experts, experts.dense_forward, *([experts.grouped_forward] if fits else [])):
        for got, expected in zip(run(path), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def random_case(size=16, width=8, rows=40, experts=4, k=2):
    module = Experts(
        preset("tiny", num_experts=experts, top_k_experts=k, hidden_size=size, moe_intermediate_size=width)
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
    weights, chosen = torch.randn(rows, experts, generator=generator).softmax(-1).topk(k)
    return module, torch.randn(rows, size, generator=generator), weights, chosen


def test_narrow_experts_are_dense(monkeypatch):
    taken = []
    for name in ("dense_forward", "grouped_forward"):
        monkeypatch.setattr(Experts, name, lambda self, *args, n=name: taken.append(n))
    for width in (Experts.DENSE_WIDTH // 4, Experts.DENSE_WIDTH // 4 + 4):
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                random_case(width=width)[0](*random_case(width=width)[1:])
    assert taken == ["dense_forward", "dense_forward", "grouped_forward", "grouped_forward"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_other_dtypes_are_near_fp32_and_keep_their_dtype(dtype):
    module, z, weights, chosen = random_case()
    want = module.dense_forward(z, weights, chosen)
    path = module.dense_forward if dtype == torch.float64 else module.grouped_forward
    module.to(dtype)
    got = path(z.to(dtype), weights.to(dtype), chosen)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), want, rtol=0.02, atol=0.02)


def test_autocast_reaches_the_grouped_product_and_its_gradients():
    module, z, weights, chosen = random_case()
    exact = torch.autograd.grad(module(z, weights, chosen).square().sum(), [*module.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        assert grouped_linear(z, module.gate_up_proj, torch.tensor([0, 20, 30, 40], dtype=torch.int32)).dtype == (
            torch.bfloat16
        )
        near = torch.autograd.grad(module(z, weights, chosen).square().sum(), [*module.parameters()])
    for one, two in zip(near, exact, strict=True):
        assert one.dtype == torch.float32
        assert 0 < (one - two).abs().mean() < 0.03 * two.abs().mean()


def test_the_operators_keep_their_promises_to_autograd_and_the_compiler():
    module, z, _, chosen = random_case()
    ends = torch.searchsorted(chosen[:, 0].sort().values, torch.arange(4), right=True, out_int32=True)
    inputs = (z.requires_grad_(), module.gate_up_proj, ends)
    torch.library.opcheck(torch.ops.constrained_dg.grouped_linear, inputs)
    torch.library.opcheck(torch.ops.constrained_dg.grouped_outer, (z.detach(), z.detach(), ends))


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 6), st.integers(0, 2**32))
def test_balance_loss_equals_a_loop(experts, k, rows, seed):
    k = min(k, experts)
    logits = torch.randn(rows, experts, generator=torch.Generator().manual_seed(seed))
    probabilities = logits.softmax(-1)
    chosen = probabilities.topk(k).indices
    total = 0.0
    for e in range(experts):
        assigned = sum(row.count(e) for row in chosen.tolist()) / (rows * k)
        total += assigned * sum(p[e] for p in probabilities.tolist()) / rows
    torch.testing.assert_close(balance_loss(probabilities, chosen), torch.tensor(experts * total))
