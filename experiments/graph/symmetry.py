"""Long runs of restarts under symmetry, the model alone, on the graphs of a file that are known to have an answer.

    python -m experiments.graph.symmetry run=RUN data=FILE attempts=128 passes=8

With sampler=cold, at a low temperature; nodes=64, only graphs of at most so many; limit=100, so many of them, evenly
spread; untrained=true, a control.
"""

import sys

import torch

from constrained_dg.cli import load_sampler
from constrained_dg.errors import check
from constrained_dg.metrics import solve, summarise
from constrained_dg.model import Backbone
from constrained_dg.report import print_table, progress
from constrained_dg.runs import load

KEYS = ("run", "data", "attempts", "passes", "nodes", "limit", "sampler", "untrained")


def main(arguments: list[str]) -> None:
    options = dict(argument.partition("=")[::2] for argument in arguments)
    fine = set(options) <= set(KEYS) and set(KEYS[:4]) <= set(options)
    check(fine, f"arguments {arguments}", f"give {', '.join(KEYS[:4])}=..., and perhaps {', '.join(KEYS[4:])}")
    for key in set(options) - {"run", "data", "sampler", "untrained"}:
        check(options[key].isdecimal() and int(options[key]) > 0, f"{key}={options[key]}", "give a number from 1")
    torch.set_num_threads(1)
    run = load(options["run"])
    problems, model = [problem for problem in run.task.read(options["data"]) if _wanted(problem, options)], run.model
    check(bool(problems), f"{options['data']} has no such graph", "give another file, or more nodes")
    limit = int(options.get("limit", len(problems)))
    problems = problems[:: max(1, len(problems) // limit)][:limit]
    untrained = options.get("untrained") == "true"
    if untrained:
        model = Backbone(model.config).init_weights(torch.Generator().manual_seed(0)).eval()
    attempts, passes = int(options["attempts"]), int(options["passes"])
    name = options.get("sampler", "symmetry")
    sampler = load_sampler(name, [f"attempts={attempts}", f"sampler.max_passes={passes}"])
    name = f"{name}, {attempts} x {passes}{', untrained' if untrained else ''}"
    with progress(name, len(problems)) as told:
        outcomes = solve(model, run.task, sampler, problems, batch_size=64, seed=0, progress=told)
    print_table(summarise(name, outcomes, run.task), [])


def _wanted(problem, options: dict[str, str]) -> bool:
    # Of Hamiltonian graphs the file may say that there is none; for colorings it gives a number that was reached.
    return getattr(problem, "truth", True) and problem.graph.nodes <= int(options.get("nodes", problem.graph.nodes))


if __name__ == "__main__":
    main(sys.argv[1:])
