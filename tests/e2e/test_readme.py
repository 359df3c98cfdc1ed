"""The README's commands and examples do what it says."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import evaluate
from constrained_dg.cli import CONF, ROOT
from train import implied

README = (ROOT / "README.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
GUIDE = "class Ascending"
RELEASED = "diffusiongemma-26B-A4B-it"


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    examples = [example for example in EXAMPLES if RELEASED not in example and GUIDE not in example]
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    # The puzzle of the example is easy: the shipped model solves it, and says so.
    assert capsys.readouterr().out.startswith("solved ")


def test_rules_of_ones_own_take_a_few_lines_and_are_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = [example for example in EXAMPLES if GUIDE in example]
    rules = [part for part in re.split(r"^(?=class )", example, flags=re.MULTILINE) if part.startswith("class ")]
    bodies = [[line for line in part.splitlines()[1:] if line.startswith(" ")] for part in rules]
    assert len(rules) >= 3 and all(len([line for line in body if line.strip()]) < 10 for body in bodies)
    exec(compile(example, "README.md", "exec"), {})
    told, answered = capsys.readouterr().out.splitlines()
    assert told == "[['broken: Tokens never fall.']]"
    [tokens] = re.findall(r"^solved \[([\d, ]+)\]", answered)
    tokens = [int(token) for token in tokens.split(", ")]
    assert tokens == tokens[::-1] and all(a != b for a, b in itertools.pairwise(tokens))
    assert 1 <= tokens.count(3) <= 2 and tokens[0] in (0, 1)


def test_the_example_with_a_released_checkpoint_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a tiny random one: it knows nothing, so what comes out right is the rule's doing, for both denoisers."""
    textual = pytest.importorskip("tests.textual")
    [example] = [example for example in EXAMPLES if RELEASED in example]
    folder = textual.save_checkpoint(tmp_path / "checkpoint")
    exec(compile(example.replace(RELEASED, str(folder)), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        status, digits = line.split()
        assert status == "solved" and sorted(digits) == list("123456789")


def test_the_first_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = re.findall(r"^    python (evaluate\.py run=\S+ show=\d+)$", README, flags=re.MULTILINE)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", line.split())
    evaluate.main()
    assert capsys.readouterr().out.count("solved: passes") >= 1


def test_commands_name_options_that_exist() -> None:
    commands = re.findall(r"^    python train\.py (task=.*?)(?: +#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) >= 4
    targets = {"sudoku": "tasks.sudoku.Sudoku", "text": "tasks.text.Text", "graph/coloring": "tasks.graph.Coloring"}
    targets["amino_acid/design"] = "tasks.amino_acid.Design"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for command in commands:
            given = command.split()
            task = given[0].removeprefix("task=")
            assert compose("train", given + implied(given)).task._target_ == targets[task]
