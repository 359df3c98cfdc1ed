"""Ablations of the Sudoku recipe at a small budget: `python -m experiments.sudoku.ablations.run OUT`.

Every variant is trained with `train.py` on the same puzzles for the same number of steps, and differs from a reference
in one setting. OUT receives a run folder for each and table.json; finished variants are not trained again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from constrained_dg.cli import ROOT
from constrained_dg.errors import check
from constrained_dg.evaluation import solve, summarise
from constrained_dg.model import Backbone
from constrained_dg.report import new_header, print_table
from constrained_dg.runs import load

#: The same for all variants.
BUDGET = [
    "trainer=cpu",
    "optimisation.steps=150",
    "optimisation.batch_size=64",
    "optimisation.warmup=100",
    "seed=0",
    "report_per_tier=100",
    "validate.every=1000",
    "logger=csv",
]
#: Name -> overrides. Variants after "plain_corruption" compare with it, the others with "reference".
VARIANTS = {
    "reference": ["objective=own_canvas"],
    "no_relations": ["objective=own_canvas", "model.relations=false"],
    "one_loop": ["objective=own_canvas", "model.loops=1"],
    "plain_corruption": ["objective=diffusion"],
    "no_self_conditioning": ["objective=diffusion", "objective.self_conditioning=0", "sampler.self_conditioning=false"],
}


def main() -> None:
    check(len(sys.argv) == 2, f"{len(sys.argv) - 1} arguments", "give one: the folder for the runs")
    out = Path(sys.argv[1])
    rows = []
    for name, overrides in VARIANTS.items():
        folder = out / name
        if not (folder / "final.json").exists():
            start = [f"resume={folder}"] if (folder / "train.json").exists() else [f"out={folder}", *BUDGET, *overrides]
            subprocess.run([sys.executable, str(ROOT / "train.py"), "task=sudoku", *start], check=True)
        rows += [{**row, "sampler": name} for row in json.loads((folder / "final.json").read_text())["rows"]]
    reference = load(out / "reference")
    untrained = Backbone(reference.model.config).init_weights().eval()
    problems = reference.task.held_out(100, 2)
    answers = solve(untrained, reference.task, reference.sampler, problems, batch_size=128, seed=0)
    rows += summarise("untrained", answers)
    header = new_header(ROOT, 0, "cpu", budget=BUDGET, variants=VARIANTS)
    (out / "table.json").write_text(json.dumps({"header": header, "rows": rows}, indent=1))
    print_table(rows)


if __name__ == "__main__":
    main()
