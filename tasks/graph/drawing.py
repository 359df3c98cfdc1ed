"""Graphs for a terminal and as pictures, conflicts marked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import networkx as nx
import numpy as np

from .graph import Graph

_RED, _OFF = "\x1b[31m", "\x1b[0m"
#: Nodes up to which a picture names each.
_NAMED = 32


def draw_nodes(labels: Sequence[str], marked: Collection[int], width: int = 16) -> str:
    """One label a node, in rows of `width`, each row led by the number of its first node; marked ones red and with !"""
    wide = max((len(label) for label in labels), default=1)
    lines = []
    for first in range(0, len(labels), width):
        cells = [
            f"{_RED}{label:>{wide}}!{_OFF}" if first + at in marked else f"{label:>{wide}} "
            for at, label in enumerate(labels[first : first + width])
        ]
        lines.append(f"{first + 1:>4}: {' '.join(cells)}")
    return "\n".join(lines)


def layout(graph: Graph) -> dict[int, np.ndarray]:
    """Where nodes stand in a picture, the same each time: planar where that is possible, else by springs."""
    planar, embedding = nx.check_planarity(graph.networkx)
    if planar and 3 < graph.nodes <= _NAMED:
        return nx.combinatorial_embedding_to_pos(embedding)
    return nx.circular_layout(graph.networkx) if graph.nodes <= _NAMED else _springs(graph)


def _springs(graph: Graph) -> dict[int, np.ndarray]:
    return nx.spring_layout(graph.networkx, seed=0, iterations=50, method="force")


def plot_graph(
    axes: Any,
    graph: Graph,
    colors: Sequence[int] | None = None,
    conflicts: Collection[tuple[int, int]] = (),
    bold: Collection[tuple[int, int]] = (),
) -> None:
    """A graph on matplotlib axes: node colors by number, white below 0, conflicting edges red, bold ones thick."""
    where = layout(graph)
    shown = graph.networkx
    small = graph.nodes <= _NAMED
    conflicts, bold = set(conflicts), set(bold)
    rest = [edge for edge in graph.edges if edge not in conflicts and edge not in bold]
    for edges, color, wide in ((rest, "0.75", 0.6), (sorted(bold), "black", 2.0), (sorted(conflicts), "red", 2.0)):
        nx.draw_networkx_edges(shown, where, edgelist=edges, edge_color=color, width=wide, ax=axes)
    import matplotlib

    palette = matplotlib.colormaps["tab20" if max(colors or [0]) < 20 else "gist_ncar"]
    most = max(20, *(colors or [0]))
    filled = ["white" if color < 0 else palette(color / most) for color in colors or [-1] * graph.nodes]
    look = {"node_color": filled, "edgecolors": "black", "linewidths": 0.5, "node_size": 160 if small else 20}
    nx.draw_networkx_nodes(shown, where, ax=axes, **look)
    if small:
        nx.draw_networkx_labels(shown, where, {node: str(node + 1) for node in shown}, font_size=6, ax=axes)
    axes.set_axis_off()
