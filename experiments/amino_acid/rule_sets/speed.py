"""Seconds of the processor for each rule set by search alone; the same file measures an older checkout.

PYTHONPATH=CHECKOUT python experiments/amino_acid/rule_sets/speed.py PROSITE FIRST LAST
"""

import json
import sys
import time

import torch

from constrained_dg.cli import load_sampler
from constrained_dg.evaluation import solve
from constrained_dg.places import ROOT
from constrained_dg.runs import load
from experiments.amino_acid.rule_sets.run import problems_of
from tasks.amino_acid.judge import broken
from tasks.amino_acid.prosite import read_prosite


def main(prosite: str, first: str, last: str) -> None:
    from pathlib import Path

    torch.set_num_threads(1)
    run, sampler = load(ROOT / "experiments" / "amino_acid" / "design"), load_sampler("search")
    patterns = [pattern for path in sorted(Path(prosite).glob("ps*.txt")) for pattern in read_prosite(path)]
    problems, possible = problems_of(run.task, patterns, int(last), 0)
    solve(None, run.task, sampler, problems[:1], batch_size=1, seed=0)  # imports and compiled code
    for at in range(int(first), int(last)):
        began = time.process_time()
        [ended] = solve(None, run.task, sampler, [problems[at]], batch_size=1, seed=0)
        seconds = time.process_time() - began
        met = ended.solved and not broken(problems[at].requirements, ended.answer)
        right = met if possible[at] else str(ended.status) == "unsatisfiable"
        row = {"set": at, "tier": problems[at].tier, "right": right, "seconds": round(seconds, 4)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
