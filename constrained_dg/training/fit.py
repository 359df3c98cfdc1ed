"""One training run from plain configuration values: checks, training, export, final table."""

from __future__ import annotations

import json
import logging
import os
import pickle
import warnings
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed.fsdp import FSDPModule

from constrained_dg.errors import InputError, check, is_count
from constrained_dg.evaluation import check_sampler, solve, summarise
from constrained_dg.model import Backbone, load_pretrained, preset
from constrained_dg.model.lora import adapt, freeze_routers, merge
from constrained_dg.report import new_header, print_table
from constrained_dg.runs import OUR_PACKAGES, build, load, save_released_run, save_run, task_in_text
from constrained_dg.sampling import Diffusion
from constrained_dg.task import Task
from constrained_dg.training.callbacks import ProgressLines, SolveRate, StopOnInterrupt, WeightAverage, whole
from constrained_dg.training.data import TaskData
from constrained_dg.training.module import DiffusionModule, can_compile
from constrained_dg.training.settings import Objective, Optimisation, from_dict

log = logging.getLogger(__name__)

#: The whole configuration of a run, to resume it with; run.json holds what is needed to use its model.
CONFIGURATION = "train.json"
#: The final table; a run that has one is finished.
FINAL = "final.json"
#: Tells the processes that Lightning starts where the first one writes.
FOLDER_VARIABLE = "CONSTRAINED_DG_RUN"
#: What may differ when a run is resumed: where and how it runs, not what it computes.
RESUMABLE = ("resume", "out", "trainer", "logger", "threads", "compile", "workers", "validate", "checkpoint_every")
RESUMABLE += ("packages",)


def fit(cfg: dict[str, Any]) -> float:
    """Train as configured.

    Args:
        cfg: plain values, see conf/train.yaml.

    Returns:
        The share of held-out problems solved in the final table.

    Raises:
        InputError: a value out of range, a folder that cannot be used; before any training.
    """
    quieten_lightning()
    # As given now: a run folder may come from elsewhere, so it cannot say itself what may be imported for it.
    packages = cfg["packages"]
    cfg, folder = configuration_of(with_whole_paths(cfg))
    check_values(cfg)
    torch.set_num_threads(cfg["threads"] or os.cpu_count() or 1)
    L.seed_everything(cfg["seed"], verbose=False)
    objective = from_dict(Objective, cfg["objective"], "objective")
    optimisation = from_dict(Optimisation, cfg["optimisation"], "optimisation")
    named = {*OUR_PACKAGES, *packages} if cfg["resume"] else None
    task, sampler = build(cfg["task"], named), build(cfg["sampler"], named)
    parts = getattr(sampler, "sampler", sampler)  # of one attempt, where there are several
    check(isinstance(parts, Diffusion), f"sampler {sampler.name!r} does not denoise", "train with plain or validity")
    keeps = objective.own_canvas > 0 and getattr(parts.accept, "keeps", False)
    check(not keeps, f"sampler {sampler.name!r} with objective.own_canvas", "carry canvases of plain, or set it to 0")
    backbone, task = starting_point(cfg, task, objective, packages)
    check_sampler(task, sampler)
    resume_from = checkpoint_of(folder) if cfg["resume"] else None
    trainer, average = new_trainer(cfg, folder, task, sampler, optimisation)
    if not cfg["resume"]:
        make_folder(folder, cfg)
    stored = backbone.embed_tokens.weight.dtype
    if "pretrained" in cfg["model"]:
        choose_trained(backbone, cfg["model"]["lora"], cfg["seed"])
    device = trainer.strategy.root_device.type
    compiled = can_compile(device) if cfg["compile"] == "auto" else cfg["compile"]
    module = DiffusionModule(backbone, objective, optimisation, cfg["seed"], parts, task.rules, compiled)
    parameters = [p for p in backbone.parameters()]
    learned = sum(p.numel() for p in parameters if p.requires_grad)
    some = "" if learned == (total := sum(p.numel() for p in parameters)) else f" of {total}"
    log.info("%s: %d%s parameters, %s, torch.compile %s", folder, learned, some, device, "on" if compiled else "off")
    if cfg["resume"]:
        log.info("resuming from %s", resume_from or "step 0: the run had no checkpoint yet")

    data = TaskData(task, optimisation.batch_size, cfg["workers"])
    trainer.fit(module, data, ckpt_path=resume_from, weights_only=True)

    with average.swapped(module):
        if "pretrained" in cfg["model"]:
            # What the table says is said of the very weights that are written.
            (merge(backbone) if cfg["model"]["lora"] else backbone).to(stored)
        export(folder, module, cfg, trainer)
        steps = trainer.global_step
        if steps < optimisation.steps:
            log.info("ended at step %d of %d; go on with: python train.py resume=%s", steps, optimisation.steps, folder)
            return float("nan")
        return final_table(cfg, folder, module, task, sampler, trainer)


def check_values(cfg: dict[str, Any]) -> None:
    """Raise InputError for a value of conf/train.yaml out of range; the groups check their own."""
    counts = {"checkpoint_every": 1, "report_per_tier": 1, "seed": 0, "threads": 0, "workers": 0}
    given = {name: cfg[name] for name in counts}
    given |= {f"validate.{name}": cfg["validate"][name] for name in ("every", "per_tier")}
    for name, value in given.items():
        low = counts.get(name, 1)
        check(is_count(value, low), f"{name} is {value!r}", f"use an integer of at least {low}")
    packages = cfg["packages"]
    texts = isinstance(packages, list) and all(isinstance(name, str) for name in packages)
    check(texts, f"packages is {packages!r}", "give the names of packages, such as [my_tasks]")
    takes_data = "data" in cfg["task"]
    check(takes_data or cfg["data"] is None, f"data is {cfg['data']!r}, but this task takes none", "leave data out")
    check(not takes_data or cfg["task"]["data"] is not None, "the task needs a file of examples", "give data=FILE")
    check(cfg["compile"] in ("auto", True, False), f"compile is {cfg['compile']!r}", "use auto, true or false")


def with_whole_paths(cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration with paths that mean the same from every folder, so that a run can be resumed from anywhere."""

    def whole(group: dict[str, Any], *keys: str) -> dict[str, Any]:
        return group | {key: os.path.abspath(group[key]) for key in keys if isinstance(group.get(key), str)}

    inner = {"task": whole(cfg["task"], "data"), "model": whole(cfg["model"], "pretrained", "run")}
    return whole(cfg, "data") | inner


def quieten_lightning() -> None:
    """Our lines say what matters, once; Lightning's own notices and deprecations are not the user's to mend."""
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        logging.disable(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*is_leaf.*", ".*returned a view tensor.*"):
        warnings.filterwarnings("ignore", message=message)


def configuration_of(cfg: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The configuration to use and the folder of the run: those of the run itself when one is resumed."""
    if cfg["resume"]:
        folder = Path(cfg["resume"])
        path = folder / CONFIGURATION
        check(path.is_file(), f"no {CONFIGURATION} in {str(folder)!r}", "resume takes the folder of an unfinished run")
        check(not (folder / FINAL).exists(), f"the run in {str(folder)!r} is finished", "start another with out=FOLDER")
        try:
            before = json.loads(path.read_text())
            missing = set(cfg) - set(before) - {"overridden"}
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise InputError(f"{path} is no configuration ({error})", "it may be cut short") from None
        check(not missing, f"{path} lacks {sorted(missing)}", "it may be cut short, or of another version")
        fixed = set(before) & set(cfg["overridden"]) - set(RESUMABLE)
        now = json.loads(json.dumps(cfg))  # as the file would hold it: keys are text there
        differ = sorted(key for key in fixed if before[key] != now[key])
        check(not differ, f"{differ} differ from the run in {str(folder)!r}", "resume with the values it began with")
        return {**before, **{key: cfg[key] for key in RESUMABLE if key in cfg["overridden"]}}, folder
    if FOLDER_VARIABLE in os.environ and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        return cfg, Path(os.environ[FOLDER_VARIABLE])
    name = cfg["task"]["_target_"].rpartition(".")[2].lower()
    folder = Path(cfg["out"] or Path("outputs") / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    check(
        not (folder / CONFIGURATION).exists(),
        f"{str(folder)!r} holds a run already",
        f"give another out, or resume={folder}",
    )
    return cfg, folder


def make_folder(folder: Path, cfg: dict[str, Any]) -> None:
    """Begin a run on the disk, once everything that could be refused was checked.

    Raises:
        InputError: the folder cannot be written.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIGURATION).write_text(json.dumps(cfg, indent=1))
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}", "give another out") from None
    os.environ[FOLDER_VARIABLE] = str(folder)


def checkpoint_of(folder: Path) -> str | None:
    """The checkpoint to go on from, or None where the run had not written one.

    Raises:
        InputError: it is cut short or no checkpoint.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():  # killed between two writes: the newest other one is whole
        others = sorted(last.parent.glob("step=*.ckpt"), key=lambda path: path.stat().st_mtime)
        if not others:
            return None
        last = others[-1]
    try:
        torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        hint = "it may be cut short: remove it to go on from an older one"
        raise InputError(f"{last} cannot be read ({reason})", hint) from None
    return str(last)


def starting_point(
    cfg: dict[str, Any], task: Task, objective: Objective, packages: Collection[str]
) -> tuple[Backbone, Task]:
    """The model that training starts from, and the task in the tokens of that model. A run to start from may name these
    packages.

    Raises:
        InputError: a checkpoint, tokenizer or setting that cannot be used.
    """
    if "run" in cfg["model"]:
        return from_run(str(cfg["model"]["run"]), task, packages), task
    if "pretrained" not in cfg["model"]:
        hint = "give model.pretrained=FOLDER, a checkpoint in the released format"
        check(not task.needs_tokenizer, f"task {task.name!r} needs a model that comes with a tokenizer", hint)
        return new_backbone(cfg["model"], task, cfg["seed"]), task
    folder, rank = str(cfg["model"]["pretrained"]), cfg["model"]["lora"]
    check(is_count(rank), f"model.lora is {rank!r}", "use the rank of the adapters, or 0 to train all weights")
    sharded = cfg["trainer"].get("strategy") == "fsdp"
    check(not (sharded and rank), f"trainer=fsdp with adapters (model.lora={rank})", "use model.lora=0, or ddp")
    carried = objective.own_canvas
    check(not carried, f"objective.own_canvas is {carried}", "canvases are carried over from scratch only: use 0")
    model = load_pretrained(folder)  # memory-mapped: nothing long yet
    return model, task_in_text(task, folder, model.config)


def from_run(folder: str, task: Task, packages: Collection[str]) -> Backbone:
    """The model of a finished run, for the task; the canvas may be longer than it was, which takes no new weights.

    Raises:
        InputError: a folder that is no run, or whose model speaks of other tokens or relations than the task.
    """
    model = load(folder, packages=packages).model
    has = {"vocab_size": model.config.vocab_size, "num_relations": model.config.num_relations}
    for name, value in has.items():
        wanted = getattr(task, name)
        fits = value == wanted or (name == "num_relations" and value == 0)
        check(fits, f"the model of {folder!r} has {name} {value}, task {task.name!r} {wanted}", "start from scratch")
    longer = max(model.config.canvas_length, task.max_canvas)
    grown = Backbone(replace(model.config, canvas_length=longer))
    grown.load_state_dict(model.state_dict())
    return grown.train()


def choose_trained(model: Backbone, rank: int, seed: int) -> None:
    """Adapters on frozen weights, as they were stored; or, with rank 0, all weights but the routers, in fp32, since
    steps of the optimiser are too small for bf16."""
    if rank:
        adapt(model.train(), rank, torch.Generator().manual_seed(seed))
    else:
        freeze_routers(model.train().float())


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
    if arguments.get("precision") == "auto":
        arguments["precision"] = "bf16-mixed" if multiplies_bf16(arguments["accelerator"]) else "32-true"
    if arguments.get("strategy") == "fsdp":
        from lightning.pytorch.strategies import ModelParallelStrategy

        arguments["strategy"] = ModelParallelStrategy(
            data_parallel_size=arguments["devices"], tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return arguments


def multiplies_bf16(accelerator: str) -> bool:
    """Whether bf16 is worth it: a processor without instructions for it emulates them, five times slower than fp32."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return accelerator != "cpu" or bool(known.get("avx512_bf16") or known.get("amx_bf16"))


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
    model, state = module.backbone, None
    if isinstance(model, FSDPModule):
        # One after the other, and kept by the process that writes: no device need hold the whole model.
        gathered = ((name, whole(tensor)) for name, tensor in model.state_dict().items())
        state = {name: tensor.cpu() if trainer.is_global_zero else None for name, tensor in gathered}
    if trainer.is_global_zero:
        training = {key: cfg[key] for key in ("seed", "objective", "optimisation")}
        training["steps_done"] = trainer.global_step
        description = {"task": cfg["task"], "sampler": cfg["sampler"], "training": training}
        training |= {key: cfg["model"][key] for key in ("pretrained", "lora", "run") if key in cfg["model"]}
        if "pretrained" in cfg["model"]:
            save_released_run(folder, model, description, state)
        else:
            save_run(folder, model, description, state)
    trainer.strategy.barrier()


def final_table(
    cfg: dict[str, Any], folder: Path, module: DiffusionModule, task: Task, sampler: Diffusion, trainer: L.Trainer
) -> float:
    """Solve rates on held-out problems that neither training nor the curves have seen; printed and saved."""
    if not (trainer.is_global_zero or isinstance(module.backbone, FSDPModule)):
        return float("nan")  # the first process reports; the others are needed only where they hold a part of the model
    problems = task.held_out(cfg["report_per_tier"], cfg["seed"] + 2)
    with torch.compiler.set_stance("force_eager"):
        outcomes = solve(
            module.backbone.eval(), task, sampler, problems, batch_size=128, seed=cfg["seed"], device=str(module.device)
        )
    rows = summarise(sampler.name, outcomes, task, module.backbone)
    if trainer.is_global_zero:
        where = {key: cfg[key] for key in ("threads", "trainer")}
        header = new_header(Path(__file__).parents[2], cfg["seed"], module.device.type, **where)
        (folder / FINAL).write_text(json.dumps({"header": header, "rows": rows}, indent=1))
        print_table(rows)
        log.info("run folder: %s", folder)
    return sum(o.solved for o in outcomes) / len(outcomes)
