"""Pairs of a prompt and an answer from a file."""

from tasks.text.task import Pair, Text

__all__ = ["Pair", "Text"]
