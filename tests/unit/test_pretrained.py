"""Checkpoints in the released format: read in every spelling, written so that transformers reads them, faults named."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from constrained_dg import load_pretrained, save_pretrained
from constrained_dg.errors import InputError
from constrained_dg.model import Backbone, preset, weights
from constrained_dg.model.released import write
from constrained_dg.model.released.config import ROPE, SIZES, read_config
from constrained_dg.model.released.layout import DEAD, released_name
from tests.released import released, save, transformers

TEXT = "model.decoder."


@pytest.fixture(scope="module")
def model():
    return released(layers=2, layer_types=["sliding_attention", "full_attention"])


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """One file, with what else a checkpoint holds."""
    made = save(model, tmp_path_factory.mktemp("checkpoint"))
    for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json"):
        (made / name).write_text(name)
    (made / "notes.bin").write_text("of no use")
    return made


@pytest.fixture(scope="module")
def sharded(model, tmp_path_factory):
    made = save(model, tmp_path_factory.mktemp("sharded"), max_shard_size="200KB")
    assert len(list(made.glob("*.safetensors"))) > 2
    return made


@pytest.fixture
def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def old_spelling(config: dict) -> None:
    """As in the released file, before transformers had a configuration for each layer."""
    own = config["text_config"].pop("per_layer_config")["1"]
    config["text_config"] |= {
        "global_head_dim": own["head_dim"],
        "num_global_key_value_heads": own["num_key_value_heads"],
    }


def assert_same(first: Backbone, second: Backbone) -> None:
    assert first.config == second.config
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


# -- reading ----------------------------------------------------------------------------------------------------------


def test_weights_arrive_where_they_belong(model, folder):
    loaded = load_pretrained(folder)
    theirs = model.state_dict()
    state = loaded.state_dict()
    assert len(state) == len([name for name in load_file(folder / "model.safetensors") if "vision" not in name])
    for name, tensor in state.items():
        if name.endswith("encoder_layer_scalar"):
            name = name.replace("encoder_layer_scalar", "layer_scalar")
            assert torch.equal(tensor, theirs[f"model.encoder.language_model.{name}"])
            assert not torch.equal(tensor, theirs[TEXT + name])
        else:
            assert torch.equal(tensor, theirs[TEXT + name])
    assert not loaded.training and not any(tensor.is_meta for tensor in state.values())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_both_spellings_and_shards_are_the_same_model(folder, sharded, copied):
    edit(copied / "config.json", old_spelling)
    assert "per_layer_config" not in (copied / "config.json").read_text()
    assert_same(load_pretrained(folder), load_pretrained(copied))
    assert_same(load_pretrained(folder), load_pretrained(str(sharded)))


def test_type_of_the_weights(folder, copied):
    assert load_pretrained(folder).embed_tokens.weight.dtype == torch.float32
    half = load_pretrained(folder, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}
    edit(copied / "config.json", lambda c: c.update(dtype="bfloat16"))
    assert_same(half, load_pretrained(copied))
    edit(copied / "config.json", lambda c: c.pop("dtype"))
    assert_same(load_pretrained(folder), load_pretrained(copied))


def test_what_generation_needs(folder, copied):
    loaded = load_pretrained(folder)
    assert (loaded.eos_token_ids, loaded.pad_token_id, loaded.canvas_length) == ((1,), 0, 16)
    assert loaded.image_token_ids == (125, 126, 127)
    edit(copied / "config.json", lambda c: c.update(eos_token_id=[1, 106], pad_token_id=3))
    loaded = load_pretrained(copied)
    assert (loaded.eos_token_ids, loaded.pad_token_id) == ((1, 106), 3)
    edit(copied / "generation_config.json", lambda c: c.update(eos_token_id=[1, 106, 50], pad_token_id=4))
    loaded = load_pretrained(copied)
    assert (loaded.eos_token_ids, loaded.pad_token_id) == ((1, 106, 50), 4)


def test_weights_are_mapped_not_copied(tmp_path):
    """On the CPU no private memory is spent on them."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("only Linux says how much memory is private")

    def private() -> int:
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if "RssAnon" in line)

    save(released(layers=1, vocab_size=200_000), tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size > 50_000_000
    before = private()
    loaded = load_pretrained(tmp_path)
    assert loaded.embed_tokens.weight.sum().isfinite()
    assert private() - before < size / 5


def test_released_configuration():
    """The values of google/diffusiongemma-26B-A4B-it (Google, 2026), as its config.json spells them."""
    text = {
        "vocab_size": 262_144,
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "moe_intermediate_size": 704,
        "num_hidden_layers": 30,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "num_global_key_value_heads": 2,
        "global_head_dim": 512,
        "sliding_window": 1024,
        "num_experts": 128,
        "top_k_experts": 8,
        "max_position_embeddings": 262_144,
        "use_bidirectional_attention": "vision",
        "final_logit_softcapping": 30.0,
        "rope_parameters": ROPE,
    }
    raw = {"model_type": "diffusion_gemma", "text_config": text, "canvas_length": 256}
    assert read_config(raw) == preset("diffusiongemma_26b_a4b")


def test_numbers_of_more_than_nine_layers(tmp_path):
    """transformers 5.24 writes them with equal lengths (05 and 11), 5.23 as they are."""
    folder = save(released(layers=12), tmp_path)
    for width in (1, 2, 3):

        def spell(config: dict, width: int = width) -> None:
            own = config["text_config"]["per_layer_config"]
            config["text_config"]["per_layer_config"] = {f"{int(key):0{width}}": own[key] for key in own}

        edit(folder / "config.json", spell)
        config = load_pretrained(folder).config
        assert [config.is_full(layer) for layer in range(12)] == 2 * ([False] * 5 + [True])
        assert (config.global_head_dim, config.num_global_key_value_heads) == (32, 1)


def test_absent_keys_mean_what_they_mean_to_transformers():
    text = {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32}
    theirs = transformers.DiffusionGemmaConfig(text_config=text)
    ours = read_config({"model_type": "diffusion_gemma", "text_config": text})
    for key in SIZES:
        if key not in ("head_dim", "num_key_value_heads"):
            assert getattr(ours, key) == getattr(theirs.text_config, key), key
    layers = theirs.text_config.per_layer_config
    for i in range(ours.num_hidden_layers):
        own = (ours.head_dim, ours.num_key_value_heads)
        own = (ours.global_head_dim, ours.num_global_key_value_heads) if ours.is_full(i) else own
        assert own == (layers[i].head_dim, layers[i].num_key_value_heads)
        assert ours.is_full(i) == (theirs.text_config.layer_types[i] == "full_attention")
    rope = theirs.text_config.rope_parameters
    assert ours.rope_theta_sliding == rope["sliding_attention"]["rope_theta"]
    assert ours.rope_theta_full == rope["full_attention"]["rope_theta"]
    assert ours.partial_rotary_factor == rope["full_attention"]["partial_rotary_factor"]
    assert ours.canvas_length == theirs.canvas_length


@given(full=st.lists(st.booleans(), min_size=1, max_size=12), period=st.integers(0, 6), regular=st.booleans())
def test_layer_patterns(full, period, regular):
    """A pattern is read exactly, or refused because no period makes it; the last layer counts as full."""
    if regular:
        full = [(i + 1) % (period + 1) == 0 for i in range(len(full))]
    types = ["full_attention" if f else "sliding_attention" for f in full]
    text = {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32}
    text |= {"num_hidden_layers": len(full), "layer_types": types}
    wanted = [*full[:-1], True]
    periods = range(len(full) + 1)
    possible = any(wanted[:-1] == [(i + 1) % (p + 1) == 0 for i in range(len(full) - 1)] for p in periods)
    try:
        config = read_config({"model_type": "diffusion_gemma", "text_config": text})
    except InputError as error:
        assert not possible and "layer_types is [" in str(error)
    else:
        assert [config.is_full(i) for i in range(len(full))] == wanted


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where, changes, message",
    [
        ("", {"model_type": "gemma4"}, "model_type is 'gemma4'"),
        ("", {"text_config": None}, "text_config is None"),
        ("", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("", {"quantization_config": {"bits": 4}}, r"quantization_config is \{'bits': 4\}"),
        ("", {"canvas_length": None}, "canvas_length is None"),
        ("", {"dtype": "float8_e4m3fn"}, "dtype is 'float8_e4m3fn'"),
        ("", {"dtype": "load"}, "dtype is 'load'"),
        ("", {"dtype": ["float32"]}, r"dtype is \['float32'\]"),
        ("", {"eos_token_id": [1, True]}, r"eos_token_id is \(1, True\)"),
        ("", {"eos_token_id": [[1]]}, r"eos_token_id is \(\[1\],\)"),
        ("", {"pad_token_id": 1.5}, r"pad_token_id is \(1.5,\)"),
        ("", {"image_token_id": "x"}, "image_token_id is 'x'"),
        ("", {"boi_token_id": -1}, "boi_token_id is -1"),
        ("", {"canvas_length": 10**9}, "canvas_length is 1000000000; use an integer from 1 to"),
        ("text_config", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; use an integer from 1 to 1000"),
        ("text_config", {"hidden_size": 10**9}, "hidden_size is 1000000000; use an integer from 1 to"),
        ("text_config", {"vocab_size": 10**4000}, "vocab_size is an integer of 13288 bits"),
        ("text_config", {"num_hidden_layers": True}, "num_hidden_layers is True"),
        ("text_config", {"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ("text_config", {"rope_parameters": 5}, "rope_parameters.sliding_attention is None"),
        (
            "text_config",
            {"rope_parameters": ROPE | {"full_attention": {"rope_type": [], "rope_theta": 1.0}}},
            r"rope_type is \[\]",
        ),
        (
            "text_config",
            {"rope_parameters": ROPE | {"full_attention": {"rope_theta": {}}}},
            r"rope_theta_full is \{\}",
        ),
        ("text_config", {"per_layer_config": [1]}, r"per_layer_config is \[1\]"),
        ("text_config", {"layer_types": "x" * 10**5}, "layer_types is 'x+\\.\\.\\.; give 2 of"),
        ("", {"eos_token_id": [1, 500]}, r"eos_token_id is \(1, 500\); tokens run from 0 to 127"),
        ("text_config", {"tie_word_embeddings": False}, "text_config.tie_word_embeddings is False"),
        ("text_config", {"hidden_activation": "silu"}, "text_config.hidden_activation is 'silu'"),
        ("text_config", {"attention_bias": True}, "text_config.attention_bias is True"),
        ("text_config", {"attention_dropout": 0.1}, "text_config.attention_dropout is 0.1"),
        ("text_config", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all'"),
        ("text_config", {"num_experts": None}, "num_experts is None"),
        ("text_config", {"hidden_size": "64"}, "hidden_size is '64'"),
        ("text_config", {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ("text_config", {"final_logit_softcapping": None}, "final_logit_softcapping is None"),
        ("text_config", {"layer_types": ["full_attention"]}, r"layer_types is \['full_attention'\]; give 2 of"),
        ("text_config", {"layer_types": ["full_attention", {}]}, "layer_types is "),
        ("text_config", {"per_layer_config": {"0": {"head_dim": 8}}}, "per_layer_config is .*'0'"),
        ("text_config", {"per_layer_config": {"1": {"sliding_window": 8}}}, "per_layer_config is .*sliding_window"),
        ("text_config", {"per_layer_config": {"7": {}}}, "per_layer_config is .*'7'"),
        ("text_config", {"per_layer_config": {"1": {}, "01": {}}}, "per_layer_config is .*'01'"),
        ("text_config", {"per_layer_config": {"-1": {}}}, "per_layer_config is .*'-1'"),
        ("text_config", {"rope_parameters": {}}, "rope_parameters.sliding_attention is None"),
        (
            "text_config",
            {"rope_parameters": ROPE | {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}},
            "rope_parameters.full_attention.rope_type is 'yarn'",
        ),
        (
            "text_config",
            {"rope_parameters": ROPE | {"sliding_attention": ROPE["full_attention"]}},
            "rope_parameters.sliding_attention.rope_type is 'proportional'",
        ),
        (
            "text_config",
            {"rope_parameters": ROPE | {"sliding_attention": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}},
            "partial_rotary_factor is 0.5",
        ),
        (
            "text_config",
            {"rope_parameters": ROPE | {"full_attention": ROPE["full_attention"] | {"factor": 8}}},
            "factor is 8",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_configurations_that_cannot_be_expressed(copied, where, changes, message):
    edit(copied / "config.json", lambda c: (c[where] if where else c).update(changes))
    with pytest.raises(InputError, match=message) as caught:
        load_pretrained(copied)
    assert str(copied) in str(caught.value)


def rewrite(change):
    """Change the tensors of a checkpoint's only file."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return apply


class HeadersOnly:
    """safetensors' `safe_open`, from which no tensor can be read."""

    def __init__(self, *arguments, **options) -> None:
        self.file = safe_open(*arguments, **options)

    def __enter__(self):
        opened = self.file.__enter__()
        return SimpleNamespace(keys=opened.keys, get_slice=opened.get_slice)

    def __exit__(self, *error):
        return self.file.__exit__(*error)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def vast_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


@pytest.mark.parametrize(
    "damage, message",
    [
        (rewrite(lambda t: t.pop(TEXT + "norm.weight")), r"lacks tensors \['model.decoder.norm.weight'\]"),
        (
            rewrite(lambda t: t.pop("model.encoder.language_model.layers.1.layer_scalar")),
            r"lacks tensors \['model.encoder.language_model.layers.1.layer_scalar'\]",
        ),
        (
            rewrite(lambda t: [t.pop(n) for n in list(t) if "layers.1." in n]),
            r"lacks tensors \[.*\] and \d+ more; config.json promises",
        ),
        (rewrite(lambda t: t.update({"lm_head.weight": torch.zeros(2)})), r"unknown tensors \['lm_head.weight'\]"),
        (
            rewrite(lambda t: t.update({TEXT + "norm.weight": torch.ones(65)})),
            r"norm.weight has shape \(65,\); config.json promises \(64,\)",
        ),
        (
            rewrite(lambda t: t.update({TEXT + "norm.weight": torch.ones(64, dtype=torch.int8)})),
            "norm.weight has type I8; weights have one of .*quantised",
        ),
        (lambda folder: cut(folder / "model.safetensors"), "model.safetensors cannot be read .*cut short"),
        (lambda folder: vast_header(folder / "model.safetensors"), "model.safetensors cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor .*index.json in"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json in .*a checkpoint in the released format"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (
            lambda folder: (folder / "config.json").write_text("[" * 10**5),
            "config.json cannot be read .*nested too deep",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"a":' * 10**5),
            "config.json cannot be read .*nested too deep",
        ),
        (
            lambda folder: edit(folder / "config.json", lambda c: c.update(quantization_config=nested(900))),
            "config.json: ",
        ),
        (lambda folder: (folder / "config.json").write_text('{"model_type": ' + "7" * 5000 + "}"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json holds list"),
        (lambda folder: (folder / "generation_config.json").write_bytes(b"\xff"), "generation_config.json cannot be"),
        (shutil.rmtree, "no config.json in"),
    ],
)
def test_faults_are_named_before_any_tensor_is_read(copied, monkeypatch, damage, message):
    damage(copied)
    monkeypatch.setattr(weights, "safe_open", HeadersOnly)
    with pytest.raises(InputError, match=message):
        load_pretrained(copied)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder, shard: shard.unlink(), "lacks the shards .*safetensors"),
        (lambda folder, shard: cut(shard), "safetensors cannot be read"),
        (
            lambda folder, shard: edit(
                folder / "model.safetensors.index.json", lambda i: i["weight_map"].update(invented=shard.name)
            ),
            r"lacks \['invented'\]; model.safetensors.index.json says that they are there",
        ),
        (
            lambda folder, shard: edit(folder / "model.safetensors.index.json", lambda i: i.pop("weight_map")),
            "has no weight_map",
        ),
        (
            lambda folder, shard: edit(
                folder / "model.safetensors.index.json", lambda i: i["weight_map"].update(x="../secret.safetensors")
            ),
            "has no weight_map",
        ),
    ],
)
def test_faulty_shards(sharded, tmp_path, monkeypatch, damage, message):
    folder = Path(shutil.copytree(sharded, tmp_path / "copied"))
    damage(folder, sorted(folder.glob("*.safetensors"))[-1])
    monkeypatch.setattr(weights, "safe_open", HeadersOnly)
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)


def test_a_sound_checkpoint_is_read_after_its_headers(folder, monkeypatch):
    monkeypatch.setattr(weights, "safe_open", HeadersOnly)
    with pytest.raises(AttributeError, match="get_tensor"):
        load_pretrained(folder)


def test_bad_arguments(folder):
    with pytest.raises(InputError, match=r"dtype is torch\.int8"):
        load_pretrained(folder, dtype=torch.int8)
    with pytest.raises(InputError, match="device 'cuda:99' cannot be used"):
        load_pretrained(folder, device="cuda:99")


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", [5_000_000_000, 200_000, 1])
def test_round_trip(folder, tmp_path, shard):
    """Every tensor bit for bit, those of the vision tower too, in one file or in shards; twice."""
    for source, target in ((folder, tmp_path / "once"), (tmp_path / "once", tmp_path / "deep" / "twice")):
        save_pretrained(load_pretrained(source), target, max_shard_bytes=shard)
        assert_same(load_pretrained(folder), load_pretrained(target))
        files = sorted(target.glob("*.safetensors"))
        assert (len(files) > 1) == (shard < 5_000_000_000) == (target / "model.safetensors.index.json").is_file()
        expected = load_file(folder / "model.safetensors")
        found = {name: tensor for file in files for name, tensor in load_file(file).items()}
        assert set(found) == set(expected) and sum("vision" in name for name in found) > 10
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
        limit = max(shard, max(tensor.nbytes for tensor in expected.values())) + 50_000  # the header
        assert all(file.stat().st_size <= limit for file in files)
        for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json"):
            assert (target / name).read_text() == name
        assert not (target / "notes.bin").exists()
        assert not list(target.parent.glob(".*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_reads_what_is_written(model, folder, tmp_path, dtype):
    changed, stored = load_pretrained(folder, dtype=dtype), (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        for tensor in changed.state_dict().values():
            tensor.mul_(1.5)
    assert (folder / "model.safetensors").read_bytes() == stored  # mapped, but privately
    save_pretrained(changed, tmp_path / "out", max_shard_bytes=200_000)
    read, report = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    assert read.dtype == dtype
    state = read.state_dict()
    for name, tensor in changed.state_dict().items():
        assert torch.equal(state[released_name(name)], tensor), name
    name = "model.encoder.vision_tower.patch_embedder.position_embedding_table"
    assert torch.equal(state[name], model.state_dict()[name].to(dtype))
    assert read.generation_config.pad_token_id == model.generation_config.pad_token_id
    assert read.config.canvas_length == 16 and read.config.text_config.per_layer_config[1].head_dim == 32


def test_tensors_of_mixed_types_are_aligned(tmp_path):
    """Readers map them where they stand: a float32 of the vision tower must not follow an odd number of bfloat16."""
    folder = save(released(layers=1, num_experts=7), tmp_path / "odd")
    save_pretrained(load_pretrained(folder, dtype=torch.bfloat16), tmp_path / "out")
    data = (tmp_path / "out" / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]
    assert {tensor["dtype"] for tensor in header.values()} == {"F32", "BF16"} and size % 8 == 0
    for tensor in header.values():
        assert tensor["data_offsets"][0] % (4 if tensor["dtype"] == "F32" else 2) == 0


def test_without_a_generation_config_one_is_written(copied, tmp_path):
    (copied / "generation_config.json").unlink()
    edit(copied / "config.json", lambda c: c.update(eos_token_id=[1, 5]))
    save_pretrained(load_pretrained(copied), tmp_path / "out")
    read = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(tmp_path / "out")
    assert read.generation_config.eos_token_id == [1, 5] and read.generation_config.pad_token_id == 0


def test_dead_weights_are_left_out(copied, tmp_path):
    rewrite(lambda t: t.update({DEAD + "weight": torch.ones(3)}))(copied)
    save_pretrained(load_pretrained(copied), tmp_path / "out")
    assert DEAD + "weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_models_that_the_format_cannot_hold(folder, tmp_path):
    with pytest.raises(InputError, match=r"not loaded from a checkpoint in the released format, .*a vision tower"):
        save_pretrained(Backbone(preset("tiny")), tmp_path / "out")
    loaded = load_pretrained(folder)
    extended = Backbone(preset("tiny", loops=2, num_relations=3))
    extended.origin = loaded.origin
    with pytest.raises(InputError, match=r"differs from its checkpoint in \[.*'loops', .*'num_relations'"):
        save_pretrained(extended, tmp_path / "out")
    loaded.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"other tensors .*'adapter.bias', 'adapter.weight'\]; merge"):
        save_pretrained(loaded, tmp_path / "out")
    del loaded.adapter
    with pytest.raises(InputError, match="max_shard_bytes is 0"):
        save_pretrained(loaded, tmp_path / "out", max_shard_bytes=0)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_never_overwritten_but_a_folder_may_exist(folder, tmp_path):
    loaded = load_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match=r"already holds \['config.json', 'model.safetensors'\]"):
        save_pretrained(loaded, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("my own")
    save_pretrained(loaded, tmp_path)
    assert_same(load_pretrained(tmp_path), loaded)
    assert (tmp_path / "tokenizer.json").read_text() == "my own" and (tmp_path / "run.json").is_file()


@pytest.mark.parametrize("exists", [False, True])
def test_written_whole_or_not_at_all(folder, tmp_path, monkeypatch, exists):
    target = tmp_path / "out"
    if exists:
        target.mkdir()
    written = []

    def full_disk(path, tensors):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"x")

    monkeypatch.setattr(write, "write_shard", full_disk)
    with pytest.raises(InputError, match=r"cannot write to .*No space left on device; free space"):
        save_pretrained(load_pretrained(folder), target, max_shard_bytes=100_000)
    assert [path.name for path in tmp_path.rglob("*")] == (["out"] if exists else [])


def test_what_a_killed_save_left_is_not_kept(folder, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model-00009-of-00009.safetensors").write_bytes(b"old")
    save_pretrained(load_pretrained(folder), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]


def test_an_origin_that_is_gone_is_named(copied, tmp_path):
    loaded = load_pretrained(copied)
    shutil.rmtree(copied)
    with pytest.raises(InputError, match=r"copied/model.safetensors cannot be read"):
        save_pretrained(loaded, tmp_path / "out")
    assert not (tmp_path / "out").exists()
