"""With packages missing that few need, the library works without them, and what needs one says so in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from constrained_dg.places import ROOT

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
#: What the packages of these names bring is not there. Python raises ImportError for a module that is None.
BLOCK = "import sys\nfor name in {names!r}: sys.modules[name] = None\n"
SOLVE = """
import torch, constrained_dg
run = constrained_dg.load("sudoku")
puzzle = run.task.parse({puzzle!r})
batch, rule = run.task.encode([puzzle]), run.task.constraint([puzzle])
answer = constrained_dg.generate(
    run.model, batch.prompt, rule, sampler=run.sampler, canvas=batch.answer, pinned=batch.pinned,
    relations=batch.relations, noise=batch.noise, symmetric=run.task.symmetric, seeds=0,
)
print(answer.status[0])
"""
RARE = ("wandb", "lightning", "Bio", "matplotlib", "rich", "networkx", "hydra", "omegaconf", "tokenizers")
RARE += ("transformers", "pytorch_lightning", "PIL")


def python(names: tuple[str, ...], code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    code = BLOCK.format(names=names) + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)


def script(names: tuple[str, ...], name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """train.py or evaluate.py, as if these packages were missing."""
    code = f"import runpy\nsys.argv = [{name + '.py'!r}, *{arguments!r}]\nsys.path.insert(0, {str(ROOT)!r})\n"
    return python(names, code + f"runpy.run_path({str(ROOT / name)!r} + '.py', run_name='__main__')")


@pytest.mark.parametrize("names", [RARE], ids=["all"])
def test_load_and_generate_work_without_what_few_need(names: tuple[str, ...]) -> None:
    done = python(names, SOLVE.format(puzzle=PUZZLE))
    assert done.returncode == 0 and done.stdout == "solved\n", done.stderr


def test_other_shipped_runs_open_without_what_pictures_and_training_need() -> None:
    names = ("wandb", "lightning", "Bio", "matplotlib", "hydra", "rich")
    code = "import constrained_dg\nfor name in constrained_dg.checkpoints(): print(constrained_dg.load(name).task.name)"
    done = python(names, code)
    assert done.returncode == 0 and len(done.stdout.split()) == 12, done.stderr


@pytest.mark.parametrize(
    "names, arguments, needed",
    [
        (("lightning",), ("task=sudoku", "debug=steps"), "lightning"),
        (("wandb",), ("task=graph/coloring", "debug=steps", "logger=wandb", "trainer=cpu"), "wandb"),
    ],
    ids=["lightning", "wandb"],
)
def test_training_names_what_is_missing(
    names: tuple[str, ...], arguments: tuple[str, ...], needed: str, tmp_path: Path
) -> None:
    done = script(names, "train", *arguments, f"out={tmp_path / 'run'}")
    assert done.returncode == 2, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"needs the package {needed}" in line and f"pip install {needed}" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_report_without_matplotlib_has_no_pictures_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(PUZZLE)
    options = (f"data={tmp_path / 'one.txt'}", "samplers=[restarts]", "check_overlap=false", f"out={tmp_path / 'out'}")
    done = script(("matplotlib",), "evaluate", "run=sudoku", *options)
    assert done.returncode == 0, done.stderr
    assert "no pictures: a picture needs the package matplotlib" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["answers.csv", "metrics.json"]


def test_sequences_without_biopython_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "one.fasta").write_text(">one\nMKKA\n")
    code = """
import constrained_dg
task = constrained_dg.load("amino_acid/infill").task
try: task.read({path!r})
except constrained_dg.errors.InputError as error: print(error)
"""
    done = python(("Bio",), code.format(path=str(tmp_path / "one.fasta")))
    assert "reading FASTA needs the package biopython" in done.stdout and "pip install biopython" in done.stdout


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_the_server_names_what_is_missing(missing: str) -> None:
    code = "import runpy\nsys.argv = ['constrained-dg', 'serve', 'run=sudoku']\n"
    done = python((missing,), code + "runpy.run_module('constrained_dg', run_name='__main__')")
    assert done.returncode == 2 and "needs the package" in done.stderr and "Traceback" not in done.stderr, done.stderr
