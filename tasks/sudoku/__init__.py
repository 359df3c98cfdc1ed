"""Sudoku: 4x4, 9x9 and 16x16; and pictures of 9x9."""

from .codec import Puzzle
from .picture_task import PictureSudoku
from .solver import count_solutions, solve
from .task import Sudoku

__all__ = ["PictureSudoku", "Puzzle", "Sudoku", "count_solutions", "solve"]
