"""Graphs survive every format, whatever the file lacks is refused in one line, and nothing else happens."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from tasks.graph.graph import Graph, random_graph
from tasks.graph.graph_files import read_graphs
from tests.property.examples import many

graphs = st.builds(
    lambda nodes, density, seed: random_graph(nodes, density, np.random.default_rng(seed)),
    st.integers(1, 12),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
FORMATS = ("graph6", "sparse6", "digraph6", "col", "edges", "matrix", "table")


def written(graph: Graph, kind: str, draws: np.random.Generator) -> tuple[str, str]:
    """An ending, and the graph in a format, in one of the ways that other programs write it."""
    either = bool(draws.integers(2))
    if kind == "graph6":
        return "g6", nx.to_graph6_bytes(graph.networkx, header=either).decode()
    if kind == "sparse6":
        return "g6" if either else "s6", nx.to_sparse6_bytes(graph.networkx, header=either).decode()
    if kind == "digraph6":
        bits = np.pad(graph.adjacency.ravel(), (0, -(graph.nodes**2) % 6)).reshape(-1, 6)
        return "d6", "&" + "".join(chr(63 + value) for value in [graph.nodes, *(bits @ (1 << np.arange(6)[::-1]))])
    if kind == "col":
        edges = [*graph.edges, *(edge[::-1] for edge in graph.edges)] if either else list(graph.edges)
        count = len(edges) if draws.integers(2) else len(graph.edges)
        return "col", "\n".join([f"p edge {graph.nodes} {count}", *(f"e {a + 1} {b + 1}" for a, b in edges), ""])
    if kind == "edges":
        edges = [tuple(np.array(edge) + either)[:: 1 if draws.integers(2) else -1] for edge in graph.edges]
        # Counted from 1 the last node must occur, or nothing says so.
        edges = edges if not either or graph.degrees[-1] else list(graph.edges)
        return "txt", "\n".join([str(graph.nodes), *(f"{a},{b}" for a, b in edges), "# end"])
    if kind == "matrix" and graph.nodes > 2:
        return "txt", "\n".join((" " if either else "").join(map(str, row)) for row in graph.adjacency.astype(int))
    return "csv", f"k , Graph6\n\n3,{graph.graph6}" if "," not in graph.graph6 else graph.graph6


@many
@given(graphs, st.sampled_from(FORMATS), st.integers(0, 2**32))
def test_a_graph_is_read_as_it_was_written(tmp_path_factory, graph, kind, seed):
    ending, text = written(graph, kind, np.random.default_rng(seed))
    path = tmp_path_factory.getbasetemp() / f"some.{ending}"
    path.write_text(text)
    [named] = read_graphs(path, 12, ("k",))
    assert named.graph == graph


@many
@given(graphs, st.sampled_from(FORMATS), st.integers(0, 2**32), st.data())
def test_a_file_that_is_cut_or_garbled_is_read_or_refused(tmp_path_factory, graph, kind, seed, data):
    """In one line, at once; a cut DIMACS file is never read with fewer edges than its header has."""
    draws = np.random.default_rng(seed)
    ending, text = written(graph, kind, draws)
    text = text[: draws.integers(len(text) + 1)]
    garbled = data.draw(st.booleans())
    if garbled:
        at = int(draws.integers(len(text) + 1))
        text = text[:at] + data.draw(st.text(st.sampled_from("0123456789 ,:&~?@\n\t-e"), max_size=30)) + text[at:]
    path = tmp_path_factory.getbasetemp() / f"some.{ending}"
    path.write_text(text)
    try:
        graphs_read = read_graphs(path, 12, ("k",))
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 600
        return
    assert graphs_read and all(named.graph.nodes <= 12 for named in graphs_read)
    if ending == "col" and not garbled:
        assert len(graphs_read[0].graph.edges) == len(graph.edges)
