"""The memory that a call is said to need, against what torch's allocator hands out while it runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from constrained_dg.errors import InputError
from constrained_dg.memory import free_memory
from constrained_dg.model import Backbone, ModelConfig, preset
from constrained_dg.model.config import VisionConfig
from constrained_dg.model.images import Images, Pictures, SoftTokens
from constrained_dg.model.vision import Patches, VisionTower
from constrained_dg.sampling import generate

SIZES = {
    "num_hidden_layers": 3, "sliding_layers_per_full": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "num_global_key_value_heads": 1, "global_head_dim": 32, "sliding_window": 128, "canvas_length": 64,
}  # fmt: skip
#: Shapes in which the experts, the logits, the queries, the dense MLP or the cache is the largest part.
SHAPES = {
    "experts": {"hidden_size": 256, "intermediate_size": 128, "moe_intermediate_size": 64, "num_experts": 8},
    "logits": {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "vocab_size": 32_768},
    "queries": {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 16, "head_dim": 128},
    "dense": {"hidden_size": 64, "intermediate_size": 1024, "moe_intermediate_size": 16},
    "cache": {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 16, "global_head_dim": 512},
}


def model_of(shape: str, dtype: torch.dtype = torch.float32) -> Backbone:
    more = {"vocab_size": 512, "num_experts": 4, "top_k_experts": 2} | SIZES | SHAPES[shape]
    return Backbone(ModelConfig(**more)).init_weights(torch.Generator().manual_seed(0)).to(dtype).eval()


def peak(call: Callable[[], object]) -> int:
    """The most bytes that torch's allocator has handed out at one moment of a call, beyond those before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 500, (rows, length), generator=torch.Generator().manual_seed(1))


def test_the_peak_counts_what_lives_together():
    def call() -> torch.Tensor:
        first = torch.zeros(1000)
        second = first + 1
        del first
        return second.double()

    assert peak(call) == 4000 + 8000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows, length", [(1, 300), (1, 2500), (3, 600)])
def test_the_estimate_is_within_a_tenth(shape, dtype, rows, length):
    model = model_of(shape, dtype)
    taken = peak(lambda: generate(model, tokens(rows, length), max_passes=3, eos=()))
    assert model.memory_needed(rows, length, 64) == pytest.approx(taken, rel=0.1)


@pytest.mark.parametrize("narrow", [False, True])
def test_the_estimate_of_a_long_context_is_within_a_tenth(narrow):
    model = model_of("cache")
    model.narrow_cache = narrow
    taken = peak(lambda: generate(model, tokens(1, 20_000), max_passes=2, max_new_tokens=128, eos=()))
    assert model.memory_needed(1, 20_064, 64) == pytest.approx(taken, rel=0.1)


def test_the_estimate_counts_the_rows_that_leave():
    model, prompt = model_of("cache"), tokens(3, 12_000)

    def certain(logits: torch.Tensor, info) -> torch.Tensor:
        """Row r stops after pass r + 2."""
        for at, row in enumerate(info.rows.tolist()):
            if info.pass_index >= row:
                logits[at, :, 5] += 1000.0
        return logits

    taken = peak(lambda: generate(model, prompt, max_passes=8, eos=(), logits_hook=certain))
    assert model.memory_needed(3, 12_000, 64) == pytest.approx(taken, rel=0.1)


def test_the_released_shape_at_its_longest_context():
    with torch.device("meta"):
        model = Backbone(preset("diffusiongemma_26b_a4b")).to(torch.bfloat16)
    cache = {}
    for narrow, of_token in ((False, 20_480), (True, 10_240)):
        model.narrow_cache = narrow
        most = model.memory_needed(1, 262_144 - 256, 256)
        one_less = model.memory_needed(1, 262_144 - 257, 256)
        assert most - one_less == of_token  # only full layers grow
        cache[narrow] = most - 262_144 * of_token
    # Sliding layers, the logits of a canvas and a chunk of prompt: 262 MB, 403 MB and 287 MB, of which two at a time.
    assert 0.5e9 < cache[False] < 0.8e9 and cache[False] <= cache[True] < cache[False] + 0.02e9


def test_a_context_one_token_too_long_is_refused_before_any_pass(monkeypatch):
    model = model_of("cache")
    monkeypatch.setattr(model, "prefill", lambda *_, **__: pytest.fail("a pass"))
    prompt = tokens(1, 1).expand(1, 262_144 - 63)
    problem = "a prompt of 262081 and an answer of 64 tokens do not fit a context of 262144; shorten the prompt"
    with pytest.raises(InputError, match=problem):
        generate(model, prompt, eos=())


def test_a_context_that_does_not_fit_the_memory_is_refused_before_any_pass(monkeypatch):
    model = model_of("cache")
    monkeypatch.setattr(model, "prefill", lambda *_, **__: pytest.fail("a pass"))
    monkeypatch.setattr("constrained_dg.sampling.checks.free_memory", lambda device: 500_000_000)
    assert free_memory(torch.device("cpu")) > 0
    with pytest.raises(InputError, match=r"needs about 1\.\d\d GB in addition to the weights, and 0\.50 GB are free"):
        generate(model, tokens(1, 1).expand(1, 262_144 - 64), eos=())


#: Shapes of towers in which the heads, the MLP, the norms or the pixels are the largest part.
TOWERS = {
    "heads": {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 8, "num_key_value_heads": 8},
    "dense": {"hidden_size": 64, "intermediate_size": 1024},
    "norms": {"hidden_size": 512, "intermediate_size": 128},
    "pixels": {"hidden_size": 64, "intermediate_size": 64, "patch_size": 16},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", TOWERS)
def test_the_estimate_of_a_call_with_pictures_is_within_a_tenth(shape, dtype):
    """Two pictures, read one after the other, of 2,520 and 630 patches."""
    model = model_of("queries", dtype)
    sizes = {
        "text_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
        "patch_size": 4, "pooling_kernel_size": 3, "position_embedding_size": 80, "standardize": True,
    } | TOWERS[shape]  # fmt: skip
    tower = VisionTower(VisionConfig(**sizes)).to(dtype).eval()
    pictures = [Patches(torch.rand(rows * 42, 3 * tower.config.patch_size**2), 42) for rows in (60, 15)]
    soft, index = SoftTokens(tower, pictures), torch.full((1, 400), -1)
    index[0, 5:285], index[0, 290:360] = torch.arange(280), torch.arange(280, 350)
    assert soft.count == 350
    plain, needed = model.memory_needed(1, 400, 64), model.memory_needed(1, 400, 64, soft.memory_needed)
    assert needed > 1.5 * plain
    taken = peak(lambda: generate(model, tokens(1, 400), images=Images(index, soft), max_passes=2, eos=()))
    assert needed == pytest.approx(taken, rel=0.1)


TOWER = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "patch_size": 4,
    "pooling_kernel_size": 3, "position_embedding_size": 80, "hidden_size": 64, "intermediate_size": 64,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2])
def test_the_estimate_counts_the_soft_tokens_of_many_pictures(dtype, rows):
    """40 pictures of 70 soft tokens: what is kept of them, and the masks of each row."""
    model, count = model_of("experts", dtype), 40 // rows
    tower = VisionTower(VisionConfig(text_size=256, **TOWER)).to(dtype).eval()
    soft = SoftTokens(tower, [Patches(torch.rand(15 * 42, 48), 42) for _ in range(40)])
    index = torch.full((rows, count * 72), -1)
    index.view(40, 72)[:, 1:-1] = torch.arange(40 * 70).view(40, 70)
    taken = peak(lambda: generate(model, tokens(rows, count * 72), images=Images(index, soft), max_passes=2, eos=()))
    assert model.memory_needed(rows, count * 72, 64, soft.memory_needed) == pytest.approx(taken, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_counts_the_pictures_of_a_task(dtype):
    """Read together by the model's own tower."""
    sizes = {"vocab_size": 512, "num_experts": 4, "top_k_experts": 2} | SIZES | SHAPES["queries"]
    model = Backbone(ModelConfig(**sizes, vision=VisionConfig(text_size=64, **TOWER | {"intermediate_size": 512})))
    model = model.init_weights(torch.Generator().manual_seed(0)).to(dtype).eval()
    pictures = Pictures(torch.randint(0, 256, (6, 15 * 42, 48), dtype=torch.uint8), 42)
    plain, needed = model.memory_needed(6, 70, 64), model.memory_needed(6, 70, 64, pictures.memory_needed(model.vision))
    assert needed > 1.5 * plain
    taken = peak(lambda: generate(model, tokens(6, 70), images=pictures, max_passes=2, eos=()))
    assert needed == pytest.approx(taken, rel=0.1)


def test_pictures_that_do_not_fit_are_refused_before_any_pass(monkeypatch):
    model = model_of("cache")
    tower = VisionTower(VisionConfig(text_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1)).eval()
    monkeypatch.setattr(tower, "forward", lambda *_: pytest.fail("a pass"))
    k, p = tower.config.pooling_kernel_size, tower.config.patch_size
    soft = SoftTokens(tower, [Patches(torch.zeros(1, 3 * p * p).expand(k * k * 280, -1), 20 * k)])
    images = Images(torch.arange(280)[None], soft)
    free = model.memory_needed(1, 280, 64) + 1_000_000
    monkeypatch.setattr("constrained_dg.sampling.checks.free_memory", lambda device: free)
    generate(model, tokens(1, 280), max_passes=1, eos=())
    with pytest.raises(InputError, match=r"this call needs about 0.* GB in addition to the weights"):
        generate(model, tokens(1, 280), images=images, max_passes=1, eos=())
