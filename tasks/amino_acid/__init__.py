"""Amino-acid sequences: designing them under rules, restoring stretches of them, peptides of a kind."""

from tasks.amino_acid.design import Design, Peptides
from tasks.amino_acid.infill import Infill

__all__ = ["Design", "Infill", "Peptides"]
