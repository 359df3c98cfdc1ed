"""Graphs: colouring them, finding Hamiltonian cycles, writing new ones."""

from tasks.graph.coloring import Coloring

__all__ = ["Coloring"]
