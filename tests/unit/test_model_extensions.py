"""Relations and loops: exactly absent when off, and exactly what they say when on."""

import pytest
import torch

from constrained_dg.model import Backbone, preset
from constrained_dg.model.attention import Attention, attend
from tests.naive_backbone import random_backbone

CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def random_relations(rows: int, relations: int, size: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(rows, relations, size, size, generator=torch.Generator().manual_seed(seed)) < 0.4


def everything(model: Backbone, relations: torch.Tensor | None) -> list[torch.Tensor]:
    """Outputs of every pass: prefill, canvas, commit, next canvas, next token."""
    cache = model.prefill(tokens(2, 7), relations=relations)
    outputs = [model.denoise(tokens(2, 4, seed=2), cache, None, relations)]
    model.commit(tokens(2, 4, seed=3), cache, relations)
    outputs += [model.denoise(tokens(2, 3, seed=4), cache, None, relations)]
    outputs += [model.next_token(tokens(2, 2, seed=5), cache, relations)]
    return [*outputs, *committed(cache)]


def committed(cache) -> list[torch.Tensor]:
    return [store for entry in range(len(cache.entries)) for store in cache.committed(entry)]


# -- relations --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_without_relations_or_with_zero_bias_it_is_the_plain_model():
    related = random_backbone(1, num_relations=3)
    plain = Backbone(preset("tiny")).eval()
    state = {k: v for k, v in related.state_dict().items() if not k.endswith("relation_bias")}
    assert len(state) == len(related.state_dict()) - 3
    plain.load_state_dict(state)  # strict: the extension adds nothing else
    relations = random_relations(2, 3, 16)
    want = everything(plain, None)
    biased = everything(related, relations)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(biased[:3], want[:3], strict=True))
    for got in (
        everything(related, None),
        everything(related, torch.zeros_like(relations)),
        everything(plain, relations),
    ):
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    for layer in related.layers:
        layer.self_attn.relation_bias.zero_()
    assert all(torch.equal(a, b) for a, b in zip(everything(related, relations), want, strict=True))


@torch.no_grad()
def test_score_bias_adds_each_relation_that_holds():
    attention = Attention(preset("tiny", num_relations=2), 0)
    attention.relation_bias.copy_(torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]))
    relations = torch.tensor([[[[1, 0, 1]], [[0, 0, 1]]]], dtype=torch.bool)  # one query, three keys
    bias = attention.score_bias(relations, torch.tensor([[[True, True, True]]]), torch.float32)
    assert bias[0, :, 0].tolist() == [[1, 0, 11], [2, 0, 22], [3, 0, 33], [4, 0, 44]]
    hidden = attention.score_bias(relations, torch.tensor([[[True, False, True]]]), torch.float32)
    assert hidden[0, 1, 0].tolist() == [2, float("-inf"), 22]
    assert attention.score_bias(None, None, torch.float32) is None


@torch.no_grad()
def test_a_strong_bias_makes_one_head_attend_to_related_positions_alone():
    attention = Attention(preset("tiny", num_relations=1), 0)
    attention.relation_bias.zero_()
    attention.relation_bias[2, 0] = 1e4
    related = torch.tensor([[True, False, True, False, False]])
    bias = attention.score_bias(related[None, None], None, torch.float32)
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(1, 1, 4, 8, generator=generator), torch.randn(1, 5, 2, 8, generator=generator)
    weights = attend(q, k, torch.eye(5)[None, :, None].expand(1, 5, 2, 5).contiguous(), bias)[0, 0]
    assert (weights[2, ~related[0]] == 0).all() and weights[2].sum().item() == pytest.approx(1)
    for head in (0, 1, 3):
        assert (weights[head] > 0).all()


@pytest.mark.parametrize("changes", [{}, {"loops": 2, "causal_loops": 2}, {"sliding_window": 3}])
@torch.no_grad()
def test_positions_that_nothing_relates_never_hear_of_each_other(changes):
    """Positions related iff they agree modulo 3, and bias so strong that the rest weighs exactly 0: a token may then
    move only logits and cache entries of its own class, in every pass. A slice of the relations that starts one
    position off mixes the classes (7 and 4 are not divisible by 3)."""
    model = random_backbone(2, num_relations=1, **changes)
    for layer in model.layers:
        layer.self_attn.relation_bias.fill_(1e5)
    size = 7 + 4 + 4
    place = torch.arange(size) % 3
    relations = (place[:, None] == place[None, :])[None, None]
    text = tokens(1, size)

    def run(text):
        cache = model.prefill(text[:, :7], relations=relations)
        model.commit(text[:, 7:11], cache, relations)
        logits = model.denoise(text[:, 11:], cache, None, relations)
        causal = model.causal_logits(text[:, 11:], cache, relations)
        return [logits, causal], committed(cache)

    logits, stores = run(text)
    for changed in range(size):
        other = text.clone()
        other[0, changed] = (other[0, changed] + 1) % 64
        new_logits, new_stores = run(other)
        same_class = place == place[changed]
        for before, after in zip(stores, new_stores, strict=True):
            moved, held = torch.zeros(size, dtype=torch.bool), before.shape[1]
            moved[size - held :] = (before != after)[0].flatten(1).any(1)  # sliding layers hold the last ones
            assert moved[changed] == (changed >= size - held)
            assert not moved[~same_class].any() and not moved[:changed].any()
        for before, after in zip(logits, new_logits, strict=True):
            moved = (before != after)[0].any(1)
            assert not moved[~same_class[11:]].any(), f"token {changed}"
        if changed >= 11:  # the canvas is bidirectional: everyone in the class hears
            assert (logits[0] != new_logits[0])[0].any(1)[same_class[11:]].all()


@torch.no_grad()
def test_relations_per_row_equal_row_by_row_runs():
    model = random_backbone(3, num_relations=2)
    relations = random_relations(2, 2, 13)
    prompt, canvas = tokens(2, 5), tokens(2, 4, seed=2)

    def run(rows):
        cache = model.prefill(prompt[rows], relations=relations[rows])
        model.commit(canvas[rows], cache, relations[rows])
        return model.denoise(canvas[rows], cache, None, relations[rows])

    together = run(torch.tensor([0, 1]))
    for row in range(2):
        torch.testing.assert_close(together[row : row + 1], run(torch.tensor([row])), **CLOSE)
    # One set for all rows equals the same set repeated.
    shared = relations[:1]
    one = model.denoise(canvas, model.prefill(prompt, relations=shared), None, shared)
    repeated = shared.expand(2, -1, -1, -1)
    assert torch.equal(one, model.denoise(canvas, model.prefill(prompt, relations=repeated), None, repeated))


@torch.no_grad()
def test_relations_larger_than_the_context_are_cut():
    model, relations = random_backbone(3, num_relations=2), random_relations(1, 2, 30)
    prompt, canvas = tokens(2, 5), tokens(2, 4, seed=2)
    exact = relations[:, :, :9, :9]
    one = model.denoise(canvas, model.prefill(prompt, relations=exact), None, exact)
    assert torch.equal(one, model.denoise(canvas, model.prefill(prompt, relations=relations), None, relations))


# -- loops ------------------------------------------------------------------------------------------------------------


def unrolled(model: Backbone, times: int) -> Backbone:
    """The same weights as a stack of `times` as many layers, run once."""
    layers = model.config.num_hidden_layers
    deep = Backbone(preset("tiny", num_hidden_layers=layers * times, num_relations=model.config.num_relations))
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith("layers."):
            state[name] = tensor
            continue
        _, index, rest = name.split(".", 2)
        state |= {f"layers.{int(index) + turn * layers}.{rest}": tensor for turn in range(times)}
    deep.load_state_dict(state)
    return deep.eval()


@pytest.mark.parametrize("loops", [2, 3])
@torch.no_grad()
def test_loops_equal_a_deeper_stack_with_repeated_weights(loops):
    model = random_backbone(4, loops=loops, causal_loops=loops, num_relations=2)
    relations = random_relations(1, 2, 16)
    for got, want in zip(everything(model, relations), everything(unrolled(model, loops), relations), strict=True):
        assert torch.equal(got, want)


@torch.no_grad()
def test_loops_change_the_model_and_every_loop_can_be_read():
    model, prompt, canvas = random_backbone(5, loops=3), tokens(2, 7), tokens(2, 4, seed=2)
    signal = model.self_condition(torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(1)).softmax(-1))
    cache = model.prefill(prompt)
    assert len(cache.keys) == 3, "causal_loops is 1: one entry a layer"
    each = model.denoise_loops(canvas, cache, signal)
    assert len(each) == 3
    assert torch.equal(each[-1], model.denoise(canvas, cache, signal))
    for loops in (1, 2):
        fewer = Backbone(preset("tiny", loops=loops))
        fewer.load_state_dict(model.state_dict())
        assert torch.equal(each[loops - 1], fewer.denoise(canvas, fewer.prefill(prompt), signal))
        assert (each[loops - 1] - each[-1]).abs().max() > 1e-2


@torch.no_grad()
def test_a_canvas_loop_reads_its_own_causal_loop_and_the_last_one_after_that():
    model, canvas = random_backbone(6, loops=3, causal_loops=2), tokens(2, 4, seed=2)
    cache = model.prefill(tokens(2, 7))
    before = model.denoise_loops(canvas, cache)
    for store in cache.values[3:]:  # entries of the second causal loop
        store[:, : cache.length] += 1.0
    after = model.denoise_loops(canvas, cache)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1]) and not torch.equal(before[2], after[2])
    cache = model.prefill(tokens(2, 7))
    for store in cache.values[:3]:
        store[:, : cache.length] += 1.0
    assert not torch.equal(before[0], model.denoise_loops(canvas, cache)[0])
