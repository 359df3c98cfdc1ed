"""The README's commands and examples do what it says."""

from __future__ import annotations

import re
import sys

import pytest
from hydra import compose, initialize_config_dir

import evaluate
from constrained_dg.cli import CONF, ROOT

README = (ROOT / "README.md").read_text()


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    # The puzzle of the example is easy: the shipped model solves it, and says so.
    assert capsys.readouterr().out.startswith("solved ")


def test_the_first_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = re.findall(r"^    python (evaluate\.py run=\S+ show=\d+)$", README, flags=re.MULTILINE)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", line.split())
    evaluate.main()
    assert capsys.readouterr().out.count("solved: passes") >= 1


def test_commands_name_options_that_exist() -> None:
    commands = re.findall(r"^    python train\.py (task=.*?)(?: +#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) >= 2
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for command in commands:
            assert compose("train", command.split()).task._target_ == "tasks.sudoku.Sudoku"
