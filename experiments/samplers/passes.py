"""Solve rate against passes: restarts under symmetry with the model alone, and with an untrained one.

    python -m experiments.samplers.passes run=RUN data=FILE out=FOLDER

Other keys: passes=4096 limit=150 (puzzles of each tier), untrained=25 untrained_passes=1024 (of the control).
A puzzle counts as solved within p passes if the judge accepted an answer of its first p passes. Each finished tier is
saved, so the same command continues an interrupted run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.evaluation import solve
from constrained_dg.files import write_whole
from constrained_dg.intervals import share
from constrained_dg.model import Backbone
from constrained_dg.report import new_header
from constrained_dg.runs import load
from constrained_dg.viz.pictures import figure, save
from experiments.arguments import parse
from experiments.arguments import run as command

KEYS = {"run": None, "data": None, "out": None, "passes": 4096, "limit": 150, "untrained": 25, "untrained_passes": 1024}
#: Passes of one attempt, as in the sampler `symmetry`.
ATTEMPT = 8
#: Puzzles of a batch; answers do not depend on it.
BATCH = 50


def main(arguments: Sequence[str]) -> None:
    """Solve missing tiers, then write passes.json and passes.png. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    counts = {key: value for key, value in given.items() if isinstance(value, int)}
    torch.set_num_threads(1)
    run, out = load(given["run"]), Path(given["out"])
    problems = run.task.read(given["data"])
    models = {"symmetry": (run.model, given["limit"], given["passes"])}
    untrained = Backbone(run.model.config).init_weights(torch.Generator().manual_seed(0)).eval()
    models["symmetry@untrained"] = (untrained, given["untrained"], given["untrained_passes"])
    rows = []
    for tier in sorted({problem.tier for problem in problems}):
        for name, (model, limit, passes) in models.items():
            chosen = [problem for problem in problems if problem.tier == tier][:limit]
            if chosen:
                rows.append(_row(out, name, tier, passes, _solved_after(out, name, tier, chosen, run, model, passes)))
    header = new_header(ROOT, 0, "cpu", run=given["run"], data=Path(given["data"]).name, **counts)
    write_whole(out / "passes.json", json.dumps({"header": header, "rows": rows}, indent=0) + "\n")
    draw(out / "passes.png", rows)
    print(markdown(rows))


def _solved_after(out: Path, name: str, tier: str, problems: Sequence[Any], run: Any, model: Any, passes: int) -> dict:
    """For each puzzle the passes after which it was solved, or None; and the seconds for all."""
    cell = out / "cells" / f"{name}_{tier}_{passes}_{len(problems)}.json"
    if not cell.exists():
        cell.parent.mkdir(parents=True, exist_ok=True)
        sampler = load_sampler("symmetry", [f"attempts={-(-passes // ATTEMPT)}", f"sampler.max_passes={ATTEMPT}"])
        begun = time.process_time()
        outcomes = solve(model, run.task, sampler, problems, batch_size=BATCH, seed=0, max_passes=passes)
        after = [outcome.passes if outcome.solved else None for outcome in outcomes]
        write_whole(cell, json.dumps({"solved_after": after, "seconds": time.process_time() - begun}))
        print(f"{name} {tier}: {sum(each is not None for each in after)} of {len(after)}", file=sys.stderr, flush=True)
    return json.loads(cell.read_text())


def _row(out: Path, name: str, tier: str, passes: int, cell: dict) -> dict[str, Any]:
    after = cell["solved_after"]
    within = [p for p in (8, 16, 64, 256, 1024, 4096) if p <= passes]
    shares = {str(p): share(sum(each is not None and each <= p for each in after), len(after)) for p in within}
    return {"sampler": name, "tier": tier, "solved_within": shares, "seconds": cell["seconds"], "solved_after": after}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Tiers down, passes across: solved % (95 % interval, Wilson), and processor seconds for a puzzle."""
    columns = list(dict.fromkeys(p for row in rows for p in row["solved_within"]))
    lines = [f"| sampler | tier | n | {' | '.join(columns)} | seconds |", "|---" * (len(columns) + 4) + "|"]
    for row in rows:
        cells = [row["solved_within"].get(p) for p in columns]
        shown = [c and f"{100 * c['value']:.1f} ({100 * c['ci95'][0]:.1f}-{100 * c['ci95'][1]:.1f})" for c in cells]
        n = len(row["solved_after"])
        seconds = row["seconds"] / n
        lines.append(
            f"| {row['sampler']} | {row['tier']} | {n} | {' | '.join(c or '' for c in shown)} | {seconds:.2f} |"
        )
    return "\n".join(lines)


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Share solved within p passes, one line for each tier; the untrained model dotted."""
    drawing, axes = figure(1, width=7, height=4.5)
    for row in rows:
        untrained = row["sampler"].endswith("@untrained")
        points = [(int(p), each["value"]) for p, each in row["solved_within"].items()]
        label = None if untrained else row["tier"]
        style = {"linestyle": ":", "color": "gray"} if untrained else {"marker": "o", "markersize": 3}
        axes[0].plot(*np.array(points).T, label=label, **style)
    axes[0].set(xscale="log", xlabel="passes (dotted: untrained model)", ylabel="solved within", ylim=(-0.02, 1.02))
    axes[0].set_xticks([8, 16, 64, 256, 1024, 4096], ["8", "16", "64", "256", "1,024", "4,096"])
    axes[0].grid(alpha=0.3)
    axes[0].legend(fontsize="x-small")
    save(drawing, path)


if __name__ == "__main__":
    command(main)
