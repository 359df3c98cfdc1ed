"""The annotations of the library hold: mypy, with the settings of pyproject.toml, has nothing to say."""

import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_annotations_hold(monkeypatch):
    api = pytest.importorskip("mypy.api", reason="pip install '.[test]'")
    monkeypatch.chdir(ROOT)
    # What mypy knows of torch stays there: the first run takes half a minute, the next ones seconds.
    cache = Path(tempfile.gettempdir()) / "constrained_dg_mypy"
    limit = sys.getrecursionlimit()
    try:
        report, errors, status = api.run(["--config-file", "pyproject.toml", "--cache-dir", str(cache)])
    finally:
        sys.setrecursionlimit(limit)  # mypy raises it
    assert status == 0, report + errors
