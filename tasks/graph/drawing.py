"""Graphs for a terminal and as pictures, conflicts marked. Matplotlib is imported when the first picture is drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import networkx as nx
import numpy as np

from .graph import Graph
from .layout import layout

_RED, _OFF = "\x1b[31m", "\x1b[0m"
#: Wanted distance of nodes in points, largest size of a panel in inches, smallest letters in points.
_WANTED, _MOST_INCHES, _SMALLEST = 13.0, 5.5, 4.0


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


def picture(kind: str, graph: Graph, first: int) -> dict[str, Any]:
    """A graph for the page: see `Task.picture`.

    Args:
        kind: "nodes" or "steps".
        first: the token of the first color, or of the first node.
    """
    edges = [list(edge) for edge in graph.edges]
    return {"kind": kind, "first": first, "places": layout(graph).round(3).tolist(), "edges": edges}


def plot_graph(
    axes: Any,
    graph: Graph,
    colors: Sequence[int] | None = None,
    conflicts: Collection[tuple[int, int]] = (),
    bold: Collection[tuple[int, int]] = (),
) -> None:
    """A graph on matplotlib axes: node colors by number, white below 0, conflicting edges red, bold ones thick.

    The figure grows with the number of nodes; numbers of nodes are left out where they would be too small.
    """
    import matplotlib

    # 1. The size of the panel, so that near nodes have enough distance.
    places = layout(graph)
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + 9.0 * np.eye(graph.nodes)
    near = min(0.5, float(np.quantile(apart.min(1), 0.1)))
    figure, box = axes.figure, axes.get_position()
    panel = min(box.width * figure.get_figwidth(), box.height * figure.get_figheight())
    inches = min(_MOST_INCHES, max(panel, _WANTED / 72 / near))
    figure.set_size_inches(figure.get_size_inches() * inches / panel)
    node = min(18.0, 0.9 * 72 * inches * near)
    # 2. Edges, bold and conflicting ones on top.
    shown = graph.networkx
    conflicts, bold = set(conflicts), set(bold)
    rest = [edge for edge in graph.edges if edge not in conflicts and edge not in bold]
    thin = 0.8 if len(graph.edges) <= 3 * graph.nodes else 0.4
    for edges, color, wide in ((rest, "0.65", thin), (sorted(bold), "black", 2.2), (sorted(conflicts), "red", 2.2)):
        nx.draw_networkx_edges(shown, places, edgelist=edges, edge_color=color, width=wide, node_size=0, ax=axes)
    # 3. Nodes and their numbers, with good contrast.
    numbers = colors or [-1] * graph.nodes
    palette = matplotlib.colormaps["tab20" if max(numbers) < 20 else "gist_ncar"]
    most = max(20, *numbers)
    filled = ["white" if number < 0 else palette(number / most) for number in numbers]
    look = {"node_color": filled, "edgecolors": "black", "linewidths": 0.5, "node_size": node**2}
    nx.draw_networkx_nodes(shown, places, ax=axes, **look)
    letters = 0.5 * node
    for at in range(graph.nodes) if letters >= _SMALLEST else ():
        red, green, blue = (1, 1, 1) if numbers[at] < 0 else filled[at][:3]
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "white"
        axes.text(*places[at], str(at + 1), color=ink, fontsize=letters, ha="center", va="center")
    axes.set_aspect("equal")
    axes.margins(0.06)
    axes.set_axis_off()
