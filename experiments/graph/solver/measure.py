"""Graph rules and the constraint solver, without a model: seconds of processor time, with and without local search.

    python experiments/graph/solver/measure.py FOLDER [PART ...]

FOLDER holds hcp14_dev.tsv.gz and dimacs_col/*.col.gz.
Parts: cycles, labels, requirements, colorings, families, dimacs (all).
Each part is written to a json of its name next to this file.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import torch

from constrained_dg.constraints import Constraint
from constrained_dg.sampling import solve
from constrained_dg.task import Batch
from tasks.graph.coloring import MOST_NODES, Coloring
from tasks.graph.coloring_rule import ProperColoring
from tasks.graph.families import Family, FamilyRule
from tasks.graph.graph_files import read_graphs
from tasks.graph.hamiltonian import Hamiltonian
from tasks.graph.hamiltonian_rule import HamiltonianCycle
from tasks.graph.specification import Specification
from tasks.graph.tokens import FIRST_PATTERN, coding_of

REQUIREMENTS = {
    "Petersen": "nodes=10 degree=3 girth>=5",
    "Heawood": "nodes=14 degree=3 girth>=6",
    "McGee": "nodes=24 degree=3 girth>=7",
    "Paley 17": "nodes=17 clique<=3 independence<=3",
    "cage (4, 5)": "nodes=19 degree=4 girth>=5",
    "cage (4, 6)": "nodes=26 degree=4 girth>=6",
    "R(3, 4) > 8": "nodes=8 clique<=2 independence<=3",
    "R(3, 5) > 13": "nodes=13 clique<=2 independence<=4",
    "R(3, 4) <= 9": "nodes=9 clique<=2 independence<=3",
    "R(4, 4) <= 18": "nodes=18 clique<=3 independence<=3",
    "no (3, 5) below 10": "nodes=8 degree=3 girth>=5",
    "no (4, 5) of 18": "nodes=18 degree=4 girth>=5",
    "no planar 5-regular of 10": "nodes=10 degree=5 planar",
    "triangle-free, 4 colors": "nodes=11 triangles=0 chromatic=4",
    "no triangle-free 4 colors of 10": "nodes=10 triangles=0 chromatic>=4",
    "Petersen by no cycle": "nodes=10 degree=3 connected girth>=5 hamiltonian=no",
}
#: Graphs of DIMACS that DSATUR does not color with the best known number of colors, and some that it does.
COLORS = (
    *("queen6_6", "queen7_7", "queen8_8", "DSJC125.1", "R50_5g", "R50_9g", "R75_9g", "R100_1g"),
    *("myciel5", "miles500", "GEOM110a", "mug100_1"),
)
#: Graphs of DIMACS that take all of the budget: measured last.
HARDEST = ("queen13", "queen14", "queen15")
FAMILIES = ("tree:16", "planar:16", "regular:16,3", "bipartite:8,8", "connected:16,24", "tree:64", "planar:64")


def knights(rows: int, columns: int) -> nx.Graph:
    """Squares that a knight's move joins."""
    graph = nx.grid_2d_graph(rows, columns)
    graph.clear_edges()
    for row, column in list(graph):
        for down, right in ((1, 2), (2, 1), (2, -1), (1, -2)):
            if graph.has_node((row + down, column + right)):
                graph.add_edge((row, column), (row + down, column + right))
    return graph


def timed(
    make: Callable[[], Constraint], budget: float = 10, seconds: float | None = None, batch: Batch | None = None
) -> dict[str, Any]:
    began, clock = time.process_time(), time.perf_counter()
    canvas, pinned = (None, None) if batch is None else (batch.answer, batch.pinned)
    ended = solve(make(), canvas, pinned, budget=budget, time_limit=seconds)
    return {
        "status": ended.status[0].value,
        "seconds": round(time.process_time() - began, 3),
        "clock": round(time.perf_counter() - clock, 3),
        "branches": int(ended.search_nodes[0]),
    }


def cycle_of(graph: nx.Graph) -> HamiltonianCycle:
    return HamiltonianCycle(torch.from_numpy(nx.to_numpy_array(graph) > 0)[None], 0, len(graph))


def cycles(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    sizes = [(32, 5), (64, 5), (128, 5), (256, 5), (1024, 2)]
    for nodes, count in sizes:
        for seed in range(count):
            graph = nx.random_regular_graph(3, nodes, seed=seed)
            yield f"cubic {nodes}, seed {seed}", timed(lambda graph=graph: cycle_of(graph))
    for rows, columns in [(5, 6), (6, 6), (7, 8), (8, 8), (10, 10), (12, 12), (14, 14), (16, 16), (5, 5), (15, 15)]:
        yield f"knight {rows}x{columns}", timed(lambda board=(rows, columns): cycle_of(knights(*board)))


def labels(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    task = Hamiltonian(graphs=1)
    problems = task.read(str(folder / "hcp14_dev.tsv.gz"))
    seconds, wrong, undecided = [], 0, 0
    for problem in problems:
        got = timed(lambda problem=problem: task.constraint([problem]))
        seconds.append(got["seconds"])
        undecided += got["status"] == "unsolved"
        wrong += got["status"] != ("solved" if problem.hamiltonian else "unsatisfiable")
    yield (
        "hcp14_dev",
        {
            "graphs": len(seconds),
            "undecided": undecided,
            "wrong": wrong,
            "mean": round(sum(seconds) / len(seconds), 4),
            "slowest": max(seconds),
        },
    )


def requirements(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, line in REQUIREMENTS.items():
        wanted = Specification.parse(line)
        rule = FamilyRule((wanted,), coding_of(wanted.nodes, 8), FIRST_PATTERN + 256)
        yield f"{name}: {line}", timed(lambda rule=rule: rule, 10, 120)


def colorings(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    task, own = Coloring(graphs=1), ProperColoring.repair
    lines = (folder / "dimacs_col" / "BEST.tsv").read_text().splitlines()
    best = {line.split("\t")[0]: int(line.split("\t")[3]) for line in lines[1:]}
    for name in COLORS:
        [found], k = task.read(str(folder / "dimacs_col" / f"{name}.col.gz")), best[name]
        problem, got = task.problem(found.graph, k), {}
        for kind, repair in (("tabu", own), ("solver alone", lambda *_: (None, 0))):
            ProperColoring.repair = repair
            got[kind] = timed(lambda problem=problem: task.constraint([problem]), 2)
        ProperColoring.repair = own
        yield f"{name}, {k} colors", got


def dimacs(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All graphs with the best known colors, a budget of 30 each, the hardest last; a second call continues."""
    kept = Path(__file__).with_name("dimacs.json")
    before = json.loads(kept.read_text())["rows"] if kept.exists() else {}
    yield from before.items()
    task, column = Coloring(graphs=1), ("best_known_colours",)
    problems = {}
    for named in read_graphs(str(folder / "dimacs_col"), MOST_NODES, column):
        problem = task.problem(named.graph, int(named.column(column)))
        problems[f"{Path(named.source).name.partition('.col')[0]}, {problem.k} colors"] = problem
    for name, problem in sorted(problems.items(), key=lambda item: item[0].startswith(HARDEST)):
        if name not in before:
            batch, rule = task.encode([problem]), task.constraint([problem])
            yield name, timed(lambda rule=rule: rule, 30, None, batch)


def families(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    own = FamilyRule.repair
    for text in FAMILIES:
        family, got = Family.parse(text), {}
        rule = FamilyRule((family,), coding_of(family.nodes, 8), FIRST_PATTERN + 256)
        for kind, repair in (("projection", own), ("solver alone", lambda *_: (None, 0))):
            FamilyRule.repair = repair
            got[kind] = timed(lambda rule=rule: rule, 3)
        FamilyRule.repair = own
        yield text, got


def main(folder: str, *parts: str) -> None:
    torch.set_num_threads(1)
    timed(lambda: cycle_of(knights(5, 6)))  # imports and compiled code
    timed(lambda: FamilyRule((Family.parse("planar:16"),), coding_of(16, 8), FIRST_PATTERN + 256))
    for part in parts or ("cycles", "labels", "requirements", "colorings", "families", "dimacs"):
        rows = {}
        for name, row in globals()[part](Path(folder)):
            rows[name] = row
            print(part, name, row, flush=True)
            out = {"processor": platform.processor() or platform.machine(), "date": time.strftime("%F"), "rows": rows}
            Path(__file__).with_name(f"{part}.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
