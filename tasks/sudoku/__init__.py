"""Sudoku: 4x4, 9x9 and 16x16."""

from .codec import Puzzle
from .solver import count_solutions, solve
from .task import Sudoku

__all__ = ["Puzzle", "Sudoku", "count_solutions", "solve"]
