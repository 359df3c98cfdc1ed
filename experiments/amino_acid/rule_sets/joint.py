"""Contradictions that no two sums show, and contradictions of a sum with a large pattern: are they named?

    python -m experiments.amino_acid.rule_sets.joint n=100 seconds=30 out=FILE.json

n sets of each kind. "sums": three or four of charge, mean hydropathy, mass and composition, beyond what a linear
program over the counts of residues can meet, while a sequence meets each set without one of them. "pattern": a pattern
of more than 100 states, and one sum that no match of it can meet, while each is met alone. The sequences that meet the
smaller sets are judged by `re` and Biopython alone; programs are solved by GLOP and SCIP (OR-Tools), not CP-SAT.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg.errors import check
from constrained_dg.intervals import wilson
from constrained_dg.sampling import Status, solve
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.amino_acid import natural, properties
from tasks.amino_acid.judge import broken
from tasks.amino_acid.prosite import Pattern, contains, parse_pattern
from tasks.amino_acid.residues import RESIDUES
from tasks.amino_acid.rule_sets import GROUPS
from tasks.amino_acid.rules import rule_of
from tasks.amino_acid.specification import Composition, Requirements

KEYS = {"n": 100, "seed": 0, "seconds": 30, "budget": 20, "out": None}
#: By how much a contradiction exceeds rounding, as a share of the spread of a sum.
MARGIN = 1e-3


def weights_of(name: str, length: int) -> np.ndarray:
    """(3, 20) what a residue adds to a sum: inside, as the first and as the last."""
    side, first, last = properties.charges()
    if name == "charge":
        return np.stack([side, side + first, side + last])
    each = {"hydropathy": properties.HYDROPATHY / length, "mass": properties.RESIDUE_MASS}
    group = np.array([float(letter in name) for letter in RESIDUES]) * 100 / length
    return np.tile(each.get(name, group), (3, 1))


def sequence_within(length: int, bounds: dict[str, tuple[float, float]], whole: bool) -> str | None:
    """A sequence whose sums lie within bounds, or None where there is none; unless `whole`, a sequence of fractions of
    residues counts too, as ''."""
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver("SCIP" if whole else "GLOP")
    solver.SetTimeLimit(5_000)
    make = solver.IntVar if whole else solver.NumVar
    counts = [[make(0, length, "") for _ in RESIDUES] for _ in range(3)]
    for row, total in zip(counts, (length - 2, 1, 1), strict=True):
        solver.Add(solver.Sum(row) == total)
    for name, (low, high) in bounds.items():
        weights = weights_of(name, length)
        pairs = zip(weights.flatten().tolist(), [x for row in counts for x in row], strict=True)
        total = solver.Sum([weight * x for weight, x in pairs])
        water = properties.WATER if name == "mass" else 0.0
        solver.Add(total >= max(low - water, -1e6))
        solver.Add(total <= min(high - water, 1e6))
    if solver.Solve() not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        return None
    words = [[letter * round(x.solution_value()) for letter, x in zip(RESIDUES, row, strict=True)] for row in counts]
    inside, first, last = map("".join, words)
    return first + inside + last if whole else ""


def stated(length: int, bounds: dict[str, tuple[float, float]], patterns: tuple[Pattern, ...] = ()) -> Requirements:
    groups = [
        Composition(name, max(low, 0), min(high, 100), True)
        for name, (low, high) in bounds.items()
        if name not in ("charge", "hydropathy", "mass")
    ]
    named = {name: each for name, each in bounds.items() if name in ("charge", "hydropathy", "mass")}
    return Requirements((length, length), patterns, composition=tuple(groups), **named)


def of_sums(draws: np.random.Generator) -> Requirements | None:
    """Three or four sums that contradict each other, each smaller set of which is met; None if the draw fails."""
    pool = natural.uniprot(True)
    sequence = pool[int(draws.integers(len(pool)))][:120]
    length = len(sequence)
    names = ["charge", "hydropathy", "mass", *draws.permutation(GROUPS)[:2]]
    names = draws.permutation(names)[: int(draws.integers(3, 5))].tolist()
    at = [RESIDUES.index(letter) for letter in sequence]
    counts = np.zeros((3, 20))
    for row, part in zip(counts, (at[1:-1], at[:1], at[-1:]), strict=True):
        np.add.at(row, part, 1)
    values = {name: float((weights_of(name, length) * counts).sum()) for name in names}
    values["mass"] = values.get("mass", 0.0) + properties.WATER
    spread = {name: float(np.ptp(weights_of(name, length)[0])) * length for name in names}
    direction = {name: float(draws.choice([-1, 1]) * draws.uniform(0.3, 1)) for name in names}
    for share in np.arange(0.02, 1, 0.02):
        bounds = {}
        for name in names:
            edge = round(values[name] + share * direction[name] * spread[name], 3)
            bounds[name] = (edge, np.inf) if direction[name] > 0 else (-np.inf, edge)
        looser = {
            name: (low - MARGIN * spread[name], high + MARGIN * spread[name]) for name, (low, high) in bounds.items()
        }
        if sequence_within(length, looser, whole=False) is None:
            for name in names:
                fewer = {other: each for other, each in bounds.items() if other != name}
                found = sequence_within(length, fewer, whole=True)
                if found is None or broken(stated(length, fewer), found):
                    return None
            return stated(length, bounds)
    return None


@cache
def states(text: str) -> int:
    return len(contains(parse_pattern(text)).table)


def large_pattern(draws: np.random.Generator) -> Pattern | None:
    """A pattern with gaps, of more than 100 and at most 20,000 states."""
    elements = []
    for _ in range(int(draws.integers(4, 7))):
        letters = draws.choice(list(RESIDUES), size=int(draws.integers(1, 4)), replace=False)
        elements.append("[" + "".join(letters) + "]")
        low = int(draws.integers(1, 6))
        elements.append(f"x({low},{low + int(draws.integers(1, 4))})")
    text = "-".join(elements[:-1])
    try:
        return parse_pattern(text) if 100 < states(text) <= 20_000 else None
    except ValueError:
        return None


def of_pattern(draws: np.random.Generator) -> Requirements | None:
    """A pattern and a sum that no match meets: fewer residues of the pattern's, more mass, another hydropathy."""
    pattern = large_pattern(draws)
    if pattern is None:
        return None
    length = pattern.longest + int(draws.integers(0, 40))
    name = str(draws.choice(["charge", "hydropathy", "mass"]))
    weights = weights_of(name, length)
    # 1. The least and most of the sum with a match: its residues take the extremes of their sets, others any.
    sets = [[RESIDUES.index(letter) for letter in letters] for letters, n, _ in pattern.elements for _ in range(n)]
    bound = [each for each in sets if len(each) < 20]
    free = length - len(bound)
    ends = np.abs(weights - weights[0]).max() * 2 if name == "charge" else 0.0
    sides = []
    for pick in (np.min, np.max):
        of_match = sum(float(pick(weights[0][each])) for each in bound)
        sides.append(of_match + free * float(pick(weights[0])))
    water = properties.WATER if name == "mass" else 0.0
    low, high = sides[0] - ends + water, sides[1] + ends + water
    # 2. Beyond it, where sequences without a match still are.
    least, most = (length * float(pick(weights[0])) + water for pick in (np.min, np.max))
    share = draws.uniform(0.05, 0.6)
    choices = []
    if least < low - 1e-3:
        choices.append((-np.inf, round(low - share * (low - least), 4)))
    if most > high + 1e-3:
        choices.append((round(high + share * (most - high), 4), np.inf))
    if not choices:
        return None
    bounds = {name: choices[int(draws.integers(len(choices)))]}
    edge = next(each for each in bounds[name] if np.isfinite(each))
    if low - 1e-3 < edge < high + 1e-3:
        return None
    alone = sequence_within(length, bounds, whole=True)
    match = "".join(RESIDUES[each[0]] for each in sets).ljust(length, "A")
    fine = alone is not None and not broken(stated(length, bounds), alone)
    return stated(length, bounds, (pattern,)) if fine and not broken(stated(length, {}, (pattern,)), match) else None


def measured(kind: str, requirements: Requirements, budget: float, seconds: float) -> dict[str, Any]:
    began, clock = time.process_time(), time.perf_counter()
    ended = solve(rule_of(requirements), budget=budget, time_limit=seconds)
    return {
        "kind": kind,
        "text": requirements.text,
        "status": str(ended.status[0]),
        "seconds": round(time.process_time() - began, 3),
        "clock": round(time.perf_counter() - clock, 3),
    }


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, KEYS)
    torch.set_num_threads(1)
    out = Path(options["out"])
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    makers = {"sums": of_sums, "pattern": of_pattern}
    for kind, maker in makers.items():
        draws, made = np.random.default_rng((options["seed"], len(kind))), 0
        while made < options["n"]:
            requirements = maker(draws)
            if requirements is None:
                continue
            made += 1
            if any(row["text"] == requirements.text for row in rows):
                continue
            rows.append(measured(kind, requirements, options["budget"], options["seconds"]))
            print(rows[-1], flush=True)
            summary = {}
            for each in makers:
                some = [row for row in rows if row["kind"] == each]
                named = sum(row["status"] == Status.UNSATISFIABLE for row in some)
                wrong = sum(row["status"] == Status.SOLVED for row in some)
                if some:
                    summary[each] = {
                        "n": len(some), "named": named, "ci95": wilson(named, len(some)), "wrong": wrong,
                        "mean seconds": round(float(np.mean([row["seconds"] for row in some])), 3),
                        "most seconds": max(row["seconds"] for row in some),
                    }  # fmt: skip
            header = {
                "command": "python -m experiments.amino_acid.rule_sets.joint " + " ".join(arguments),
                "hardware": f"one core of {platform.processor() or platform.machine()}", "date": time.strftime("%F"),
            }  # fmt: skip
            out.write_text(json.dumps({"header": header, "summary": summary, "rows": rows}, indent=0) + "\n")
    check(bool(rows), "no sets", "give n of 1 or more")


if __name__ == "__main__":
    command(main)
