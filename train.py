"""Train a diffusion model on a task: `python train.py task=sudoku`. Options: `python train.py --help`, conf/train.yaml.

Recipe: task -> examples -> prompt and canvas tokens -> corruption -> backbone -> loss -> run folder -> final table.
"""

# ruff: noqa: E402  (the first lines must come before the slow imports)
from __future__ import annotations

import os
import signal
from typing import Any


def _end_at_once(number: int, frame: Any) -> None:
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    os.write(2, b"interrupted\n" if first else b"")
    os._exit(128 + number if first else 0)


if __name__ == "__main__":
    # Until `train` handles signals, nothing can be lost: one line instead of a traceback.
    signal.signal(signal.SIGINT, _end_at_once)
    signal.signal(signal.SIGTERM, _end_at_once)

import json
import logging
import sys
from pathlib import Path

from constrained_dg.cli import ROOT, choices, entry, require

require("lightning", "training")

import lightning as L
import torch
from torch.distributed.fsdp import FSDPModule

from constrained_dg import report
from constrained_dg.errors import check
from constrained_dg.evaluation import check_sampler, solve, summarise
from constrained_dg.files import write_whole
from constrained_dg.places import OUR_PACKAGES
from constrained_dg.runs import build, find_run
from constrained_dg.sampling import Autoregressive, Diffusion
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.task import Task
from constrained_dg.training import folder as run_folder
from constrained_dg.training.callbacks import SolveRate, WeightAverage, gathered
from constrained_dg.training.data import TaskData
from constrained_dg.training.interrupts import Interrupts
from constrained_dg.training.module import DiffusionModule, can_compile
from constrained_dg.training.settings import Objective, Optimisation, check_groups, check_values, from_dict
from constrained_dg.training.start import Start, start_of
from constrained_dg.training.trainer import cleaned_up, equip, new_trainer, quieten_lightning

log = logging.getLogger(__name__)

#: Groups that `model.pretrained` selects by default.
FINETUNE = {"model": "pretrained", "objective": "finetune", "optimisation": "finetune", "sampler": "plain"}


def train(cfg: dict[str, Any]) -> float:
    """Train as configured.

    Args:
        cfg: plain values, see conf/train.yaml.

    Returns:
        The share of held-out problems solved in the final table.

    Raises:
        InputError: a value out of range, a folder that cannot be used; before any training.
        SystemExit: a signal ended the run: 130 for Ctrl-C, 143 for SIGTERM.
    """
    quieten_lightning()
    with Interrupts().handled() as interrupts, cleaned_up():
        return _train(cfg, interrupts)


def _train(cfg: dict[str, Any], interrupts: Interrupts) -> float:
    # 1. The configuration: as given, or that of the run to resume.
    check_groups(cfg)
    cfg = with_absolute_paths(cfg)
    # From the command line: a run folder may come from others, so it must not choose what is imported.
    packages, resume = cfg["packages"], cfg["resume"]
    if resume:
        cfg = run_folder.resumed(cfg)
        check_groups(cfg)
    elif cfg["out"] and run_folder.is_first_process():
        run_folder.check_free(Path(cfg["out"]))
    check_values(cfg)
    torch.set_num_threads(cfg["threads"] or os.cpu_count() or 1)
    L.seed_everything(cfg["seed"], verbose=False)

    # 2. Task, sampler and model. Only fast steps, since any of them may be refused.
    objective = from_dict(Objective, cfg["objective"], "objective")
    optimisation = from_dict(Optimisation, cfg["optimisation"], "optimisation")
    named = {*OUR_PACKAGES, *packages} if resume else None
    task, sampler = build(cfg["task"], named), build(cfg["sampler"], named)
    check_kind(sampler, objective)
    start = start_of(cfg, packages)
    backbone, task = start.model(task)
    check_sampler(task, sampler)
    checkpoint = run_folder.checkpoint_of(Path(resume)) if resume else None
    trainer = new_trainer(cfg, optimisation, checkpoint)
    average, validate = WeightAverage(optimisation.average), cfg["validate"]
    problems = task.held_out(validate["per_tier"], cfg["seed"] + 1)
    solve_rate = SolveRate(task, sampler, problems, validate["every"], average, interrupts)

    # 3. The run folder.
    if resume:
        folder = Path(resume)
        run_folder.announce(folder)
        run_folder.remove_partial(folder)
    else:
        folder = run_folder.claim(cfg["out"], task.name, cfg)

    # 4. Train.
    start.choose_trained(backbone)
    backbone.recompute = cfg["recompute"]
    device = trainer.strategy.root_device.type
    compiled = can_compile(device) if cfg["compile"] == "auto" else cfg["compile"]
    module = DiffusionModule(backbone, objective, optimisation, cfg["seed"], task, compiled)
    steps_done = checkpoint.step if checkpoint else 0
    equip(trainer, cfg, folder, solve_rate, interrupts, steps_done, compiled)
    log.info("%s: %s, %s, torch.compile %s", folder, size_of(backbone), device, "on" if compiled else "off")
    if resume:
        log.info("resuming from %s", f"step {steps_done}" if checkpoint else "step 0: the run had no checkpoint yet")
    data = TaskData(task, optimisation.batch_size, cfg["workers"])
    trainer.fit(module, data, ckpt_path=str(checkpoint.path) if checkpoint else None, weights_only=True)

    # 5. Write the model and the final table.
    with average.swapped(module):
        start.finish(backbone)
        export(folder, module, cfg, start, trainer)
        interrupts.finished = True
        if trainer.global_step < optimisation.steps or interrupts.received:
            how = f"python train.py resume={folder}"
            log.info("ended at step %d of %d; go on with: %s", trainer.global_step, optimisation.steps, how)
            if interrupts.received and trainer.is_global_zero:
                sys.exit(128 + interrupts.received)
            return float("nan")
        return final_table(cfg, folder, module, task, sampler, trainer)


def check_kind(sampler: Sampler, objective: Objective) -> None:
    """Raise InputError for a sampler that solves in another way than the objective teaches."""
    if objective.canvas_weight:
        denoises = isinstance(sampler.inner, Diffusion)
        check(denoises, f"sampler {sampler.name!r} does not denoise", "train with plain or validity")
    else:
        causal = isinstance(sampler, Autoregressive)
        hint = "use sampler=autoregressive, or objective=diffusion"
        check(causal, f"sampler {sampler.name!r}, and the objective teaches no canvas", hint)


def with_absolute_paths(cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration with absolute paths, so that a run can be resumed from any folder."""

    def absolute(group: dict[str, Any], *keys: str) -> dict[str, Any]:
        return group | {key: os.path.abspath(group[key]) for key in keys if isinstance(group.get(key), str)}

    model = absolute(cfg["model"], "pretrained")
    if "run" in model:
        model = model | {"run": os.path.abspath(find_run(model["run"]))}
    return absolute(cfg, "data") | {"task": absolute(cfg["task"], "data"), "model": model}


def size_of(model: torch.nn.Module) -> str:
    """The number of parameters, and of trained ones if that differs."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{trained} of {total} parameters" if trained < total else f"{total} parameters"


def export(folder: Path, module: DiffusionModule, cfg: dict[str, Any], start: Start, trainer: L.Trainer) -> None:
    """Write the current weights, gathered from all processes, from the first one."""
    model, state = module.backbone, None
    if isinstance(model, FSDPModule):
        # One tensor after the other, so that no device has to hold the whole model.
        state = {}
        for name, part in model.state_dict().items():
            tensor = gathered(part)  # all processes take part
            if trainer.is_global_zero:
                state[name] = tensor.cpu()
    if trainer.is_global_zero:
        training = {key: cfg[key] for key in ("seed", "objective", "optimisation")}
        training |= {"steps_done": trainer.global_step, **start.record()}
        description = {"task": cfg["task"], "sampler": cfg["sampler"], "training": training}
        start.save(folder, model, description, state)
    trainer.strategy.barrier()


def final_table(
    cfg: dict[str, Any], folder: Path, module: DiffusionModule, task: Task, sampler: Sampler, trainer: L.Trainer
) -> float:
    """Print and save solve rates on held-out problems that were not used before. Returns the share solved."""
    if not (trainer.is_global_zero or isinstance(module.backbone, FSDPModule)):
        return float("nan")  # the first process reports; others are needed only if they hold a part of the model
    problems = task.held_out(cfg["report_per_tier"], cfg["seed"] + 2)
    model, device = module.backbone.eval(), str(module.device)
    with torch.compiler.set_stance("force_eager"), report.progress("final table", len(problems)) as progress:
        outcomes = solve(
            model, task, sampler, problems, batch_size=128, seed=cfg["seed"], device=device, progress=progress
        )
    if trainer.is_global_zero:
        rows = summarise(sampler.name, outcomes, task, model)
        where = {key: cfg[key] for key in ("threads", "trainer")}
        header = report.new_header(ROOT, cfg["seed"], module.device.type, **where)
        write_whole(folder / run_folder.FINAL, json.dumps({"header": header, "rows": rows}, indent=1))
        report.print_table(rows)
        log.info("run folder: %s", folder)
    return sum(o.solved for o in outcomes) / len(outcomes)


def implied(given: list[str]) -> list[str]:
    """Arguments that the given ones imply: see `constrained_dg.cli.entry`.

    Raises:
        InputError: `model.pretrained` or `model.run` together with keys that describe another model.
    """
    values = dict(argument.partition("=")[::2] for argument in given)
    added = []
    if "resume" in values and "task" not in values:
        # Hydra requires a task. A resumed run names its task in its folder, so any choice will do.
        added.append(f"task={choices('task')[0]}")
    if "model.run" in values or values.get("model") == "run":
        _alone(values, "run", "model.run")
        return added + ["model=run"] * ("model" not in values)
    by_name = values.get("model") == FINETUNE["model"]
    if "model.pretrained" not in values and not by_name:
        return added
    _alone(values, FINETUNE["model"], "model.pretrained", "model.lora")
    return added + [f"{group}={choice}" for group, choice in FINETUNE.items() if group not in values]


def _alone(values: dict[str, str], choice: str, *known: str) -> None:
    """Raise InputError for keys that describe another model than the weights to start from."""
    other = [key for key in values if key.split(".")[0] == "model" and key not in known]
    other = [key for key in other if (key, values[key]) != ("model", choice)]
    check(not other, f"{', '.join(other)} together with {known[0]}", "leave it out: the weights fix the shape")


main = entry("train", text=("data", "model.pretrained", "model.run"), implied=implied)(train)

if __name__ == "__main__":
    main()
