"""Configurations: presets have the sizes they promise, bad values name themselves."""

import dataclasses
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from constrained_dg.model import PRESETS, Backbone, ModelConfig, preset
from constrained_dg.model.config import shown


def on_meta(config: ModelConfig) -> Backbone:
    with torch.device("meta"):
        return Backbone(config)


def parameters(model: Backbone) -> int:
    return sum(p.numel() for p in model.parameters())


def test_released_model_has_exactly_its_parameters():
    model = on_meta(preset("diffusiongemma_26b_a4b"))
    assert parameters(model) == 25_250_986_752
    assert all(p.device.type == "meta" for p in model.parameters())
    assert model.vocab_size == 262_144 and model.config.canvas_length == 256
    # By part; the sum is what keras-hub publishes for the text model.
    sizes = {name: p.numel() for name, p in model.named_parameters()}

    def total(*words):
        return sum(n for name, n in sizes.items() if any(word in name for word in words))

    assert total("embed_tokens") == 738_197_504
    assert total("self_attn") == 1_110_197_760
    assert total(".mlp.") == 535_265_280
    assert total("layernorm") + sizes["norm.weight"] == 594_176
    assert total("router") == 10_901_760
    assert total("experts.") == 22_837_985_280
    assert total("self_conditioning") == 17_844_992


def test_released_model_has_its_shapes():
    config = preset("diffusiongemma_26b_a4b")
    shapes = {name: tuple(t.shape) for name, t in on_meta(config).state_dict().items()}
    assert [i for i in range(30) if config.is_full(i)] == [5, 11, 17, 23, 29]
    for layer, full in ((0, False), (4, False), (5, True), (29, True)):
        attention = f"layers.{layer}.self_attn"
        assert shapes[f"{attention}.q_proj.weight"] == (8192 if full else 4096, 2816)
        assert shapes[f"{attention}.k_proj.weight"] == (1024 if full else 2048, 2816)
        assert shapes.get(f"{attention}.v_proj.weight") == (None if full else (2048, 2816))
        assert shapes[f"{attention}.o_proj.weight"] == (2816, 8192 if full else 4096)
        assert shapes[f"{attention}.q_norm.weight"] == shapes[f"{attention}.k_norm.weight"] == (512 if full else 256,)
        assert f"{attention}.relation_bias" not in shapes
        assert shapes[f"layers.{layer}.experts.gate_up_proj"] == (128, 1408, 2816)
        assert shapes[f"layers.{layer}.experts.down_proj"] == (128, 2816, 704)
        assert shapes[f"layers.{layer}.router.per_expert_scale"] == (128,)
        assert shapes[f"layers.{layer}.layer_scalar"] == shapes[f"layers.{layer}.encoder_layer_scalar"] == (1,)
    assert config.rope_theta_full == 1e6 and config.rope_theta_sliding == 1e4 and config.partial_rotary_factor == 0.25
    assert config.final_logit_softcapping == 30.0 and config.rms_norm_eps == 1e-6


def test_small_fits_a_laptop_and_routes():
    small = preset("small", vocab_size=19, num_relations=5)
    assert parameters(on_meta(small)) <= 1_000_000
    assert small.num_experts > small.top_k_experts
    assert parameters(on_meta(preset("tiny"))) < 100_000


@given(
    layers=st.integers(1, 7),
    period=st.integers(0, 4),
    heads=st.sampled_from([(4, 2, 1), (6, 3, 6), (2, 1, 2)]),
    sizes=st.lists(st.integers(1, 9), min_size=7, max_size=7),
)
def test_parameters_are_counted_without_building(layers, period, heads, sizes):
    config = ModelConfig(
        vocab_size=sizes[0],
        hidden_size=sizes[1],
        intermediate_size=sizes[2],
        moe_intermediate_size=sizes[3],
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=2 * sizes[4],
        num_global_key_value_heads=heads[2],
        global_head_dim=2 * sizes[5],
        sliding_window=3,
        num_experts=sizes[6],
        top_k_experts=1,
        sliding_layers_per_full=period,
        num_relations=sizes[0] % 3,
    )
    assert config.num_parameters == parameters(on_meta(config))


def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_built():
    with pytest.raises(InputError, match=r"the weights need \S+ GB, and \S+ GB are free"):
        Backbone(preset("diffusiongemma_26b_a4b", num_experts=2**14))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_leave_the_extensions_off_unless_they_say_so(name):
    assert preset(name).num_relations == 0
    assert preset(name).causal_loops == 1
    assert preset(name).loops == (4 if name in ("small", "base") else 1)
    assert preset(name) == PRESETS[name]
    assert ModelConfig.from_dict(preset(name).to_dict()) == preset(name)


@pytest.mark.parametrize(
    "changes, message",
    [
        *[
            ({f.name: bad}, rf"model\.{f.name} is {re.escape(repr(bad))}; use an integer from [01] to ")
            for f in dataclasses.fields(ModelConfig)
            if f.type == "int"
            for bad in (-1, 2.0, True, "8", None)
        ],
        *[
            ({f.name: bad}, rf"model\.{f.name} is {re.escape(repr(bad))}; use a number above 0")
            for f in dataclasses.fields(ModelConfig)
            if f.type == "float"
            for bad in (0.0, -1.0, float("nan"), float("inf"), "8", None, True)
        ],
        ({"vocab_size": 0}, "vocab_size is 0; use an integer from 1 to "),
        ({"sliding_window": 0}, "sliding_window is 0; use an integer from 1 to "),
        ({"loops": 0}, "loops is 0; use an integer from 1 to "),
        ({"canvas_length": 0}, "canvas_length is 0; use an integer from 1 to "),
        *[
            ({f.name: bad}, rf"model\.{f.name} is {said}; use an integer from [01] to ")
            for f in dataclasses.fields(ModelConfig)
            if f.type == "int"
            for bad, said in ((10**10, "10000000000"), (10**5000, "an integer of 16610 bits"))
        ],
        *[
            ({f.name: 10**5000}, rf"model\.{f.name} is an integer of 16610 bits; use a number above 0")
            for f in dataclasses.fields(ModelConfig)
            if f.type == "float"
        ],
        ({"loops": 10_000_000}, "loops is 10000000; use an integer from 1 to 1000"),
        ({"hidden_size": 2**20, "num_experts": 2**20}, r"the model has \S+ parameters; at most 1e\+13 work"),
        ({"vocab_size": "8" * 1000}, r"vocab_size is '8+\.\.\.; use an integer"),
        ({"top_k_experts": 5}, "top_k_experts 5 exceeds model.num_experts 4"),
        ({"causal_loops": 2}, "causal_loops 2 exceeds model.loops 1"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3 key/value heads"),
        ({"num_global_key_value_heads": 8}, "4 attention heads cannot share 8 key/value heads"),
        ({"head_dim": 7}, "head size 7 is odd"),
        ({"global_head_dim": 9}, "head size 9 is odd"),
        ({"partial_rotary_factor": 1.5}, r"partial_rotary_factor (is )?1\.5"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(f"{k}={shown(v)[:20]}" for k, v in value.items()),
)
def test_bad_values_name_themselves(changes, message):
    with pytest.raises(InputError, match=message):
        preset("tiny", **changes)


@pytest.mark.parametrize("changes", [{"num_relations": 0}, {"sliding_layers_per_full": 0}, {"num_experts": 2}])
def test_edge_values_work(changes):
    model = Backbone(preset("tiny", **changes)).init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert model.denoise(torch.ones(1, 3).long(), model.prefill(torch.ones(1, 2).long())).isfinite().all()


def test_all_layers_full_without_sliding_ones():
    config = preset("tiny", sliding_layers_per_full=0)
    assert [config.is_full(i) for i in range(3)] == [True] * 3


def test_unknown_and_missing_names():
    with pytest.raises(InputError, match=r"unknown model preset 'smal'; known: \['base', .*'small', 'tiny'\]"):
        preset("smal")
    with pytest.raises(InputError, match=r"unknown model keys \['heads'\]; known: \["):
        preset("tiny", heads=3)
    values = preset("tiny").to_dict()
    with pytest.raises(InputError, match=r"unknown model keys \['heads'\]"):
        ModelConfig.from_dict(values | {"heads": 3})
    del values["hidden_size"]
    with pytest.raises(InputError, match=r"incomplete: .*'hidden_size'"):
        ModelConfig.from_dict(values)
    with pytest.raises(InputError, match="vocab_size is -1"):
        ModelConfig.from_dict(preset("tiny").to_dict() | {"vocab_size": -1})
