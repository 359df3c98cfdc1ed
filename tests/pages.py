"""README and docs/ as tests read them: their examples and commands."""

from __future__ import annotations

import re
from pathlib import Path

from constrained_dg.places import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(path: Path, language: str = "python") -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(path: Path, script: str) -> list[str]:
    """The arguments of each command that calls a script, without comments."""
    lines = re.findall(rf"^    (?:\w+=\w+ )?python {script}\.py (.*)$", path.read_text(), flags=re.MULTILINE)
    return [re.sub(r"\s+# .*$", "", line).strip() for line in lines]
