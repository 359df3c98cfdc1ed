"""Quantised weights: number formats, products and their gradients, against the dequantised twin."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from constrained_dg.model import Backbone, preset
from constrained_dg.model.lora import adapt, merge
from constrained_dg.model.quantised import QuantisedLinear, QuantisedWeight
from constrained_dg.model.quantised import weight as products
from constrained_dg.model.quantised.formats import E2M1, FORMATS, FP8, NVFP4, dequantise, quantise
from constrained_dg.model.quantised.place import place_usual, weight_bytes
from tests.naive_backbone import random_backbone
from tests.quantised import dequantised_twin, quantised
from tests.unit.test_lora import nudge, passes

#: Sizes that groups of 16 divide, and several heads, experts and windows.
SIZES = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "head_dim": 8}


def model(kind: str, seed: int = 1) -> Backbone:
    return quantised(random_backbone(seed, **SIZES), kind)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- formats ----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), spread=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]), zeros=st.booleans())
def test_each_number_becomes_the_nearest_one_of_its_format(seed: int, spread: float, zeros: bool) -> None:
    weight = torch.randn(4, 48, generator=seeded(seed)) * spread
    weight[:, :16] *= 1e-6  # a group whose scale is at the lower end
    if zeros:
        weight[1] = 0
        weight[2, 16:32] = 0
    for kind, magnitudes in ((FP8, torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn)), (NVFP4, E2M1)):
        parts = quantise(weight, kind)
        back = dequantise(parts["values"], parts["scale"], parts.get("global_scale"), torch.float64)
        factor = parts["scale"].double().expand(4, -1)
        if kind == NVFP4:
            factor = (parts["scale"].float() / parts["global_scale"]).double()
        assert factor.isfinite().all() and (factor > 0).all()
        factor = factor.repeat_interleave(48 // factor.shape[1], dim=1)
        grid = torch.as_tensor(magnitudes).double()
        grid = torch.cat([grid, -grid])
        best = (weight.double()[..., None] - grid * factor[..., None]).abs().amin(-1)
        # The division and the product of fp32 that lie between may each err by a rounding.
        assert ((weight.double() - back).abs() <= best + 3e-7 * factor * grid.max()).all(), kind


def test_a_byte_holds_the_even_column_in_its_low_half_and_ties_go_to_even() -> None:
    row = torch.tensor([6.0, -0.25, 0.75, 1.25, 1.75, -2.5, 3.5, 5.0, -6.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
    parts = quantise(row[None], NVFP4, torch.tensor(6.0))
    back = dequantise(*parts.values(), torch.float32)
    expected = [6.0, 0.0, 1.0, 1.0, 2.0, -2.0, 4.0, 4.0, -6.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    assert back.tolist() == [expected]
    assert parts["values"][0, 0] == 7 | 8 << 4 and parts["values"][0, 1] == 2 | 2 << 4


# -- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype, apart", [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_logits_equal_those_of_the_dequantised_twin(kind: str, dtype: torch.dtype, apart: float) -> None:
    ours = model(kind).to(dtype)
    expected = passes(dequantised_twin(ours))
    for logits, others in zip(passes(ours), expected, strict=True):
        assert torch.allclose(logits, others, atol=apart)
    # The twin differs from the model before it was quantised, or this would show nothing.
    assert (passes(random_backbone(1, **SIZES).to(dtype))[0] - expected[0]).abs().max() > 0.01


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype, apart", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_experts_without_tokens_and_dense_experts(kind: str, dtype: torch.dtype, apart: float) -> None:
    experts = model(kind).layers[0].experts
    z = torch.randn(5, 32, generator=seeded(0)).to(dtype)
    chosen = torch.tensor([[1, 2]] * 5)  # experts 0 and 3 get nothing
    weights = torch.rand(5, 2, generator=seeded(1)).to(dtype)
    assert experts.quantised and not experts.narrow
    grouped, dense = experts(z, weights, chosen), experts.dense_forward(z, weights, chosen)
    assert (grouped - dense).abs().max() <= apart * dense.abs().max() > 0
    assert experts(z[:0], weights[:0], chosen[:0]).shape == (0, 32)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cast_of_the_model_leaves_quantised_numbers_alone(kind: str) -> None:
    ours = model(kind)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    ours.to(torch.bfloat16)
    cast = ours.state_dict()
    quantised_names = [name for name in before if name.rpartition(".")[-1] in ("values", "scale", "global_scale")]
    assert "layers.0.experts.down_proj.values" in quantised_names
    for name in quantised_names:
        if ".router." not in name:
            assert cast[name].dtype == before[name].dtype, name
            assert torch.equal(cast[name].view(torch.uint8), before[name].view(torch.uint8)), name
    assert ours.embed_tokens.weight.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.layers[0].mlp.up_proj(torch.ones(1, 32)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", FORMATS)
def test_a_layer_compiles_to_one_graph(kind: str) -> None:
    layer = model(kind).layers[0]
    x = torch.randn(5, 32, generator=seeded(0), requires_grad=True)
    chosen, weights = torch.tensor([[1, 2]] * 5), torch.ones(5, 2)
    results = []
    for compiled in (False, True):
        mlp, experts = layer.mlp, layer.experts
        if compiled:  # with torch's tracing and gradients, and without its code generator, which takes a minute
            mlp, experts = (torch.compile(part, backend="aot_eager", fullgraph=True) for part in (mlp, experts))
        out = mlp(x) + experts(x, weights, chosen)
        results.append((out, *torch.autograd.grad(out.square().sum(), x)))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("experts", [None, 4])
def test_the_product_of_fp8_numbers_rounds_rows_and_nothing_else(experts: int | None, monkeypatch) -> None:
    rows, columns = 48, 64
    more = () if experts is None else (experts,)
    weights = [quantise(torch.randn(rows, columns, generator=seeded(i)), FP8) for i in range(experts or 1)]
    values, scale = (torch.stack([w[name] for w in weights]).view(*more, rows, -1) for name in ("values", "scale"))
    x = torch.randn(32, columns, generator=seeded(9)).bfloat16() * torch.logspace(-3, 3, 32)[:, None].bfloat16()
    x[5] = 0
    ends = None if experts is None else torch.tensor([3, 3, 20, 32], dtype=torch.int32)

    def each_group(rounded, transposed, scales, by_column, offs, out_dtype):
        """torch's grouped product exists on CUDA only; its single one on the CPU too."""
        out, start = [], 0
        for matrix, columns_of, end in zip(transposed, by_column, offs.tolist(), strict=True):
            some = (rounded[start:end], matrix, scales[start:end, None], columns_of[None])
            out.append(torch._scaled_mm(*some, out_dtype=out_dtype) if end > start else rounded[:0, :rows].bfloat16())
            start = end
        return torch.cat(out)

    monkeypatch.setattr(torch, "_scaled_grouped_mm", each_group)
    product = products.scaled_product(x, values, scale, ends)
    largest = x.float().abs().amax(-1, keepdim=True)
    rounded = quantise(x.float(), FP8)
    rounded = dequantise(rounded["values"], rounded["scale"], None, torch.float32)
    expected = products.dequantising_product(rounded, values, scale, None, ends)
    assert product.dtype == torch.bfloat16 and (product[5] == 0).all()
    assert ((product.float() - expected).abs() <= 0.01 * expected.abs() + 1e-3 * largest).all()
    exact = products.dequantising_product(x.float(), values, scale, None, ends)
    assert (expected - exact).abs().max() > 1e-3  # rows were rounded indeed


@pytest.mark.parametrize("experts", [None, 4])
def test_torch_takes_the_layouts_of_the_fp8_products(experts: int | None) -> None:
    """The checks that torch makes on CUDA, on tensors without memory."""
    with FakeTensorMode():
        more = () if experts is None else (experts,)
        values = torch.empty(*more, 48, 64, dtype=torch.float8_e4m3fn, device="cuda")
        scale = torch.empty(*more, 48, 1, device="cuda")
        x = torch.empty(32, 64, dtype=torch.bfloat16, device="cuda")
        ends = None if experts is None else torch.empty(experts, dtype=torch.int32, device="cuda")
        out = products.scaled_product(x, values, scale, ends)
        assert out.shape == (32, 48) and out.dtype == torch.bfloat16 and out.device.type == "cuda"
        # Were weights stored by column, torch would refuse them: the checks are at work.
        with pytest.raises(RuntimeError, match="col"):
            by_column = torch.empty_strided(values.shape, values.mT.stride(), dtype=values.dtype, device="cuda")
            products.scaled_product(x, by_column, scale, ends)


# -- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_gradients_of_adapters_equal_those_of_the_dequantised_twin(kind: str) -> None:
    ours = model(kind)
    frozen = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    models = [nudge(adapt(each, 3)) for each in (ours, dequantised_twin(ours))]
    for each in models:
        sum(logits.square().mean() for logits in passes(each)).backward()
    theirs = dict(models[1].named_parameters())
    trained = [name for name, parameter in ours.named_parameters() if parameter.requires_grad]
    assert len(trained) == len([name for name in theirs if "lora" in name]) > 20
    for name in trained:
        gradient = ours.get_parameter(name).grad
        assert gradient.any() and torch.allclose(gradient, theirs[name].grad, atol=1e-5, rtol=1e-3), name
    torch.optim.SGD([ours.get_parameter(name) for name in trained], lr=0.1).step()
    for name, tensor in frozen.items():
        assert torch.equal(tensor.view(torch.uint8), ours.state_dict()[name].view(torch.uint8)), name


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_dequantised_is_kept_for_the_gradients(kind: str) -> None:
    layer = QuantisedLinear(kind, 64, 256)
    for name, tensor in quantise(torch.randn(256, 64, generator=seeded(0)), kind).items():
        layer.weight.get_buffer(name).copy_(tensor)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        layer(torch.randn(3, 64, requires_grad=True)).sum().backward()
    assert kept and sum(t.numel() * t.element_size() for t in kept) <= weight_bytes(layer) < 256 * 64 * 2


@pytest.mark.parametrize("kind", FORMATS)
def test_merging_makes_plain_layers_of_quantised_ones_with_adapters(kind: str) -> None:
    ours = nudge(adapt(model(kind), 3))
    before = passes(ours)
    merge(ours)
    assert type(ours.layers[0].mlp.up_proj) is torch.nn.Linear
    assert isinstance(ours.layers[0].experts.down_proj, QuantisedWeight)
    for logits, others in zip(passes(ours), before, strict=True):
        assert torch.allclose(logits, others, atol=2e-4)


# -- memory -----------------------------------------------------------------------------------------------------------


def test_bytes_of_the_released_shape_in_each_format() -> None:
    config = preset("diffusiongemma_26b_a4b")
    sizes = {}
    for kind in (None, *FORMATS):
        with torch.device("meta"):
            empty = Backbone(config).bfloat16()
        sizes[kind] = weight_bytes(empty if kind is None else place_usual(empty, kind))
    # Counted by hand. The encoder has one more number for each layer than the published count of the text weights.
    attention, dense, experts = 1_110_197_760, 535_265_280, 22_837_985_280
    assert sizes[None] == 2 * (25_250_986_752 + 60)
    norms = 25 * 2 * 256 + 5 * 2 * 512
    rows = 25 * (4096 + 2 * 2048 + 2816) + 5 * (8192 + 1024 + 2816) + 30 * (2 * 2112 + 2816 + 128 * (1408 + 2816))
    assert sizes[FP8] == sizes[None] - (attention - norms + dense + experts) + 4 * rows
    in_groups = dense + experts
    matrices = 30 * (3 + 128 * 3)
    assert sizes[NVFP4] == sizes[None] - 2 * in_groups + in_groups // 2 + in_groups // 16 + 4 * matrices
    # A canvas pass, and a cache of two canvases, which the estimate includes; the vision tower's 572,792,112 numbers.
    assert empty.memory_needed(1, 0, 256) - 512 * (20_480 + 204_800) <= 0.62e9
    # Text weights and a cache of 8,192 tokens in 4 bits.
    cache = 8192 * 20_480 + 1023 * 204_800
    assert sizes[NVFP4] + cache <= 18e9
    assert math.isclose(sizes[FP8], 26.1e9, rel_tol=0.02)
