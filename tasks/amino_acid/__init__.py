"""Amino-acid sequences: designing them under rules, restoring stretches of them, peptides of a kind."""

from .design import Design, Peptides
from .infill import Infill

__all__ = ["Design", "Infill", "Peptides"]
