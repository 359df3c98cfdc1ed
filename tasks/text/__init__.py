"""Pairs of a prompt and an answer from a file; records that answer notes."""

from .records import Records
from .task import Pair, Text

__all__ = ["Pair", "Records", "Text"]
