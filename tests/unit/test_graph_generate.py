"""Graphs of a family as a task: coding, prompts, training graphs, problems, rules in words, repair and distances."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

from constrained_dg.cli import ROOT, load_config, load_sampler
from constrained_dg.errors import InputError
from constrained_dg.evaluation import Outcome, solve
from constrained_dg.model import Backbone, preset
from constrained_dg.runs import build
from constrained_dg.sampling.base import Status
from tasks.graph import distances
from tasks.graph.families import Family
from tasks.graph.generate import GenerateGraphs, GenerateProblem, _graphs, delaunay, in_order, make_graph
from tasks.graph.graph import Graph
from tasks.graph.graph_files import read_graphs
from tasks.graph.isomorphism import Classes
from tasks.graph.tokens import (
    FAMILIES,
    FIRST_NUMBER,
    FIRST_PATTERN,
    Coding,
    coding_of,
    from_prompt,
    relations,
    to_prompt,
)

DATA = ROOT.parent / "shared" / "data" / "graph"
MIX = {
    "planar": {12: 1},
    "tree": {12: 1},
    "regular": {8: 1},
    "degrees": {9: 1},
    "bipartite": {10: 1},
    "connected": {11: 1},
}
PIECES = "{} pieces that nothing joins: {} and the rest"
CROSSING = "edges that must cross: nodes {} are joined by paths as in {}"
TEXTS = ("planar:12", "tree:11", "regular:10,3", "degrees:3,3,2,2,2", "bipartite:4,6", "connected:10,15")


@pytest.fixture(scope="module")
def task():
    return GenerateGraphs(MIX, graphs=12, seed=1)


def batch_of(task, name, size=6):
    entries = (task.train_batch(step, size) for step in range(200))
    return next(batch for batch in entries if from_prompt(batch.prompt[0].tolist())[0] == name)


def tensors(batch):
    return [value for field in fields(batch) if isinstance(value := getattr(batch, field.name), torch.Tensor)]


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_one_canvas_holds_22_nodes_bit_by_bit_and_64_in_eights():
    assert Coding(22, 1).length == 231 and Coding(23, 1).length == 253 and Coding(24, 1).length > 256
    assert Coding(64, 8).length == 256
    assert Coding(64, 1).length == 2016  # eight canvases


@pytest.mark.parametrize("width", [1, 2, 3, 8])
@pytest.mark.parametrize("nodes", [2, 3, 7, 8, 13])
def test_every_pair_has_a_bit_and_comes_back(nodes, width):
    coding, draws = Coding(nodes, width), np.random.default_rng(nodes)
    pairs = Counter(pair for token in coding.pairs for pair in token)
    assert set(pairs) == {(i, j) for i in range(nodes) for j in range(i)} and set(pairs.values()) == {1}
    assert all(1 <= len(token) <= width for token in coding.pairs)
    joined = np.tril(draws.random((5, nodes, nodes)) < 0.5, -1)
    joined |= joined.swapaxes(1, 2)
    tokens = coding.to_tokens(joined)
    back, foreign = coding.from_tokens(tokens)
    assert (back == joined).all() and not foreign.any()
    for token, own in zip(tokens[0], coding.pairs, strict=True):  # the slow twin
        assert token - FIRST_PATTERN == sum(int(joined[0][pair]) << bit for bit, pair in enumerate(own))


def test_one_bit_a_token_is_the_plain_triangle():
    assert [token for [token] in Coding(4, 1).pairs] == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


def test_the_drawing_of_the_coding():
    names, lines = "ABCDEFGH", {}
    for at, token in enumerate(Coding(8, 4).pairs):
        for row, _ in token:
            lines[row] = lines.get(row, "") + names[at]
    assert [lines[row] for row in range(1, 8)] == ["A", "AA", "BBB", "CCCC", "DDDDF", "EEEEFF", "GGGGHHH"]


def test_tokens_that_are_no_pattern_of_their_place_are_found():
    coding = Coding(3, 8)  # row 1 with one pair, row 2 with two
    tokens = FIRST_PATTERN + np.array([[1, 3], [2, 3], [1, 4], [-1, 0], [256, 0]])
    joined, foreign = coding.from_tokens(tokens)
    assert foreign.tolist() == [[False, False], [True, False], [False, True], [True, False], [True, False]]
    assert joined.sum((1, 2)).tolist() == [6, 4, 2, 0, 0]


def test_prompts_say_everything():
    for text in TEXTS:
        family = Family.parse(text)
        name, nodes, numbers = from_prompt(to_prompt(family.name, family.nodes, family.numbers))
        assert (name, nodes) == (family.name, family.nodes)
        assert numbers in (family.numbers, family.numbers[1:], (family.nodes,))
    assert to_prompt("connected", 64, (64, 200))[1:5] == [FIRST_NUMBER + digit for digit in (1, 0, 3, 8)]


def test_relations_in_plain_words():
    coding = coding_of(11, 8)
    for degrees in (False, True):
        held = relations(coding, degrees)[0]
        own = [(set(), set())] * 5 + [({node}, {node}) for node in range(11)] * (2 if degrees else 1)
        own += [({row for row, _ in token}, {column for _, column in token}) for token in coding.pairs]
        assert held.shape == (4, len(own), len(own))
        for one, (rows, columns) in enumerate(own):
            for other, (their_rows, their_columns) in enumerate(own):
                expected = [rows & their_rows, columns & their_columns, rows & their_columns | columns & their_rows, 1]
                assert held[:, one, other].tolist() == [bool(each) for each in expected]


def test_a_batch_and_the_rules_it_tells(task):
    for name in FAMILIES:
        batch = batch_of(task, name)
        rule = task.rules(batch)
        assert rule.is_satisfied(batch.answer).all() and not batch.pinned.any()
        problems = [GenerateProblem.of(family) for family in rule.families]
        assert torch.equal(task.encode(problems).prompt, batch.prompt)
        assert task.constraint(problems).families == rule.families
        assert task.shape_of(problems[0]) == (batch.prompt.shape[1], batch.answer.shape[1])
        assert batch.relations.shape[1] == task.num_relations
        assert batch.answer.min() >= batch.noise[0] and batch.noise[1] == task.vocab_size
        assert batch.prompt.shape[1] <= task.max_prompt and batch.answer.shape[1] <= task.max_canvas
        empty = task.encode(problems).answer
        assert (empty == FIRST_PATTERN).all(), "references stay hidden"


def test_one_bit_a_token_draws_noise_of_two_patterns():
    task = GenerateGraphs({"tree": {22: 1.0}}, graphs=3, width=1)
    batch = task.train_batch(0, 2)
    assert batch.answer.shape == (2, 231) and batch.noise == (FIRST_PATTERN, FIRST_PATTERN + 2)
    assert task.rules(batch).is_satisfied(batch.answer).all()


# -- training graphs and problems -------------------------------------------------------------------------------------


def test_train_batch_is_pure():
    first, second = (GenerateGraphs(MIX, graphs=6, seed=1) for _ in range(2))
    second.train_batch(9, 4)
    for step in range(8):
        one, other = first.train_batch(step, 8, 2), second.train_batch(step, 8, 2)
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
        elsewhere = first.train_batch(step, 8, 0)
        assert elsewhere.answer.shape == one.answer.shape and not torch.equal(elsewhere.answer, one.answer)
    different = GenerateGraphs(MIX, graphs=6, seed=2)
    assert any(not torch.equal(first.train_batch(s, 8).prompt, different.train_batch(s, 8).prompt) for s in range(8))


def test_training_graphs_are_of_their_family_and_of_no_held_out_class(task):
    for name, sizes in MIX.items():
        [nodes] = sizes
        pool = task.training_graphs(name, nodes)
        assert len(pool) == 12 and not any(graph.held_out for graph in pool)
        assert all(distances.belongs(graph, Family.like(name, graph)) for graph in pool)
    assert task.training_graphs("tree", 13) == []


def test_nodes_stand_in_a_breadth_first_order(task):
    for name in ("planar", "tree"):
        batch = batch_of(task, name)
        for tokens in batch.answer:
            [joined], _ = coding_of(12, 8).from_tokens(tokens.numpy()[None])
            parents = [int(np.flatnonzero(joined[node])[0]) for node in range(1, 12)]
            assert parents == sorted(parents) and all(parent < node for node, parent in enumerate(parents, 1))
    orders = {tuple(row.tolist()) for row in batch_of(GenerateGraphs({"tree": {12: 1}}, graphs=1), "tree", 32).answer}
    assert len(orders) > 8, "one base graph trains in many orders"


@pytest.mark.parametrize("planar", [True, False])
def test_an_order_is_a_permutation_also_of_what_is_not_connected(planar):
    draws = np.random.default_rng(0)
    graph = Graph.of(7, [(0, 1), (3, 4), (4, 5), (3, 5)])
    ordered = [in_order(graph, planar, draws) for _ in range(50)]
    assert all(nx.is_isomorphic(each.networkx, graph.networkx) for each in ordered) and len(set(ordered)) > 3


def test_planar_graphs_are_visited_around_each_node():
    """The nodes of a wheel's rim follow each other; in an order with random ties they rarely would."""
    draws = np.random.default_rng(0)
    wheel = Graph.of_adjacency(nx.to_numpy_array(nx.wheel_graph(9)) > 0)
    found = 0
    for _ in range(60):
        joined = in_order(wheel, True, draws).adjacency
        if joined[0].sum() == 8:  # it began at the hub
            assert all(joined[node, node + 1] for node in range(1, 8)) and joined[1, 8]
            found += 1
    assert found


def test_delaunay_circles_are_empty():
    points = np.random.default_rng(0).random((9, 2))
    expected = np.zeros((9, 9), bool)
    for corners in ((i, j, k) for i in range(9) for j in range(i) for k in range(j)):
        a, b, c = points[list(corners)]
        centre = np.linalg.solve(2 * np.stack([b - a, c - a]), [b @ b - a @ a, c @ c - a @ a])
        if (((points - centre) ** 2).sum(1) >= ((a - centre) ** 2).sum() - 1e-12).all():
            expected[np.ix_(corners, corners)] = True
    np.fill_diagonal(expected, False)
    assert (delaunay(points) == expected).all()
    assert delaunay(points[:2]).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("name", FAMILIES)
def test_made_graphs_belong(name):
    draws = np.random.default_rng(3)
    made = [make_graph(name, nodes, draws) for nodes in (8, 9, 16) for _ in range(4)]
    assert all(distances.belongs(graph, Family.like(name, graph)) for graph in made)
    assert len({graph.fingerprint for graph in made}) > 6


def test_trees_are_uniform():
    """Of the 125 labelled trees on 5 nodes 5 are stars and 60 are paths."""
    draws = np.random.default_rng(0)
    kinds = Counter(int(make_graph("tree", 5, draws).degrees.max()) for _ in range(2000))
    assert abs(kinds[4] / 2000 - 5 / 125) < 0.02 and abs(kinds[2] / 2000 - 60 / 125) < 0.04


def test_held_out_problems_and_overlap(task):
    held = task.held_out(2, 3)
    assert held == task.held_out(2, 3) != task.held_out(2, 4)
    assert Counter(problem.tier for problem in held) == {f"{name} {n}": 2 for name, sizes in MIX.items() for n in sizes}
    assert all(problem.reference.held_out for problem in held)
    assert all(distances.belongs(problem.reference, problem.family) for problem in held)
    turned = task.training_graphs("tree", 12)[3].permuted(np.random.default_rng(0).permutation(12))
    disguised = GenerateProblem.of(Family.parse("tree:12"), turned)
    assert task.overlap([*held, disguised, task.parse("tree:12")]) == [len(held)]


@pytest.mark.parametrize("text", TEXTS)
def test_families_are_read_as_they_are_written(task, text):
    problem = task.parse(text)
    assert problem.text == problem.family.text == text
    assert problem.tier == f"{problem.family.name} {problem.family.nodes}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cubic:8", "no family 'cubic' in 'cubic:8'; give NAME:NUMBERS, of planar, tree"),
        ("planar", "'' is not a whole number; give digits alone; such as planar:64"),
        ("planar:x", "'x' is not a whole number"),
        ("regular:16," + "3" * 5000, "has 5000 digits"),
        ("regular:16," + "3" * 18, "use at most 15"),
        ("planar:" + "9" * 18, "a canvas holds graphs of 2 to 64"),
        ("planar:3.5", "is not a whole number"),
        ("planar:65", "planar:65 has 65 nodes; a canvas holds graphs of 2 to 64"),
        ("tree:1", "tree:1 has 1 nodes"),
        ("tree:5,4", "tree:5,4 has 2 numbers; give 1"),
        ("regular:8", "has 1 numbers; give 2, such as regular:16,3"),
        ("regular:5,3", "degrees add up to 15, an odd number; every edge counts twice"),
        ("regular:4,4", "a node of 4 neighbours among 4; use at most 3"),
        ("degrees:3,3,3", "a node of 3 neighbours among 3; use at most 2"),
        ("degrees:2,2,1", "degrees add up to 5, an odd number"),
        ("degrees:3,3,1,1", "no simple graph has these degrees"),
        ("bipartite:0,8", "a side without nodes"),
        ("bipartite:40,40", "80 nodes"),
        ("connected:10,8", "8 edges cannot connect 10 nodes; use 9 or more"),
        ("connected:5,11", "5 nodes cannot have 11 edges; use at most 10"),
    ],
)
def test_families_that_cannot_be_are_refused(task, text, words):
    with pytest.raises(InputError) as error:
        task.parse(text)
    assert words in str(error.value)


def test_files_give_references(task, tmp_path):
    graphs = [make_graph("tree", nodes, np.random.default_rng(nodes)) for nodes in (6, 9)]
    (tmp_path / "tree_own.g6").write_text("\n".join(graph.graph6 for graph in graphs))
    problems = task.read(str(tmp_path / "tree_own.g6"))
    assert [problem.reference for problem in problems] == graphs
    assert [problem.text for problem in problems] == ["tree:6", "tree:9"]
    (tmp_path / "mine.g6").write_text((tmp_path / "tree_own.g6").read_text())
    with pytest.raises(InputError, match=r"of which family are these graphs\?; let its name begin"):
        task.read(str(tmp_path / "mine.g6"))
    own = GenerateGraphs(MIX, family="connected").read(str(tmp_path / "mine.g6"))
    assert [problem.text for problem in own] == ["connected:6,5", "connected:9,8"]
    (tmp_path / "planar_not.g6").write_text("D~{")
    with pytest.raises(InputError, match=r"not.g6, line 1: a graph that is not of planar:5: edges that must cross"):
        task.read(str(tmp_path / "planar_not.g6"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mix": {"cubic": {8: 1}}}, "no family 'cubic'"),
        ({"mix": {"tree": 8}}, "mix="),
        ({"mix": {"tree": {8: 0}}}, "shares"),
        ({"mix": {"tree": {80: 1}}}, "80 nodes"),
        ({"mix": {"tree": {7: 1}}}, "train on 8 to 64"),
        ({"mix": {"tree": {64: 1}}, "width": 1}, "64 nodes with 1 pairs in a token need 2016 tokens; one canvas"),
        ({"width": 4}, "width=4"),
        ({"graphs": 0}, "graphs=0"),
        ({"family": "cubic"}, "no family 'cubic'"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(InputError) as error:
        GenerateGraphs(**settings)
    assert words in str(error.value)


def test_a_family_with_too_few_classes_for_a_split_is_refused():
    """All trees on 3 nodes are one class: it trains or it is held out."""
    held_out = make_graph("tree", 3, np.random.default_rng(0)).held_out
    assert len(_graphs("tree", 3, 2, held_out, np.random.default_rng(0))) == 2
    with pytest.raises(InputError, match="graph of tree 3 among 2000 tries; use larger graphs"):
        _graphs("tree", 3, 2, not held_out, np.random.default_rng(0))


def test_the_configuration_builds():
    built = build(load_config("task/graph", "generate")["task"])
    assert isinstance(built, GenerateGraphs) and {name for name, _ in built.mix} == set(FAMILIES)
    assert built.max_canvas == 256


# -- rules in words, repair, drawings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "edges", "sentences"),
    [
        ("tree:5", "01 12 02 34", [PIECES.format(2, "nodes 1, 2, 3"), "a cycle among nodes 1, 2, 3"]),
        ("planar:4", "12 23", [PIECES.format(2, "node 1")]),
        ("planar:5", "01 02 03 04 12 13 14 23 24 34", [CROSSING.format("1, 2, 3, 4, 5", "K5")]),
        ("planar:6", "03 04 05 13 14 15 23 24 25", [CROSSING.format("1, 2, 3, 4, 5, 6", "K3,3")]),
        ("regular:4,2", "01 12 02", ["node 4 has 0 neighbours instead of 2"]),
        ("degrees:1,1,2,2", "02 03 23", [f"node {k} has {has} neighbours instead of 1" for k, has in ((1, 2), (2, 0))]),
        ("connected:4,4", "01 12 23", ["3 edges instead of 4"]),
        ("bipartite:2,2", "01 02 03", ["sides of 1 and 3 nodes instead of 2 and 2"]),
        ("bipartite:2,2", "01 12 02 23", ["a cycle of odd length through nodes 1, 2, 3"]),
    ],
)  # fmt: skip
def test_sentences_name_nodes(task, text, edges, sentences):
    problem = task.parse(text)
    rule, coding = task.constraint([problem]), coding_of(problem.family.nodes, 8)
    joined = Graph.of(problem.family.nodes, [tuple(map(int, edge)) for edge in edges.split()]).adjacency
    answer = torch.from_numpy(coding.to_tokens(joined[None]))
    assert rule.explain(answer)[0] == sentences
    foreign = answer.clone()
    foreign[0, -1] = 0
    assert f"position {coding.length} holds token 0, not a pattern there" in rule.explain(foreign)[0]
    assert rule.violations(foreign)[0, -1]


def test_blame_points_at_the_pairs(task):
    rule = GenerateGraphs({"tree": {8: 1}}, width=1).constraint([task.parse("tree:5")])
    coding = coding_of(5, 1)
    answer = torch.from_numpy(coding.to_tokens(Graph.of(5, [(0, 1), (1, 2), (0, 2), (3, 4)]).adjacency[None]))
    blamed = {pair for [pair], bad in zip(coding.pairs, rule.violations(answer)[0].tolist(), strict=True) if bad}
    between = {(row, column) for row in (3, 4) for column in (0, 1, 2)}
    assert blamed == {(1, 0), (2, 0), (2, 1)} | between


def test_known_edges_decide_others(task):
    """The last pair that joins is an edge, what closes a cycle is none, and K5 is not completed."""
    rule = GenerateGraphs({"tree": {8: 1}}, width=1).constraint([task.parse("tree:3")])
    canvas = FIRST_PATTERN + torch.tensor([[1, 1, 0]])
    known = torch.tensor([[True, True, False]])
    assert rule.allowed(canvas, known, slice(2, 3))[0, 0].nonzero().flatten().tolist() == [FIRST_PATTERN]
    canvas[0, 1] = FIRST_PATTERN
    assert rule.allowed(canvas, known, slice(2, 3))[0, 0].nonzero().flatten().tolist() == [FIRST_PATTERN + 1]
    planar = GenerateGraphs({"tree": {8: 1}}, width=1).constraint([task.parse("planar:5")])
    canvas, known = torch.full((1, 10), FIRST_PATTERN + 1), torch.tensor([[True] * 9 + [False]])
    assert planar.allowed(canvas, known, slice(9, 10))[0, 0].nonzero().flatten().tolist() == [FIRST_PATTERN]


@pytest.mark.parametrize("nodes", [20, 40])
def test_known_edges_that_cross_are_blamed_in_small_graphs_alone(task, nodes):
    rule, coding = task.constraint([task.parse(f"planar:{nodes}")]), coding_of(nodes, 8)
    edges = [(i, j) for i in range(8, 13) for j in range(8, i)] + [(0, 1), (1, 2), (0, 2), (12, 18)]
    answer = torch.from_numpy(coding.to_tokens(Graph.of(nodes, edges).adjacency[None]))
    known = answer != FIRST_PATTERN  # the rest may still connect it
    held = rule.allowed(answer, known, slice(0, coding.length))
    refused = (~held.gather(-1, answer[..., None])[0, :, 0] & known[0]).nonzero().flatten().tolist()
    crossing = {at for at, token in enumerate(coding.pairs) if set(token) & {(i, j) for i, j in edges[:10]}}
    assert set(refused) == (crossing if nodes == 20 else set())
    assert set(rule.violations(answer)[0].nonzero().flatten().tolist()) >= crossing


@pytest.mark.parametrize("text", [*TEXTS, "planar:20", "bipartite:20,10", "regular:20,4"])
def test_untrained_and_guaranteed_is_always_of_the_family(task, text):
    """Also what rules alone reach: repair works from any probabilities."""
    torch.manual_seed(0)
    shape = {"vocab_size": task.vocab_size, "num_relations": task.num_relations, "canvas_length": 256}
    model = Backbone(preset("tiny", **shape)).init_weights(torch.Generator().manual_seed(0)).eval()
    problems = [task.parse(text)] * 3
    made = solve(model, task, load_sampler("guaranteed"), problems, batch_size=3, seed=0, max_passes=2)
    for outcome in made:
        graph = Graph.from_graph6(outcome.answer)
        assert outcome.solved and distances.belongs(graph, outcome.problem.family)
    alone = solve(None, task, load_sampler("search"), problems, batch_size=3, seed=0)
    assert all(outcome.solved for outcome in alone)
    if problems[0].family.nodes > 9:
        assert len({outcome.answer for outcome in [*made, *alone]}) > 3


def test_repair_takes_the_number_of_edges_from_the_model(task):
    """Not from the arg-max, which is the empty graph: each bit has one chance in five, the canvas 38 of 190 pairs."""
    problem = task.parse("planar:20")
    rule, coding = task.constraint([problem]), coding_of(20, 8)
    empty = torch.full((coding.length,), FIRST_PATTERN)
    log_probs = torch.full((coding.length, task.vocab_size), -torch.inf)
    ones = torch.from_numpy(coding.patterns).sum(1)
    log_probs[:, FIRST_PATTERN:] = ones * np.log(0.2) + (8 - ones) * np.log(0.8)
    candidates = rule.propagate(torch.ones(1, coding.length, task.vocab_size, dtype=torch.bool))[0]
    counts = []
    for seed in range(20):
        draft = empty.clone()
        draft[0] += seed % 2
        found, moves = rule.repair(draft, candidates, log_probs.log_softmax(-1))
        counts.append(len(task.graph_of(problem, found).edges))
        assert moves >= counts[-1] - 1
    assert len(set(counts)) == 2  # the draft is the seed
    assert all(28 <= edges <= 50 for edges in counts)


def test_drawing_and_picture(task):
    problem = task.parse("tree:4")
    answer = torch.from_numpy(coding_of(4, 8).to_tokens(Graph.of(4, [(0, 1), (1, 2), (0, 2)]).adjacency[None]))[0]
    violations = task.constraint([problem]).violations(answer[None])[0]
    drawn = task.draw(problem, answer, violations)
    plain = drawn.replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert plain.splitlines() == ["tree:4", "   1 ", "   2 !", "   3 !!", "   4 :::"]
    assert task.draw(problem, answer).splitlines() == ["tree:4", "   1 ", "   2 #", "   3 ##", "   4 ..."]
    assert task.draw(problem, None) == "tree:4"
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    task.plot(axes, problem, answer, violations)
    assert len(axes.texts) == 4 and len(axes.collections) > 1
    task.plot(Figure().subplots(), problem, None)
    assert task.decode(problem, answer) == "Cw"
    assert Graph.from_graph6("Cw") == task.graph_of(problem, answer)


# -- distances -------------------------------------------------------------------------------------------------------


def test_histograms_agree_with_networkx():
    for graph in (make_graph("planar", 15, np.random.default_rng(1)), Graph.of(5, [(0, 1)])):
        shown = graph.networkx
        degrees = nx.degree_histogram(shown)
        assert np.allclose(distances.degree_histogram(graph)[: len(degrees)] * graph.nodes, degrees)
        clustering = np.histogram(list(nx.clustering(shown).values()), bins=100, range=(0, 1))[0] / graph.nodes
        assert np.allclose(distances.clustering_histogram(graph), clustering)
        values = np.linalg.eigvalsh(nx.normalized_laplacian_matrix(shown).todense()) if _has_scipy() else None
        if values is not None:
            expected = np.histogram(np.clip(values, 0, 2), bins=200, range=(-1e-5, 2))[0] / graph.nodes
            assert np.abs(distances.spectrum_histogram(graph) - expected).sum() < 0.2
        assert abs(distances.spectrum_histogram(graph).sum() - 1) < 1e-9


def _has_scipy() -> bool:
    try:
        import scipy  # noqa: F401
    except ImportError:
        return False
    return True


def test_the_spectrum_of_a_complete_graph():
    """One 0, and n - 1 times n / (n - 1)."""
    histogram = distances.spectrum_histogram(Graph.of(5, [(i, j) for i in range(5) for j in range(i)]))
    assert histogram[0] == 0.2 and histogram[124:126].sum() == 0.8


def test_distance_is_the_mean_over_pairs():
    draws = np.random.default_rng(0)
    ours, theirs = ([make_graph(name, 12, draws) for _ in range(5)] for name in ("planar", "tree"))
    for name, (histogram, width) in distances.STATISTICS.items():

        def alike(one, other, histogram=histogram, width=width):
            apart = np.abs(histogram(one) - histogram(other)).sum() / 2
            return np.exp(-(apart**2) / (2 * width**2))

        def mean(first, second, alike=alike):
            return np.mean([alike(one, other) for one in first for other in second])

        found = distances.distance(ours, theirs, name)
        expected = mean(ours, ours) + mean(theirs, theirs) - 2 * mean(ours, theirs)
        assert abs(found["value"] - expected) < 1e-12 and found["n"] == 5
        assert found["ci95"][0] <= found["value"] <= found["ci95"][1] and found == distances.distance(
            ours, theirs, name
        )
        assert distances.distance(ours, ours, name)["value"] < 1e-12


def test_valid_unique_and_novel():
    draws = np.random.default_rng(0)
    family = Family.parse("tree:12")
    one, two, three = (make_graph("tree", 12, draws) for _ in range(3))
    assert len({graph.fingerprint for graph in (one, two, three)}) == 3
    order = np.random.default_rng(1).permutation(12)
    broken = Graph.of(12, one.edges[1:])
    made = [one, one.permuted(order), two, three, broken]
    found = distances.measure([family] * 5, made, [two.permuted(order)], [three])
    shares = {name: (metric["value"], metric["n"]) for name, metric in found.items() if metric["n"] and "_" not in name}
    assert shares == {"valid": (0.8, 5), "unique": (0.75, 4), "novel": (1 / 3, 3)}
    assert found["valid_unique_novel"]["value"] == 0.2
    assert {f"{name}_{kind}" for name in distances.STATISTICS for kind in ("distance", "floor")} <= set(found)
    alone = distances.measure([family], [broken], [], [])
    assert set(alone) == {"valid", "valid_unique_novel"} and alone["valid"]["value"] == 0


def test_equal_fingerprints_are_told_apart():
    """Two strongly regular graphs of equal numbers: the rook's graph of 4 x 4 and Shrikhande's."""
    rook = nx.convert_node_labels_to_integers(nx.line_graph(nx.complete_bipartite_graph(4, 4)))
    steps = [(1, 0), (0, 1), (1, 1)]
    shrikhande = [(4 * x + y, 4 * ((x + a) % 4) + (y + b) % 4) for x in range(4) for y in range(4) for a, b in steps]
    first, second = Graph.of(16, rook.edges), Graph.of(16, shrikhande)
    classes = Classes([first])
    assert first.fingerprint == second.fingerprint and second not in classes
    assert classes.add(second) and not classes.add(first.permuted(np.arange(16)[::-1]))


def test_measure_reads_answers_and_references(task):
    problems = [problem for problem in task.held_out(2, 0) if problem.family.name == "tree"]
    tokens = [torch.from_numpy(coding_of(12, 8).to_tokens(p.reference.adjacency[None]))[0] for p in problems]
    outcomes = [
        Outcome(p, task.decode(p, answer), answer, Status.SOLVED, 0, 0, 1, 1.0, 0, 0.0)
        for p, answer in zip(problems, tokens, strict=True)
    ]
    found = task.measure(outcomes)
    assert found["valid"]["value"] == 1 and found["novel"]["value"] == 0 and found["degree_distance"]["value"] == 0
    assert found["degree_floor"]["value"] > 0


def _fetched(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there: fetched graphs are not shipped")
    return path


def test_the_evaluator_on_samples_of_a_peer():
    """SOURCES.md: 85 % of DiGress's own samples are planar and connected."""
    samples = [each.graph for each in read_graphs(_fetched("peer_outputs/digress_planar_samples.g6.gz"))]
    references, training = (
        [each.graph for each in read_graphs(_fetched(f"planar_{part}.g6.gz"))] for part in ("val", "train")
    )
    found = distances.measure([Family.parse("planar:64")] * len(samples), samples, references, training)
    assert found["valid"]["value"] == found["valid_unique_novel"]["value"] == 0.85
    assert found["clustering_distance"]["value"] > found["clustering_floor"]["value"]


@pytest.mark.parametrize("name", ["planar", "tree"])
def test_our_training_graphs_are_like_the_benchmark(name):
    """Their distances are as near to its validation set as its own training set is, up to chance."""
    references, training = (
        [each.graph for each in read_graphs(_fetched(f"{name}_{part}.g6.gz"))] for part in ("val", "train")
    )
    draws = np.random.default_rng(0)
    made = [make_graph(name, 64, draws) for _ in range(len(training))]
    for statistic in distances.STATISTICS:
        ours, theirs = (distances.distance(set_, references, statistic)["value"] for set_ in (made, training))
        assert ours <= 1.5 * theirs + 1e-3, statistic
