"""Say how well a trained model solves problems: `python evaluate.py run=RUN data=FILE`. Options: conf/evaluate.yaml.

Recipe: run folder -> problems -> sampler(backbone, constraint) -> judged answers -> table, metrics.json, pictures.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from constrained_dg import report
from constrained_dg.cli import ROOT, entry, load_sampler
from constrained_dg.errors import InputError, check
from constrained_dg.metrics import METRICS, Outcome, check_sampler, solve, summarise
from constrained_dg.model import Backbone
from constrained_dg.runs import Run, load
from constrained_dg.sampling.base import Sampler, Status, StepRecord
from constrained_dg.task import Problem
from constrained_dg.viz import pictures, trace

log = logging.getLogger(__name__)

UNTRAINED = "@untrained"
#: Generated problems for each tier when no limit is given.
GENERATED = 100
#: Seconds that a pass stays before one's eyes in a terminal.
FRAME = 0.15
KEYS = {"run", "data", "samplers", "limit", "puzzle", "show", "out", "seed", "batch_size", "max_passes", "device"}
KEYS |= {"threads", "check_overlap", "packages", "overridden"}


@dataclass(frozen=True)
class Contender:
    """A sampler as it was named, and the model it gets (None where it needs none)."""

    name: str
    sampler: Sampler
    model: Backbone | None


def evaluate(cfg: dict[str, Any]) -> dict[str, Any]:
    """Evaluate as configured: a report, or a few problems shown as they settle.

    Args:
        cfg: plain values, see conf/evaluate.yaml.

    Returns:
        What metrics.json holds: "header" and "rows" (without a header for problems that are shown).

    Raises:
        InputError: a run, file, sampler, folder or value that cannot be used; before any long work.
    """
    check_values(cfg)
    torch.set_num_threads(cfg["threads"] or os.cpu_count() or 1)
    run = load(cfg["run"], cfg["device"], cfg.get("packages") or ())
    contenders = [contender(name, run, cfg) for name in cfg["samplers"] or run.task.samplers]
    if cfg["puzzle"] is not None:
        return show(cfg, run, contenders[0], [run.task.parse(str(cfg["puzzle"]))])
    if cfg["show"] is not None:
        problems = run.task.held_out(cfg["show"], cfg["seed"])
        return show(cfg, run, contenders[0], random.Random(cfg["seed"]).sample(problems, cfg["show"]))
    problems = problems_of(cfg, run)
    folder = folder_of(cfg)
    report.make_folder(folder)
    return write_report(cfg, run, contenders, problems, folder)


def check_values(cfg: dict[str, Any]) -> None:
    """Raise InputError for an unknown key or a value out of range, and for a folder that holds something."""
    unknown = sorted(set(cfg) - KEYS)
    check(not unknown, f"no configuration key {unknown}", f"known: {', '.join(sorted(KEYS - {'overridden'}))}")
    lowest = {"seed": 0, "batch_size": 1, "threads": 0, "limit": 1, "max_passes": 1, "show": 1}
    for key, low in lowest.items():
        value, optional = cfg[key], key in ("limit", "max_passes", "show")
        number = isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63
        hint = f"use an integer of at least {low}" + (", or null" if optional else "")
        check(number or (optional and value is None), f"{key} is {value!r}", hint)
    check(isinstance(cfg["check_overlap"], bool), f"check_overlap is {cfg['check_overlap']!r}", "use true or false")
    packages = cfg.get("packages") or []
    texts = isinstance(packages, list) and all(isinstance(name, str) for name in packages)
    check(texts, f"packages is {packages!r}", "give the names of packages, such as [my_tasks]")
    names = cfg["samplers"]
    fine = names is None or (isinstance(names, list) and names and all(isinstance(name, str) for name in names))
    check(bool(fine) and len(set(names or ())) == len(names or ()), f"samplers is {names!r}", "give names, each once")
    given = [key for key in ("data", "puzzle", "show") if cfg[key] is not None]
    check(len(given) <= 1, f"{' and '.join(given)} were given together", "give one of them")
    try:
        torch.zeros(1, device=cfg["device"])
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device {cfg['device']!r} cannot be used ({str(error).splitlines()[0]})", "use cpu") from None
    if cfg["out"] is not None:
        report.check_folder(folder_of(cfg))


def contender(name: str, run: Run, cfg: dict[str, Any]) -> Contender:
    """The sampler of conf/sampler with the model of the run, or with an untrained one of the same shape."""
    sampler = load_sampler(name.removesuffix(UNTRAINED))
    check_sampler(run.task, sampler)
    if not name.endswith(UNTRAINED):
        return Contender(name, sampler, run.model)
    check(sampler.needs_model, f"sampler {name!r} needs no model", f"use {sampler.name!r}")
    untrained = Backbone(run.model.config).init_weights(torch.Generator().manual_seed(cfg["seed"]))
    return Contender(name, sampler, untrained.eval().to(cfg["device"]))


def problems_of(cfg: dict[str, Any], run: Run) -> list[Problem]:
    """The problems of the file, at most `limit` for each tier, or generated ones."""
    if cfg["data"] is None:
        return run.task.held_out(cfg["limit"] or GENERATED, cfg["seed"])
    problems = run.task.read(str(cfg["data"]))
    tiers: dict[str, list[int]] = {}
    for index, problem in enumerate(problems):
        tiers.setdefault(problem.tier, []).append(index)
    kept: list[int] = []
    for tier, indices in tiers.items():
        # A tier's draw depends on its own name and problems, not on the tiers beside it.
        count = min(cfg["limit"] or len(indices), len(indices))
        kept += random.Random(f"{cfg['seed']} {tier}").sample(indices, count)
    chosen = [problems[index] for index in sorted(kept)]
    for problem in chosen:
        fits(run, problem, str(cfg["data"]))
    return chosen


def fits(run: Run, problem: Problem, source: str) -> None:
    """Raise InputError unless the model can hold the problem."""
    prompt, answer, *_ = run.task.shape_of(problem)
    limits, canvas = run.model.config, run.task.canvas_length or answer
    check(
        canvas <= limits.canvas_length and prompt + answer <= limits.max_position_embeddings,
        f"{source}: {problem.text[:20]}... needs a canvas of {canvas} tokens",
        f"the model of {str(run.folder)!r} holds {limits.canvas_length}",
    )


def folder_of(cfg: dict[str, Any]) -> Path:
    return Path(cfg["out"] or Path("outputs") / "evaluate" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def write_report(
    cfg: dict[str, Any], run: Run, contenders: Sequence[Contender], problems: Sequence[Problem], folder: Path
) -> dict[str, Any]:
    """Solve with every sampler; each is saved when it is finished, so that an interruption loses one at most."""
    options = {key: cfg[key] for key in ("batch_size", "threads", "run", "data", "limit", "max_passes")}
    options["samplers"] = [one.name for one in contenders]
    overlap = None
    if cfg["data"] is not None and cfg["check_overlap"] and hasattr(run.task, "overlap"):
        log.info("comparing %d problems with the training problems", len(problems))
        overlap = len(run.task.overlap(problems))
    header = report.new_header(
        ROOT, cfg["seed"], cfg["device"], **options, overlap_with_training=overlap, complete=False
    )
    rows: list[dict[str, Any]] = []
    outcomes: dict[str, list[Outcome]] = {}
    for one in contenders:
        with report.progress(one.name, len(problems)) as progress:
            outcomes[one.name] = solve(one.model, run.task, one.sampler, problems, progress=progress, **settings(cfg))
        rows += summarise(one.name, outcomes[one.name], run.task, one.model)
        header["complete"] = len(outcomes) == len(contenders)
        report.save(folder, header, rows, outcomes)
        run.task.save(folder, outcomes)
    pictures.solve_rate_by_passes(folder / "solve_rate_by_passes.png", outcomes)
    pictures.solve_rate_by_clues(folder / "solve_rate_by_clues.png", outcomes)
    pictures.answers(folder / "answers.png", run.task, outcomes)
    notes = [f"seconds a problem, batches of {cfg['batch_size']}: " + per_sampler(rows, "seconds", ".3f")]
    notes += [line for row in rows if row["tier"] == "all" for line in own_metrics(row)]
    if overlap is not None:
        notes.append(f"{overlap} of {len(problems)} problems could equal a training problem up to symmetry")
    report.print_table(rows, [*notes, f"report: {folder}"])
    return {"header": header, "rows": rows}


def settings(cfg: dict[str, Any]) -> dict[str, Any]:
    return {key: cfg[key] for key in ("batch_size", "seed", "max_passes", "device")}


def own_metrics(row: dict[str, Any]) -> list[str]:
    """What the task itself says of a sampler, as a line: the metrics that not every report has."""
    own = {name: row["metrics"][name] for name in sorted(set(row["metrics"]) - set(METRICS))}
    told = [f"{name} {m['value']:.3g} ({m['ci95'][0]:.3g}-{m['ci95'][1]:.3g}, n={m['n']})" for name, m in own.items()]
    return [f"{row['sampler']}: {', '.join(told)}"] if told else []


def per_sampler(rows: Sequence[dict[str, Any]], key: str, form: str) -> str:
    return ", ".join(f"{row['sampler']} {row[key]:{form}}" for row in rows if row["tier"] == "all")


def show(cfg: dict[str, Any], run: Run, one: Contender, problems: Sequence[Problem]) -> dict[str, Any]:
    """Solve problems before one's eyes; with `out` also keep a trace and a picture of each."""
    for problem in problems:
        fits(run, problem, "puzzle")
    folder = None if cfg["out"] is None else folder_of(cfg)
    if folder is not None:
        report.make_folder(folder)
    console, outcomes = Console(highlight=False), []
    for number, problem in enumerate(problems, 1):
        records: list[StepRecord] = []
        # Recorded first and shown afterwards, so that the time is the model's and not that of the eyes.
        [outcome] = solve(one.model, run.task, one.sampler, [problem], on_step=records.append, **settings(cfg))
        batch, constraint = run.task.encode([problem]), run.task.constraint([problem])
        frames = trace.frames_of(records, batch, constraint, 0, run.task.blank_id)
        console.print(f"\n{one.name} on {problem.text}", soft_wrap=True, markup=False)
        play(console, run, problem, frames)
        console.print(Text.from_ansi(verdict(run, problem, outcome, frames)), soft_wrap=True)
        if folder is not None:
            text = json.dumps(trace.to_json(problem, outcome, frames)) + "\n"
            (folder / f"trace_{number}.json").write_text(text)
            trace.plot_frames(folder / f"settling_{number}.png", run.task, problem, frames)
            if frames:  # no pass, nothing that settles
                trace.plot_certainty(folder / f"certainty_{number}.png", frames)
        outcomes.append(outcome)
    return {"rows": summarise(one.name, outcomes)}


def verdict(run: Run, problem: Problem, outcome: Outcome, frames: Sequence[trace.Frame]) -> str:
    """The answer where no frame shows it yet, what the judge says of it, and what it cost."""
    batch, constraint = run.task.encode([problem]), run.task.constraint([problem])
    cost = f"passes {outcome.passes}, search branches {outcome.search_nodes}, {outcome.seconds:.2f} s"
    lines = [f"{outcome.status}: {cost}"]
    if outcome.status is Status.UNSATISFIABLE:
        clues = torch.where(batch.pinned, batch.answer, run.task.blank_id)
        drawn = run.task.draw(problem, None, (constraint.violations(clues) & batch.pinned)[0])
        return "\n".join([drawn, *lines, "proved: no answer agrees with the clues"])
    answer = outcome.tokens[None]
    if not frames or not torch.equal(frames[-1].best, outcome.tokens):
        lines.insert(0, run.task.draw(problem, answer[0], constraint.violations(answer)[0]))
    return "\n".join([*lines, *constraint.explain(answer)[0], outcome.answer])


def play(console: Console, run: Run, problem: Problem, frames: Sequence[trace.Frame]) -> None:
    """Frames in one place of the terminal, or a few of them below each other where there is no terminal."""
    if not console.is_terminal:
        for frame in trace.chosen(frames, 6):
            console.print(trace.draw_frame(run.task, problem, frame, color=False), markup=False)
        return
    with Live(console=console, auto_refresh=False) as live:
        for frame in frames:
            live.update(Text.from_ansi(trace.draw_frame(run.task, problem, frame, color=True)), refresh=True)
            time.sleep(FRAME)


main = entry("evaluate", text=("run", "data", "out", "puzzle"))(evaluate)

if __name__ == "__main__":
    main()
