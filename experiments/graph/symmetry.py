"""Long runs of restarts under symmetry, the model alone, on the graphs of a file with a known answer.

    python -m experiments.graph.symmetry run=RUN data=FILE attempts=128 passes=8

Options: sampler=cold (low temperatures), nodes=64 (most nodes of a graph), limit=100 (number of graphs, evenly spread),
untrained=true (control).
"""

import torch

from constrained_dg.cli import load_sampler
from constrained_dg.errors import check
from constrained_dg.evaluation import solve, summarise
from constrained_dg.model import Backbone
from constrained_dg.report import print_table, progress
from constrained_dg.runs import load
from experiments.arguments import parse
from experiments.arguments import run as command

#: nodes and limit: 0 takes all.
KEYS = {"run": None, "data": None, "attempts": 128, "passes": 8, "nodes": 0, "limit": 0, "sampler": "symmetry"}
KEYS |= {"untrained": False}


def main(arguments: list[str]) -> None:
    options = parse(arguments, KEYS)
    torch.set_num_threads(1)
    run = load(options["run"])
    problems, model = [problem for problem in run.task.read(options["data"]) if _wanted(problem, options)], run.model
    check(bool(problems), f"{options['data']} has no such graph", "give another file, or more nodes")
    limit = options["limit"] or len(problems)
    problems = problems[:: max(1, len(problems) // limit)][:limit]
    untrained = options["untrained"]
    if untrained:
        model = Backbone(model.config).init_weights(torch.Generator().manual_seed(0)).eval()
    attempts, passes, name = options["attempts"], options["passes"], options["sampler"]
    sampler = load_sampler(name, [f"attempts={attempts}", f"sampler.max_passes={passes}"])
    name = f"{name}, {attempts} x {passes}{', untrained' if untrained else ''}"
    with progress(name, len(problems)) as advance:
        outcomes = solve(model, run.task, sampler, problems, batch_size=64, seed=0, progress=advance)
    print_table(summarise(name, outcomes, run.task), [])


def _wanted(problem, options: dict[str, str]) -> bool:
    # Hamiltonian problems know whether there is a cycle; colorings of the file have a number of colors that is enough.
    return getattr(problem, "truth", True) and problem.graph.nodes <= (options["nodes"] or problem.graph.nodes)


if __name__ == "__main__":
    command(main)
