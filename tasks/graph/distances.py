"""Metrics of a set of generated graphs: valid, unique, novel, and the distance of its statistics from a reference set.

Validity is judged by networkx alone, without the rules that samplers use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import networkx as nx
import numpy as np

from constrained_dg.intervals import resampled, share

from .families import Family
from .graph import Graph
from .isomorphism import Classes
from .specification import Specification

#: Resamples of a bootstrap.
_RESAMPLES = 500


def belongs(graph: Graph, family: Family | Specification) -> bool:
    """Whether a graph is of a family or meets requirements, judged by networkx."""
    if isinstance(family, Specification):
        return graph.nodes == family.nodes and family.holds(graph.adjacency)
    shown, degrees, numbers = graph.networkx, [degree for _, degree in graph.networkx.degree], family.numbers
    if graph.nodes != family.nodes:
        return False
    if family.name in ("regular", "degrees"):
        return degrees == list(numbers if family.name == "degrees" else [numbers[1]] * graph.nodes)
    if not nx.is_connected(shown):
        return False
    if family.name == "bipartite":
        return nx.is_bipartite(shown) and sorted(map(len, nx.bipartite.sets(shown))) == sorted(numbers)
    if family.name == "connected":
        return len(graph.edges) == numbers[1]
    return nx.is_tree(shown) if family.name == "tree" else nx.is_planar(shown)


def degree_histogram(graph: Graph) -> np.ndarray:
    """(n) share of the nodes of each degree."""
    return np.bincount(graph.degrees, minlength=graph.nodes) / graph.nodes


def clustering_histogram(graph: Graph) -> np.ndarray:
    """(100) share of the nodes by clustering coefficient: joined pairs of neighbours among all pairs of neighbours."""
    joined, degrees = graph.adjacency.astype(np.int64), graph.degrees
    closed = ((joined @ joined) * joined).sum(0)  # twice the triangles through each node
    coefficients = closed / np.maximum(degrees * (degrees - 1), 1)
    return np.histogram(coefficients, bins=100, range=(0, 1))[0] / graph.nodes


def spectrum_histogram(graph: Graph) -> np.ndarray:
    """(200) share of the eigenvalues of the normalised Laplacian, I - D^-1/2 A D^-1/2, between 0 and 2."""
    degrees = graph.degrees
    scale = np.where(degrees > 0, degrees, 1) ** -0.5
    laplacian = np.diag((degrees > 0).astype(float)) - scale[:, None] * graph.adjacency * scale
    values = np.clip(np.linalg.eigvalsh(laplacian), 0, 2)
    return np.histogram(values, bins=200, range=(-1e-5, 2))[0] / graph.nodes


#: Statistic -> its histogram and the width of its kernel.
STATISTICS: dict[str, tuple[Callable[[Graph], np.ndarray], float]] = {
    "degree": (degree_histogram, 1.0),
    "clustering": (clustering_histogram, 0.1),
    "spectrum": (spectrum_histogram, 1.0),
}


def kernel(graphs: Sequence[Graph], statistic: str) -> np.ndarray:
    """(G, G): exp(-d^2 / 2 s^2) of the total variation d of the histograms of each two graphs."""
    histogram, width = STATISTICS[statistic]
    rows = [histogram(graph) for graph in graphs]
    table = np.zeros((len(rows), max(map(len, rows), default=0)))
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    apart = np.abs(table[:, None] - table).sum(-1) / 2
    return np.exp(-((apart / width) ** 2) / 2)


def discrepancy(similar: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Squared maximum mean discrepancy (Gretton et al. 2012) of two weighted sets of graphs, from their kernel.

    The biased estimate with a Gaussian kernel on total variation, as SPECTRE (2022) and DiGress (2023) report it.

    Args:
        similar: (G, G), see `kernel`.
        one, other: (G) weights of each graph in a set; each adds up to 1.
    """
    difference = one - other
    return max(0.0, float(difference @ similar @ difference))


def distance(graphs: Sequence[Graph], references: Sequence[Graph], statistic: str, seed: int = 0) -> dict[str, Any]:
    """The discrepancy of a statistic between two sets, {"value", "n", "ci95"}; n counts the graphs of the first.

    The interval is the value -+ 1.96 standard deviations over resamples of both sets with replacement (bootstrap, Efron
    1979), cut at 0. Percentiles would be biased: repeated graphs move resampled sets apart.
    """
    first, second = len(graphs), len(references)
    similar = kernel([*graphs, *references], statistic)
    draws = np.random.default_rng(seed)

    def value(one: np.ndarray, other: np.ndarray) -> float:
        return discrepancy(similar, np.pad(one / first, (0, second)), np.pad(other / second, (first, 0)))

    of_all = value(np.ones(first), np.ones(second))
    weights = [(np.ones(count) / count, count) for count in (first, second)]
    spread = [value(*(draws.multinomial(count, even) for even, count in weights)) for _ in range(_RESAMPLES)]
    return resampled(of_all, first, spread, lowest=0.0)


def measure(
    families: Sequence[Family | Specification],
    graphs: Sequence[Graph],
    references: Sequence[Graph],
    training: Sequence[Graph],
) -> dict[str, dict[str, Any]]:
    """Metrics of generated graphs, each {"value", "n", "ci95"}.

    "valid": share of all. "unique": isomorphism classes, as a share of the valid ones. "novel": share of the unique
    ones that are isomorphic to no training or reference graph; undecided ones do not count (`isomorphism.Classes`).
    "valid_unique_novel": share of all. "NAME_distance": from the references, of all graphs, valid or not; "NAME_floor":
    the same for as many training graphs as there are references.
    """
    valid = [graph for graph, family in zip(graphs, families, strict=True) if belongs(graph, family)]
    classes, known = Classes(), Classes([*training, *references])
    unique = [graph for graph in valid if classes.add(graph)]
    novel = [graph for graph in unique if graph not in known]
    shares = {
        "valid": (valid, graphs),
        "unique": (unique, valid),
        "novel": (novel, unique),
        "valid_unique_novel": (novel, graphs),
    }
    metrics = {name: share(len(kept), len(of)) for name, (kept, of) in shares.items() if of}
    for name in STATISTICS if references else ():
        metrics[f"{name}_distance"] = distance(graphs, references, name)
        if training:
            metrics[f"{name}_floor"] = distance(training[: len(references)], references, name)
    return metrics
