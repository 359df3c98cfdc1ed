"""Graph files of every kind, and what is refused."""

from __future__ import annotations

import gzip

import networkx as nx
import pytest

from constrained_dg.cli import ROOT
from constrained_dg.errors import InputError
from tasks.graph.files import read_graphs, write_graph6
from tasks.graph.graph import Graph

PATH = Graph.of(4, [(0, 1), (1, 2), (2, 3)])
SHARED = ROOT.parent / "shared" / "data" / "graph"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.g6", "Ch\n\n"),
        ("a.g6", ">>graph6<<Ch"),
        ("a.col", "c a path\np edge 4 3\ne 1 2\ne 2 1\ne 2 3\ne 3 4\n"),
        ("a.edges", "# a path\n0 1\n1,2\n2 3 # the end\n"),
        ("a.txt", "4\n0 1\n1 2\n2 3\n"),
        ("a.tsv", "graph6\tk\nCh\t2\n"),
        ("a.csv", "k,graph6\n2,Ch\n"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_gives_the_same_path(tmp_path, name, text, packed):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    [named] = read_graphs(path)
    assert named.graph == PATH and nx.is_isomorphic(named.graph.networkx, nx.path_graph(4))
    assert named.columns.get("k", "2") == "2" and named.name.startswith("a")


def test_a_table_in_a_folder_says_more_of_its_files(tmp_path):
    (tmp_path / "one.col").write_text("p edge 2 1\ne 1 2\n")
    (tmp_path / "two.g6").write_text("Ch\n")
    (tmp_path / "BEST.tsv").write_text("name\tcolors\none\t2\n")
    (tmp_path / "notes.md").write_text("nothing")
    assert [(n.name, n.columns) for n in read_graphs(tmp_path)] == [
        ("one", {"name": "one", "colors": "2"}),
        ("two:1", {}),
    ]


def test_isolated_nodes_survive_every_way(tmp_path):
    lonely = Graph.of(5, [(1, 3)])
    write_graph6(tmp_path / "a.g6", [lonely, PATH])
    assert [n.graph for n in read_graphs(tmp_path / "a.g6")] == [lonely, PATH]
    (tmp_path / "a.txt").write_text("5\n1 3\n")
    assert read_graphs(tmp_path / "a.txt")[0].graph == lonely


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.g6", "Ch\nC\n", "a.g6, line 2: 'C' is no graph6"),
        ("a.g6", "C\x01\n", "line 1: .* is no graph6"),
        ("a.g6", "", "holds no graph"),
        ("a.col", "p edge 3 1\ne 1 1\n", r"line 2: edge \(1, 1\) joins a node to itself"),
        ("a.col", "p edge 3 1\ne 1 4\n", r"line 2: edge \(1, 4\) names a node that is none; nodes run from 1 to 3"),
        ("a.col", "p edge 3 1\ne 0 1\n", r"edge \(0, 1\) names a node that is none"),
        ("a.col", "e 1 2\n", "line 1: an edge comes first"),
        ("a.col", "p edge 3\n", "it should be: p edge NODES EDGES"),
        ("a.col", "p edge 2 1\np edge 2 1\n", "a second problem line"),
        ("a.col", "p edge 2 1\nx 1 2\n", "it should be: e NODE NODE"),
        ("a.col", "p edge 2 1\ne one 2\n", "no whole numbers"),
        ("a.col", "c nothing\n", "has no problem line"),
        ("a.txt", "0 1 2\n", "an edge is two node numbers"),
        ("a.txt", "0 x\n", "no whole numbers"),
        ("a.txt", "1 1\n", r"line 1: edge \(1, 1\) joins a node to itself"),
        ("a.txt", "-1 1\n", "names a node that is none"),
        ("a.txt", "# nothing\n", "holds no edge"),
        ("a.tsv", "k\n2\n", "has no column graph6"),
        ("a.tsv", "graph6\tk\nCh\n", "line 2: not as many values as columns"),
        ("a.tsv", "graph6\tk\n!\t2\n", "line 2: '!' is no graph6"),
        ("a.pdf", "", "ends in 'pdf'"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_graphs(tmp_path / name)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_graphs(tmp_path / "none.g6")
    with pytest.raises(InputError, match="holds no graph"):
        read_graphs(tmp_path)
    (tmp_path / "cut.g6.gz").write_bytes(gzip.compress(b"Ch\n" * 1000)[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        read_graphs(tmp_path / "cut.g6.gz")
    (tmp_path / "cut.g6.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        read_graphs(tmp_path / "cut.g6.gz")


def test_the_shared_files_are_read_as_they_are_described():
    if not SHARED.is_dir():
        pytest.skip("../shared is not here")
    named = read_graphs(SHARED / "dimacs_col")
    assert len(named) == 110
    for each in named:
        assert (each.graph.nodes, len(each.graph.edges)) == (int(each.columns["vertices"]), int(each.columns["edges"]))
    for file, count in (("planar_val.g6.gz", 32), ("hcp14_dev.tsv.gz", 1000), ("cubic_vt_le64.tsv", 219)):
        assert len(read_graphs(SHARED / file)) == count
