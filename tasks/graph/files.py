"""Graphs from files (graph6, DIMACS .col, edge lists, tables with a graph6 column, folders of these) and to graph6."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from constrained_dg.errors import InputError, check
from constrained_dg.files import read_text

from .graph import Graph

ENDINGS = ("g6", "col", "tsv", "csv", "edges", "txt")
KNOWN = "graph6 (.g6), DIMACS (.col), edge lists (.edges, .txt), tables with a graph6 column (.tsv, .csv), or a folder"


@dataclass(frozen=True)
class Named:
    """A graph of a file.

    Attributes:
        name: its file, or its line in it.
        columns: what else a table says of it.
    """

    name: str
    graph: Graph
    columns: dict[str, str] = field(default_factory=dict)


def read_graphs(path: Path | str) -> list[Named]:
    """The graphs of a file or folder, optionally .gz.

    In a folder, a table with a column `name` says more of the files it names; files of other endings are passed over.

    Raises:
        InputError: a file that cannot be read, or that holds something else; it names the file and the line.
    """
    path = Path(path)
    check(path.exists(), f"no file {str(path)!r}", f"give {KNOWN}")
    if path.is_dir():
        return _read_folder(path)
    graphs = _read_file(path)
    check(bool(graphs), f"{path} holds no graph", f"give {KNOWN}")
    return graphs


def write_graph6(path: Path | str, graphs: Iterable[Graph]) -> None:
    """One graph a line."""
    Path(path).write_text("".join(f"{graph.graph6}\n" for graph in graphs))


def stem(path: Path) -> str:
    """The name of a file without .gz and its ending."""
    return Path(path.name.removesuffix(".gz")).stem


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix[1:].lower()


def _read_folder(folder: Path) -> list[Named]:
    tables: dict[str, dict[str, str]] = {}
    graphs = []
    for path in sorted(folder.iterdir()):
        if _ending(path) in ("tsv", "csv"):
            tables |= {row["name"]: row for row in _table(path) if "name" in row}
        elif path.is_file() and _ending(path) in ENDINGS:
            graphs += _read_file(path)
    check(bool(graphs), f"{folder} holds no graph", f"give {KNOWN}")
    return [Named(each.name, each.graph, tables.get(each.name, each.columns)) for each in graphs]


def _read_file(path: Path) -> list[Named]:
    ending = _ending(path)
    check(ending in ENDINGS, f"{path} ends in {ending!r}", f"give {KNOWN}")
    if ending in ("tsv", "csv"):
        rows = _table(path)
        check(bool(rows) and "graph6" in rows[0], f"{path} has no column graph6", "name it in the first line")
        return [
            Named(row.get("name") or f"{stem(path)}:{at}", _at(path, at, Graph.from_graph6, row["graph6"]), row)
            for at, row in enumerate(rows, 2)
        ]
    lines = read_text(path, f"give {KNOWN}").splitlines()
    if ending == "g6":
        return [
            Named(f"{stem(path)}:{at}", _at(path, at, Graph.from_graph6, line))
            for at, line in enumerate(lines, 1)
            if line.strip()
        ]
    graph = _dimacs(path, lines) if ending == "col" else _edge_list(path, lines)
    return [Named(stem(path), graph)]


def _table(path: Path) -> list[dict[str, str]]:
    lines = read_text(path, f"give {KNOWN}").splitlines()
    rows = list(csv.DictReader(lines, delimiter="\t" if _ending(path) == "tsv" else ","))
    for at, row in enumerate(rows, 2):
        check(None not in row and None not in row.values(), f"{path}, line {at}: not as many values as columns")
    return rows


def _at(path: Path, line: int, read, *given):
    """What `read` makes of it; an InputError names the file and the line."""
    try:
        return read(*given)
    except InputError as error:
        raise InputError(f"{path}, line {line}: {error}") from None


def _numbers(path: Path, at: int, words: list[str]) -> list[int]:
    whole = all(word.removeprefix("-").isdecimal() for word in words)
    check(whole, f"{path}, line {at}: {' '.join(words)[:40]!r} are no whole numbers", "an edge is two node numbers")
    return [int(word) for word in words]


def _dimacs(path: Path, lines: list[str]) -> Graph:
    """`p edge NODES EDGES`, then `e I J` with nodes from 1; both directions of an edge may stand there."""
    nodes, edges = None, []
    for at, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0] in ("c", "n"):
            continue
        if words[0] == "p":
            check(nodes is None, f"{path}, line {at}: a second problem line", "one graph a file")
            check(len(words) == 4, f"{path}, line {at}: {line[:40]!r}", "it should be: p edge NODES EDGES")
            nodes = _numbers(path, at, words[2:])[0]
            continue
        check(words[0] == "e" and len(words) >= 3, f"{path}, line {at}: {line[:40]!r}", "it should be: e NODE NODE")
        check(nodes is not None, f"{path}, line {at}: an edge comes first", "begin with: p edge NODES EDGES")
        one, other = _numbers(path, at, words[1:3])
        _at(path, at, _one_edge, nodes, one, other)
        edges.append((one - 1, other - 1))
    check(nodes is not None, f"{path} has no problem line", "begin with: p edge NODES EDGES")
    return _at(path, 1, Graph.of, nodes, edges)


def _one_edge(nodes: int, one: int, other: int) -> None:
    check(one != other, f"edge ({one}, {other}) joins a node to itself", "leave self-loops out")
    inside = min(one, other) >= 1 and max(one, other) <= nodes
    check(inside, f"edge ({one}, {other}) names a node that is none", f"nodes run from 1 to {nodes}")


def _edge_list(path: Path, lines: list[str]) -> Graph:
    """Two node numbers a line, from 0; # begins a comment; a line with one number says how many nodes there are."""
    nodes, edges = 0, []
    for at, line in enumerate(lines, 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        numbers = _numbers(path, at, words)
        check(len(numbers) <= 2, f"{path}, line {at}: {line[:40]!r}", "an edge is two node numbers")
        nodes = max(nodes, *(number + 1 for number in numbers)) if len(numbers) == 2 else max(nodes, numbers[0])
        if len(numbers) == 2:
            _at(path, at, Graph.of, max(nodes, 1), [tuple(numbers)])
            edges.append(tuple(numbers))
    check(bool(nodes), f"{path} holds no edge", f"give {KNOWN}")
    return Graph.of(nodes, edges)
