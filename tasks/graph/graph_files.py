"""Graphs from files: graph6 and its variants, DIMACS .col, edge lists, 0-1 matrices, tables, and folders of these."""

from __future__ import annotations

import csv
import difflib
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from constrained_dg.errors import InputError, check
from constrained_dg.files import read_text

from .graph import MOST_NODES, Graph

log = logging.getLogger(__name__)
Result = TypeVar("Result")

TABLES, LINES = {"tsv": "\t", "csv": ","}, ("g6", "s6", "d6")
ENDINGS = (*LINES, "col", *TABLES, "edges", "txt")
KNOWN = (
    "graph6, sparse6 or digraph6 (.g6, .s6, .d6), DIMACS (.col), edge lists or 0-1 matrices (.edges, .txt), "
    "tables with a column graph6 (.tsv, .csv), or a folder"
)
#: Digits of the largest number that is read: far above any graph, and quick to read.
_DIGITS = 18


@dataclass(frozen=True)
class Named:
    """A graph of a file.

    Attributes:
        name: its file, or its file and line, or its name in a table.
        source: file and line, for messages.
        columns: other values of its row in a table, by header in lower case.
    """

    name: str
    source: str
    graph: Graph
    columns: dict[str, str] = field(default_factory=dict)

    def column(self, names: Sequence[str]) -> str | None:
        """The value of the first of these columns that the table has."""
        return next((self.columns[name] for name in names if name in self.columns), None)


def read_graphs(path: Path | str, most: int = MOST_NODES, columns: Sequence[str] = ()) -> list[Named]:
    """The graphs of a file or folder, optionally .gz.

    In a folder, a table with a column `name` adds values to the files it names; files of other endings are ignored.

    Args:
        most: nodes that a graph may have.
        columns: columns of tables that the caller reads. If a table has none of them, a header that resembles one is
            refused; other unread columns are named in a warning.

    Raises:
        InputError: naming the file and the line.
    """
    path = Path(path)
    if not os.path.isdir(path):
        graphs = _read_file(path, most, columns)
        check(bool(graphs), f"{path} holds no graph", f"give {KNOWN}")
        return graphs
    try:
        files = sorted(file for file in path.iterdir() if file.is_file() and _ending(file) in ENDINGS)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", f"give {KNOWN}") from None
    rows, graphs = {}, []
    for file in files:
        table = _table(file, columns) if _ending(file) in TABLES else []
        if table and "graph6" not in table[0][1]:
            rows |= {row["name"]: row for _, row in table if "name" in row}
        else:
            graphs += _read_file(file, most, columns)
    check(bool(graphs), f"{path} holds no graph", f"give {KNOWN}")
    return [Named(each.name, each.source, each.graph, rows.get(each.name, each.columns)) for each in graphs]


def located(source: str, make: Callable[..., Result], *given: object) -> Result:
    """The result of `make`; an InputError names the source, such as a file and a line."""
    try:
        return make(*given)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def whole_number(word: str) -> int:
    """A decimal number that is not negative.

    Raises:
        InputError: anything else, also a number of more than 18 digits.
    """
    check(word.isascii() and word.isdecimal(), f"{word[:40]!r} is not a whole number", "give digits alone")
    check(len(word) <= _DIGITS, f"{word[:40]}... has {len(word)} digits", f"numbers have {_DIGITS} digits at most")
    return int(word)


def stem(path: Path) -> str:
    """The name of a file without .gz and its ending."""
    return Path(path.name.removesuffix(".gz")).stem


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix[1:].lower()


def _read_file(path: Path, most: int, columns: Sequence[str]) -> list[Named]:
    ending = _ending(path)
    check(ending in ENDINGS, f"{str(path)[:200]} ends in {ending[:20]!r}", f"give {KNOWN}")
    if ending in TABLES:
        table = _table(path, columns)
        named = bool(table) and "graph6" in table[0][1]
        check(named, f"{path} has no column graph6", "name it in the first line, and give a row for each graph")
        lines = [(at, row["graph6"], row) for at, row in table]
    elif ending in LINES:
        text = read_text(path, f"give {KNOWN}").splitlines()
        # The header of the format may be on a separate line.
        lines = [(at, line, {}) for at, line in enumerate(text, 1) if not re.fullmatch(r"\s*(>>\w+6<<)?\s*", line)]
    else:
        text = read_text(path, f"give {KNOWN}").splitlines()
        graph = _dimacs(path, text, most) if ending == "col" else _listed(path, text, most)
        return [Named(stem(path), str(path), graph)]
    return [
        Named(row.get("name") or f"{stem(path)}:{at}", source, located(source, Graph.from_graph6, line, most), row)
        for at, line, row in lines
        if (source := f"{path}, line {at}")
    ]


def _table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table with their lines; headers in lower case, without blanks around anything."""
    text = read_text(path, f"give {KNOWN}")
    rows = []
    try:
        reader = csv.reader(text.splitlines(), delimiter=TABLES[_ending(path)], skipinitialspace=True, strict=True)
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((reader.line_num, [cell.strip() for cell in row]))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}", "it may not be a table of graphs") from None
    check(bool(rows), f"{path} is empty", "name the columns in the first line")
    (_, head), *rest = rows
    head = [name.lower() for name in head]
    check(len(set(head)) == len(head), f"{path} has two columns of one name: {', '.join(head)[:80]}", "drop one")
    for at, row in rest:
        check(len(row) == len(head), f"{path}, line {at}: not as many values as columns", f"give {len(head)}")
    _check_columns(path, head, columns)
    return [(at, dict(zip(head, row, strict=True))) for at, row in rest]


def _check_columns(path: Path, head: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse a header that resembles one of the columns if none of them is present; warn of other unread columns."""
    unread = [name for name in head if name not in {"name", "graph6", *columns}]
    if columns and not set(head) & set(columns):
        alike = [name for name in unread if _resembles(name, columns)]
        known = f"known: {', '.join(columns)}"
        check(not alike, f"{path}: column {alike[0][:40] if alike else ''!r} is not known", known)
    if unread:
        log.warning("%s: columns that are not read: %s", path, ", ".join(unread)[:200])


def _resembles(name: str, columns: Sequence[str]) -> bool:
    pieces = re.findall("[a-z]+", name)
    close = any(difflib.get_close_matches(piece, columns, 1, 0.75) for piece in [name, *pieces])
    return close or any(column in name for column in columns if len(column) > 3)


def _numbers(path: Path, at: int, words: list[str]) -> list[int]:
    if all(len(word) <= _DIGITS and word.isascii() and word.isdecimal() for word in words):
        return [int(word) for word in words]
    return located(f"{path}, line {at}", lambda: [whole_number(word) for word in words])


def _dimacs(path: Path, lines: list[str], most: int) -> Graph:
    """`p edge NODES EDGES`, then `e I J` with nodes from 1.

    Both directions of an edge may be listed. EDGES counts the lines, or the different edges.
    """
    nodes = wanted = None
    edges: list[tuple[int, int]] = []
    for at, line in enumerate(lines, 1):
        words, source = line.split(), f"{path}, line {at}"
        if not words or words[0] in ("c", "n"):
            continue
        if words[0] == "p":
            check(nodes is None, f"{source}: a second problem line", "one graph a file")
            check(len(words) == 4, f"{source}: {line[:40]!r}", "it should be: p edge NODES EDGES")
            nodes, wanted = _numbers(path, at, words[2:])
            check(1 <= nodes <= most, f"{source}: a graph of {nodes} nodes", f"1 to {most} nodes can be used here")
            continue
        check(words[0] == "e" and len(words) >= 3, f"{source}: {line[:40]!r}", "it should be: e NODE NODE")
        check(nodes is not None, f"{source}: an edge comes first", "begin with: p edge NODES EDGES")
        one, other = _numbers(path, at, words[1:3])
        if not (0 < one <= nodes and 0 < other <= nodes and one != other):
            located(source, _check_edge, one, other, 1, nodes)
        edges.append((one - 1, other - 1))
    check(nodes is not None, f"{path} has no problem line", "begin with: p edge NODES EDGES")
    graph = Graph.of(nodes, edges)
    complete = len(edges) == wanted or len(graph.edges) >= wanted
    count = f"{len(edges)} lines of edges" + (f", {len(graph.edges)} different" if edges else "")
    check(complete, f"{path}: {count}, but {wanted} in the problem line", "it may be cut off; else correct that line")
    return graph


def _check_edge(one: int, other: int, low: int, high: int) -> None:
    check(one != other, f"edge ({one}, {other}) joins a node to itself", "leave self-loops out")
    inside = low <= min(one, other) and max(one, other) <= high
    check(inside, f"edge ({one}, {other}) is out of range", f"nodes run from {low} to {high}")


def _listed(path: Path, lines: list[str], most: int) -> Graph:
    """An edge list or a 0-1 matrix; # and % begin comments.

    An edge list has two numbers on each line. The first line may hold the number of nodes alone; they are then numbered
    from 0, or from 1 if the highest equals that number. Else the nodes are those that occur, in numerical order.
    """
    rows = [
        (at, words)
        for at, line in enumerate(lines, 1)
        if (words := re.split("[#%]", line, maxsplit=1)[0].replace(",", " ").split())
    ]
    check(bool(rows), f"{path} holds no edge", f"give {KNOWN}")
    # 1. A matrix: as many rows as columns. Two rows of two are the same graph as an edge list.
    signs = [words if len(words) > 1 else list(words[0]) for _, words in rows]
    alone = all(len(words) == 1 for _, words in rows)
    if len(rows) >= (2 if alone else 3) and all(len(row) == len(rows) and set(row) <= {"0", "1"} for row in signs):
        return _matrix(path, [at for at, _ in rows], signs, most)
    # 2. The number of nodes, if it is given.
    (first, words), count = rows[0], None
    if len(words) == 1:
        [count], rows = _numbers(path, first, words), rows[1:]
        check(1 <= count <= most, f"{path}, line {first}: {count} nodes", f"1 to {most} nodes can be used here")
    # 3. The edges.
    edges = []
    for at, words in rows:
        check(len(words) == 2, f"{path}, line {at}: {' '.join(words)[:40]!r}", "an edge is two node numbers")
        edges.append((at, *_numbers(path, at, words)))
    numbers = sorted({node for _, *edge in edges for node in edge})
    if count is None:
        (_, nodes, following), rest = edges[0], edges[1:]
        head = bool(rest) and following == len(rest) and all(max(edge) <= nodes for _, *edge in rest)
        what = f"{path}, line {first}: {nodes} {following} can be an edge, or say {nodes} nodes and {following} edges"
        check(not head, what, "move the edge down, or write the number of nodes alone")
        check(len(numbers) <= most, f"{path}: a graph of {len(numbers)} nodes", f"at most {most} can be used here")
        low, high = numbers[0], numbers[-1]
    else:
        low = 1 if numbers and numbers[0] > 0 and numbers[-1] == count else 0
        numbers, high = list(range(low, low + count)), low + count - 1
    for at, one, other in edges:
        located(f"{path}, line {at}", _check_edge, one, other, low, high)
    # 4. Nodes from 0.
    if numbers == list(range(1, len(numbers) + 1)):
        log.info("%s counts its nodes from 1", path)
    elif numbers != list(range(len(numbers))):
        pairs = ", ".join(f"{number} is {at}" for at, number in enumerate(numbers[:4], 1))
        log.warning("%s: nodes are numbered from 1 in the order of their numbers there: %s ...", path, pairs)
    place = {number: at for at, number in enumerate(numbers)}
    return Graph.of(len(numbers), [(place[one], place[other]) for _, one, other in edges])


def _matrix(path: Path, lines: list[int], signs: list[list[str]], most: int) -> Graph:
    """The graph of an adjacency matrix of 0 and 1."""
    check(len(signs) <= most, f"{path}: a graph of {len(signs)} nodes", f"at most {most} can be used here")
    for row, (at, cells) in enumerate(zip(lines, signs, strict=True)):
        check(cells[row] == "0", f"{path}, line {at}: node {row + 1} is joined to itself", "leave self-loops out")
        odd = next((column for column in range(row) if cells[column] != signs[column][row]), None)
        what = f"{path}, line {at}: node {row + 1} is joined to node {(odd or 0) + 1} in one direction"
        check(odd is None, what, "give a symmetric matrix")
    pairs = [(row, column) for row, cells in enumerate(signs) for column in range(row) if cells[column] == "1"]
    return Graph.of(len(signs), pairs)
