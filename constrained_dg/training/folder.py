"""The folder of a training run on the disk.

RUN/train.json              the configuration, to resume the run; once it exists the folder is in use
RUN/checkpoints/last.ckpt   state of the last checkpoint, replaced atomically
RUN/log/metrics.csv         curves (logger=csv), or RUN/wandb (logger=wandb)
RUN/run.json, weights       the trained model, see `constrained_dg.runs`
RUN/final.json              the final table; a run that has one is finished
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import InputError, check
from constrained_dg.files import write_whole
from constrained_dg.runs import current

CONFIGURATION, FINAL = "train.json", "final.json"
CHECKPOINTS, LAST = "checkpoints", "last.ckpt"
#: Environment of the processes that Lightning starts: the run folder, and the process that started them.
FOLDER_VARIABLE, PARENT_VARIABLE = "CONSTRAINED_DG_RUN", "CONSTRAINED_DG_PARENT"
#: What may change when a run is resumed: where and how it runs, not what it computes.
RESUMABLE: tuple[str, ...] = ("resume", "out", "trainer", "logger", "threads", "compile", "workers", "validate")
RESUMABLE += ("recompute", "checkpoint_every", "report_per_tier", "packages")
#: The same inside `trainer`, as long as the number of processes stays.
RESUMABLE_TRAINER = ("accelerator", "devices", "num_nodes", "strategy", "precision")
#: Files that a killed process leaves while writing.
PARTIAL = ".*.partial"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to resume from.

    Attributes:
        step: optimiser steps done.
        processes: how many trained together.
    """

    path: Path
    step: int
    processes: int


def is_first_process() -> bool:
    """Whether this is the process that the user started, which writes; not one that Lightning started."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def resumed(cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the run in `cfg["resume"]`, with the present overrides of keys that may change.

    Raises:
        InputError: no unfinished run, a configuration that cannot be read, or a value that must not change.
    """
    folder = Path(cfg["resume"])
    path = folder / CONFIGURATION
    check(path.is_file(), f"no {CONFIGURATION} in {str(folder)!r}", "resume takes the folder of an unfinished run")
    finished = (folder / FINAL).exists() and _parsed(folder / FINAL) is not None
    check(not finished, f"the run in {str(folder)!r} is finished", "start another with out=FOLDER")
    before = _parsed(path)
    check(isinstance(before, dict), f"{path} is not a configuration", "it may be cut short")
    assert isinstance(before, dict)
    given = cfg["overridden"]
    missing = sorted(set(cfg) - set(before) - {"overridden", *RESUMABLE})
    check(not missing, f"{path} lacks {missing}", "it may be cut short, or of another version")
    before = current(before)
    wrong = [key for key, value in cfg.items() if isinstance(value, dict) and not isinstance(before.get(key, {}), dict)]
    check(not wrong, f"{path}: {wrong} must be groups of keys", "it may have been changed by hand")
    objective = before.get("objective", {})
    used = objective.pop("own_canvas", 0)
    objective.pop("own_canvas_passes", None)
    check(not used, f"{path}: objective.own_canvas is {used}, which is no longer trained", "resume it with version 0.2")
    now = json.loads(json.dumps(cfg))  # as the file would hold it: keys are text there
    differ = sorted(key for key in set(before) & set(given) - set(RESUMABLE) if before[key] != now[key])
    if "trainer" in given:
        old, new = before["trainer"], now["trainer"]
        keys = sorted((set(old) | set(new)) - set(RESUMABLE_TRAINER))
        differ += [f"trainer.{key}" for key in keys if old.get(key) != new.get(key)]
    may = ", ".join(key for key in RESUMABLE if key not in ("resume", "out"))
    check(
        not differ,
        f"{', '.join(differ)} would change the run in {str(folder)!r}",
        f"resume with the values it began with; what may change: {may}",
    )
    defaults = {key: cfg[key] for key in RESUMABLE if key in cfg}
    return {**defaults, **before, **{key: cfg[key] for key in RESUMABLE if key in given}, "resume": cfg["resume"]}


def _parsed(path: Path) -> Any:
    """The content of a JSON file; None where it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def check_free(folder: Path) -> None:
    """Raise InputError where a run cannot begin: runs and other files are never overwritten."""
    name = str(folder)
    try:
        there = {path.name for path in folder.iterdir()} - {path.name for path in folder.glob(PARTIAL)}
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"out {name!r} is not a folder: {error.strerror}", "give another out") from None
    check(CONFIGURATION not in there, f"{name!r} holds a run already", f"give another out, or resume={folder}")
    check(not there, f"out {name!r} is not empty: it holds {min(there, default='')!r}", "give another out")


def claim(out: str | None, task: str, cfg: dict[str, Any]) -> Path:
    """Create the folder of a new run and write its configuration there; only one run can do this.

    Args:
        out: the folder; None for outputs/<task>/<date>_<time>, with a number if that exists.

    Raises:
        InputError: the folder is taken, or cannot be written to.
    """
    if not is_first_process():
        check(FOLDER_VARIABLE in os.environ or out is not None, "out is missing", "give out=FOLDER to every process")
        return Path(os.environ.get(FOLDER_VARIABLE) or str(out))
    base = Path("outputs") / task / datetime.now().strftime("%Y-%m-%d_%H-%M-%S") if out is None else Path(out)
    folder, number = base, 1
    while not _claimed(folder, cfg):
        check(out is None, f"{str(folder)!r} holds a run already", f"give another out, or resume={folder}")
        folder, number = base.with_name(f"{base.name}_{number + 1}"), number + 1
    announce(folder)
    return folder


def _claimed(folder: Path, cfg: dict[str, Any]) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CONFIGURATION).exists():
            return False
        check_free(folder)
        write_whole(folder / CONFIGURATION, json.dumps(cfg, indent=1), new=True)
    except FileExistsError as error:  # another run was faster, or a file has the name of the folder
        check(folder.is_dir(), f"cannot write to {str(folder)!r}: {error.strerror}", "give another out")
        return False
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}", "give another out") from None
    remove_partial(folder)
    return True


def announce(folder: Path) -> None:
    """Set the variables by which further processes find the run folder and their parent."""
    os.environ[FOLDER_VARIABLE], os.environ[PARENT_VARIABLE] = str(folder), str(os.getpid())


def remove_partial(folder: Path) -> None:
    """Remove partial files of killed processes."""
    if is_first_process():
        for path in [*folder.glob(PARTIAL), *(folder / CHECKPOINTS).glob(PARTIAL)]:
            with suppress(OSError):
                path.unlink()


def checkpoint_of(folder: Path) -> Checkpoint | None:
    """The checkpoint with the most steps, or None if there is none.

    Raises:
        InputError: one is cut short or not a checkpoint of this package.
    """
    checkpoints = []
    for path in sorted(path for path in (folder / CHECKPOINTS).glob("*.ckpt") if path.exists()):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            checkpoints.append(Checkpoint(path, int(state["global_step"]), len(state["carried"])))
        except Exception as error:  # a damaged pickle can raise anything
            reason = str(error).splitlines()[0][:200] if str(error) else "it is empty"
            hint = "it may be cut short: remove it to go on from an older one"
            raise InputError(f"{path} cannot be read ({reason})", hint) from None
    return max(checkpoints, key=lambda one: one.step, default=None)
