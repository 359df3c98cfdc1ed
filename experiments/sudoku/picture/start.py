"""Weights to start from: the model of a run of task=sudoku, with tokens for clues and an untrained vision tower.

    python -m experiments.sudoku.picture.start run=sudoku out=FOLDER

The clue 5 starts with the embedding of the symbol 5, so that the model knows the rules from the beginning and has to
learn the pictures. FOLDER is a run folder for model.run=.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from constrained_dg.cli import load_config
from constrained_dg.errors import check
from constrained_dg.model import Backbone
from constrained_dg.runs import load, save_run
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.sudoku.codec import FIRST_SYMBOL
from tasks.sudoku.picture_task import SIZE, PictureSudoku

KEYS: dict[str, Any] = {"run": None, "out": None, "seed": 0}


def main(arguments: Sequence[str]) -> None:
    """Write the run. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    out, known = Path(given["out"]), load(given["run"])
    check(not out.exists(), f"{str(out)!r} is there already", "give a new folder")
    wanted = load_config("task", "sudoku/picture")
    vision = {**wanted["model"]["vision"], **PictureSudoku.vision}
    task = {key: value for key, value in wanted["task"].items()}
    config = replace(known.model.config, vocab_size=PictureSudoku.vocab_size, vision=vision)
    model = Backbone(config).init_weights(torch.Generator().manual_seed(given["seed"]))
    state = model.state_dict()
    for name, tensor in known.model.state_dict().items():
        if name == "embed_tokens.weight":
            clues = FIRST_SYMBOL + SIZE
            state[name][:clues] = tensor[:clues]
            state[name][clues:] = tensor[FIRST_SYMBOL:clues]
        else:
            state[name] = tensor
    model.load_state_dict(state)
    description = {"task": task, "sampler": known.description["sampler"], "training": {"start": given["run"]}}
    save_run(out, model, description)
    print(f"{out}: {config.num_parameters:,} parameters")


if __name__ == "__main__":
    command(main)
