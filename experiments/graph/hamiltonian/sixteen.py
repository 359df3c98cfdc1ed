"""16 times 64 passes of restarts under symmetry on the graphs of a table that have a cycle.

python -m experiments.graph.hamiltonian.sixteen ../shared/data/graph/hcp14_dev.tsv.gz            # all of them
python -m experiments.graph.hamiltonian.sixteen ../shared/data/graph/hcp14_dev.tsv.gz untrained  # 100, a control
"""

import sys
from pathlib import Path

import torch

from constrained_dg.cli import load_sampler
from constrained_dg.metrics import solve, summarise
from constrained_dg.model import Backbone
from constrained_dg.report import print_table
from constrained_dg.runs import load

torch.set_num_threads(1)
run = load(Path(__file__).parent)
problems = [problem for problem in run.task.read(sys.argv[1]) if problem.truth]
sampler, model = load_sampler("symmetry", ["attempts=128"]), run.model
if "untrained" in sys.argv:
    problems, model = problems[::5][:100], Backbone(model.config).init_weights(torch.Generator().manual_seed(0)).eval()
outcomes = solve(model, run.task, sampler, problems, batch_size=64, seed=0)
print_table(summarise("symmetry, 128 attempts of 8 passes", outcomes, run.task), [])
