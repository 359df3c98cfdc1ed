"""One training run from plain configuration values: checks, training, export, final table."""

from __future__ import annotations

import json
import logging
import os
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from constrained_dg.errors import InputError, check
from constrained_dg.metrics import solve, summarise
from constrained_dg.model import Backbone, preset
from constrained_dg.report import print_table
from constrained_dg.runs import build, save_run
from constrained_dg.sampling import Diffusion
from constrained_dg.task import Task
from constrained_dg.training.callbacks import ProgressLines, SolveRate, StopOnInterrupt, WeightAverage
from constrained_dg.training.data import TaskData
from constrained_dg.training.module import DiffusionModule, can_compile
from constrained_dg.training.settings import Objective, Optimisation, from_dict

log = logging.getLogger(__name__)

#: The whole configuration of a run, to resume it with; run.json holds what is needed to use its model.
CONFIGURATION = "train.json"
#: Tells the processes that Lightning starts where the first one writes.
FOLDER_VARIABLE = "CONSTRAINED_DG_RUN"
#: What may differ when a run is resumed: where and how it runs, not what it computes.
RESUMABLE = ("resume", "out", "trainer", "logger", "threads", "compile", "workers", "validate", "checkpoint_every")


def fit(cfg: dict[str, Any]) -> float:
    """Train as configured.

    Args:
        cfg: plain values, see conf/train.yaml.

    Returns:
        The share of held-out problems solved in the final table.

    Raises:
        InputError: a value out of range, a folder that cannot be used; before any training.
    """
    cfg, folder = prepare_folder(cfg)
    quieten_lightning()
    torch.set_num_threads(cfg["threads"] or os.cpu_count() or 1)
    check(isinstance(cfg["seed"], int) and cfg["seed"] >= 0, f"seed is {cfg['seed']!r}", "use an integer from 0 on")
    L.seed_everything(cfg["seed"], verbose=False)
    objective = from_dict(Objective, cfg["objective"], "objective")
    optimisation = from_dict(Optimisation, cfg["optimisation"], "optimisation")
    for name in ("checkpoint_every", "validate.every", "validate.per_tier", "report_per_tier"):
        value = cfg["validate"][name.split(".")[1]] if "." in name else cfg[name]
        check(isinstance(value, int) and value >= 1, f"{name} is {value!r}", "use an integer of at least 1")

    task, sampler = build(cfg["task"]), build(cfg["sampler"])
    check(isinstance(sampler, Diffusion), f"sampler {sampler.name!r} does not denoise", "train with plain or validity")
    backbone = new_backbone(cfg["model"], task, cfg["seed"])
    trainer, average = new_trainer(cfg, folder, task, sampler, optimisation)
    device = trainer.strategy.root_device.type
    compiled = can_compile(device) if cfg["compile"] == "auto" else bool(cfg["compile"])
    module = DiffusionModule(backbone, objective, optimisation, cfg["seed"], compiled)
    parameters = sum(p.numel() for p in backbone.parameters())
    log.info("%s: %d parameters, %s, torch.compile %s", folder, parameters, device, "on" if compiled else "off")

    last = folder / "checkpoints" / "last.ckpt"
    resume_from = str(last) if cfg["resume"] and last.exists() else None
    data = TaskData(task, optimisation.batch_size, cfg["workers"])
    trainer.fit(module, data, ckpt_path=resume_from, weights_only=True)

    with average.swapped(module):
        export(folder, module, cfg, trainer)
        steps = trainer.global_step
        if steps < optimisation.steps:
            log.info("ended at step %d of %d; go on with: python train.py resume=%s", steps, optimisation.steps, folder)
            return float("nan")
        return final_table(cfg, folder, module, task, sampler, trainer)


def quieten_lightning() -> None:
    """Our lines say what matters; Lightning's own notices and deprecations are not the user's to mend."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*treespec.*", ".*is_leaf.*"):
        warnings.filterwarnings("ignore", message=message)


def prepare_folder(cfg: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The folder of the run, and the configuration to use: that of the run itself when one is resumed."""
    if cfg["resume"]:
        folder = Path(cfg["resume"])
        path = folder / CONFIGURATION
        check(path.is_file(), f"no {CONFIGURATION} in {str(folder)!r}", "resume takes the folder of an unfinished run")
        try:
            before = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not JSON ({error})", "it may be cut short") from None
        fixed = set(before) & set(cfg["overridden"]) - set(RESUMABLE)
        differ = sorted(key for key in fixed if before[key] != cfg[key])
        check(not differ, f"{differ} differ from the run in {str(folder)!r}", "resume with the values it began with")
        for key in RESUMABLE:
            if key in cfg["overridden"]:
                before[key] = cfg[key]
        return {**before, "resume": cfg["resume"]}, folder
    if os.environ.get(FOLDER_VARIABLE) and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        return cfg, Path(os.environ[FOLDER_VARIABLE])
    name = cfg["task"]["_target_"].rpartition(".")[2].lower()
    folder = Path(cfg["out"] or Path("outputs") / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    check(
        not (folder / CONFIGURATION).exists(),
        f"{str(folder)!r} holds a run already",
        f"give another out, or resume={folder}",
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIGURATION).write_text(json.dumps(cfg, indent=1))
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}", "give another out") from None
    os.environ[FOLDER_VARIABLE] = str(folder)
    return cfg, folder


def new_backbone(config: dict[str, Any], task: Task, seed: int) -> Backbone:
    """An untrained backbone for the task: a preset, changed by the other keys of the group."""
    changes = dict(config)
    name = changes.pop("preset")
    relations = changes.pop("relations")
    shape = {
        "vocab_size": task.vocab_size,
        "num_relations": task.num_relations if relations else 0,
        "canvas_length": task.max_canvas,
    }
    return Backbone(preset(name, **{**shape, **changes})).init_weights(torch.Generator().manual_seed(seed))


def new_trainer(
    cfg: dict[str, Any], folder: Path, task: Task, sampler: Diffusion, optimisation: Optimisation
) -> tuple[L.Trainer, WeightAverage]:
    """Lightning's trainer with our callbacks, and the one that averages the weights."""
    average = WeightAverage(optimisation.average)
    problems = task.held_out(cfg["validate"]["per_tier"], cfg["seed"] + 1)
    solve_rate = SolveRate(task, sampler, problems, cfg["validate"]["every"], average)
    checkpoint = ModelCheckpoint(
        folder / "checkpoints",
        filename="{step}",
        every_n_train_steps=cfg["checkpoint_every"],
        save_last="link",
        save_on_train_epoch_end=True,
    )
    try:
        trainer = L.Trainer(
            **trainer_arguments(cfg["trainer"]),
            logger=new_logger(cfg["logger"], folder, cfg),
            callbacks=[average, solve_rate, ProgressLines(), StopOnInterrupt(), checkpoint],
            max_steps=optimisation.steps,
            gradient_clip_val=optimisation.clip,
            default_root_dir=folder,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10,
        )
    except (TypeError, ValueError, L.pytorch.utilities.exceptions.MisconfigurationException) as error:
        raise InputError(f"trainer: {error}", "see conf/trainer and Lightning's Trainer") from None
    return trainer, average


def trainer_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Lightning's arguments; `strategy: fsdp` stands for FSDP2 (fully_shard), since the classic one refuses a CPU."""
    arguments = dict(config)
    if arguments.get("strategy") == "fsdp":
        from lightning.pytorch.strategies import ModelParallelStrategy

        arguments["strategy"] = ModelParallelStrategy(
            data_parallel_size=arguments["devices"], tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return arguments


def new_logger(name: str, folder: Path, cfg: dict[str, Any]) -> Any:
    """A logger that needs neither account nor network: `wandb` (offline) or `csv`."""
    if name == "csv":
        return L.pytorch.loggers.CSVLogger(folder, name="log", version="")
    check(name == "wandb", f"unknown logger {name!r}", "known: csv, wandb")
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    return L.pytorch.loggers.WandbLogger(
        name=folder.name, project="constrained_dg", save_dir=folder, offline=True, log_model=False, config=cfg
    )


def export(folder: Path, module: DiffusionModule, cfg: dict[str, Any], trainer: L.Trainer) -> None:
    """Write the weights as they stand now, whole, from one process."""
    model = module.backbone
    state = {name: whole(tensor) for name, tensor in model.state_dict().items()}
    if trainer.is_global_zero:
        training = {key: cfg[key] for key in ("seed", "objective", "optimisation")}
        training["steps_done"] = trainer.global_step
        save_run(folder, model, {"task": cfg["task"], "sampler": cfg["sampler"], "training": training}, state)
    trainer.strategy.barrier()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered from all processes; others as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def final_table(
    cfg: dict[str, Any], folder: Path, module: DiffusionModule, task: Task, sampler: Diffusion, trainer: L.Trainer
) -> float:
    """Solve rates on held-out problems that neither training nor the curves have seen; printed and saved."""
    problems = task.held_out(cfg["report_per_tier"], cfg["seed"] + 2)
    with torch.compiler.set_stance("force_eager"):
        outcomes = solve(
            module.backbone.eval(), task, sampler, problems, batch_size=128, seed=cfg["seed"], device=str(module.device)
        )
    rows = summarise(sampler.name, outcomes)
    if trainer.is_global_zero:
        (folder / "final.json").write_text(json.dumps({"rows": rows}, indent=1))
        print_table(rows)
        log.info("run folder: %s", folder)
    return sum(o.solved for o in outcomes) / len(outcomes)
