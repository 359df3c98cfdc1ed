"""Measure how well a trained model solves problems: `python evaluate.py run=RUN data=FILE`. Options: `--help`.

Recipe: run folder -> problems -> sampler(backbone, constraint) -> judged answers -> table, metrics.json, pictures.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from constrained_dg import ranks, report, rng
from constrained_dg.cli import ROOT, adjusted, entry, keys_of, load_sampler
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.evaluation import Outcome, check_sampler, solve, solve_batch, summarise
from constrained_dg.files import write_whole
from constrained_dg.model import Backbone
from constrained_dg.runs import Run, load
from constrained_dg.sampling.base import StepRecord
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.task import Problem
from constrained_dg.viz import pictures, terminal, trace
from constrained_dg.viz.page import writing

log = logging.getLogger(__name__)

#: Endings of a sampler's name: with an untrained model, with that of another run.
UNTRAINED, TWIN = "@untrained", "@twin"
#: Generated problems for each tier: the default, and the largest limit.
GENERATED, MOST_GENERATED = 100, 100_000
#: With check_overlap=auto, files with fewer problems are not compared with the training problems.
COMPARED_FROM = 100
#: Most problems to show, and the number of generated ones among which each is chosen.
MOST_SHOWN, TRIED = 100, 12
#: Passes that a shown problem should take.
SEVERAL = 4
#: Key -> least and largest value, and whether null is allowed.
COUNTS = {
    "seed": (0, 2**63 - 1, False),
    "batch_size": (1, 2**31, False),
    "threads": (0, max(256, os.cpu_count() or 1), False),
    "limit": (1, 2**63 - 1, True),
    "max_passes": (1, 2**31, True),
    "show": (1, MOST_SHOWN, True),
}


@dataclass(frozen=True)
class Contender:
    """A sampler by its name on the command line, and its model (None if it needs none)."""

    name: str
    sampler: Sampler
    model: Backbone | None


def evaluate(cfg: dict[str, Any]) -> dict[str, Any]:
    """Evaluate as configured: write a report, or show a few problems pass by pass.

    Args:
        cfg: plain values, see conf/evaluate.yaml.

    Returns:
        The content of metrics.json, "header" and "rows"; only "rows" for problems that are shown.

    Raises:
        InputError: a run, file, sampler, folder or value that cannot be used; before any long work.
    """
    check_values(cfg)
    check_finished(cfg["run"])
    torch.set_num_threads(cfg["threads"] or os.cpu_count() or 1)
    run = load(cfg["run"], cfg["device"], cfg["packages"])
    twin = load_twin(cfg, run)
    contenders = [contender(name, run, twin, cfg) for name in cfg["samplers"] or run.samplers]
    if cfg["puzzle"] is not None:
        return show(cfg, run, contenders, [run.task.parse(str(cfg["puzzle"]))])
    if cfg["show"] is not None:
        with report.progress("generating problems"):
            problems = run.task.held_out(max(cfg["show"], TRIED), cfg["seed"])
        tried = min(TRIED * cfg["show"], len(problems))
        return show(cfg, run, contenders, random.Random(cfg["seed"]).sample(problems, tried))
    problems = problems_of(cfg, run)
    processes = ranks.started((cfg.get("trainer") or {}).get("devices", 1), solve_share, cfg, problems)
    with report.new_folder(cfg["out"]) as folder, processes as place:
        return write_report(cfg, run, contenders, problems, folder, place)


def solve_share(place: ranks.Ranks, cfg: dict[str, Any], problems: Sequence[Problem]) -> None:
    """What the other processes of trainer=ddp do: solve their batches for every sampler."""
    torch.set_num_threads(cfg["threads"] or os.cpu_count() or 1)
    run = load(cfg["run"], cfg["device"], cfg["packages"])
    twin = load_twin(cfg, run)
    for name in cfg["samplers"] or run.samplers:
        one = contender(name, run, twin, cfg)
        solve(one.model, run.task, one.sampler, problems, ranks=place, **solving(cfg))


def solving(cfg: dict[str, Any]) -> dict[str, Any]:
    """What `solve` takes from the configuration."""
    return {key: cfg[key] for key in ("batch_size", "seed", "max_passes", "device")}


def check_values(cfg: dict[str, Any]) -> None:
    """Raise InputError for an unknown key, a value out of range, or an output folder that is not empty."""
    known = keys_of("evaluate")
    unknown = sorted(set(cfg) - {*known, "trainer", "overridden"})
    check(not unknown, f"no configuration key {unknown}", f"known: {', '.join(known)}")
    for key, (low, high, optional) in COUNTS.items():
        good = (cfg[key] is None and optional) or (is_count(cfg[key], low) and cfg[key] <= high)
        hint = f"use an integer from {low} to {high}" + (", or null" if optional else "")
        check(good, f"{key} is {cfg[key]!r}", hint)
    check(
        cfg["data"] is not None or (cfg["limit"] or 1) <= MOST_GENERATED,
        f"limit is {cfg['limit']}, and the problems are generated",
        f"use at most {MOST_GENERATED}, or give data=FILE",
    )
    overlap = cfg["check_overlap"]
    check(overlap == "auto" or isinstance(overlap, bool), f"check_overlap is {overlap!r}", "use auto, true or false")
    packages = cfg["packages"]
    texts = isinstance(packages, list) and all(isinstance(name, str) for name in packages)
    check(texts, f"packages is {packages!r}", "give the names of packages, such as [my_tasks]")
    names = [] if cfg["samplers"] is None else cfg["samplers"]
    fine = isinstance(names, list) and all(isinstance(name, str) for name in names) and cfg["samplers"] != []
    check(fine and len(set(names)) == len(names), f"samplers is {names!r}", "give a list of names, each once")
    for key in ("run", "twin", "data", "out", "page"):
        fine = cfg[key] is None and key != "run"
        check(fine or isinstance(cfg[key], (str, Path)), f"{key} is {cfg[key]!r}", "give a path")
    given = [key for key in ("data", "puzzle", "show") if cfg[key] is not None]
    check(len(given) <= 1, f"{' and '.join(given)} were given together", "give one of them")
    check(isinstance(cfg["device"], str), f"device is {cfg['device']!r}", "use cpu or cuda")
    try:
        torch.zeros(1, device=cfg["device"]).tolist()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {cfg['device']!r} cannot be used ({str(error).splitlines()[0]})", "use cpu") from None
    check_trainer(cfg.get("trainer"))
    if cfg["out"] is not None:
        report.check_folder(Path(cfg["out"]))
    if cfg["page"] is not None:
        writing.check_path(cfg["page"], cfg["out"])


def check_trainer(trainer: dict[str, Any] | None) -> None:
    """Raise InputError unless the processes of trainer=NAME are copies on a CPU."""
    if trainer is None:
        return
    keys, devices, most = {"accelerator", "devices", "strategy", "precision"}, trainer.get("devices"), os.cpu_count()
    check(set(trainer) <= keys, f"no key trainer.{min(set(trainer) - keys, default='')}", f"known: {sorted(keys)}")
    cpu = trainer["accelerator"] == "cpu" and trainer["strategy"] in ("ddp", "auto")
    hint = "use trainer=ddp: a copy of the model in each process, on a CPU"
    check(cpu, f"trainer is {trainer['strategy']} on {trainer['accelerator']}", hint)
    fine = is_count(devices, 1) and devices <= 8 * (most or 1)
    check(fine, f"trainer.devices is {devices!r}", "give a number of processes, such as one for each core")


def check_finished(folder: str) -> None:
    """Raise InputError for the folder of a run that ended before it wrote weights."""
    begun, ended = (os.path.isfile(os.path.join(folder, name)) for name in ("train.json", "run.json"))
    check(ended or not begun, f"the run in {folder!r} was not finished", f"go on with: python train.py resume={folder}")


def load_twin(cfg: dict[str, Any], run: Run) -> Run | None:
    """The run of `twin`. Raises InputError unless it has the task of the run."""
    if cfg["twin"] is None:
        return None
    twin, task = load(cfg["twin"], cfg["device"], cfg["packages"]), run.task
    same = twin.task.name == task.name and twin.model.vocab_size == run.model.vocab_size
    check(same, f"the twin {str(cfg['twin'])!r} has task {twin.task.name}", f"give a run of task {task.name}")
    return twin


def contender(name: str, run: Run, twin: Run | None, cfg: dict[str, Any]) -> Contender:
    """The sampler of this name with the model of the run or its twin, or with an untrained one of the same shape."""
    names = [each.removesuffix(UNTRAINED).removesuffix(TWIN) for each in cfg["samplers"] or run.samplers]
    plain = name.removesuffix(UNTRAINED).removesuffix(TWIN)
    sampler = load_sampler(plain, adjusted(plain, names, cfg["sampler"]))
    check_sampler(run.task, sampler)
    if plain == name:
        return Contender(name, sampler, run.model)
    check(sampler.needs_model, f"sampler {name!r} needs no model", f"use {sampler.name!r}")
    if name.endswith(TWIN):
        check(twin is not None, f"sampler {name!r} uses the model of twin", "give twin=RUN")
        return Contender(name, sampler, twin.model)
    untrained = Backbone(run.model.config).init_weights(torch.Generator().manual_seed(cfg["seed"]))
    return Contender(name, sampler, untrained.eval().to(cfg["device"]))


def problems_of(cfg: dict[str, Any], run: Run) -> list[Problem]:
    """The problems of the file, at most `limit` for each tier, or generated ones."""
    if cfg["data"] is None:
        with report.progress("generating problems"):
            return run.task.held_out(cfg["limit"] or GENERATED, cfg["seed"])
    problems = run.task.read(str(cfg["data"]))
    tiers: dict[str, list[int]] = {}
    for index, problem in enumerate(problems):
        tiers.setdefault(problem.tier, []).append(index)
    kept: list[int] = []
    for tier, indices in tiers.items():
        # The choice in a tier depends on its name and problems alone, not on other tiers.
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


def write_report(
    cfg: dict[str, Any],
    run: Run,
    contenders: Sequence[Contender],
    problems: Sequence[Problem],
    folder: Path,
    place: ranks.Ranks,
) -> dict[str, Any]:
    """Solve with every sampler; after an error or an interruption, finished answers are saved and printed."""
    # 1. Solve, and save after each sampler.
    said = {key: cfg[key] for key in ("batch_size", "threads", "run", "data", "limit", "max_passes")}
    said["samplers"] = [one.name for one in contenders]
    said |= {key: cfg[key] for key in ("sampler", "twin") if cfg[key]} | {"processes": place.size}
    header = report.new_header(ROOT, cfg["seed"], cfg["device"], **said, overlap_with_training=None, complete=False)
    rows: list[dict[str, Any]] = []
    outcomes: dict[str, list[Outcome]] = {}
    finished: list[Outcome] = []
    try:
        for one in contenders:
            finished = []
            with report.progress(one.name, len(problems)) as advance:

                def progress(batch: Sequence[Outcome], done: list[Outcome] = finished, advance: Any = advance) -> None:
                    done.extend(batch)
                    advance(batch)

                options = {"progress": progress, "ranks": place, **solving(cfg)}
                solved = solve(one.model, run.task, one.sampler, problems, **options)
            rows += summarise(one.name, solved, run.task, one.model)
            outcomes[one.name] = solved
            header["complete"] = len(outcomes) == len(contenders)
            report.save(folder, header, rows, outcomes)
            run.task.save(folder, outcomes)
    except BaseException:
        if finished and one.name not in outcomes:
            rows += summarise(one.name, finished)
            report.save(folder, header, rows, {**outcomes, one.name: finished})
        if rows:
            report.print_table(rows, ["not complete", f"report: {folder}"])
        raise
    # 2. Draw the pictures, print the table.
    notes = []
    try:
        pictures.solve_rate_by_passes(folder / "solve_rate_by_passes.png", outcomes)
        pictures.solve_rate_by_given(folder / "solve_rate_by_given.png", outcomes)
        pictures.answers(folder / "answers.png", run.task, outcomes)
    except InputError as error:  # matplotlib is missing: the report is complete without pictures
        notes.append(f"no pictures: {error}")
    seconds = ", ".join(f"{row['sampler']} {row['seconds']:.3f}" for row in rows if row["tier"] == "all")
    notes.append(f"seconds a problem, batches of {cfg['batch_size']}: {seconds}")
    report.print_table(rows, [*notes, f"report: {folder}"])
    # 3. Compare with the training problems, last because it may take long.
    if cfg["data"] is not None:
        print(overlap_note(cfg, run, problems, header), flush=True)
        report.save(folder, header, rows, outcomes)
    # 4. Record the passes of a few problems.
    seeds = rng.row_seeds(cfg["seed"], len(problems)).tolist()
    write_page(cfg, run, contenders, writing.of_report(problems, seeds, outcomes), len(problems))
    return {"header": header, "rows": rows}


def write_page(
    cfg: dict[str, Any], run: Run, contenders: Sequence[Contender], shown: Sequence[writing.Shown], total: int
) -> None:
    """Record the passes of these problems, of `total`, for the page, if one is wanted."""
    if cfg["page"] is None:
        return
    header = report.new_header(ROOT, cfg["seed"], cfg["device"])
    samplers = [(one.name, one.sampler, one.model) for one in contenders]
    options = {"max_passes": cfg["max_passes"], "device": cfg["device"]}
    title = f"Passes of {cfg['run']}"
    print(writing.write_page(cfg["page"], title, header, run.task, samplers, shown, total, **options), flush=True)


def overlap_note(cfg: dict[str, Any], run: Run, problems: Sequence[Problem], header: dict[str, Any]) -> str:
    """Write the number of problems that could equal a training problem into the header; return a sentence about it."""
    wanted = len(problems) >= COMPARED_FROM if cfg["check_overlap"] == "auto" else cfg["check_overlap"]
    if not wanted:
        return "not compared with the training problems; check_overlap=true does, and may take minutes"
    with report.progress(f"comparing {len(problems)} problems with the training problems (check_overlap=false: not)"):
        indices = run.task.overlap(problems)
    if indices is None:
        return "not compared with the training problems: this task has no comparison"
    header["overlap_with_training"] = len(indices)
    return f"{len(indices)} of {len(problems)} problems could equal a training problem up to symmetry"


def show(cfg: dict[str, Any], run: Run, contenders: Sequence[Contender], problems: Sequence[Problem]) -> dict[str, Any]:
    """Solve problems with the first sampler and show them in the terminal; with `out` also save a trace and a picture
    of each, and with `page` record them with every sampler.

    Of generated problems, solved ones that take several passes are preferred.
    """
    wanted, one = cfg["show"] or len(problems), contenders[0]
    for problem in problems:
        fits(run, problem, "puzzle")
    # 1. Solve first and show afterwards, so that printing is not measured.
    solved: list[terminal.Settled] = []
    seeds = rng.row_seeds(cfg["seed"], len(problems))
    with report.progress(f"{one.name} is solving"):
        for problem, seed in zip(problems, seeds.split(1), strict=True):
            solved.append(settle(cfg, run, one, problem, seed))
            if sum(each.outcome.solved and each.outcome.passes >= SEVERAL for each in solved) == wanted:
                break
    chosen = sorted(solved, key=lambda each: (not each.outcome.solved, -min(each.outcome.passes, SEVERAL)))[:wanted]
    # 2. Show and save them.
    with report.new_folder(cfg["out"]) if cfg["out"] else contextlib.nullcontext() as folder:
        for number, each in enumerate(chosen, 1):
            terminal.show(run.task, one.name, each, len(chosen))
            if folder is not None:
                text = json.dumps(trace.to_json(each.problem, each.outcome, each.frames)) + "\n"
                write_whole(folder / f"trace_{number}.json", text)
                trace.plot_frames(folder / f"settling_{number}.png", run.task, each.problem, each.frames)
                if each.frames:
                    trace.plot_certainty(folder / f"certainty_{number}.png", each.frames)
        shown = [writing.Shown(each.problem, int(seeds[solved.index(each)]), {}) for each in chosen]
        write_page(cfg, run, contenders, shown, len(shown))
    if len(solved) > len(chosen):
        count = sum(each.outcome.solved for each in solved)
        print(f"\n{count} of {len(solved)} generated problems are solved; shown are those that take several passes")
    return {"rows": summarise(one.name, [each.outcome for each in chosen])}


def settle(cfg: dict[str, Any], run: Run, one: Contender, problem: Problem, seed: torch.Tensor) -> terminal.Settled:
    """Solve one problem, with a frame for each pass."""
    records: list[StepRecord] = []
    task = run.task
    batch, constraint = task.encode([problem]).to(cfg["device"]), task.constraint([problem]).to(cfg["device"])
    [outcome] = solve_batch(
        one.model, task, one.sampler, [problem], batch, constraint, seed, cfg["max_passes"], records.append
    )
    frames = trace.frames_of(records, batch, constraint, 0, task.blank_id, outcome.tokens)
    return terminal.Settled(problem, outcome, frames, batch, constraint)


main = entry("evaluate", text=("run", "twin", "data", "out", "puzzle", "page"), opened=("sampler",))(evaluate)

if __name__ == "__main__":
    main()
