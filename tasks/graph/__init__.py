"""Graphs: coloring them, finding Hamiltonian cycles, writing new ones."""

from tasks.graph.coloring import Coloring
from tasks.graph.generate import GenerateGraphs
from tasks.graph.hamiltonian import Hamiltonian

__all__ = ["Coloring", "GenerateGraphs", "Hamiltonian"]
