"""A server of Sudokus, for several files of tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import constrained_dg


@pytest.fixture(scope="session")
def sudoku() -> constrained_dg.Run:
    """The model whose samplers, plain and restarts, are those of most tasks."""
    return constrained_dg.load("sudoku/plain")


@pytest.fixture(scope="module")
def served(sudoku: constrained_dg.Run) -> Iterator[Any]:
    from tests.serving import serving

    with serving(sudoku, "sudoku", queue=64, batch_size=8) as made:
        yield made
