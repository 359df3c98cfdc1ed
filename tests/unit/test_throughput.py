import json

import pytest
import torch

from constrained_dg.errors import InputError
from constrained_dg.model.quantised.formats import FORMATS
from experiments.throughput import __main__ as throughput
from experiments.throughput.sides import Clock

FAST = ["shape=tiny", "repeats=1", "contexts=8", "ar_tokens=2", "passes=4"]


def test_both_sides_are_measured_on_the_same_weights(tmp_path, capsys):
    pytest.importorskip("transformers", minversion="5.11")
    results = throughput.main([*FAST, f"out={tmp_path / 'out'}"])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["agreement"]["8"]["ours to transformers"] < 1e-3
    rows = {(row["batch"], row["what"], row["side"]): row for row in results["rows"]}
    for batch in (1, 4):
        own, other = (rows[batch, "generation", side] for side in ("ours", "transformers"))
        assert own["passes"] == other["passes"] == 4 and own["row_passes"] == other["row_passes"] == 4 * batch
        assert own["ratio_low"] <= own["ratio"] <= own["ratio_high"] and "ratio" not in other
        assert rows[batch, "autoregressive", "ours"]["passes"] == 2
    # Rows certain at passes 2, 2, 3 and 4 leave our batch; transformers carries them to the end.
    own, other = (rows[4, "generation, rows stop apart", side] for side in ("ours", "transformers"))
    assert (own["row_passes"], other["row_passes"]) == (2 + 2 + 3 + 4, 16)
    assert results["header"]["compared_with"]["transformers"] and "transformers / this" in capsys.readouterr().out
    with pytest.raises(InputError, match="never overwritten"):
        throughput.main([*FAST, f"out={tmp_path / 'out'}"])


@pytest.mark.parametrize("weights", ["plain", *FORMATS])
def test_every_format_of_weights_is_measured_against_its_own_floor(tmp_path, weights):
    results = throughput.main([*FAST, f"weights={weights}", "batches=1", f"out={tmp_path / 'out'}"])
    floor, config = results["floor"], throughput.TINY
    matrices = config.num_hidden_layers * 3 * config.hidden_size
    matrices *= config.intermediate_size + config.num_experts * config.moe_intermediate_size
    plain = 4 * config.num_parameters + 8 * config.num_hidden_layers
    assert (floor["weight_bytes"] == plain) == (weights == "plain")
    assert floor["weight_bytes"] <= plain - matrices * {"plain": 0, "fp8": 2.7, "nvfp4": 3.4}[weights]
    assert floor["seconds"] == floor["weight_bytes"] / floor["bytes_per_second"]
    rows = {row["what"]: row for row in results["rows"] if row["side"] == "ours"}
    for what in ("step", "canvas pass"):
        assert rows[what]["over_floor"] == rows[what]["seconds"] / floor["seconds"]
    assert rows["step"]["tokens_per_second"] == 18 / rows["step"]["seconds"]
    peak = rows["generation"]["peak_bytes"]
    assert peak is None or rows["generation"]["memory_bytes"] == floor["weight_bytes"] + peak
    assert ("transformers" in str(results["header"]["compared_with"])) == (weights == "plain")
    assert 0 < results["agreement"]["8"]["grouped to dense experts"] < 1e-3


@pytest.mark.parametrize("kind", FORMATS)
def test_random_quantised_weights_have_the_spread_of_random_plain_ones(kind):
    model = throughput.quantised_alone(throughput.TINY, 0, "cpu", torch.float32, kind)
    experts = model.layers[0].experts
    for weight in (experts.gate_up_proj, experts.down_proj, model.layers[1].mlp.up_proj.weight):
        spread = weight.dequantised(torch.float32).std() * weight.shape[-1] ** 0.5
        assert 0.85 < spread < 1.15


def test_weights_that_differ_are_refused():
    ours, theirs = throughput.build(throughput.TINY, 0, "cpu", torch.float32, saved=False)
    if theirs is None:
        pytest.skip("without transformers there is nothing to compare")
    prompt = torch.arange(3, 11)[None]
    throughput.same_arithmetic(ours, theirs, prompt)
    norm = ours.model.layers[0].post_attention_layernorm
    norm.weight = torch.nn.Parameter(norm.weight * 1.5)  # a tensor of its own: the others are shared
    with pytest.raises(InputError, match="ours to transformers"):
        throughput.same_arithmetic(ours, theirs, prompt)


def test_without_a_gpu_the_full_shape_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert throughput.main(["shape=26b", f"out={tmp_path / 'out'}"]) is None
    assert "needs a GPU" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_the_clock_makes_rows_certain_at_their_pass():
    clock, logits = Clock(stops=(2, 4)), torch.zeros(2, 3, 16)
    clock(logits, 0, torch.arange(2))
    assert logits.flatten(1).any(-1).tolist() == [True, False] and clock.row_passes == 2
    assert throughput.stops(4, 16) == (4, 8, 12, 16)


@pytest.mark.parametrize(
    "argument, words",
    [("shape=huge", "one of tiny"), ("speed=1", "key=value"), ("repeats=x", "give int"), ("repeats=0", "repeats is 0"),
     ("contexts=1", "2 tokens"), ("passes=1", "2 or more"), ("weights=int4", "one of plain, fp8, nvfp4")],
)  # fmt: skip
def test_bad_arguments_are_named(argument, words, tmp_path):
    with pytest.raises(InputError, match=words):
        throughput.main([argument, f"out={tmp_path / 'out'}"])
