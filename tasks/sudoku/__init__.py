"""Sudoku: 4x4, 9x9 and 16x16."""

from .codec import Puzzle
from .solver import solve
from .task import Sudoku

__all__ = ["Puzzle", "Sudoku", "solve"]
