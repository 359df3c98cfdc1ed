"""How natural sequences are with different ways to accept tokens.

python -m experiments.amino_acid.acceptance

64 antimicrobial peptides of 30 residues with a single rule, seed 0, from experiments/amino_acid/peptides.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from constrained_dg.cli import load_sampler
from constrained_dg.evaluation import solve
from constrained_dg.model import Backbone
from constrained_dg.runs import load
from constrained_dg.sampling import EntropyBound, Schedule
from tasks.amino_acid import distances

COUNT = 64


@dataclass(frozen=True)
class DrawnAnew(Schedule):
    """A schedule whose accepted positions are drawn again in every pass."""

    keeps: ClassVar[bool] = False


def main() -> None:
    torch.set_num_threads(1)
    run = load(Path(__file__).parent / "peptides")
    untrained = Backbone(run.model.config).init_weights(torch.Generator().manual_seed(0)).eval()
    problems = [run.task.parse("length=30 kind=antimicrobial avoids=N-{P}-[ST]-{P}")] * COUNT
    known = [sequence for sequence, kind in run.task.pool(False) if kind == "antimicrobial"]
    exact = load_sampler("exact")
    settings = {
        "entropy bound 6 nats": (replace(exact, accept=EntropyBound(6.0)), run.model),
        "entropy bound 20 nats": (replace(exact, accept=EntropyBound(20.0)), run.model),
        "schedule, drawn anew": (replace(exact, accept=DrawnAnew()), run.model),
        "exact": (exact, run.model),
        "exact, untrained": (exact, untrained),
    }
    rows = {"as many natural ones": [distances.sampling_floor(COUNT, known, width) for width in (1, 2)]}
    for name, (sampler, model) in settings.items():
        answers = [o.answer for o in solve(model, run.task, sampler, problems, batch_size=COUNT, seed=0)]
        rows[name] = [distances.residue_divergence(answers, known), distances.pair_divergence(answers, known)]
    for name, (single, pair) in rows.items():
        cells = [f"{each['value']:.3f} ({each['ci95'][0]:.3f}-{each['ci95'][1]:.3f})" for each in (single, pair)]
        print(f"| {name} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
