"""Pairs of a prompt and an answer from a file."""

from .task import Pair, Text

__all__ = ["Pair", "Text"]
