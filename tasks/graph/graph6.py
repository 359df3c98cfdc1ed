"""Graphs as one line of text: graph6, sparse6 and digraph6 (McKay, formats.txt of nauty)."""

from __future__ import annotations

import networkx as nx
import numpy as np

from constrained_dg.errors import InputError, check

_HEADERS = (">>graph6<<", ">>sparse6<<", ">>digraph6<<")
_KINDS = {":": "sparse6", "&": "digraph6"}


def decode(text: str, most: int) -> tuple[int, list[tuple[int, int]]]:
    """One graph in any of the three formats, with or without a header.

    A graph of more than `most` nodes is refused before it is built. digraph6 is read where every arc has its reverse.

    Returns:
        its number of nodes, and its edges, perhaps repeated.

    Raises:
        InputError: not one of the formats, a graph without nodes or with too many, or a directed graph.
    """
    text = text.strip()
    shown, hint = repr(text[:40]), "graph6 is one line of the characters ? to ~, such as DQc"
    for header in _HEADERS:
        text = text.removeprefix(header)
    kind = _KINDS.get(text[:1], "graph6")
    body = text.removeprefix(text[0]) if kind != "graph6" else text
    check(bool(body) and all("?" <= sign <= "~" for sign in body), f"{shown} is not valid graph6", hint)
    values = np.frombuffer(body.encode(), np.uint8) - 63
    # One character holds n below 63; after one or two "~", 3 or 6 characters hold it.
    first, digits = (0, 1) if values[0] < 63 else (1, 3) if (values[1:2] < 63).any() else (2, 6)
    check(len(values) >= first + digits, f"{shown} is not valid {kind}: it ends too early", hint)
    nodes = 0
    for digit in values[first : first + digits].tolist():
        nodes = nodes << 6 | digit
    check(nodes >= 1, f"{shown} is a graph without nodes", "give graphs of one node or more")
    check(nodes <= most, f"a graph of {nodes} nodes", f"at most {most} nodes can be used here")
    if kind == "sparse6":
        try:
            return nodes, list(nx.from_sparse6_bytes(f":{body}".encode()).edges())
        except (nx.NetworkXError, ValueError, IndexError) as error:
            raise InputError(f"{shown} is not valid sparse6 ({error})", hint) from None
    bits = np.unpackbits(values[first + digits :, None], axis=1)[:, 2:].ravel().astype(bool)
    wanted = nodes * nodes if kind == "digraph6" else nodes * (nodes - 1) // 2
    fits = len(bits) == -(-wanted // 6) * 6
    check(fits, f"{shown} is not valid {kind}: {len(bits) // 6} characters follow the number of nodes", hint)
    if kind == "digraph6":
        arcs = bits[:wanted].reshape(nodes, nodes)
        check(bool((arcs == arcs.T).all()), f"{shown} is a directed graph", "give every arc in both directions")
        return nodes, np.argwhere(arcs).tolist()
    one, other = np.tril_indices(nodes, -1)
    return nodes, np.stack([other, one], 1)[bits[:wanted]].tolist()
