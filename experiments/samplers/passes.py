"""Solve rate against passes: samplers that start again, each also with an untrained model.

    python -m experiments.samplers.passes run=RUN data=FILE out=FOLDER

Other keys: samplers=symmetry (or sets,sets_rules; separated by commas), tiers=all (or names, separated by commas),
passes=4096 limit=150 (puzzles of each tier), untrained=25 untrained_passes=1024 (of the control).
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

from constrained_dg import rng
from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.errors import check
from constrained_dg.evaluation import solve
from constrained_dg.files import write_whole
from constrained_dg.intervals import share
from constrained_dg.model import Backbone
from constrained_dg.report import new_header
from constrained_dg.runs import load
from constrained_dg.viz.pictures import figure, save
from experiments.arguments import parse
from experiments.arguments import run as command

KEYS: dict[str, Any] = {"run": None, "data": None, "out": None, "samplers": "symmetry", "tiers": "all"}
KEYS |= {"passes": 4096, "limit": 150, "untrained": 25, "untrained_passes": 1024}
#: Numbers of passes that the table shows.
WITHIN = (8, 16, 64, 256, 1024, 4096, 16384)
#: Puzzles of a batch; answers do not depend on it.
BATCH = 50


def main(arguments: Sequence[str]) -> None:
    """Solve missing tiers, then write passes.json and passes.png. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    counts = {key: value for key, value in given.items() if isinstance(value, int)}
    torch.set_num_threads(1)
    run, out = load(given["run"]), Path(given["out"])
    problems = run.task.read(given["data"])
    untrained = Backbone(run.model.config).init_weights(torch.Generator().manual_seed(0)).eval()
    models = {}
    for sampler in given["samplers"].split(","):
        models[sampler] = (run.model, given["limit"], given["passes"])
        models[f"{sampler}@untrained"] = (untrained, given["untrained"], given["untrained_passes"])
    tiers = sorted({problem.tier for problem in problems})
    rows = []
    for tier in tiers if given["tiers"] == "all" else given["tiers"].split(","):
        check(tier in tiers, f"no tier {tier!r}", f"there are {', '.join(tiers)}")
        for name, (model, limit, passes) in models.items():
            chosen = [problem for problem in problems if problem.tier == tier][:limit]
            cell = _solved_after(out, name, tier, chosen, run, model, passes)
            rows.append(_row(name, tier, passes, cell, run.model.config.num_hidden_layers * run.model.config.loops))
    header = new_header(ROOT, 0, "cpu", run=given["run"], data=Path(given["data"]).name, **counts)
    write_whole(out / "passes.json", json.dumps({"header": header, "rows": rows}, indent=0) + "\n")
    draw(out / "passes.png", rows)
    print(markdown(rows))


def _solved_after(out: Path, name: str, tier: str, problems: Sequence[Any], run: Any, model: Any, passes: int) -> dict:
    """For each puzzle the passes after which it was solved, or None; and the seconds for all.

    Where `out` holds the same tier with fewer passes, only the puzzles that those left open are solved again, from the
    start and with the seeds that they had.
    """
    cell = out / "cells" / f"{name}_{tier}_{passes}_{len(problems)}.json"
    if not cell.exists():
        cell.parent.mkdir(parents=True, exist_ok=True)
        known = {"solved_after": [None] * len(problems), "seconds": 0.0}
        for fewer in sorted(cell.parent.glob(f"{name}_{tier}_*_{len(problems)}.json"), key=_passes_of):
            if _passes_of(fewer) < passes:
                known = json.loads(fewer.read_text())
        after = known["solved_after"]
        left = [at for at, each in enumerate(after) if each is None]
        sampler = load_sampler(name.removesuffix("@untrained"), [f"attempts={passes}"])
        seeds = rng.row_seeds(0, len(problems))[left].tolist()
        begun = time.process_time()
        outcomes = solve(
            model,
            run.task,
            sampler,
            [problems[at] for at in left],
            batch_size=BATCH,
            seed=0,
            seeds=seeds,
            max_passes=passes,
        )
        for at, outcome in zip(left, outcomes, strict=True):
            after[at] = outcome.passes if outcome.solved else None
        seconds = known["seconds"] + time.process_time() - begun
        write_whole(cell, json.dumps({"solved_after": after, "seconds": seconds}))
        print(f"{name} {tier}: {sum(each is not None for each in after)} of {len(after)}", file=sys.stderr, flush=True)
    return json.loads(cell.read_text())


def _passes_of(cell: Path) -> int:
    return int(cell.stem.split("_")[-2])


def _row(name: str, tier: str, passes: int, cell: dict, layers: int) -> dict[str, Any]:
    after = cell["solved_after"]
    within = [p for p in WITHIN if p <= passes]
    shares = {str(p): share(sum(each is not None and each <= p for each in after), len(after)) for p in within}
    applications = layers * sum(passes if each is None else each for each in after) / len(after)
    row = {"sampler": name, "tier": tier, "solved_within": shares, "layer_applications": applications}
    return row | {"seconds": cell["seconds"], "solved_after": after}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Tiers down, passes across: solved % (95 % interval, Wilson), layer applications and CPU seconds a puzzle."""
    columns = list(dict.fromkeys(p for row in rows for p in row["solved_within"]))
    lines = [f"| sampler | tier | n | {' | '.join(columns)} | layer applications | seconds |"]
    lines.append("|---" * (len(columns) + 5) + "|")
    for row in rows:
        cells = [row["solved_within"].get(p) for p in columns]
        shown = [c and f"{100 * c['value']:.1f} ({100 * c['ci95'][0]:.1f}-{100 * c['ci95'][1]:.1f})" for c in cells]
        n = len(row["solved_after"])
        cost = f"{row['layer_applications']:,.0f} | {row['seconds'] / n:.2f}"
        lines.append(f"| {row['sampler']} | {row['tier']} | {n} | {' | '.join(c or '' for c in shown)} | {cost} |")
    return "\n".join(lines)


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Share solved within p passes, one line for each tier; the untrained model dotted."""
    drawing, axes = figure(1, width=7, height=4.5)
    for row in rows:
        untrained = row["sampler"].endswith("@untrained")
        points = [(int(p), each["value"]) for p, each in row["solved_within"].items()]
        label = None if untrained else f"{row['sampler']}, {row['tier']}"
        style = {"linestyle": ":", "color": "gray"} if untrained else {"marker": "o", "markersize": 3}
        axes[0].plot(*np.array(points).T, label=label, **style)
    axes[0].set(xscale="log", xlabel="passes (dotted: untrained model)", ylabel="solved within", ylim=(-0.02, 1.02))
    axes[0].set_xticks(WITHIN, [f"{p:,}" for p in WITHIN])
    axes[0].grid(alpha=0.3)
    axes[0].legend(fontsize="x-small")
    save(drawing, path)


if __name__ == "__main__":
    command(main)
