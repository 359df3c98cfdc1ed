"""Whether reads are calibrated: of reads with a confidence near p, is a share of p right?

    python -m experiments.text.reads run=RUN out=FOLDER
    python -m experiments.text.reads run=sudoku/plain out=FOLDER task='{"puzzles": 2000, "seed": 1}' revealed=0 slots=3
    python -m experiments.text.reads ... group=9 different=true    # slots of one row, which hold different digits

Problems are training batches that the run never trained on: of a step beyond its training, or of a task with another
seed (`task` changes its values). A task that reads its pairs from a file has no others. In each problem a share of the
open tokens is revealed (`revealed`, in %), and `slots` of the others are read, from `passes` passes. `group` takes the
slots from one aligned group of that many positions. FOLDER gets reads.json and reads.png, the reliability curve.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import constrained_dg
from constrained_dg.constraints import AllDifferent, Constraint
from constrained_dg.errors import check
from constrained_dg.intervals import wilson
from constrained_dg.runs import build
from constrained_dg.task import Batch
from constrained_dg.viz.pictures import figure, save
from experiments.arguments import parse, run

#: Steps from here on were never trained.
FIRST_STEP = 10**7
BINS = 10


def main(arguments: Sequence[str]) -> None:
    given = parse(
        arguments,
        {
            "run": None,
            "out": None,
            "task": "{}",
            "problems": 300,
            "slots": 4,
            "passes": 1,
            "revealed": 50,
            "group": 0,
            "different": False,
            "seed": 0,
        },
    )
    check(given["revealed"] < 100, f"revealed={given['revealed']}", "give a share below 100")
    out = Path(given["out"])
    check(not (out / "reads.json").exists(), f"{out}/reads.json exists", "give another folder")
    loaded = constrained_dg.load(given["run"])
    task = build(loaded.description["task"] | json.loads(given["task"]))
    reads: list[tuple[float, bool]] = []
    for number in range(given["problems"]):
        batch = task.train_batch(FIRST_STEP + number, 1)
        reads += read_one(loaded.model, batch, given, number)
    out.mkdir(parents=True, exist_ok=True)
    report = summary(reads)
    (out / "reads.json").write_text(json.dumps({"arguments": given, **report}, indent=1) + "\n")
    draw(out / "reads.png", report)
    print(table(report))


def read_one(model: Any, batch: Batch, given: dict[str, Any], number: int) -> list[tuple[float, bool]]:
    """Confidence and truth of each slot of one problem."""
    draws = torch.Generator().manual_seed(given["seed"] * 2**20 + number)
    low, high = batch.noise
    shown = torch.rand(batch.answer.shape, generator=draws) * 100 < given["revealed"]
    pinned = batch.pinned | shown
    open_ = (~pinned[0] & (batch.answer[0] >= low) & (batch.answer[0] < high)).nonzero().flatten()
    if given["group"]:
        groups = open_ // given["group"]
        large = [group for group in groups.unique().tolist() if int((groups == group).sum()) >= given["slots"]]
        if not large:
            return []
        chosen = large[int(torch.randint(len(large), (1,), generator=draws))]
        open_ = open_[groups == chosen]
    at = open_[torch.randperm(len(open_), generator=draws)[: given["slots"]]].sort().values.tolist()
    if not at:
        return []
    reading = constrained_dg.read(
        model,
        batch.prompt,
        {position: range(low, high) for position in at},
        apart(len(at), high - low) if given["different"] else None,
        canvas=batch.answer,
        pinned=pinned,
        mask=batch.mask,
        relations=batch.relations,
        noise=batch.noise,
        passes=given["passes"],
        seeds=number,
    )
    right = [int(batch.answer[0, position]) == label for position, label in zip(at, reading.answers[0], strict=True)]
    return list(zip(reading.confidence[0].tolist(), right, strict=True))


def apart(slots: int, labels: int) -> Constraint:
    """All slots hold different labels."""
    return AllDifferent(torch.arange(slots)[None], ["the slots"], (0, labels), slots, labels)


def summary(reads: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """Bins of the reliability curve, and the expected calibration error (Naeini and others, 2015): the mean distance
    between confidence and share, weighted by the reads in each bin."""
    bins = []
    for number in range(BINS):
        inside = [each for each in reads if min(int(each[0] * BINS), BINS - 1) == number]
        if inside:
            right = sum(truth for _, truth in inside)
            mean = sum(confidence for confidence, _ in inside) / len(inside)
            bins.append({"n": len(inside), "confidence": mean, "right": right, "ci95": wilson(right, len(inside))})
    error = sum(each["n"] * abs(each["confidence"] - each["right"] / each["n"]) for each in bins) / max(len(reads), 1)
    return {"reads": len(reads), "right": sum(truth for _, truth in reads), "calibration_error": error, "bins": bins}


def table(report: dict[str, Any]) -> str:
    lines = ["| reads | mean confidence | right | 95 % |", "|---|---|---|---|"]
    for each in report["bins"]:
        low, high = each["ci95"]
        share = each["right"] / each["n"]
        lines.append(f"| {each['n']} | {each['confidence']:.3f} | {share:.3f} | {low:.3f}-{high:.3f} |")
    error = report["calibration_error"]
    return "\n".join([*lines, "", f"{report['right']} of {report['reads']} right, calibration error {error:.3f}"])


def draw(path: Path, report: dict[str, Any]) -> None:
    drawing, (ax,) = figure(1, 4.0)
    x = [each["confidence"] for each in report["bins"]]
    y = [each["right"] / each["n"] for each in report["bins"]]
    below = [share - each["ci95"][0] for share, each in zip(y, report["bins"], strict=True)]
    above = [each["ci95"][1] - share for share, each in zip(y, report["bins"], strict=True)]
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    ax.errorbar(x, y, [below, above], marker="o", capsize=3)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of reads that are right (95 % intervals)")
    save(drawing, path)


if __name__ == "__main__":
    run(main)
