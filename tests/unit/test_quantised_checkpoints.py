"""Quantised checkpoints: read in every spelling, written so that compressed-tensors and transformers read them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from constrained_dg import load_pretrained, save_pretrained
from constrained_dg.errors import InputError
from constrained_dg.model import Backbone
from constrained_dg.model.lora import adapt, merge
from constrained_dg.model.quantised import QuantisedWeight
from constrained_dg.model.quantised.formats import FORMATS, FP8, NVFP4, quantise
from constrained_dg.model.released import quantise as command
from constrained_dg.model.released.layout import released_name
from constrained_dg.model.released.quantise import MODELOPT, quantise_checkpoint
from constrained_dg.quantise import main
from tests.quantised import as_modelopt
from tests.released import released, save, transformers
from tests.unit.test_lora import nudge
from tests.unit.test_pretrained import edit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.entrypoints.convert.converters import CompressedTensorsDequantizer, ModelOptNvfp4Converter
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam

INDEX = "model.safetensors.index.json"
DECODER = "model.decoder."


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    model = released(layers=2, layer_types=["sliding_attention", "full_attention"]).bfloat16()
    folder = save(model, tmp_path_factory.mktemp("checkpoints") / "plain")
    (folder / "tokenizer.json").write_text("tokens")
    return folder


@pytest.fixture(scope="module")
def folders(plain) -> dict[str, Path]:
    """A checkpoint in each format and spelling."""
    made = {kind: plain.with_name(kind) for kind in (*FORMATS, MODELOPT, "modelopt")}
    for kind in (*FORMATS, MODELOPT):
        quantise_checkpoint(plain, made[kind], kind)
    shutil.copytree(made[NVFP4], made["modelopt"])  # renamed by hand
    as_modelopt(made["modelopt"])
    return made


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def stacked(dense: dict[str, torch.Tensor], name: str, part: str) -> torch.Tensor:
    """The matrices of one projection of all experts of a layer."""
    return torch.stack([dense[f"{name}.{expert}.{part}.weight"] for expert in range(8)])


def assert_dequantised(model: Backbone, dense: dict[str, torch.Tensor]) -> None:
    """The model holds these weights, bit for bit; experts have one matrix each in `dense`."""
    compared = 0
    for key, module in model.named_modules():
        if not isinstance(module, QuantisedWeight):
            continue
        ours, name = module.dequantised(torch.bfloat16), released_name(key)
        if key.endswith("gate_up_proj"):
            stem = name.removesuffix(".gate_up_proj")
            theirs = torch.cat([stacked(dense, stem, "gate_proj"), stacked(dense, stem, "up_proj")], dim=1)
        elif key.endswith("experts.down_proj"):
            theirs = stacked(dense, name.removesuffix(".down_proj"), "down_proj")
        else:
            theirs = dense[name]
        assert theirs.dtype == torch.bfloat16 and torch.equal(ours, theirs), key
        compared += 1
    assert compared in (10, 17)  # in two layers: three MLP matrices and two stacks of experts, and attention


# -- against compressed-tensors and transformers ----------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [*FORMATS, MODELOPT, "modelopt"])
def test_dequantised_tensors_equal_those_of_compressed_tensors(folders, spelling: str) -> None:
    tensors = tensors_of(folders[spelling])
    if "modelopt" in spelling:
        converter = ModelOptNvfp4Converter(targets=[r"re:.*(mlp|experts\.\d+)\.\w+_proj$"])
        tensors = {n: t for n, t in converter.validate(tensors).items() if not n.endswith("input_global_scale")}
        # As in its own files. ModelOpt's has no dimension, and torch would divide scales by it in bf16.
        tensors = {n: t.reshape(1) if n.endswith("weight_global_scale") else t for n, t in tensors.items()}
    oracle = CompressedTensorsDequantizer(folders[FP8 if spelling == FP8 else NVFP4])
    assert_dequantised(load_pretrained(folders[spelling]), oracle.validate(tensors))


@pytest.mark.parametrize("kind", FORMATS)
def test_tensors_equal_those_that_compressed_tensors_writes(plain, folders, kind: str) -> None:
    config = json.loads((folders[kind] / "config.json").read_text())["quantization_config"]
    [scheme] = QuantizationConfig.model_validate(config).config_groups.values()
    weight, ours = tensors_of(plain)[f"{DECODER}layers.0.mlp.down_proj.weight"].float(), tensors_of(folders[kind])
    if kind == FP8:
        low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
        theirs = {}
    else:
        theirs = {"weight_global_scale": generate_gparam(weight.min(), weight.max())}
        groups = weight.unflatten(-1, (-1, 16))
        low, high = groups.amin(-1), groups.amax(-1)
    scale, _ = calculate_qparams(low, high, scheme.weights, *theirs.values())
    state = {"weight": weight, "weight_scale": scale} | theirs
    for name, tensor in BaseCompressor.get_value_from_registry(scheme.format).compress(state, scheme).items():
        mine = ours[f"{DECODER}layers.0.mlp.down_proj.{name}"]
        assert mine.dtype == tensor.dtype and torch.equal(mine.view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize("kind", FORMATS)
def test_transformers_opens_what_it_has_layers_for(folders, kind: str) -> None:
    """It keeps the experts of a layer in one tensor and does not read one matrix each; the rest it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(
            folders[kind], quantization_config=transformers.CompressedTensorsConfig(dequantize=True)
        )
    ours, compared = load_pretrained(folders[kind]), 0
    for key, module in ours.named_modules():
        if isinstance(module, QuantisedWeight) and "experts" not in key:
            assert torch.equal(module.dequantised(torch.bfloat16), theirs.get_parameter(released_name(key))), key
            compared += 1
    assert compared == (13 if kind == FP8 else 6)
    assert torch.equal(ours.embed_tokens.weight, theirs.model.decoder.embed_tokens.weight)


@pytest.mark.parametrize("spelling", [*FORMATS, MODELOPT])
def test_logits_equal_those_of_transformers_with_dequantised_weights(plain, folders, spelling: str) -> None:
    ours = load_pretrained(folders[spelling], dtype=torch.float32)
    theirs = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(plain, dtype=torch.float32)
    with torch.no_grad():
        untouched = {name: parameter.clone() for name, parameter in theirs.named_parameters()}
        for key, module in ours.named_modules():
            if isinstance(module, QuantisedWeight):
                theirs.get_parameter(released_name(key)).copy_(module.dequantised(torch.float32))
        prompt, canvas = torch.arange(3, 23).view(2, 10), torch.arange(30, 62).view(2, 16)
        expected = theirs(prompt, decoder_input_ids=canvas).logits
        logits = ours.denoise(canvas, ours.prefill(prompt))
        assert torch.allclose(logits, expected, atol=3e-4)
        for name, parameter in theirs.named_parameters():
            parameter.copy_(untouched[name])
        assert (theirs(prompt, decoder_input_ids=canvas).logits - expected).abs().max() > 0.01


# -- reading ----------------------------------------------------------------------------------------------------------


def rewritten(folder: Path, target: Path, change) -> Path:
    """A copy with other tensors, in one file."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", INDEX))
    tensors = tensors_of(folder)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors")
    return target


def assert_same(first: Backbone, second: Backbone) -> None:
    states = first.state_dict(), second.state_dict()
    assert list(states[0]) == list(states[1])
    for name, tensor in states[0].items():
        assert tensor.dtype == states[1][name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), states[1][name].view(torch.uint8)), name


@pytest.mark.parametrize("kind", FORMATS)
def test_names_are_read_by_what_follows_the_layer(folders, tmp_path, kind: str) -> None:
    """Under the encoder, twice, or with tensors that serve a quantised cache, they are the same weights."""

    def renamed(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if "vision" in name or name.startswith("model.encoder"):
                continue
            encoder = name.replace("model.decoder.", "model.encoder.language_model.")
            if "layers.0.mlp" in name:
                tensors[encoder] = tensors.pop(name)
            elif "layers.1." in name and "scalar" not in name:
                tensors[encoder] = tensors[name].clone()
        tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()
        tensors["model.decoder.layers.0.self_attn.k_scale"] = torch.ones(1)
        tensors["model.decoder.layers.0.mlp.up_proj.input_global_scale"] = torch.ones(1)

    assert_same(load_pretrained(folders[kind]), load_pretrained(rewritten(folders[kind], tmp_path / "new", renamed)))


def test_scales_of_fp8_may_be_bf16_and_one_file_holds_all(folders, tmp_path) -> None:
    def rounded(tensors: dict[str, torch.Tensor]) -> None:
        for name in (name for name in list(tensors) if name.endswith("weight_scale")):
            tensors[name] = tensors[name].bfloat16()

    folder = rewritten(folders[FP8], tmp_path / "new", rounded)
    dense = CompressedTensorsDequantizer(folder).validate(tensors_of(folder))
    assert_dequantised(load_pretrained(folder), dense)


def test_a_layer_that_was_left_plain_is_read_as_such(plain, folders, tmp_path) -> None:
    """Its experts too, which lie in one matrix each."""
    original = tensors_of(plain)

    def left_plain(tensors: dict[str, torch.Tensor]) -> None:
        for name in (name for name in list(tensors) if "layers.1.mlp" in name or "layers.1.experts" in name):
            stem, _, suffix = name.rpartition(".")
            tensors.pop(name)
            if suffix == "weight_packed" and "mlp" in name:
                tensors[f"{stem}.weight"] = original[f"{stem}.weight"]
        gate_up, down = (original[f"{DECODER}layers.1.experts.{part}"] for part in ("gate_up_proj", "down_proj"))
        for expert in range(8):
            parts = dict(zip(("gate_proj", "up_proj"), gate_up[expert].chunk(2), strict=True)) | {
                "down_proj": down[expert]
            }
            for part, matrix in parts.items():
                tensors[f"{DECODER}layers.1.experts.{expert}.{part}.weight"] = matrix

    mixed = load_pretrained(rewritten(folders[NVFP4], tmp_path / "new", left_plain))
    source = load_pretrained(plain)
    assert isinstance(mixed.layers[0].mlp.up_proj.weight, QuantisedWeight)
    for key in ("experts.gate_up_proj", "experts.down_proj", "mlp.up_proj.weight"):
        assert torch.equal(mixed.get_parameter(f"layers.1.{key}"), source.get_parameter(f"layers.1.{key}")), key
    mixed.denoise(torch.arange(16)[None], mixed.prefill(torch.arange(3, 9)[None]))


# -- writing ----------------------------------------------------------------------------------------------------------


def test_both_spellings_hold_the_same_numbers(folders) -> None:
    """The command's files are those of compressed-tensors with other names and the inverse of each global scale."""
    ours, renamed = tensors_of(folders[MODELOPT]), tensors_of(folders["modelopt"])
    assert ours.keys() == {name for name in renamed if not name.endswith("input_scale")}
    for name, tensor in ours.items():
        assert (tensor.dtype, tensor.shape) == (renamed[name].dtype, renamed[name].shape), name
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), renamed[name].reshape(-1).view(torch.uint8)), name
    # Once inverted and back, a number of fp32 may be its neighbour; all else is equal.
    first, second = (load_pretrained(folders[form]).state_dict() for form in (NVFP4, MODELOPT))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if name.endswith("global_scale"):
            assert ((second[name] - tensor).abs() <= 2**-23 * tensor).all(), name
        else:
            assert torch.equal(tensor.view(torch.uint8), second[name].view(torch.uint8)), name


def test_a_model_in_modelopts_spelling_is_saved_in_that_of_compressed_tensors(folders, tmp_path) -> None:
    model = load_pretrained(folders[MODELOPT])
    save_pretrained(model, tmp_path / "new")
    assert tensors_of(tmp_path / "new").keys() == tensors_of(folders[NVFP4]).keys()
    assert_same(model, load_pretrained(tmp_path / "new"))


def test_modelopts_spelling_names_what_stays_plain(folders) -> None:
    config = json.loads((folders[MODELOPT] / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["quant_algo"]) == ("modelopt", "W4A16_NVFP4")
    tensors = tensors_of(folders[MODELOPT])
    packed = {name.removesuffix(".weight_scale_2") for name in tensors if name.endswith(".weight_scale_2")}
    linear = {name.removesuffix(".weight") for name, t in tensors.items() if t.dim() == 2 and name.endswith(".weight")}
    assert packed < linear
    for stem in linear:
        ignored = any(fnmatchcase(stem, pattern) for pattern in config["ignore"])
        assert ignored == (stem not in packed), stem


@pytest.mark.parametrize("kind", FORMATS)
def test_a_quantised_model_is_saved_as_it_is(folders, tmp_path, kind: str) -> None:
    model = load_pretrained(folders[kind])
    save_pretrained(model, tmp_path / "new", max_shard_bytes=50_000)
    assert_same(model, load_pretrained(tmp_path / "new"))
    assert tensors_of(folders[kind]).keys() == tensors_of(tmp_path / "new").keys()
    configs = [json.loads((folder / "config.json").read_text()) for folder in (folders[kind], tmp_path / "new")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("kind", FORMATS)
def test_merged_adapters_make_plain_layers_in_a_quantised_checkpoint(folders, tmp_path, kind: str) -> None:
    model = merge(nudge(adapt(load_pretrained(folders[kind]), 2)))
    save_pretrained(model, tmp_path / "new")
    again = load_pretrained(tmp_path / "new")
    assert_same(model, again)
    dense = CompressedTensorsDequantizer(tmp_path / "new").validate(tensors_of(tmp_path / "new"))
    # What is plain now is ignored, what is not is not.
    assert torch.equal(dense[f"{DECODER}layers.0.mlp.up_proj.weight"], model.layers[0].mlp.up_proj.weight)
    expert = dense[f"{DECODER}layers.0.experts.3.down_proj.weight"]
    assert torch.equal(expert, model.layers[0].experts.down_proj.dequantised(torch.bfloat16)[3])


def test_each_layer_has_a_file_and_all_else_is_copied(plain, tmp_path, monkeypatch) -> None:
    writes = []

    def write(path, tensors, made) -> None:
        writes.append({name for name, tensor in tensors.items() if "weight_packed" in name or "weight_scale" in name})
        real(path, tensors, made)

    real = command.write_shard
    monkeypatch.setattr(command, "write_shard", write)
    quantise_checkpoint(plain, tmp_path / "new", NVFP4)
    assert [{int(re.search(r"layers\.(\d+)", name)[1]) for name in names} for names in writes] == [set(), {0}, {1}]
    assert sum(map(len, writes)) == 2 * 27 * 2
    assert (tmp_path / "new" / "tokenizer.json").read_text() == "tokens"
    vision = [name for name in tensors_of(plain) if "vision" in name]
    assert vision and all(torch.equal(tensors_of(plain)[name], tensors_of(tmp_path / "new")[name]) for name in vision)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_matrix_quantised_by_rows_is_that_quantised_at_once(monkeypatch, kind: str) -> None:
    matrix = torch.randn(37, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    matrix[5] = 0
    whole = quantise(matrix, kind, matrix.abs().amax())
    for rows in (1, 5, 37):
        monkeypatch.setattr(command, "_BLOCK", rows * 48 + 7)
        parts = command.by_rows(matrix, kind, matrix.abs().amax())
        assert parts.keys() == whole.keys()
        for name, part in parts.items():
            assert part.dtype == whole[name].dtype and part.shape == whole[name].shape
            assert torch.equal(part.view(torch.uint8), whole[name].view(torch.uint8)), (name, rows)


MEMORY = """
import sys
from constrained_dg.model.released.quantise import quantise_checkpoint
def most():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024
small, large, target, kind = sys.argv[1:]
quantise_checkpoint(small, target + "/small", kind)
before = most()
quantise_checkpoint(large, target + "/large", kind)
print(most() - before)
"""


@pytest.fixture(scope="module")
def six_layers(tmp_path_factory) -> Path:
    sizes = {"hidden_size": 512, "moe_intermediate_size": 256, "num_experts": 32, "intermediate_size": 8192}
    return save(released(layers=6, **sizes).bfloat16(), tmp_path_factory.mktemp("large"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("kind", [*FORMATS, MODELOPT])
def test_the_peak_of_memory_is_at_most_one_layer(plain, six_layers, tmp_path, kind: str) -> None:
    """Beyond that for a tiny checkpoint, pages of mapped files included; the whole is six times a layer."""
    whole = sum(path.stat().st_size for path in six_layers.glob("*.safetensors"))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, plain, six_layers, tmp_path, kind],
        env=os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    assert 0 < int(done.stdout) < whole / 6


KILLED = """
import os, signal, sys
from constrained_dg.model.released import quantise
real, count = quantise.write_shard, 0
def write(*arguments):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)
quantise.write_shard = write
quantise.quantise_checkpoint(sys.argv[1], sys.argv[2], "fp8")
"""


def test_a_run_that_is_killed_leaves_no_checkpoint(plain, tmp_path) -> None:
    target = tmp_path / "new"
    target.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, plain, target], env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == -signal.SIGKILL
    assert not any(target.iterdir())
    [partial] = [path for path in tmp_path.iterdir() if path != target]
    assert len(list(partial.glob("*.safetensors"))) == 2
    with pytest.raises(InputError, match=r"no config.json"):
        load_pretrained(partial)
    quantise_checkpoint(plain, target, FP8)  # takes the place of what was left
    assert load_pretrained(target).config.num_hidden_layers == 2 and not partial.exists()


# -- bad input --------------------------------------------------------------------------------------------------------


def scheme(**changes: object):
    """Change the scheme in config.json."""

    def change(config: dict) -> None:
        config["quantization_config"]["config_groups"]["group_0"]["weights"].update(changes)

    return lambda folder: edit(folder / "config.json", change)


def declaration(**changes: object):
    return lambda folder: edit(folder / "config.json", lambda config: config["quantization_config"].update(changes))


def tensor(name: str, change):
    """Change one tensor of layer 0; None removes it."""

    def apply(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        full = f"{DECODER}layers.0.{name}"
        path = folder / index["weight_map"][full]
        tensors = load_file(path)
        if change is None:
            tensors.pop(full), index["weight_map"].pop(full)
            (folder / INDEX).write_text(json.dumps(index))
        else:
            tensors[full] = change(tensors[full])
        save_file(tensors, path)

    return apply


def filled(value: float):
    def change(tensor: torch.Tensor) -> torch.Tensor:
        wide = tensor.float()
        wide.view(-1)[-1] = value
        return wide.to(tensor.dtype)

    return change


SCALE, GLOBAL = "experts.5.up_proj.weight_scale", "experts.5.up_proj.weight_global_scale"
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "kind, damage, message",
    [
        (NVFP4, tensor(SCALE, None), "experts.5.up_proj.weight_packed is quantised, and .*weight_scale is missing"),
        (NVFP4, tensor(GLOBAL, None), "up_proj.weight_global_scale is missing"),
        (FP8, tensor(SCALE, None), "experts.5.up_proj.weight_scale is missing"),
        (NVFP4, tensor(SCALE, filled(NAN)), "up_proj.weight_scale holds nan"),
        (NVFP4, tensor(SCALE, filled(0.0)), r"up_proj.weight_scale holds 0.0 \(1 such numbers\)"),
        (NVFP4, tensor(SCALE, filled(-1.0)), "up_proj.weight_scale holds -1.0"),
        (NVFP4, tensor(GLOBAL, filled(NAN)), "up_proj.weight_global_scale holds nan"),
        (NVFP4, tensor(GLOBAL, filled(0.0)), "up_proj.weight_global_scale holds 0.0"),
        (NVFP4, tensor(GLOBAL, filled(INF)), "up_proj.weight_global_scale holds inf"),
        (FP8, tensor(SCALE, filled(INF)), "up_proj.weight_scale holds inf"),
        (FP8, tensor(SCALE, filled(0.0)), "up_proj.weight_scale holds 0.0"),
        ("modelopt", tensor("mlp.up_proj.weight_scale_2", filled(0.0)), "up_proj.weight_scale_2 holds 0.0"),
        ("modelopt", tensor("mlp.up_proj.weight_scale_2", None), "up_proj.weight_scale_2 is missing"),
        (MODELOPT, tensor("mlp.up_proj.weight_scale_2", filled(NAN)), "up_proj.weight_scale_2 holds nan"),
        (MODELOPT, tensor("mlp.up_proj.weight_scale_2", filled(INF)), "up_proj.weight_scale_2 holds inf"),
        (MODELOPT, tensor("mlp.up_proj.weight_scale_2", filled(1e-40)), "holds 9.9.*e-41 .* inverse is too large"),
        (MODELOPT, tensor("mlp.up_proj.weight_scale_2", lambda t: t.repeat(3)), r"weight_scale_2 has shape \(3,\)"),
        (MODELOPT, tensor(SCALE, None), "experts.5.up_proj.weight_scale is missing"),
        (MODELOPT, tensor(SCALE, filled(NAN)), "up_proj.weight_scale holds nan"),
        (MODELOPT, tensor("mlp.up_proj.weight", lambda t: t[:, :-1].clone()), r"mlp.up_proj.weight has shape"),
        (MODELOPT, tensor("mlp.up_proj.weight", lambda t: t.view(torch.int8)), "mlp.up_proj.weight has type I8"),
        (NVFP4, tensor(SCALE, lambda t: t[:, :1].clone()), r"has shape \(32, 1\); config.json promises \(32, 4\)"),
        (NVFP4, tensor(SCALE, lambda t: t.float()), "up_proj.weight_scale has type F32"),
        (NVFP4, tensor(GLOBAL, lambda t: t.repeat(2)), r"weight_global_scale has shape \(2,\)"),
        (FP8, tensor(SCALE, lambda t: t.flatten()), r"has shape \(32,\); config.json promises \(32, 1\)"),
        (FP8, tensor("experts.5.up_proj.weight", lambda t: t[:9].clone()), r"has shape \(9, 64\)"),
        (FP8, tensor("experts.5.up_proj.weight", None), "lacks tensors of layers.0.experts.5.up_proj"),
        (FP8, tensor("experts.5.up_proj.weight", lambda t: t.float()), "in the formats .'fp8', 'plain'.*share one"),
        (FP8, tensor("experts.5.up_proj.weight", lambda t: t.to(torch.float8_e5m2)), "has type F8_E5M2"),
        (FP8, scheme(num_bits=4), "group_0 is .*'num_bits': 4.* in format 'float-quantized'; known are FP8"),
        (FP8, scheme(strategy="block"), "'strategy': 'block'"),
        (FP8, scheme(type="int"), "'type': 'int'"),
        (FP8, scheme(symmetric=False), "'symmetric': False"),
        (NVFP4, scheme(group_size=32), "'group_size': 32"),
        (NVFP4, scheme(num_bits=8, strategy="channel"), "in format 'nvfp4-pack-quantized'"),
        (FP8, declaration(quant_method="gptq"), "quantization_config is .*'gptq'.*known are FP8"),
        (FP8, declaration(config_groups={}), "known are FP8"),
        (FP8, declaration(config_groups={"a": {}}), "config_groups.a.weights is None"),
        (FP8, declaration(transform_config={"config_groups": {"u": {}}}), "transform_config is .*not supported"),
        ("modelopt", declaration(quant_algo="W4A8_AWQ"), "quant_algo 'W4A8_AWQ'"),
        ("modelopt", declaration(group_size=32), "in groups of 32"),
        (MODELOPT, declaration(config_groups={"a": {"weights": {"group_size": 32}}}), "in groups of 32"),
        (MODELOPT, declaration(config_groups=[1]), r"config_groups is \[1\]"),
        (FP8, declaration(quant_method="modelopt", quant_algo="NVFP4"), r"declares \['nvfp4'\], the tensors are"),
        (NVFP4, lambda folder: (folder / "model-00002-of-00003.safetensors").unlink(), "lacks the shards .*00002"),
        (
            NVFP4,
            lambda folder: edit(folder / "config.json", lambda c: c.pop("quantization_config")),
            "lacks tensors .*gate_up_proj",
        ),
    ],
)
def test_faults_are_named_before_the_weights_are_read(folders, tmp_path, monkeypatch, kind, damage, message) -> None:
    folder = Path(shutil.copytree(folders[kind], tmp_path / "copied"))
    damage(folder)
    monkeypatch.setattr("constrained_dg.model.released.read.Backbone.load_state_dict", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match=message) as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_rows_that_groups_do_not_divide_are_named(tmp_path, folders) -> None:
    model = released(layers=1, layer_types=["full_attention"], intermediate_size=40).bfloat16()
    folder = save(model, tmp_path / "plain")
    with pytest.raises(InputError, match=r"mlp.down_proj.weight: rows of 40 numbers cannot be split into groups of 16"):
        quantise_checkpoint(folder, tmp_path / "new", NVFP4)
    assert not (tmp_path / "new").exists()
    quantise_checkpoint(folder, tmp_path / "fp8", FP8)
    # A checkpoint that promises it nevertheless.
    copied = Path(shutil.copytree(folders[NVFP4], tmp_path / "copied"))
    edit(copied / "config.json", lambda config: config["text_config"].update(moe_intermediate_size=40))
    with pytest.raises(InputError, match="rows of 40 numbers cannot be split"):
        load_pretrained(rewritten(copied, tmp_path / "odd", narrow))


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    """Experts of width 40 as packed tensors."""
    for name in [name for name in tensors if ".experts." in name and "scale" not in name]:
        rows = 40 if "down" not in name else 64
        tensors[name] = torch.zeros(rows, 20 if "down" in name else 32, dtype=torch.uint8)
    for name in [name for name in tensors if ".experts." in name and name.endswith("weight_scale")]:
        if "down" not in name:
            tensors[name] = torch.ones(40, 4).to(torch.float8_e4m3fn)


@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_that_are_not_finite_are_named(plain, tmp_path, value: float) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{DECODER}layers.1.experts.gate_up_proj"][3, 4, 5] = value

    source = rewritten(plain, tmp_path / "bad", damage)
    with pytest.raises(InputError, match=r"layers.1.experts.gate_up_proj, expert 3 holds (nan|inf)"):
        quantise_checkpoint(source, tmp_path / "new", FP8)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_the_command_refuses_what_it_cannot_do_in_one_line(plain, folders, tmp_path, capsys) -> None:
    for arguments, words in (
        (
            (f"checkpoint={plain}", f"out={tmp_path / 'a'}", "format=int4"),
            "format is 'int4'; use one of fp8, nvfp4, nvfp4_m",
        ),
        ((f"checkpoint={plain}", f"out={tmp_path / 'a'}", "format=fp8", "threads=0"), "threads is 0"),
        ((f"checkpoint={folders[FP8]}", f"out={tmp_path / 'a'}", "format=fp8"), "is quantised already"),
        ((f"checkpoint={plain}", f"out={folders[FP8]}", "format=fp8"), "already holds"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        error = capsys.readouterr().err
        assert caught.value.code == 2 and words in error and len(error.splitlines()) == 1, error


def test_the_command_writes_a_checkpoint(plain, folders, tmp_path) -> None:
    line = [sys.executable, "-m", "constrained_dg", "quantise", f"checkpoint={plain}", f"out={tmp_path / 'a'}"]
    done = subprocess.run([*line, "format=nvfp4"], capture_output=True, text=True)
    assert done.returncode == 0 and "GB of weights" in done.stdout, done.stderr
    assert_same(load_pretrained(tmp_path / "a"), load_pretrained(folders[NVFP4]))
