"""Train a diffusion model on a task: `python train.py task=sudoku`. Options: `python train.py --help`, conf/train.yaml.

Recipe: task -> examples -> prompt and canvas tokens -> corruption -> backbone -> loss -> run folder -> final table.
"""

from __future__ import annotations

import sys
from typing import Any

from constrained_dg.cli import CONF, entry
from constrained_dg.training.fit import fit


def train(cfg: dict[str, Any]) -> float:
    """Train as configured; returns the share of held-out problems that the final table says are solved."""
    return fit(cfg)


def main() -> Any:
    given = [argument.split("=")[0] for argument in sys.argv[1:]]
    if "resume" not in given or "task" in given:
        return entry("train")(train)()
    # Hydra wants a task, but a resumed run has its own in its folder: any choice will do, and counts as not given.
    any_task = f"task={sorted(CONF.glob('task/*.yaml'))[0].stem}"
    sys.argv.append(any_task)

    def resume(cfg: dict[str, Any]) -> float:
        cfg["overridden"].remove("task")
        sys.argv.remove(any_task)  # further processes are started with what the user wrote
        return train(cfg)

    return entry("train")(resume)()


if __name__ == "__main__":
    main()
