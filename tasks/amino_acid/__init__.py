"""Amino-acid sequences: designing them under rules, restoring stretches of them, peptides of a kind."""

from tasks.amino_acid.task import Design, Infill, Peptides

__all__ = ["Design", "Infill", "Peptides"]
