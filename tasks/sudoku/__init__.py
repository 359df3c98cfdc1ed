"""Sudoku: 4x4, 9x9 and 16x16. Pictures of 9x9 puzzles, which need Pillow, are in `picture_task`."""

from .codec import Puzzle
from .solver import count_solutions, solve
from .task import Sudoku

__all__ = ["Puzzle", "Sudoku", "count_solutions", "solve"]
