"""What each part of a sampler contributes: `python -m experiments.samplers run=RUN data=FILE out=FOLDER`.

Cells (a sampler, a seed) are solved by a few processes and saved as they end; the same command continues an interrupted
study, and `jobs=none` only reports the saved cells.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg import rng
from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.errors import check
from constrained_dg.evaluation import solve
from constrained_dg.intervals import percentile_mean
from constrained_dg.model import Backbone
from constrained_dg.report import new_header
from constrained_dg.runs import load
from constrained_dg.viz.pictures import figure, save
from experiments.samplers.statistics import difference, share

log = logging.getLogger(__name__)

HARD = ("clue17", "magictour_1465")
UNTRAINED = "@untrained"
KEYS = {
    "run": None,
    "data": None,
    "out": None,
    "jobs": "all",
    "workers": "2",
    "limit": "0",
    "most": "0",
    "passes": "64",
}
#: Seconds between lines of progress.
EVERY = 30.0


@dataclass(frozen=True)
class Job:
    """A sampler, on all tiers or some, with several seeds for each puzzle.

    Attributes:
        sampler: yaml of conf/sampler; NAME@untrained is the same on an untrained model.
        seeds: for each puzzle.
        passes: at most; 0 takes the number of the study.
        tiers: of the file; empty means all.
        limit: puzzles for each tier, the first of each; 0 means all.
    """

    sampler: str
    seeds: int
    passes: int = 0
    tiers: tuple[str, ...] = ()
    limit: int = 0


#: By falling importance.
JOBS = (
    Job("plain", 1),
    Job("restarts", 1),
    Job("guaranteed", 1),
    Job("search", 1),
    Job("candidates", 1, 64, HARD, 100),
    Job("eager", 1, 1024, HARD, 50),
    Job("plain", 10, limit=150),
    Job("restarts", 10, limit=150),
    Job("validity", 1, limit=150),
    Job("eager", 1, limit=150),
    Job("plain_eager", 1, limit=150),
    Job("symmetry", 1, limit=150),
    Job("plain@untrained", 1, limit=25),
    Job("restarts@untrained", 1, limit=25),
    Job("guaranteed@untrained", 1, limit=25),
    Job("known", 1, limit=50),
    Job("known@untrained", 1, limit=25),
)


def main(arguments: Sequence[str]) -> None:
    """Solve missing cells, then report. Raises InputError before any work."""
    given = dict(KEYS) | dict(argument.partition("=")[::2] for argument in arguments)
    unknown = sorted(set(given) - set(KEYS))
    check(not unknown, f"unknown keys {unknown}", f"there are {', '.join(KEYS)}")
    missing = [key for key, value in given.items() if not value]
    check(not missing, f"{', '.join(missing)} missing", "give run=RUN data=FILE out=FOLDER")
    for key in ("workers", "limit", "most", "passes"):
        check(given[key].isdigit(), f"{key} is {given[key]!r}", "give a whole number")
    names = {job.sampler for job in JOBS}
    wanted = names if given["jobs"] == "all" else set(given["jobs"].split(",")) - {"none"}
    check(wanted <= names, f"no jobs {sorted(wanted - names)}", f"there are {', '.join(sorted(names))}, all and none")
    run = load(given["run"])
    problems = run.task.read(given["data"])
    out, limit, most = Path(given["out"]), int(given["limit"]), int(given["most"])
    (out / "cells").mkdir(parents=True, exist_ok=True)
    cells = [(job, seed) for job in JOBS if job.sampler in wanted for seed in range(min(job.seeds, most or job.seeds))]
    # First seeds of all jobs before second ones: an interrupted study still compares everything.
    cells.sort(key=lambda cell: cell[1])
    todo = [(given, job, seed, limit) for job, seed in cells if not _path(given, job, seed, limit).exists()]
    work = [_work(problems, job, limit, int(given["passes"])) for _, job, _, limit in todo]
    log.info("%d puzzles, %d cells of which %d are to be solved", len(problems), len(cells), len(todo))
    begun, logged, done = time.monotonic(), 0.0, 0.0
    if todo:
        with multiprocessing.get_context("spawn").Pool(int(given["workers"]) or 1) as pool:
            for index in pool.imap_unordered(_solve_cell, list(enumerate(todo))):
                done += work[index]
                if time.monotonic() - logged > EVERY:
                    logged = time.monotonic()
                    left = (logged - begun) * (sum(work) / done - 1)
                    log.info("%s seed %d done, about %.0f min left", todo[index][1].sampler, todo[index][2], left / 60)
    report(given, problems, out, limit)


def _work(problems: Sequence[Any], job: Job, limit: int, passes: int) -> float:
    """The rough work of a cell."""
    hard = sum(p.tier in (*HARD, "hardest_1905_11plus") for p in _chosen(problems, job, limit))
    return 1 + hard * (job.passes or passes) * (16 if job.sampler == "candidates" else 1)


def _chosen(problems: Sequence[Any], job: Job, limit: int) -> list[Any]:
    """The puzzles of a job: the first ones of each tier."""
    most = min([n for n in (job.limit, limit) if n] or [len(problems)])
    count: dict[str, int] = {}
    chosen = []
    for problem in problems:
        if (not job.tiers or problem.tier in job.tiers) and count.get(problem.tier, 0) < most:
            count[problem.tier] = count.get(problem.tier, 0) + 1
            chosen.append(problem)
    return chosen


def _path(given: dict[str, str], job: Job, seed: int, limit: int) -> Path:
    """The file of a cell; its name has a hash of weights, puzzles and the values of the sampler."""
    name = job.sampler.removesuffix(UNTRAINED)
    parts = [(Path(given["run"]) / "model.safetensors").read_bytes(), Path(given["data"]).read_bytes()]
    parts.append(json.dumps([repr(load_sampler(name)), job.tiers, job.limit, limit]).encode())
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]
    passes = job.passes or int(given["passes"])
    return Path(given["out"]) / "cells" / f"{job.sampler}_{passes}_{seed}_{key}.json"


def _solve_cell(numbered: tuple[int, tuple[dict[str, str], Job, int, int]]) -> int:
    """Solve one cell in a separate process and save it at once."""
    index, (given, job, seed, limit) = numbered
    torch.set_num_threads(1)
    run = load(given["run"])
    every = run.task.read(given["data"])
    problems = _chosen(every, job, limit)
    # A puzzle's k-th seed is the same in every sampler and every choice of puzzles.
    numbers = {problem.text: number for number, problem in enumerate(every)}
    of_puzzles = rng.row_seeds(seed, len(every))
    seeds = [int(of_puzzles[numbers[problem.text]]) for problem in problems]
    sampler, model = load_sampler(job.sampler.removesuffix(UNTRAINED)), run.model
    if job.sampler.endswith(UNTRAINED):
        model = Backbone(model.config).init_weights(torch.Generator().manual_seed(0)).eval()
    passes = job.passes or int(given["passes"])
    outcomes = solve(model, run.task, sampler, problems, batch_size=64, seed=0, seeds=seeds, max_passes=passes)
    cell = {
        "tier": [o.problem.tier for o in outcomes],
        "puzzle": [numbers[o.problem.text] for o in outcomes],
        "solved": [int(o.solved) for o in outcomes],
        "status": [str(o.status) for o in outcomes],
        "passes": [o.passes for o in outcomes],
        "nodes": [o.search_nodes for o in outcomes],
        "tokens": [o.tokens_per_pass * o.passes for o in outcomes],
        "seconds": [o.seconds for o in outcomes],
    }
    path = _path(given, job, seed, limit)
    path.with_suffix(".partial").write_text(json.dumps(cell))
    path.with_suffix(".partial").rename(path)
    return index


@dataclass(frozen=True)
class Column:
    """The saved results of a job: arrays of (puzzles, seeds), in the order of the puzzles."""

    job: Job
    tier: np.ndarray
    puzzle: np.ndarray
    values: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """The name of its row: the sampler, its passes unless they are those of the study, and seeds if several."""
        several = f", {self.values['solved'].shape[1]} seeds" if self.job.seeds > 1 else ""
        return self.job.sampler + (f" {self.job.passes}" if self.job.passes else "") + several

    def of(self, tier: str, key: str) -> np.ndarray:
        return self.values[key][self.tier == tier]


def columns(given: dict[str, str], limit: int) -> list[Column]:
    """One for each job with saved cells."""
    saved = []
    for job in JOBS:
        paths = [_path(given, job, seed, limit) for seed in range(job.seeds)]
        cells = [json.loads(path.read_text()) for path in paths if path.exists()]
        if not cells:
            continue
        values = {
            key: np.array([cell[key] for cell in cells]).T for key in ("solved", "passes", "nodes", "tokens", "seconds")
        }
        saved.append(Column(job, np.array(cells[0]["tier"]), np.array(cells[0]["puzzle"]), values))
    return saved


def report(given: dict[str, str], problems: Sequence[Any], out: Path, limit: int) -> dict[str, Any]:
    """Table, verdicts and picture of the saved cells."""
    saved = columns(given, limit)
    check(bool(saved), f"no cells in {str(out)!r}", "solve some first: jobs=all")
    tiers = list(dict.fromkeys(p.tier for p in problems))
    # Jobs of several seeds are compared with plain of several seeds, those of one with one.
    plain = {column.job.seeds > 1: column for column in saved if column.job.sampler == "plain"}
    rows = [_row(c, tier, plain.get(c.job.seeds > 1)) for c in saved for tier in tiers if (c.tier == tier).any()]
    header = new_header(ROOT, 0, "cpu", run=given["run"], data=Path(given["data"]).name, passes=int(given["passes"]))
    sentences = verdicts(rows) + [line for tier in tiers if (line := shared_nodes(saved, tier))]
    table = {"header": header, "verdicts": sentences, "rows": rows}
    (out / "table.json").write_text(json.dumps(table, indent=0) + "\n")
    draw(out / "solve_rate_by_passes.png", saved, tiers)
    print(markdown(rows, tiers))
    print("\n".join(f"- {line}" for line in table["verdicts"]))
    return table


def _row(column: Column, tier: str, reference: Column | None) -> dict[str, Any]:
    solved, passes = column.of(tier, "solved"), column.of(tier, "passes")
    mean, low, high = share(solved)
    row = {"sampler": column.name, "tier": tier, "n": len(solved), "seeds": solved.shape[1], "solved": mean}
    row |= {
        "ci95": [low, high],
        "mean_passes": float(passes.mean()),
        "mean_nodes": float(column.of(tier, "nodes").mean()),
    }
    row["tokens_per_pass"] = float(column.of(tier, "tokens").sum() / max(1, passes.sum()))
    row["most_seconds"] = float(column.of(tier, "seconds").max())
    if reference is not None and column is not reference:
        same = np.isin(reference.puzzle, column.puzzle[column.tier == tier])
        theirs = reference.values["solved"][same]
        row["difference"] = difference(solved, theirs)
        failures = 1 - theirs.mean()
        row["failures_removed"] = float(row["difference"][0] / failures) if failures else None
    return row


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each measured target: met or missed."""

    def at(sampler: str, tier: str) -> dict[str, Any] | None:
        return next((row for row in rows if (row["sampler"], row["tier"]) == (sampler, tier)), None)

    sentences = []
    recommended = max(
        (row for row in rows if row["sampler"].startswith("restarts") and "@" not in row["sampler"]),
        key=lambda row: row["seeds"],
        default={"sampler": ""},
    )["sampler"]
    ours = [row for row in rows if row["sampler"] == recommended and "difference" in row]
    if ours:
        worst = min(ours, key=lambda row: row["difference"][1])
        word = "met" if worst["difference"][1] > -0.02 else "missed"
        end = f"lowest end {100 * worst['difference'][1]:+.1f}, {worst['tier']}"
        sentences.append(f"not worse than plain on any tier: {word} ({end})")
    for tier in HARD:
        if (row := at(recommended, tier)) is not None and "difference" in row:
            gain, removed = row["difference"][0], row["failures_removed"]
            word = "met" if gain >= 0.05 or (removed or 0) >= 0.5 else "missed"
            what = f"{100 * gain:+.1f} points, {100 * (removed or 0):.0f} % of failures"
            sentences.append(f"better than plain on {tier}: {word} ({what})")
        many, long = at("candidates 64", tier), at("eager 1024", tier)
        if many is not None and long is not None:
            word = "met" if many["ci95"][0] > long["ci95"][1] else "missed"
            sentences.append(f"16 candidates of 64 passes beat one canvas of 1,024 on {tier}: {word}")
    for tier in ("hardest_1905_11plus", *HARD):
        pair = at("guaranteed", tier), at("search", tier)
        if None not in pair and pair[1]["mean_nodes"]:
            ratio = pair[0]["mean_nodes"] / pair[1]["mean_nodes"]
            word = "met" if ratio <= 0.5 else "missed"
            sentences.append(f"search nodes on {tier}, at most half: {word} ({ratio:.2f} of the completer alone)")
    guaranteed = [row for row in rows if row["sampler"] == "guaranteed"]
    if guaranteed:
        done = all(row["solved"] == 1 for row in guaranteed)
        sentences.append(f"guaranteed solves everything: {'met' if done else 'missed'}")
    return sentences


def shared_nodes(saved: Sequence[Column], tier: str) -> str:
    """Search nodes with the model, with an untrained one and without any, on the puzzles that all three have."""
    names = ("guaranteed", "guaranteed@untrained", "search")
    by_name = {column.name: column for column in saved if column.name in names and (column.tier == tier).any()}
    if len(by_name) < len(names):
        return ""
    shared = set.intersection(*(set(column.puzzle[column.tier == tier].tolist()) for column in by_name.values()))
    means = []
    for name in names:
        nodes = by_name[name].values["nodes"][np.isin(by_name[name].puzzle, sorted(shared))].mean(1)
        low, high = percentile_mean(nodes)
        means.append(f"{name} {nodes.mean():.1f} ({low:.1f}-{high:.1f})")
    return "" if not nodes.any() else f"search nodes on the same {len(shared)} puzzles of {tier}: {', '.join(means)}"


def markdown(rows: Sequence[dict[str, Any]], tiers: Sequence[str]) -> str:
    """Samplers down, tiers across: solved % (interval), mean passes, and search nodes if any."""
    lines = ["| sampler | " + " | ".join(tiers) + " |", "|---" * (len(tiers) + 1) + "|"]
    for name in dict.fromkeys(row["sampler"] for row in rows):
        by_tier = {row["tier"]: row for row in rows if row["sampler"] == name}
        lines.append(f"| {name} | " + " | ".join(_cell(by_tier.get(tier)) for tier in tiers) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    low, high = row["ci95"]
    nodes = f", {row['mean_nodes']:.1f} nodes" if row["mean_nodes"] else ""
    return f"{100 * row['solved']:.1f} ({100 * low:.1f}-{100 * high:.1f}), {row['mean_passes']:.1f}{nodes}"


def draw(path: Path, saved: Sequence[Column], tiers: Sequence[str]) -> None:
    """Share solved within p passes: a panel for each tier, a line for each sampler."""
    drawing, axes = figure(len(tiers), width=4.2, height=3.4)
    shown = [column for column in saved if column.values["passes"].any() and UNTRAINED not in column.name]
    shown = [c for c in shown if c.name != "guaranteed" and c.job.seeds == 1 and not c.job.passes]
    for ax, tier in zip(axes, tiers, strict=True):
        for column in shown:
            solved, passes = column.of(tier, "solved").flatten(), column.of(tier, "passes").flatten()
            if len(solved):
                used = np.sort(passes[solved > 0])
                heights = np.arange(1, len(used) + 1) / len(solved)
                last = heights[-1] if len(used) else 0
                style = {"linewidth": 2.2 if column.name in ("plain", "restarts") else 1.0}
                ax.step([0, *used, passes.max()], [0, *heights, last], where="post", label=column.name, **style)
        ax.set(title=tier, xlabel="passes", ylabel="solved within", ylim=(-0.02, 1.02))
        ax.grid(alpha=0.3)
    if shown:
        axes[0].legend(fontsize="x-small", ncols=2)
    save(drawing, path)
