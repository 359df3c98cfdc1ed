"""Sudoku: 4x4, 9x9 and 16x16."""

from tasks.sudoku.codec import Puzzle
from tasks.sudoku.solver import solve
from tasks.sudoku.task import Sudoku

__all__ = ["Puzzle", "Sudoku", "solve"]
