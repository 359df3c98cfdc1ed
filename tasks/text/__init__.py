"""A user's own prompts and answers."""

from .task import Pair, Text

__all__ = ["Pair", "Text"]
