"""Graphs: coloring them, finding Hamiltonian cycles, writing new ones."""

from .coloring import Coloring
from .generate import GenerateGraphs
from .hamiltonian import Hamiltonian

__all__ = ["Coloring", "GenerateGraphs", "Hamiltonian"]
