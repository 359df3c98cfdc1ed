"""Train a diffusion model on a task: `python train.py task=sudoku`. Options: `python train.py --help`, conf/train.yaml.

Recipe: task -> examples -> prompt and canvas tokens -> corruption -> backbone -> loss -> run folder -> final table.
"""

from __future__ import annotations

from typing import Any

from constrained_dg.cli import choices, entry
from constrained_dg.errors import check, needs

#: What a checkpoint to start from implies, unless the user chooses otherwise.
FINETUNE = {"model": "pretrained", "objective": "finetune", "optimisation": "finetune"}


def train(cfg: dict[str, Any]) -> float:
    """Train as configured; returns the share of held-out problems that the final table says are solved."""
    with needs("lightning", "training"):
        from constrained_dg.training.fit import fit

    return fit(cfg)


def implied(given: list[str]) -> list[str]:
    """What the command line leaves open but implies: see `constrained_dg.cli.entry`.

    Raises:
        InputError: `model.pretrained` or `model.run` beside keys that describe another model.
    """
    values = dict(argument.partition("=")[::2] for argument in given)
    added = []
    if "resume" in values and "task" not in values:
        # Hydra wants a task, but a resumed run has its own in its folder: any choice will do.
        added.append(f"task={choices('task')[0]}")
    if "model.run" in values or values.get("model") == "run":
        _alone(values, "run", "model.run")
        return added + ["model=run"] * ("model" not in values)
    by_name = values.get("model") == FINETUNE["model"]
    if "model.pretrained" not in values and not by_name:
        return added
    _alone(values, FINETUNE["model"], "model.pretrained", "model.lora")
    return added + [f"{group}={choice}" for group, choice in FINETUNE.items() if group not in values]


def _alone(values: dict[str, str], choice: str, *known: str) -> None:
    """Raise InputError for keys that describe another model beside weights that have their shape."""
    other = [key for key in values if key.split(".")[0] == "model" and key not in known]
    other = [key for key in other if (key, values[key]) != ("model", choice)]
    check(not other, f"{', '.join(other)} beside {known[0]}", "leave it out: the weights have their shape")


main = entry("train", text=("data", "model.pretrained", "model.run"), implied=implied)(train)

if __name__ == "__main__":
    main()
