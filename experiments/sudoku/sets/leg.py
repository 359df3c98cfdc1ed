"""A leg of a long training on a machine that is lent for minutes: check, train on, bring back a resumable run.

    python -m experiments.sudoku.sets.leg run=RUN out=FOLDER minutes=8 trainer=gpu

RUN is a run that is not finished. It is copied to FOLDER/run and trained there until the minutes are over. Then it ends
with a checkpoint, so that `python train.py resume=FOLDER/run` goes on from it anywhere. FOLDER/leg.json says what was
checked and how fast it was. On a CPU (trainer=cpu) the same command rehearses it.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from constrained_dg.cli import ROOT
from constrained_dg.errors import check
from constrained_dg.files import write_whole
from constrained_dg.model import Backbone
from constrained_dg.report import new_header
from constrained_dg.training.folder import CONFIGURATION, checkpoint_of
from experiments.arguments import parse
from experiments.arguments import run as command

KEYS: dict[str, Any] = {"run": None, "out": None, "minutes": 8, "trainer": "gpu"}
#: What comes back from a lent machine.
MOST_BYTES = 16 * 2**20


def main(arguments: Sequence[str]) -> int:
    """One leg; returns the exit code of the training, 0 where the time was over. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    source, out = Path(given["run"]), Path(given["out"])
    trainer, folder = given["trainer"], out / "run"
    check(trainer in ("gpu", "cpu"), f"trainer={trainer!r}", "give gpu or cpu")
    check(trainer == "cpu" or torch.cuda.is_available(), "there is no GPU here", "give trainer=cpu to rehearse")
    before = checkpoint_of(source)
    check(before is not None, f"no checkpoint in {str(source)!r}", "give the folder of a run that is not finished")
    assert before is not None
    check(not folder.exists(), f"{str(folder)!r} exists", "give another out")
    # 1. Check: the device computes what the CPU computes.
    result: dict[str, Any] = {"header": new_header(ROOT, 0, "cuda" if trainer == "gpu" else "cpu", trainer=trainer)}
    result["largest_difference"] = _difference("cuda" if trainer == "gpu" else "cpu")
    # 2. Train on a copy until the time is over.
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("wandb"))
    begun = time.monotonic()
    options = [f"resume={folder}", f"trainer={trainer}", "logger=csv", f"checkpoint_every={2**30}"]
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *options])
    try:
        code = process.wait(timeout=60 * given["minutes"])
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    # 3. What comes back.
    after = checkpoint_of(folder)
    assert after is not None
    seconds, steps = time.monotonic() - begun, after.step - before.step
    rows = json.loads((folder / CONFIGURATION).read_text())["optimisation"]["batch_size"]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    result |= {"steps": [before.step, after.step], "states_per_second": steps * rows / seconds, "bytes": size}
    write_whole(out / "leg.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "header"}))
    check(size <= MOST_BYTES, f"the run takes {size} bytes", f"at most {MOST_BYTES} come back: use a smaller model")
    return code if code != 128 + signal.SIGTERM else 0


def _difference(device: str) -> float:
    """The largest difference of log-probabilities between a pass on the device and one on the CPU, in fp32."""
    from constrained_dg.model import preset

    model = Backbone(preset("small", num_relations=2)).init_weights(torch.Generator().manual_seed(0)).eval()
    canvas = torch.randint(64, (4, 81), generator=torch.Generator().manual_seed(1))
    relations = torch.rand(1, 2, 81, 81, generator=torch.Generator().manual_seed(2)) < 0.3

    def log_probabilities(on: str) -> torch.Tensor:
        there = model.to(on)
        tokens, related = canvas.to(on), relations.to(on)
        with torch.no_grad():
            cache = there.prefill(tokens[:, :0], relations=related)
            return there.denoise(tokens, cache, None, related).log_softmax(-1).cpu()

    difference = float((log_probabilities(device) - log_probabilities("cpu")).abs().max())
    check(difference < 0.05, f"a pass differs by {difference} between {device} and cpu", "do not train here")
    return difference


if __name__ == "__main__":
    command(main)
