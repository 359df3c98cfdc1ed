"""Fine-tuning as a stranger does it: a released checkpoint, `train.py`, and back to `transformers`."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

import constrained_dg
import evaluate
from constrained_dg.cli import ROOT
from constrained_dg.model.released.quantise import quantise_checkpoint
from tests.textual import VOCAB, save_checkpoint, write_pairs
from tests.training import at_step, refusal, run, same_weights, send, steps_of, train_here

SUDOKU = ["task=sudoku", "debug=steps", "task.sizes={4:1.0,9:0.0}", "task.puzzles=200", "optimisation.average=0.9"]
TEXT = ["task=text", "debug=steps", "task.prompt_length=64", "task.canvases=2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny = {a}")


@pytest.fixture(scope="module")
def sudoku(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters trained on 4x4 puzzles, never interrupted."""
    out = tmp_path_factory.mktemp("finetune") / "sudoku"
    assert train_here(*SUDOKU, f"model.pretrained={checkpoint}", "optimisation.learning_rate=0.01", f"out={out}") == 0
    return out


def changed(checkpoint: Path, out: Path) -> set[str]:
    """The tensors that training changed; all others must be there, bit for bit."""
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, out))
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.slow
def test_the_run_is_a_checkpoint_that_transformers_opens(checkpoint: Path, sudoku: Path) -> None:
    from tests.released import transformers

    theirs, info = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(sudoku, output_loading_info=True)
    assert not any(info.values()), info
    assert (sudoku / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    names = changed(checkpoint, sudoku)
    linear = ("_proj.weight",)
    assert names and all(name.endswith(linear) and ".router." not in name for name in names)
    trained = constrained_dg.load(sudoku)
    training = trained.description["training"]
    assert training["steps_done"] == 10 and training["lora"] == 8 and training["pretrained"] == str(checkpoint)
    assert training["optimisation"]["method"] == "adam" and training["objective"]["encoder_rows"] == 1.0
    prompt, canvas = torch.randint(6, VOCAB - 3, (1, 9)), torch.randint(6, VOCAB - 3, (1, 40))
    with torch.no_grad():
        ours = trained.model.denoise(canvas, trained.model.prefill(prompt))
        assert torch.allclose(ours, theirs(prompt, decoder_input_ids=canvas).logits, atol=3e-4)


@pytest.mark.slow
def test_only_adapters_stand_in_the_training_checkpoint(sudoku: Path) -> None:
    state = torch.load(sudoku / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")
    names = {name for name in state["state_dict"] if not name.endswith("layer_scalar")}
    assert names and all(".lora_" in name for name in names)
    assert len(state["optimizer_states"][0]["state"]) == len(names)


@pytest.mark.slow
def test_adapters_learn_on_quantised_weights(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In two processes, which do not send each other the weights: gloo could not send FP8."""
    quantise_checkpoint(checkpoint, tmp_path / "small", "fp8")
    line = [*SUDOKU, f"model.pretrained={tmp_path / 'small'}", "optimisation.learning_rate=0.01"]
    run(*line, "trainer=ddp", f"out={tmp_path / 'run'}")
    before, after = constrained_dg.load_pretrained(tmp_path / "small"), constrained_dg.load(tmp_path / "run").model
    for name, tensor in before.layers[0].experts.state_dict().items():
        after_training = after.layers[0].experts.state_dict()[name]
        assert torch.equal(tensor.view(torch.uint8), after_training.view(torch.uint8)), name
    merged = after.layers[0].mlp.up_proj.weight
    assert merged.dtype == torch.float32 and not torch.equal(
        merged, before.layers[0].mlp.up_proj.weight.dequantised(merged.dtype)
    )
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(".lora_" in name or name.endswith("layer_scalar") for name in state)
    assert "is quantised, and model.lora is 0" in refusal([*line, "model.lora=0", f"out={tmp_path / 'new'}"], capsys)


@pytest.mark.slow
def test_a_fine_tuned_model_is_evaluated_on_puzzles_as_text(sudoku: Path, tmp_path: Path) -> None:
    cfg = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "evaluate.yaml")) | {"run": str(sudoku), "limit": 4}
    cfg |= {"samplers": ["plain", "validity", "guaranteed"], "max_passes": 3, "out": str(tmp_path / "report")}
    rows = {row["sampler"]: row for row in evaluate.evaluate(cfg)["rows"] if row["tier"] == "all"}
    # The model has learned next to nothing; the completer needs no model, but the rules on text.
    assert rows["plain"]["solved"] == 0.0 and rows["guaranteed"]["solved"] == 1.0
    answers = (tmp_path / "report" / "answers.csv").read_text()
    assert "unreadable: " in answers


@pytest.mark.slow
def test_a_killed_fine_tuning_continues_and_ends_with_the_same_weights(
    checkpoint: Path, sudoku: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a step leaves what a kill leaves: the last checkpoint."""

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    out = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_step(patch, 6, kill)
        train_here(*SUDOKU, f"model.pretrained={checkpoint}", "optimisation.learning_rate=0.01", f"out={out}")
    assert {path.name for path in out.iterdir()} == {"train.json", "checkpoints", "log"}
    assert train_here(f"resume={out}") == 0
    assert same_weights(sudoku, out)


@pytest.mark.slow
def test_all_weights_learn_from_pairs_and_an_interrupt_loses_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl")
    options = [*TEXT, f"data={data}", f"model.pretrained={checkpoint}", "model.lora=0"]
    whole, out = tmp_path / "whole", tmp_path / "interrupted"
    assert train_here(*options, f"out={whole}") == 0
    names = changed(checkpoint, whole)
    assert any("experts" in name for name in names) and any("embed_tokens" in name for name in names)
    assert not any(kept in name for name in names for kept in (".router.", "vision", "layer_scalar"))

    with monkeypatch.context() as patch:
        at_step(patch, 5, send(signal.SIGINT))
        assert train_here(*options, f"out={out}") == 130
    assert steps_of(out) == (6, 6)
    assert train_here(f"resume={out}") == 0
    assert same_weights(whole, out)

    data.unlink()  # a trained model is used without it
    trained = constrained_dg.load(out)
    pair = trained.task.parse("word 3 of 60")
    made = trained.sampler.run(trained.model, trained.task.encode([pair]), seeds=0, max_passes=2)
    assert isinstance(trained.task.decode(pair, made.tokens[0]), str)


@pytest.mark.slow
def test_sharded_weights_learn_and_are_written_whole(checkpoint: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "sharded", [*SUDOKU, f"model.pretrained={checkpoint}", "model.lora=0", "trainer=fsdp"]
    run(*options, "sampler.max_passes=4", f"out={out}")
    assert steps_of(out) == (10, 10)
    names = changed(checkpoint, out)
    assert any("experts" in name for name in names) and not any(".router." in name for name in names)


def broken(checkpoint: Path, folder: Path, what: str) -> Path:
    """A copy of the checkpoint with one thing wrong."""
    shutil.copytree(checkpoint, folder)
    if what == "tokenizer":
        (folder / "tokenizer.json").unlink()
    elif what == "vocabulary":
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["vocab_size"] = 300
        (folder / "config.json").write_text(json.dumps(config))
        weights = load_file(folder / "model.safetensors")
        name = "model.decoder.embed_tokens.weight"
        save_file(weights | {name: weights[name][:300].clone()}, folder / "model.safetensors")
    elif what == "canvas":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"canvas_length": 30}))
    elif what == "context":
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["max_position_embeddings"] = 100
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("what", "arguments", "named"),
    [
        ("", ["model.pretrained=/nowhere"], "config.json"),
        ("tokenizer", [], "no tokenizer.json in"),
        ("vocabulary", [], "the model a vocabulary of 300"),
        ("canvas", [], "takes 31 tokens as text, a canvas of this model holds 30"),
        ("context", [], "takes 100 together"),
        ("", ["model.loops=2"], "model.loops together with model.pretrained"),
        ("", ["model=small"], "model together with model.pretrained"),
        ("", ["model.lora=-1"], "model.lora"),
        ("", ["objective=rollouts"], "rollouts"),
        ("", ["trainer=fsdp"], "use model.lora=0, or ddp"),
        ("", ["data=pairs.jsonl"], "takes none"),
        ("", ["task=text"], "give data=FILE"),
        ("", ["task=text", "data=/nowhere", "task.prompt_length=64"], "/nowhere"),
        ("", ["task=text", "data=/nowhere", "task.prompt_length=64", "sampler=validity"], "reads the rules"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    what: str,
    arguments: list[str],
    named: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = broken(checkpoint, tmp_path / "broken", what) if what else checkpoint
    given = {argument.partition("=")[0] for argument in arguments}
    usual = [f"model.pretrained={folder}", "debug=steps", f"out={tmp_path / 'run'}"]
    if "task" not in given:
        usual += ["task=sudoku", "task.sizes={4:1.0,9:0.0}", "task.puzzles=200"]
    usual = [argument for argument in usual if argument.partition("=")[0] not in given]
    assert named in refusal([*usual, *arguments], capsys)
    assert not (tmp_path / "run").exists()


def test_text_without_a_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give data=FILE" in refusal(["task=text"], capsys)
    assert "model.pretrained=FOLDER" in refusal(["task=text", "data=pairs.jsonl"], capsys)
    assert "model.pretrained" in refusal(["task=sudoku", "model=pretrained"], capsys)
