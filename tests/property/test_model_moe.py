"""Experts: both fast paths against a loop over tokens."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.model import preset
from constrained_dg.model.moe import Experts, balance_loss


@st.composite
def routed_tokens(draw):
    """Experts, tokens (N, D), weights (N, k) and choices (N, k), where some experts may get no token."""
    count = draw(st.integers(1, 6))
    usable = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))
    top_k, rows = draw(st.integers(1, len(usable))), draw(st.integers(0, 7))
    size, width = draw(st.integers(1, 5)), draw(st.integers(1, 4))
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
    for path in (experts.dense_forward, experts.sorted_forward, experts):
        for got, expected in zip(run(path), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_forward_takes_the_dense_path_up_to_its_width_and_the_sorted_one_above(monkeypatch):
    taken = []
    for name in ("dense_forward", "sorted_forward"):
        monkeypatch.setattr(Experts, name, lambda self, *args, n=name: taken.append(n))
    for experts, width in ((4, 128), (4, 129), (129, 4)):
        Experts(preset("tiny", num_experts=experts, moe_intermediate_size=width))(None, None, None)
    assert taken == ["dense_forward", "sorted_forward", "sorted_forward"]


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
