"""Coloring as a task: tokens, relations, separation, rules, verdicts and refusals."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.constraints.running import TimeIsUpError, time_limit
from constrained_dg.errors import InputError
from constrained_dg.evaluation import solve, summarise
from constrained_dg.model import Backbone, preset
from constrained_dg.sampling.base import Status
from tasks.graph import Coloring
from tasks.graph.coloring import FIRST_COLOR, PAD, RELATIONS, SIZES, VOCAB_SIZE, ColoringProblem, dsatur
from tasks.graph.coloring_rule import ProperColoring
from tasks.graph.graph import Graph

SHARED = ROOT.parent / "shared" / "data" / "graph" / "dimacs_col"
WHEEL = Graph.of(6, [(0, at) for at in range(1, 6)] + [(at, at % 5 + 1) for at in range(1, 6)])


@pytest.fixture(scope="module")
def task():
    return Coloring(graphs=60, seed=1)


def test_tokens_and_relations_of_a_problem(task):
    problem = ColoringProblem.of(WHEEL, 4)
    assert len(problem.clique) == 3 and problem.text == f"4:{WHEEL.graph6}" and problem.tier == "nodes to 32"
    batch = task.encode([problem])
    assert batch.prompt.shape == (1, 7) and batch.prompt[0, 0] == FIRST_COLOR + 3
    assert batch.noise == (FIRST_COLOR, FIRST_COLOR + 4)
    pinned = batch.pinned[0].nonzero().flatten().tolist()
    assert pinned == list(problem.clique) and batch.answer[0, pinned].tolist() == [FIRST_COLOR + c for c in range(3)]
    assert batch.prompt[0, 1:][pinned].tolist() == batch.answer[0, pinned].tolist()
    joined, apart, same, anything = batch.relations[0]
    expected = torch.from_numpy(WHEEL.adjacency)
    for rows in (slice(1, 7), slice(7, 13)):
        for columns in (slice(1, 7), slice(7, 13)):
            assert torch.equal(joined[rows, columns], expected)
            assert torch.equal(same[rows, columns], torch.eye(6, dtype=torch.bool))
            assert torch.equal(apart[rows, columns], ~(expected | torch.eye(6, dtype=torch.bool)))
    assert anything.all() and not any(part[0].any() or part[:, 0].any() for part in (joined, apart, same))
    assert len(RELATIONS) == batch.relations.shape[1] == task.num_relations


def test_a_known_solution_stands_in_the_canvas_with_the_clique_first(task):
    for problem in task.held_out(4, 0):
        batch = task.encode([problem])
        assert task.constraint([problem]).is_satisfied(batch.answer).all()
        assert batch.answer[batch.pinned].tolist() == [FIRST_COLOR + at for at in range(len(problem.clique))]


def test_training_batches_hold_colorings_and_say_where_no_node_is(task):
    shapes = set()
    for step in range(12):
        batch = task.train_batch(step, 5)
        shapes.add(batch.answer.shape[1])
        assert task.rules(batch).is_satisfied(batch.answer).all()
        nothing = batch.answer == PAD
        assert batch.pinned[nothing].all() and (batch.prompt[:, 1:][nothing] == PAD).all()
        joined, apart = batch.relations[:, 0], batch.relations[:, 1]
        for part in (joined, apart):
            assert not part[:, 1:, 1:].diagonal(dim1=1, dim2=2).any()
            size = batch.answer.shape[1]
            assert not part[:, -size:, -size:][nothing].any()
        again = task.train_batch(step, 5)
        assert all(torch.equal(getattr(batch, n), getattr(again, n)) for n in ("prompt", "answer", "relations"))
    assert shapes == {most for _, most in SIZES}


def test_classes_of_training_graphs_never_come_in_held_out_ones(task):
    trained = set()
    for group in task.training_graphs().values():
        for joined, colors in zip(group.joined, group.colors, strict=True):
            real = colors >= 0
            graph = Graph.of_adjacency(joined[np.ix_(real, real)])
            assert not graph.held_out
            trained.add(graph.fingerprint)
    held = task.held_out(10, 0)
    assert len(held) == 20 and not trained & {problem.graph.fingerprint for problem in held}
    # One that does train, its nodes in another order, is named.
    group = next(iter(task.training_graphs().values()))
    real = group.colors[0] >= 0
    same = Graph.of_adjacency(group.joined[0][np.ix_(real, real)]).permuted(np.arange(real.sum())[::-1])
    assert task.overlap([*held[:3], ColoringProblem.of(same, 80)]) == [3]
    assert [p.text for p in held] == [p.text for p in task.held_out(10, 0)] != [p.text for p in task.held_out(10, 1)]


def test_search_solves_or_proves(task):
    """The odd wheel needs four colors; three are refused by a proof, since no clique of four says so."""
    outcomes = solve(
        None,
        task,
        load_sampler("search"),
        [ColoringProblem.of(WHEEL, 4), ColoringProblem.of(WHEEL, 3)],
        batch_size=2,
        seed=0,
    )
    assert [outcome.status for outcome in outcomes] == [Status.SOLVED, Status.UNSATISFIABLE]
    colors = [int(word) for word in outcomes[0].answer.split()]
    assert all(colors[a] != colors[b] for a, b in nx.Graph(WHEEL.edges).edges) and max(colors) <= 4
    [*_, row] = summarise("search", outcomes, task)
    assert row["metrics"]["dsatur"]["value"] == 0.5 and row["metrics"]["dsatur"]["n"] == 2


@pytest.mark.parametrize("name", ["search", "restarts", "guaranteed", "cold"])
def test_impossible_problems_get_a_verdict_among_others(task, name, tmp_path):
    """Too few colors for a clique or an edge: nothing raises, and the others are solved."""
    lines = ["K4\tC~\t3", "K3\tBw\t2", "K2\tA_\t1", "path\tCh\t2", "K5\tD~{\t5", "lonely\t@\t1", "K4 again\tC~\t1"]
    (tmp_path / "some.tsv").write_text("\n".join(["name\tgraph6\tk", *lines]))
    problems = task.read(str(tmp_path / "some.tsv"))
    shape = {"vocab_size": task.vocab_size, "num_relations": task.num_relations, "canvas_length": 8}
    model = Backbone(preset("tiny", **shape)).init_weights(torch.Generator().manual_seed(0)).eval()
    outcomes = solve(model, task, load_sampler(name), problems, batch_size=4, seed=0)
    verdicts = [outcome.status is Status.UNSATISFIABLE for outcome in outcomes]
    assert verdicts == [True, True, True, False, False, False, True]
    assert [outcome.solved for outcome in outcomes[3:6]] == [True] * 3 or name != "search"
    assert len(summarise(name, outcomes, task)) == 2


def test_gap_to_dsatur(task):
    queens = task.parse(f"7:{nx.to_graph6_bytes(_queens(6), header=False).decode().strip()}")
    assert dsatur(queens.graph) == 9
    outcomes = solve(None, task, load_sampler("search"), [queens] * 2, batch_size=2, seed=0)
    assert all(outcome.solved for outcome in outcomes)
    assert task.measure(outcomes)["colors_below_dsatur"]["value"] == 2
    assert task.measure(outcomes)["dsatur"]["value"] == 0


def _queens(size):
    graph = nx.Graph()
    graph.add_nodes_from((row, column) for row in range(size) for column in range(size))
    for a in graph:
        for b in graph:
            if a < b and (a[0] == b[0] or a[1] == b[1] or abs(a[0] - b[0]) == abs(a[1] - b[1])):
                graph.add_edge(a, b)
    return nx.convert_node_labels_to_integers(graph)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0:Bw", "k=0 colors"),
        ("9" * 5000 + ":Bw", "has 5000 digits"),
        ("9" * 18 + ":Bw", "k=9+ colors"),
        ("81:Bw", "k=81 colors"),
        ("x:Bw", "begins with 'x'; write K:GRAPH6"),
        ("3:B", "'B' is not valid graph6"),
        ("3:", "is not valid graph6"),
    ],
)
def test_bad_problems_are_refused_in_one_line(task, text, words):
    with pytest.raises(InputError, match=words):
        task.parse(text)


def test_graphs_come_from_other_formats_and_from_python(task):
    for text in ("2:Ch", "2::Cdv", "2:&CQdG", ":Cdv", ">>sparse6<<:Cdv", "Ch"):
        assert task.parse(text) == ColoringProblem.of(Graph.from_graph6("Ch"), 2)
    assert task.problem(nx.path_graph(4)) == task.problem([(0, 1), (1, 2), (2, 3)], 2) == task.parse("2:Ch")
    with pytest.raises(InputError, match="a graph of 300 nodes; at most 256"):
        task.problem(nx.path_graph(300))


def test_a_graph_too_large_is_refused(task, tmp_path):
    (tmp_path / "large.col").write_text("p edge 257 1\ne 1 2\n")
    with pytest.raises(InputError, match=r"large.col, line 1: a graph of 257 nodes; 1 to 256"):
        task.read(str(tmp_path / "large.col"))


def test_how_many_colors_comes_from_the_table_or_from_dsatur(task, tmp_path):
    (tmp_path / "a.tsv").write_text("graph6\tcolors\nEhEG\t5\n")
    assert task.read(str(tmp_path / "a.tsv"))[0].k == 5
    (tmp_path / "a.tsv").write_text("graph6\tcolors\nEhEG\tmany\n")
    with pytest.raises(InputError, match=r"a.tsv, line 2: k: 'many' is not a whole number"):
        task.read(str(tmp_path / "a.tsv"))
    (tmp_path / "a.g6").write_text("EhEG\n")
    assert task.read(str(tmp_path / "a.g6"))[0].k == 2 == task.parse("EhEG").k


@pytest.mark.parametrize("values", [{"graphs": 0}, {"graphs": 1.5}, {"seed": -1}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(InputError, match=next(iter(values))):
        Coloring(**values)


def test_a_symmetry_of_a_filled_up_batch_moves_what_is_no_node_too(task):
    batch = task.train_batch(0, 4)
    moved = task.symmetric(batch, torch.arange(4))
    assert moved.constraint.is_satisfied(moved.batch.answer).all()
    assert torch.equal(moved.moves.undo(moved.batch.answer), batch.answer)


def test_sentences_and_pictures(task, tmp_path):
    from constrained_dg.viz.pictures import figure, save

    problem = ColoringProblem.of(Graph.of(3, [(0, 1)]), 2)
    answer = torch.tensor([FIRST_COLOR, FIRST_COLOR, FIRST_COLOR + 1])
    rule = task.constraint([problem])
    sentences = rule.explain(answer[None])[0]
    assert "nodes 1 and 2 are joined and both hold 1" in sentences
    shown = task.draw(problem, answer, rule.violations(answer[None])[0])
    assert shown.count("\x1b[31m") == 2 and task.decode(problem, answer) == "1 1 2"
    assert "." in task.draw(problem, None)
    drawing, axes = figure(2, width=3, height=3)
    task.plot(axes[0], problem, answer)
    task.plot(axes[1], problem, None)
    save(drawing, tmp_path / "graph.png")
    assert (tmp_path / "graph.png").stat().st_size > 1000


def test_dsatur_on_the_shared_instances_is_what_their_table_says(task, tmp_path):
    if not SHARED.is_dir():
        pytest.skip("../shared is not here")
    table = [line.split("\t") for line in (SHARED / "BEST.tsv").read_text().splitlines()[1:]]
    small = [f"{name}.col.gz" for name, nodes, *_ in table if int(nodes) <= 40]
    for name in [*small, "BEST.tsv"]:
        (tmp_path / name).symlink_to(SHARED / name)
    problems = task.read(str(tmp_path))
    assert len(problems) == len(small) > 20
    reached = sum(dsatur(problem.graph) <= problem.k for problem in problems)
    assert reached == len(problems) - 2  # GEOM40a and queen6_6


def test_a_symmetry_moves_the_problem_and_is_undone(task):
    problems = [p for p in task.held_out(8, 3) if p.graph.nodes <= 32]
    for seed, problem in enumerate(problems):
        batch = task.encode([problem, problem])
        seeds = torch.tensor([seed, seed + 100])
        moved = task.symmetric(batch, seeds)
        rule = task.rules(batch)
        # The known solution, moved, is a solution of what was moved; both rules agree on anything; undone it is itself.
        assert moved.constraint.is_satisfied(moved.batch.answer).all()
        assert torch.equal(moved.moves.undo(moved.batch.answer), batch.answer)
        noise = torch.randint(*batch.noise, batch.answer.shape, generator=torch.Generator().manual_seed(seed))
        noise = torch.where(moved.batch.pinned, moved.batch.answer, noise)
        assert torch.equal(moved.constraint.violations(noise).sum(1), rule.violations(moved.moves.undo(noise)).sum(1))
        # The clique keeps its colors, and the prompt says the same of each node.
        assert moved.batch.prompt[:, 0].tolist() == batch.prompt[:, 0].tolist()
        assert torch.equal(moved.batch.prompt[:, 1:].sort(1).values, batch.prompt[:, 1:].sort(1).values)
        assert torch.equal(
            moved.batch.answer[moved.batch.pinned].sort().values, batch.answer[batch.pinned].sort().values
        )
        again = task.encode([problem, problem])
        assert torch.equal(task.symmetric(again, seeds).batch.relations, moved.batch.relations)


def test_a_long_repair_ends_with_its_time():
    """Six joined nodes and five colors: every move is made, unless the time is up between two pieces of the search."""
    complete, draft = Graph.of(6, [(a, b) for a in range(6) for b in range(a)]), torch.full((6,), FIRST_COLOR)
    rule = ProperColoring(
        torch.tensor(complete.edges), (FIRST_COLOR, FIRST_COLOR + 5), 6, VOCAB_SIZE, real=torch.ones(1, 6) > 0
    )
    may = torch.ones(6, VOCAB_SIZE, dtype=torch.bool)
    assert rule.repair(draft, may, torch.zeros(6, VOCAB_SIZE)) == (None, ProperColoring.MOVES)
    with time_limit(1e-9), pytest.raises(TimeIsUpError):
        rule.repair(draft, may, torch.zeros(6, VOCAB_SIZE))
