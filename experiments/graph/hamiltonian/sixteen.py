"""16 times 64 passes of restarts under symmetry, on the graphs of a table that have a cycle.

python -m experiments.graph.hamiltonian.sixteen ../shared/data/graph/hcp14_dev.tsv.gz            # all of them
python -m experiments.graph.hamiltonian.sixteen ../shared/data/graph/hcp14_dev.tsv.gz untrained  # 100, a control
"""

import sys
from pathlib import Path

import torch

from constrained_dg.cli import load_sampler
from constrained_dg.errors import check
from constrained_dg.metrics import solve, summarise
from constrained_dg.model import Backbone
from constrained_dg.report import print_table, progress
from constrained_dg.runs import load


def main(arguments: list[str]) -> None:
    fine = len(arguments) == 1 or (len(arguments) == 2 and arguments[1] == "untrained")
    check(fine, f"arguments {arguments}", "give a file of graphs, and perhaps the word untrained")
    torch.set_num_threads(1)
    run = load(Path(__file__).parent)
    problems, model = [problem for problem in run.task.read(arguments[0]) if problem.truth], run.model
    if len(arguments) == 2:
        model = Backbone(model.config).init_weights(torch.Generator().manual_seed(0)).eval()
        problems = problems[::5][:100]
    sampler, name = load_sampler("symmetry", ["attempts=128"]), "symmetry, 128 attempts"
    with progress(name, len(problems)) as told:
        outcomes = solve(model, run.task, sampler, problems, batch_size=64, seed=0, progress=told)
    print_table(summarise(name, outcomes, run.task), [])


if __name__ == "__main__":
    main(sys.argv[1:])
