"""Amino-acid sequences: designing them under rules, restoring stretches of them, peptides of a kind."""

from .task import Design, Infill, Peptides

__all__ = ["Design", "Infill", "Peptides"]
