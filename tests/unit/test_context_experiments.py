"""The experiments on long contexts, at sizes that take seconds."""

from __future__ import annotations

import json

import pytest
import torch

from constrained_dg.errors import InputError
from experiments.context import __main__ as context
from experiments.needle import __main__ as needle


def test_a_needle_lies_in_its_tenth_and_only_there():
    for tenth in (None, *range(10)):
        prompt, value = needle.examples(50, 97, torch.Generator().manual_seed(1), tenth)
        marks = prompt == needle.MARK
        assert prompt.shape == (50, 97) and (marks.sum(1) == 1).all() and not marks[:, -1].any()
        assert torch.equal(prompt[marks.roll(1, 1)], value[:, 0])
        at = marks.float().argmax(1)
        low, high = (0, 96) if tenth is None else (96 * tenth // 10, 96 * (tenth + 1) // 10)
        assert at.min() >= low and at.max() < high and len(at.unique()) > 3


def test_an_interrupted_training_goes_on_where_it_was(tmp_path):
    whole = needle.Training(tmp_path / "whole", 3)
    for _ in range(6):
        whole.step(128)
    for _ in range(2):
        (tmp_path / "parts").mkdir(exist_ok=True)
        part = needle.Training(tmp_path / "parts", 3)
        for _ in range(3):
            part.step(128)
        part.write()
    assert part.count["step"] == whole.count["step"] == 6
    for one, two in zip(part.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(InputError, match="begun with seed 3"):
        needle.Training(tmp_path / "parts", 4)


def test_the_context_grows_after_good_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(needle, "loss_of", lambda model, *_: (sum(p.sum() for p in model.parameters()), 1.0))
    training = needle.Training(tmp_path, 0)
    monkeypatch.setattr(needle, "LAST", 3)
    assert training.run(256, 1)
    assert [row["length"] for row in training.grown] == [64, 128]
    assert training.count["step"] == 2 * needle.STEPS + 3 and training.count["length"] == 256


@pytest.mark.slow
def test_the_needle_is_learned_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(needle, "TRIALS", 2)
    monkeypatch.setattr(needle, "lengths", lambda: [64, 256])
    needle.main([f"out={tmp_path}", "longest=64", "minutes=3"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["header"]["finished"] and [row["trials"] for row in results["rows"]] == [2, 1]
    assert results["rows"][0]["value"] > 0.9 and (tmp_path / "needle.png").stat().st_size > 1000
    with pytest.raises(InputError, match="longest is 100; give a power of two"):
        needle.main([f"out={tmp_path}", "longest=100"])


@pytest.mark.parametrize("part, dtype", [("passes", "fp32"), ("passes", "bf16"), ("prefill", "fp32")])
def test_both_sides_are_timed_behind_the_same_cache(part, dtype, tmp_path):
    pytest.importorskip("transformers", minversion="5.11")
    out = tmp_path / "results.json"
    context.main(["shape=tiny", "repeats=1", f"part={part}", f"dtype={dtype}", f"out={out}"])
    results = json.loads(out.read_text())
    sides = ["ours", "ours, 8 bits", "transformers"] if part == "passes" else ["ours", "transformers"]
    _, contexts, prompts = context.SHAPES["tiny"]
    expected = [(n, side) for n in (contexts if part == "passes" else prompts) for side in sides]
    assert [(row["context"], row["side"]) for row in results["rows"]] == expected
    assert all(0 < row["seconds"] <= row["high"] for row in results["rows"])
    if part == "passes":
        assert list(results["over_arithmetic"]) == list(results["over_first"]) == [str(n) for n in contexts]
        one, eight, other = (row["cache_bytes"] for row in results["rows"][-3:])
        assert eight < one / (2 if dtype == "fp32" else 1) and other <= one  # ours has room for the canvas


def test_the_arithmetic_of_attention():
    config = context.SHAPES["cpu"][0]
    assert context.arithmetic(config, 1000) == 2 * 2 * 256 * 8 * 128 * 1000  # one full layer of six


@pytest.mark.parametrize(
    "argument, words",
    [
        ("shape=huge", "give one of tiny"),
        ("part=x", "passes or prefill"),
        ("dtype=fp16", "one of fp32, bf16"),
        ("repeats=0", "1 or more"),
    ],
)
def test_bad_arguments_are_named(argument, words, tmp_path):
    with pytest.raises(InputError, match=words):
        context.main([argument, f"out={tmp_path / 'x'}"])


def test_sides_that_compute_something_else_are_refused():
    pytest.importorskip("transformers", minversion="5.11")
    config = context.SHAPES["tiny"][0]
    for dtype in (torch.float32, torch.bfloat16):
        ours, theirs = context.build(config, 0, "cpu", dtype, saved=False)
        canvas = torch.arange(3, 19)[None]
        with torch.no_grad():
            context.agree(ours.model, theirs, canvas, 100, 0)
            ours.model.norm.weight = torch.nn.Parameter(ours.model.norm.weight * 1.01)  # a tensor of its own
            with pytest.raises(InputError, match="logits at 100 differ by"):
                context.agree(ours.model, theirs, canvas, 100, 0)


def test_without_a_gpu_the_full_shape_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert context.main(["shape=26b", f"out={tmp_path / 'x'}"]) is None
    assert "needs a GPU" in capsys.readouterr().out and not (tmp_path / "x").exists()
