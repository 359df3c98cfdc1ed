"""Pictures of 9x9 Sudoku puzzles, drawn to train and to test a reader of pictures."""

from .drawing import draw
from .fonts import FONTS, HELD_OUT_FONTS, TRAINING_FONTS
from .styles import HELD_OUT_STYLES, STYLES, TRAINING_STYLES

__all__ = ["FONTS", "HELD_OUT_FONTS", "HELD_OUT_STYLES", "STYLES", "TRAINING_FONTS", "TRAINING_STYLES", "draw"]
