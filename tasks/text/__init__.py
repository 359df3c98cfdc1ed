"""A user's own prompts and answers."""

from tasks.text.task import Pair, Text

__all__ = ["Pair", "Text"]
