"""Hamiltonian cycles as a task: tokens, relations, training graphs, separation, reading, words, reports, pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import torch

from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.constraints import check_constraint, complete
from constrained_dg.errors import InputError
from constrained_dg.evaluation import Outcome, solve
from constrained_dg.model import Backbone, preset
from constrained_dg.sampling.base import Status
from tasks.graph.graph import Graph
from tasks.graph.hamiltonian import FIRST_NODE, RELATIONS, Hamiltonian, HamiltonianProblem
from tasks.graph.hamiltonian_graphs import of_short_steps, threshold
from tasks.graph.hamiltonian_rule import HamiltonianCycle
from tasks.graph.hamiltonian_search import EXACT

DEV = ROOT.parent / "shared" / "data" / "graph" / "hcp14_dev.tsv.gz"
SQUARE = Graph.of(4, [(0, 1), (1, 2), (2, 3), (0, 3)])
#: What the literature says of them (Holton and Sheehan, The Petersen Graph, 1993; Tutte 1946).
FAMOUS = [
    (nx.petersen_graph(), False),
    (nx.heawood_graph(), True),
    (nx.pappus_graph(), True),
    (nx.desargues_graph(), True),
    (nx.dodecahedral_graph(), True),
    (nx.hypercube_graph(4), True),
    (nx.complete_bipartite_graph(8, 9), False),
    (nx.grid_2d_graph(5, 5), False),
    (nx.grid_2d_graph(5, 6), True),
    (nx.barbell_graph(5, 8), False),
    (nx.cycle_graph(64), True),
]


def graph_of(graph: nx.Graph) -> Graph:
    return Graph.of_adjacency(nx.to_numpy_array(graph) > 0)


def tokens(*successors: int) -> torch.Tensor:
    """Of successors, nodes from 1."""
    return torch.tensor(successors) + FIRST_NODE - 1


def is_cycle(graph: nx.Graph, successors: list[int]) -> bool:
    """By networkx: edges of the graph that join all nodes, two at each."""
    steps = list(enumerate(successors))
    walked = nx.Graph(steps)
    whole = set(walked) == set(graph) and nx.is_connected(walked) and set(dict(walked.degree).values()) == {2}
    return whole and sorted(successors) == sorted(graph) and all(graph.has_edge(*step) for step in steps)


@pytest.fixture(scope="module")
def task():
    return Hamiltonian({8: 0.4, 10: 0.6}, graphs=200, seed=1)


def test_tokens_and_relations(task):
    problem = task.parse(SQUARE.graph6)
    batch = task.encode([problem])
    assert batch.prompt.tolist() == [[2, 3, 4, 5]] and batch.answer.shape == (1, 4) == (1, task.shape_of(problem)[1])
    assert batch.noise == (2, 6) and not batch.pinned.any()
    assert batch.relations.shape == (1, task.num_relations, 8, 8) and len(RELATIONS) == task.num_relations
    for a in range(8):
        for b in range(8):
            expected = [True, SQUARE.networkx.has_edge(a % 4, b % 4), a % 4 == b % 4]
            assert batch.relations[0, :, a, b].tolist() == expected
    assert task.vocab_size == FIRST_NODE + task.max_canvas


def test_training_examples_are_cycles_and_rules_follow_from_the_batch(task):
    for step in range(6):
        batch = task.train_batch(step, 16)
        n = batch.answer.shape[1]
        for row in range(16):
            graph = nx.from_numpy_array(batch.relations[row, 1, :n, :n].numpy())
            assert is_cycle(graph, (batch.answer[row] - FIRST_NODE).tolist())
            assert threshold(n) <= graph.number_of_edges() <= 1.75 * threshold(n)
        rule = task.rules(batch)
        assert rule.is_satisfied(batch.answer).all() and not rule.is_satisfied(batch.answer.roll(1, 0)).all()


def test_train_batch_is_pure():
    first, second = (Hamiltonian({8: 1, 9: 1}, graphs=20, seed=1) for _ in range(2))
    second.train_batch(9, 4)
    for step in range(4):
        one, other, elsewhere = (
            each.train_batch(step, 8, rank) for each, rank in ((first, 2), (second, 2), (first, 0))
        )
        for field in fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        # Ranks agree on the size and on nothing else.
        assert elsewhere.answer.shape == one.answer.shape and not torch.equal(elsewhere.answer, one.answer)
    assert not torch.equal(
        Hamiltonian({8: 1}, graphs=20, seed=2).train_batch(0, 8).answer, first.train_batch(0, 8).answer
    )


def test_the_shares_of_sizes_are_kept_and_nodes_come_in_any_order():
    task = Hamiltonian({"8": 1, 9: 3}, graphs=4)
    sizes = Counter(task.train_batch(step, 1).answer.shape[1] for step in range(400))
    assert 260 < sizes[9] < 340 and set(sizes) == {8, 9}
    one_graph = Hamiltonian({8: 1.0}, graphs=1)
    batch = one_graph.train_batch(0, 64)
    classes = {Graph.of_adjacency(each[1, :8, :8].numpy()).fingerprint for each in batch.relations}
    assert len(classes) == 1 and len({tuple(each[1].flatten().tolist()) for each in batch.relations}) > 30


def test_the_cycle_that_is_taught_has_the_shortest_steps():
    """Against all cycles of networkx; where several are as short, any of them."""
    for seed in range(8):
        graph = nx.gnm_random_graph(7, 14, seed=seed)
        cycles, found = of_short_steps(graph_of(graph).adjacency[None])
        lengths = []
        for cycle in nx.simple_cycles(graph):
            for order in (cycle, cycle[::-1]) if len(cycle) == 7 else ():
                lengths.append(sum(((j - i) % 7) ** 2 for i, j in pairwise([*order, order[0]])))
        assert found.tolist() == [bool(lengths)]
        if lengths:
            assert is_cycle(graph, cycles[0].tolist())
            assert sum(((j - i) % 7) ** 2 for i, j in enumerate(cycles[0].tolist())) == min(lengths)


def test_held_out_graphs_lie_on_the_other_side_and_are_what_they_are_called(task):
    held = task.held_out(6, 3)
    assert held == task.held_out(6, 3) != task.held_out(6, 4)
    assert Counter(problem.tier for problem in held) == {
        f"{nodes} {kind}": 6 for nodes in (8, 10) for kind in ("hamiltonian", "not hamiltonian")
    }
    for problem in held:
        assert problem.graph.held_out and problem.truth == problem.hamiltonian
        assert f"{problem.graph.nodes} {'' if problem.hamiltonian else 'not '}hamiltonian" == problem.tier
    trained = [Graph.of_adjacency(joined) for joined in task.training_graphs(10).joined]
    assert not any(graph.held_out for graph in trained) and len(trained) == 120


def test_overlap_finds_training_graphs_in_disguise(task):
    trained = Graph.of_adjacency(task.training_graphs(10).joined[7])
    disguised = trained.permuted(np.random.default_rng(0).permutation(10))
    assert disguised != trained
    problems = [HamiltonianProblem.of(graph) for graph in (SQUARE, disguised)]
    assert task.overlap([*task.held_out(2, 0), *problems]) == [9]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sizes": {7: 1.0}}, "training graphs of 7 nodes; use 8 to 16"),
        ({"sizes": {17: 1.0}}, "training graphs of 17 nodes"),
        ({"sizes": {14: 0.0}}, "sizes"),
        ({"sizes": {14: float("nan")}}, "sizes"),
        ({"sizes": 14}, "sizes=14"),
        ({"graphs": 0}, "graphs=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        Hamiltonian(**settings)


def test_problems_that_cannot_be_are_refused(task, tmp_path):
    large = Graph.of(65, []).graph6
    with pytest.raises(InputError, match="a graph of 65 nodes; at most 64"):
        task.parse(large)
    with pytest.raises(InputError, match="is not valid graph6"):
        task.parse("not a graph")
    path = tmp_path / "some.g6"
    path.write_text(f"{SQUARE.graph6}\n{large}\n")
    with pytest.raises(InputError, match=r"some.g6, line 2: a graph of 65 nodes; at most 64"):
        task.read(str(path))
    path = tmp_path / "some.tsv"
    path.write_text(f"graph6\thamiltonian\n{SQUARE.graph6}\tyes\n")
    with pytest.raises(InputError, match="hamiltonian is 'yes'; use 0 or 1"):
        task.read(str(path))
    for bad in ({"per_tier": 0, "seed": 0}, {"per_tier": 1, "seed": -1}):
        with pytest.raises(InputError):
            task.held_out(**bad)


@pytest.mark.parametrize("name", ["search", "restarts", "symmetry", "guaranteed"])
def test_graphs_of_one_or_two_nodes_get_a_verdict_among_others(task, name, tmp_path):
    (tmp_path / "some.g6").write_text("@\nA_\nA?\nBw\nBo\n")
    problems = task.read(str(tmp_path / "some.g6"))
    shape = {"vocab_size": task.vocab_size, "num_relations": task.num_relations, "canvas_length": 8}
    model = Backbone(preset("tiny", **shape)).init_weights(torch.Generator().manual_seed(0)).eval()
    outcomes = solve(model, task, load_sampler(name), problems, batch_size=4, seed=0)
    assert [outcome.status for outcome in outcomes] == [
        *[Status.UNSATISFIABLE] * 3,
        Status.SOLVED,
        Status.UNSATISFIABLE,
    ]
    assert [problem.truth for problem in problems] == [False, False, False, True, False]
    assert task.measure(outcomes)["refused"]["value"] == 1
    assert task.constraint([problems[1]]).explain(torch.tensor([[3, 2]])) == [["a cycle needs three nodes or more"]]


def test_tables_say_what_is_known_and_other_files_how_dense(task, tmp_path):
    star = graph_of(nx.star_graph(3))
    table = tmp_path / "some.tsv"
    table.write_text(f"graph6\thamiltonian\n{SQUARE.graph6}\t1\n{star.graph6}\t0\n")
    problems = task.read(str(table))
    assert [problem.tier for problem in problems] == ["4 hamiltonian", "4 not hamiltonian"]
    assert [problem.hamiltonian for problem in problems] == [True, False] == [problem.truth for problem in problems]
    lines = tmp_path / "some.g6"
    graphs = [graph_of(nx.gnm_random_graph(20, edges, seed=0)) for edges in (30, 45, 100)]
    lines.write_text("\n".join(graph.graph6 for graph in graphs))
    problems = task.read(str(lines))
    assert [problem.tier for problem in problems] == ["20 sparse", "20 medium", "20 dense"]
    assert task.problem(nx.cycle_graph(4)).graph == task.problem([(1, 2), (2, 3), (3, 4), (4, 1)]).graph == SQUARE
    assert [problem.truth for problem in problems] == [None] * 3 and [p.graph for p in problems] == graphs


def test_answers_are_written_as_visited_and_what_is_none_differently(task):
    problem = task.parse(SQUARE.graph6)
    for way in (tokens(2, 3, 4, 1), tokens(4, 1, 2, 3)):
        assert task.decode(problem, way) == "1 2 3 4"
    assert task.decode(problem, tokens(2, 3, 1, 1)) == "unfinished: 1>2 2>3 3>1 4>1"
    assert task.decode(problem, torch.tensor([0, 1, 6, 3])) == "unfinished: 1>? 2>? 3>? 4>2"


def test_sentences():
    problem = HamiltonianProblem.of(graph_of(nx.complete_graph(7)))
    explain = Hamiltonian().constraint([problem]).explain
    assert explain(tokens(2, 3, 4, 5, 6, 7, 1)[None]) == [[]]
    assert explain(tokens(2, 3, 1, 5, 6, 7, 4)[None]) == [["nodes 1, 2 and 3 form a separate cycle"]]
    assert explain(tokens(3, 3, 1, 3, 6, 7, 5)[None]) == [
        ["nodes 1, 2 and 4 all go to node 3", "nodes 1 and 3 form a separate cycle"]
    ]
    assert explain(torch.tensor([[1, *tokens(2, 4, 5, 6, 7, 4).tolist()]])) == [
        ["node 1 goes to no node", "node 2 goes to itself", "nodes 3 and 7 both go to node 4"]
    ]
    square = Hamiltonian().constraint([HamiltonianProblem.of(SQUARE)])
    assert square.explain(tokens(3, 4, 2, 1)[None])[0] == [
        "node 1 goes to node 3, but they are not joined",
        "node 2 goes to node 4, but they are not joined",
    ]


@pytest.mark.parametrize(
    ("joined", "first", "num_classes", "words"),
    [
        (torch.zeros(1, 0, 0, dtype=torch.bool), 0, 99, "a graph of no nodes"),
        (torch.zeros(4, 4, dtype=torch.bool), 0, 9, "joined has shape"),
        (torch.zeros(1, 4, 4), 0, 9, "joined has shape"),
        (torch.ones(1, 4, 4, dtype=torch.bool), 0, 9, "no(t the)? matrix of a simple graph"),
        (torch.ones(1, 4, 4, dtype=torch.bool).triu(1), 0, 9, "simple graph"),
        (torch.zeros(1, 4, 4, dtype=torch.bool), 6, 9, "tokens 6 .. 9 do not fit 9 classes"),
        (torch.zeros(1, 4, 4, dtype=torch.bool), -1, 9, "tokens -1"),
    ],
)
def test_rules_that_cannot_be_are_refused(joined, first, num_classes, words):
    with pytest.raises(InputError, match=words):
        HamiltonianCycle(joined, first, num_classes)


@pytest.mark.parametrize("kind", ["exact", "branching"])
def test_every_invariant_of_a_constraint(kind, monkeypatch):
    """Against brute force, on small graphs with and without a cycle, and on a batch of two."""
    if kind == "branching":
        monkeypatch.setattr("tasks.graph.hamiltonian_rule.EXACT", 2)
    graphs = [nx.complete_graph(4), nx.cycle_graph(4), nx.path_graph(4), nx.diamond_graph()]
    rule = HamiltonianCycle(torch.stack([torch.from_numpy(graph_of(each).adjacency) for each in graphs]), 1, 6)
    assert rule.has_most_likely == (kind == "exact")
    check_constraint(rule, examples=40)
    check_constraint(Hamiltonian().constraint([HamiltonianProblem.of(graph_of(nx.heawood_graph()))]), examples=20)
    if kind == "branching":
        with pytest.raises(InputError, match="no exact most_likely"):
            rule.most_likely(torch.zeros(4, 4, 6))


@pytest.mark.parametrize(("graph", "hamiltonian"), FAMOUS)
def test_search_decides_famous_graphs(task, graph, hamiltonian):
    problem = HamiltonianProblem.of(graph_of(graph))
    n = problem.graph.nodes
    rule = task.constraint([problem])
    found = complete(rule, torch.full((n,), FIRST_NODE), torch.zeros(n, dtype=torch.bool))
    assert found.exhausted == (not hamiltonian) and (n > EXACT or found.nodes == 0)
    if hamiltonian:
        assert is_cycle(problem.graph.networkx, (found.answer - FIRST_NODE).tolist())
    if n <= EXACT:
        assert problem.truth == hamiltonian


def test_symmetric_problems_are_the_same_graphs(task):
    batch = task.train_batch(0, 8)
    n = batch.answer.shape[1]
    moved = task.symmetric(batch, torch.arange(8))
    assert moved.constraint.is_satisfied(moved.batch.answer).all()
    assert torch.equal(moved.moves.undo(moved.batch.answer), batch.answer)
    assert not torch.equal(moved.batch.answer, batch.answer) and torch.equal(moved.batch.prompt, batch.prompt)
    for old, new in zip(batch.relations, moved.batch.relations, strict=True):
        graphs = [Graph.of_adjacency(each[1, :n, :n].numpy()).networkx for each in (old, new)]
        assert nx.is_isomorphic(*graphs)
        assert torch.equal(new[:, n:, :n], new[:, :n, :n]) and torch.equal(new[[0, 2]], old[[0, 2]])
    alone = task.symmetric(task.encode([task.parse(SQUARE.graph6)]), torch.tensor([5]))
    answer = complete(alone.constraint, alone.batch.answer[0], alone.batch.pinned[0]).answer
    assert is_cycle(SQUARE.networkx, (alone.moves.undo(answer[None])[0] - FIRST_NODE).tolist())


def outcome(problem: HamiltonianProblem, answer: torch.Tensor, status: Status) -> Outcome:
    return Outcome(problem, "", answer, status, 0, 0, 1, 1.0, 0, 0.0)


def test_measures(task):
    square, star = HamiltonianProblem.of(SQUARE), HamiltonianProblem.of(graph_of(nx.star_graph(3)))
    large = HamiltonianProblem.of(graph_of(nx.path_graph(17)))
    good, bad = tokens(2, 3, 4, 1), tokens(2, 1, 4, 3)
    outcomes = [
        outcome(square, good, Status.SOLVED),
        outcome(square, bad, Status.UNSOLVED),
        outcome(star, bad, Status.UNSATISFIABLE),
        outcome(star, bad, Status.UNSOLVED),
        outcome(large, torch.arange(17), Status.UNSATISFIABLE),
    ]
    metrics = task.measure(outcomes)
    assert {name: (share["value"], share["n"]) for name, share in metrics.items()} == {
        "found": (0.5, 2),
        "refused": (0.5, 2),
        "right_verdicts": (0.5, 4),
        "false_claims": (0.0, 5),
    }
    assert all(low <= share["value"] <= high for share in metrics.values() for low, high in [share["ci95"]])
    lies = [outcome(square, bad, Status.SOLVED), outcome(square, good, Status.UNSATISFIABLE)]
    assert task.measure(lies)["false_claims"]["value"] == 1.0 and task.measure(lies)["found"]["value"] == 0.0
    assert "refused" not in task.measure(lies)


def test_drawing_marks_what_is_broken(task):
    problem = task.parse(SQUARE.graph6)
    assert task.draw(problem, None) == f"4 nodes, 4 edges: {SQUARE.graph6}"
    answer = tokens(2, 1, 4, 3)
    violations = task.constraint([problem]).violations(answer[None])[0]
    assert violations.tolist() == [False, False, True, True]
    text = task.draw(problem, answer, violations)
    assert (
        text.count("\x1b[31m") == 2
        and "\x1b[31m3>4!\x1b[0m" in text
        and text.endswith("not yet a cycle through all nodes")
    )
    assert task.draw(problem, tokens(2, 3, 4, 1), torch.zeros(4, dtype=torch.bool)).endswith("1 2 3 4")


def test_pictures_show_the_cycle_and_what_is_broken(task):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    problem = task.parse(SQUARE.graph6)

    def edges(answer, violations=None):
        axes = Figure().subplots()
        task.plot(axes, problem, answer, violations)
        lines = [each for each in axes.collections if hasattr(each, "get_segments")]
        return {tuple(each.get_color()[0][:3].tolist()): len(each.get_segments()) for each in lines}

    grey, black, red = (0.65,) * 3, (0.0,) * 3, (1.0, 0.0, 0.0)
    assert edges(None) == {grey: 4}
    assert edges(tokens(2, 3, 4, 1)) == {black: 4}
    broken = tokens(2, 4, 4, 1)
    assert edges(broken, task.constraint([problem]).violations(broken[None])[0]) == {grey: 1, black: 2, red: 2}


@pytest.mark.skipif(not DEV.exists(), reason="needs ../shared/data, which is not shipped")
def test_exact_search_agrees_with_the_labels_of_14_node_graphs(task):
    problems = task.read(str(DEV))[::5]
    assert len(problems) == 200 and {problem.truth == problem.hamiltonian for problem in problems} == {True}
    rule = task.constraint(problems)
    answer, found = rule.most_likely(torch.zeros(200, 14, task.vocab_size))
    assert found.tolist() == [problem.hamiltonian for problem in problems]
    for problem, row, exists in zip(problems, (answer - FIRST_NODE).tolist(), found.tolist(), strict=True):
        assert not exists or is_cycle(problem.graph.networkx, row)
