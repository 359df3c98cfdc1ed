"""Graph files of every kind, and what is refused."""

from __future__ import annotations

import gzip

import networkx as nx
import numpy as np
import pytest
import torch

from constrained_dg.cli import ROOT
from constrained_dg.errors import InputError
from tasks.graph.graph import Graph
from tasks.graph.graph_files import read_graphs

PATH = Graph.of(4, [(0, 1), (1, 2), (2, 3)])
SQUARE = Graph.of(4, [(0, 1), (1, 2), (2, 3), (0, 3)])
SHARED = ROOT.parent / "shared" / "data" / "graph"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.g6", "Ch\n\n"),
        ("a.g6", ">>graph6<<Ch"),
        ("a.g6", ">>graph6<<\nCh"),
        ("a.g6", ":Cdv"),
        ("a.s6", ">>sparse6<<:Cdv\n"),
        ("a.d6", "&CQdG"),
        ("a.col", "c a path\np edge 4 4\ne 1 2\ne 2 1\ne 2 3\ne 3 4\n"),
        ("a.edges", "# a path\n0 1\n1,2\n2 3 # the end\n"),
        ("a.txt", "4\n0 1\n1 2\n2 3\n"),
        ("a.tsv", "graph6\tk\nCh\t2\n"),
        ("a.csv", "k,graph6\n2,Ch\n"),
        ("a.csv", "name , Graph6, K\n\n a:1 , Ch, 2\n"),
        ("a.csv", '"K","graph6"\n"2","Ch"\n'),
        ("a.col", "p edge 4 3\ne 1 2\ne 2 1\ne 2 3\ne 3 2\ne 3 4\ne 4 3\n"),
        ("a.edges", "1 2\n2 3\n3 4\n"),
        ("a.edges", "% ids with holes\n7000000 9000000\n9000000 10000000\n10000000 100000000000000000\n"),
        ("a.txt", "4\n1 2\n2 3\n3 4\n"),
        ("a.txt", "0 1 0 0\n1 0 1 0\n0 1 0 1\n0 0 1 0\n"),
        ("a.txt", "0,1,0,0\n1,0,1,0\n0,1,0,1\n0,0,1,0\n"),
        ("a.txt", "0100\n1010\n0101\n0010\n"),
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
    (tmp_path / "more.csv").write_text("graph6\nBw\n")
    assert [n.name for n in read_graphs(tmp_path)] == ["more:2", "one", "two:1"]


def test_isolated_nodes_survive_every_way(tmp_path):
    lonely = Graph.of(5, [(1, 3)])
    (tmp_path / "a.g6").write_text(f"{lonely.graph6}\n{PATH.graph6}\n")
    assert [n.graph for n in read_graphs(tmp_path / "a.g6")] == [lonely, PATH]
    (tmp_path / "a.txt").write_text("5\n1 3\n")
    assert read_graphs(tmp_path / "a.txt")[0].graph == lonely


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.g6", "Ch\nC\n", "a.g6, line 2: 'C' is not valid graph6"),
        ("a.g6", "C\x01\n", "line 1: .* is not valid graph6"),
        ("a.g6", "", "holds no graph"),
        ("a.col", "p edge 3 1\ne 1 1\n", r"line 2: edge \(1, 1\) joins a node to itself"),
        ("a.col", "p edge 3 1\ne 1 4\n", r"line 2: edge \(1, 4\) is out of range; nodes run from 1 to 3"),
        ("a.col", "p edge 3 1\ne 0 1\n", r"edge \(0, 1\) is out of range"),
        ("a.col", "e 1 2\n", "line 1: an edge comes first"),
        ("a.col", "p edge 3\n", "it should be: p edge NODES EDGES"),
        ("a.col", "p edge 2 1\np edge 2 1\n", "a second problem line"),
        ("a.col", "p edge 2 1\nx 1 2\n", "it should be: e NODE NODE"),
        ("a.col", "p edge 2 1\ne one 2\n", "is not a whole number"),
        ("a.col", "c nothing\n", "has no problem line"),
        ("a.txt", "0 1 2\n", "an edge is two node numbers"),
        ("a.txt", "0 x\n", "is not a whole number"),
        ("a.txt", "1 1\n", r"line 1: edge \(1, 1\) joins a node to itself"),
        ("a.txt", "-1 1\n", "'-1' is not a whole number"),
        ("a.txt", "4 3\n0 1\n1 2\n2 3\n", "4 3 can be an edge, or say 4 nodes and 3 edges"),
        ("a.txt", "3 3\n1 2\n2 3\n3 1\n", "line 1: 3 3 can be an edge, or say 3 nodes"),
        ("a.txt", "3\n0 1\n1 3\n", r"line 3: edge \(1, 3\) is out of range; nodes run from 0 to 2"),
        ("a.txt", "0 1\n5\n", "line 2: '5'; an edge is two node numbers"),
        ("a.txt", "1000000000\n0 1\n", "line 1: 1000000000 nodes; 1 to 1024 nodes can be used"),
        ("a.txt", f"{10**21} 1\n", r"1000\.\.\. has 22 digits|0\.\.\. has 22 digits"),
        ("a.txt", "9" * 5000 + " 1\n", "has 5000 digits"),
        ("a.txt", "\n".join(f"0 {node}" for node in range(1, 1030)), "a.txt: a graph of 1030 nodes; at most 1024"),
        ("a.txt", "010\n101\n011\n", "line 3: node 3 is joined to itself"),
        ("a.txt", "0 1 0\n1 0 0\n0 1 0\n", "line 3: node 3 is joined to node 2 in one direction"),
        (
            "a.col",
            "p edge 5 6\ne 1 2\ne 2 3\n",
            "2 lines of edges, 2 different, but 6 in the problem line",
        ),
        ("a.col", "p edge 5 6\ne 1 2\ne 2 3\ne 3 4\n", "it may be cut off"),
        ("a.col", "p edge 5 6\n" + "e 1 2\ne 2 1\n" * 4, "it may be cut off"),
        ("a.col", "p edge 1000000000 1\ne 1 2\n", "line 1: a graph of 1000000000 nodes; 1 to 1024"),
        ("a.col", "p edge " + "9" * 5000 + " 1\n", "has 5000 digits"),
        ("a.g6", "?\n", "'.' is a graph without nodes"),
        ("a.g6", "~?@" + "\n", "ends too early"),
        ("a.g6", "~~~~~~~~\n", "a graph of 68719476735 nodes; at most 1024"),
        ("a.g6", ":~~~~~~~~\n", "a graph of 68719476735 nodes; at most 1024"),
        ("a.g6", "&AO\n", "'&AO' is a directed graph; give every arc in both directions"),
        ("a.tsv", "graph6\tk\tK\nCh\t2\t3\n", "two columns of one name"),
        ("a.tsv", "graph6\tk\n" + "C" * 140_000 + "\t2\n", "a.tsv, line 2: field larger than field limit"),
        ("a.tsv", "graph6\tnum_colors\nCh\t2\n", "column 'num_colors' is not known; known: k, colors"),
        ("a.tsv", "graph6\tcolor\nCh\t2\n", "column 'color' is not known"),
        ("a.txt", "# nothing\n", "holds no edge"),
        ("a.tsv", "k\n2\n", "has no column graph6"),
        ("a.tsv", "graph6\tk\nCh\n", "line 2: not as many values as columns"),
        ("a.tsv", "graph6\tk\n!\t2\n", "line 2: '!' is not valid graph6"),
        ("a.pdf", "", "ends in 'pdf'"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read_graphs(tmp_path / name, columns=("k", "colors"))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_columns_that_nobody_reads_are_named(tmp_path, caplog):
    (tmp_path / "a.tsv").write_text("graph6\tk\tcolor\tedges\nCh\t2\t9\t3\n")
    [named] = read_graphs(tmp_path / "a.tsv", columns=("k",))
    assert named.column(("k",)) == "2" and "columns that are not read: color, edges" in caplog.text


@pytest.mark.parametrize(
    "other", [SQUARE.edges, [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")], SQUARE.graph6, SQUARE]
)
def test_graphs_of_python_users(other):
    assert nx.is_isomorphic(Graph.of_any(other).networkx, SQUARE.networkx)
    for kind in (nx.Graph, nx.MultiGraph, lambda edges: nx.Graph(edges).to_directed()):
        assert Graph.of_any(kind(SQUARE.edges)) == SQUARE
    assert Graph.of_any(SQUARE.adjacency) == Graph.of_any(torch.from_numpy(SQUARE.adjacency).long()) == SQUARE
    assert Graph.of_any(np.array(SQUARE.edges)) == SQUARE
    assert Graph.of_any(nx.relabel_nodes(SQUARE.networkx, {0: 10, 1: 20, 2: 30, 3: 40})) == SQUARE


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nx.DiGraph([(0, 1)]), "a directed graph; give every arc in both directions"),
        (nx.Graph([(0, 0)]), "joins a node to itself"),
        (np.triu(np.ones((3, 3)), 1), "a directed graph"),
        (5, "'5' cannot be read as a graph"),
        ([0, 1], "cannot be read as a graph"),
        (nx.Graph(), "a graph of 0 nodes"),
    ],
)
def test_what_is_no_graph_is_refused(other, words):
    with pytest.raises(InputError, match=words):
        Graph.of_any(other)


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
