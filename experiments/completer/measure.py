"""How long the completer takes for puzzles and boards, beside plain CP-SAT and the search that it replaced.

    OMP_NUM_THREADS=1 python -m experiments.completer.measure puzzles=FILE engine=new log_probs=random out=x.json

engine: new (also in a checkout of e2e4b81: the old search), or plain (CP-SAT on a model of integers, written by hand).
log_probs: none, or random (the likeliest answer is sought). boards=SIZExCOUNT makes puzzles in place of a file.
Seconds are of the processor, so that other work on the machine does not count; wall seconds stand beside them. `out`
gets the summary and the ten slowest puzzles.
"""

from __future__ import annotations

import importlib
import inspect
import json
import platform
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg.constraints import AllDifferent, complete
from experiments.completer.boards import boards, groups


def of_file(path: str, limit: int) -> list[np.ndarray]:
    """Puzzles as (size, size) arrays, 0 where nothing is given."""
    from tasks.sudoku import Sudoku

    puzzles = Sudoku().read(path)[:limit]
    grids = [np.array(puzzle.cells) for puzzle in puzzles]
    return [grid.reshape(round(len(grid) ** 0.5), -1) for grid in grids]


def box_of(size: int) -> tuple[int, int]:
    high = max(side for side in range(1, size) if size % side == 0 and side * side <= size)
    return high, size // high


def plain(grid: np.ndarray, weights: np.ndarray | None) -> dict[str, Any]:
    """CP-SAT alone: an integer for each cell, all different in each group."""
    from ortools.sat.python import cp_model

    size = len(grid)
    model = cp_model.CpModel()
    cells = [model.new_int_var(1, size, "") if not g else model.new_constant(int(g)) for g in grid.flatten()]
    for group in groups(size, box_of(size)).tolist():
        model.add_all_different([cells[at] for at in group])
    if weights is not None:
        terms = []
        for at, given in enumerate(grid.flatten().tolist()):
            for value in range(size if not given else 0):
                holds = model.new_bool_var("")
                model.add(cells[at] == value + 1).only_enforce_if(holds)
                model.add(cells[at] != value + 1).only_enforce_if(~holds)
                terms.append(int(weights[at, value] * 2**16) * holds)
        model.maximize(sum(terms))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = 60
    status = solver.solve(model)
    return {
        "solved": status in (cp_model.OPTIMAL, cp_model.FEASIBLE),
        "proved": status == cp_model.OPTIMAL,
        "work": solver.deterministic_time,
    }


@lru_cache
def rule_of(size: int) -> AllDifferent:
    """The rules of a board, shared by all puzzles of a batch."""
    each = groups(size, box_of(size))
    return AllDifferent(each, [str(at) for at in range(len(each))], (0, size), size * size, size)


def ours(grid: np.ndarray, weights: np.ndarray | None, budget: float, limit: float) -> dict[str, Any]:
    rule = rule_of(len(grid))
    cells = torch.from_numpy(grid.flatten().astype(np.int64))
    scores = None if weights is None else torch.from_numpy(weights).float()
    old = "node_budget" in inspect.signature(complete).parameters
    bound = {"node_budget": 10**9} if old else {"budget": budget}
    found = complete(rule, (cells - 1).clamp(min=0), cells > 0, log_probs=scores, time_limit=limit, **bound)
    return {
        "solved": found.answer is not None,
        "proved": getattr(found, "proved", False),
        "work": getattr(found, "work", 0.0),
        "nodes": found.nodes,
    }


def main(arguments: list[str]) -> None:
    options = dict(argument.split("=", 1) for argument in arguments)
    engine, limit = options.get("engine", "new"), int(options.get("limit", 10**9))
    if "boards" in options:
        size, count = map(int, options["boards"].split("x"))
        grids = boards(size, count, seed=int(options.get("seed", 1)))
    else:
        grids = of_file(options["puzzles"], limit)
    draws = np.random.default_rng(0)
    records = []
    warm = plain if engine == "plain" else None
    importlib.import_module("ortools.sat.python.cp_model")  # its time is not a puzzle's
    for at, grid in enumerate([grids[0], *grids]):  # the first once more, to warm up
        weights = None
        if options.get("log_probs", "none") == "random":
            values = draws.standard_normal((grid.size, len(grid)))
            weights = values - np.log(np.exp(values).sum(-1, keepdims=True))
        began, worked = time.perf_counter(), time.process_time()
        seconds = float(options.get("seconds", 60))
        record = warm(grid, weights) if warm else ours(grid, weights, float(options.get("budget", 1000)), seconds)
        record["wall seconds"] = round(time.perf_counter() - began, 4)
        record["seconds"] = round(time.process_time() - worked, 4)
        if at:
            records.append(record)
    times = np.array([record["seconds"] for record in records])
    resampled = np.random.default_rng(1).choice(times, (1000, len(times)))
    means = resampled.mean(1)
    summary = {
        "command": "OMP_NUM_THREADS=1 python -m experiments.completer.measure " + " ".join(arguments),
        "n": len(records),
        "solved": sum(record["solved"] for record in records),
        "proved": sum(record["proved"] for record in records),
        "mean wall seconds": round(float(np.mean([record["wall seconds"] for record in records])), 4),
        "mean seconds": round(float(times.mean()), 4),
        "95 % interval": [round(float(end), 4) for end in np.quantile(means, [0.025, 0.975])],
        "most seconds": float(times.max()),
        "mean work": round(float(np.mean([record["work"] for record in records])), 4),
        "most work": round(float(np.max([record["work"] for record in records])), 4),
        "seed": 0,
        "hardware": f"one core of {platform.processor() or platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(summary))
    if "out" in options:
        numbered = [{"puzzle": at, **each} for at, each in enumerate(records, 1)]
        kept = {"summary": summary, "slowest": sorted(numbered, key=lambda row: -row["seconds"])[:10]}
        Path(options["out"]).write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
