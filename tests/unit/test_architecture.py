"""Imports go one way, the light part of the library imports lightly, and what the README names exists."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from constrained_dg.cli import CONF, ROOT, load_sampler


def test_imports_go_one_way() -> None:
    # Without its cache, which misses that an imported file came to be.
    code = "from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", code, "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout + done.stderr


def test_the_library_imports_without_what_only_parts_of_it_need() -> None:
    absent = ("hydra", "omegaconf", "wandb", "lightning", "Bio", "matplotlib", "transformers", "tokenizers", "ortools")
    code = (
        "import sys\n"
        f"for name in {absent}: sys.modules[name] = None\n"
        "import constrained_dg.evaluation, constrained_dg.sampling, constrained_dg.viz.trace, tasks.sudoku\n"
        "import constrained_dg.integrations.transformers\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "sampler").glob("*.yaml")))
def test_every_sampler_file_builds_what_it_names(name: str) -> None:
    assert load_sampler(name).name == name


def test_every_path_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`((?:constrained_dg|tasks|conf|tests|experiments)/[\w./-]*)`", text))
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_lint() -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
