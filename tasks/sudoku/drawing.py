"""Puzzles, answers and violations for a terminal and as pictures."""

from __future__ import annotations

from typing import Any

import torch

from .codec import BOX, SYMBOLS, Puzzle, from_tokens

_BOLD, _RED, _OFF = "\x1b[1m", "\x1b[31m", "\x1b[0m"


def _values(puzzle: Puzzle, answer: torch.Tensor | None) -> list[int]:
    return list(puzzle.cells) if answer is None else from_tokens(answer.cpu().numpy()).tolist()


def _marks(puzzle: Puzzle, violations: torch.Tensor | None) -> list[bool]:
    return [False] * len(puzzle.cells) if violations is None else violations.cpu().tolist()


def draw(puzzle: Puzzle, answer: torch.Tensor | None, violations: torch.Tensor | None = None) -> str:
    """The grid with box lines. Clues are bold; violations are red and marked with `!`.

    Args:
        answer: (N,) tokens, or None for the puzzle alone.
        violations: (N,) bool, or None.
    """
    size, box = puzzle.size, BOX[puzzle.size]
    values, marks = _values(puzzle, answer), _marks(puzzle, violations)

    def show(cell: int) -> str:
        value = values[cell]
        text = ("." if value == 0 else SYMBOLS[value - 1]) + ("!" if marks[cell] else " ")
        style = (_BOLD if puzzle.cells[cell] else "") + (_RED if marks[cell] else "")
        return f"{style}{text}{_OFF}" if style else text

    line = "+" + "+".join(["-" * (2 * box + 1)] * box) + "+"
    rows = []
    for row in range(size):
        if row % box == 0:
            rows.append(line)
        cells = [show(row * size + column) for column in range(size)]
        rows.append("| " + "| ".join("".join(cells[k : k + box]) for k in range(0, size, box)) + "|")
    return "\n".join([*rows, line])


def plot(axes: Any, puzzle: Puzzle, answer: torch.Tensor | None, violations: torch.Tensor | None = None) -> None:
    """The same on matplotlib axes: clues black, answers blue, violations on red."""
    from matplotlib.patches import Rectangle

    size, box = puzzle.size, BOX[puzzle.size]
    values, marks = _values(puzzle, answer), _marks(puzzle, violations)
    for cell, (value, wrong) in enumerate(zip(values, marks, strict=True)):
        row, column = divmod(cell, size)
        if wrong:
            axes.add_patch(Rectangle((column, row), 1, 1, color="#ff9d9d"))
        if value:
            color = "black" if puzzle.cells[cell] else "tab:blue"
            axes.text(column + 0.5, row + 0.5, SYMBOLS[value - 1], color=color, ha="center", va="center")
    for k in range(size + 1):
        width = 1.6 if k % box == 0 else 0.4
        axes.plot([0, size], [k, k], color="black", linewidth=width)
        axes.plot([k, k], [0, size], color="black", linewidth=width)
    axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xticks=[], yticks=[])
    axes.axis("off")
