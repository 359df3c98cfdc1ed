"""Train a diffusion model on a task: `python train.py task=sudoku`. Options: `python train.py --help`, conf/train.yaml.

Recipe: task -> examples -> prompt and canvas tokens -> corruption -> backbone -> loss -> run folder -> final table.
"""

from __future__ import annotations

from typing import Any

from constrained_dg.cli import entry
from constrained_dg.training.fit import fit


def train(cfg: dict[str, Any]) -> float:
    """Train as configured; returns the share of held-out problems that the final table says are solved."""
    return fit(cfg)


main = entry("train")(train)

if __name__ == "__main__":
    main()
