"""The report of an evaluation: its header, table and files, and progress while it runs."""

from __future__ import annotations

import csv
import functools
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from constrained_dg.errors import InputError, check
from constrained_dg.metrics import Outcome

log = logging.getLogger(__name__)

METRICS, ANSWERS = "metrics.json", "answers.csv"
#: Room that a report must find on the disk, bytes.
_ROOM = 1 << 20
#: Seconds between two lines of progress without a terminal.
_EVERY = 5.0


def check_folder(folder: Path) -> None:
    """Raise InputError where a report lies already; writes nothing."""
    check(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"out {str(folder)!r} exists and is not an empty folder",
        "give another out: reports are never overwritten",
    )


def make_folder(folder: Path) -> None:
    """Make the folder of a report and see that a report can be written there.

    Raises:
        InputError: it is not empty, cannot be made, is read-only, or the disk is full.
    """
    check_folder(folder)
    probe = folder / "probe.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(_ROOM))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to out {str(folder)!r}: {error.strerror}", "give another out") from None


def new_header(root: Path, seed: int, device: str, **more: Any) -> dict[str, Any]:
    """What is needed to repeat a report: command, seed, commit, device, date, versions, and what else is given."""
    packages = ("constrained_dg", "torch", "numpy", "hydra-core")
    return {
        "command": shlex.join(sys.argv),
        "seed": seed,
        "commit": commit_of(root),
        "device": device_name(device),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        **more,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return None


def commit_of(root: Path) -> str | None:
    """The commit of the checkout, with "+" where tracked files differ from it; None outside git."""
    git = functools.partial(subprocess.run, capture_output=True, text=True, check=True, cwd=root)
    try:
        commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
        changes = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")


def device_name(device: str) -> str:
    """ "cpu" or "cuda:0" with the name of the chip."""
    if torch.device(device).type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        models = []
    name = models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine()
    return f"{device} ({name})"


def save(
    folder: Path, header: Mapping[str, Any], rows: Sequence[Any], outcomes: Mapping[str, Sequence[Outcome]]
) -> None:
    """Write metrics.json and answers.csv, each whole or not at all."""
    with _whole(folder / ANSWERS) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("puzzle", "answer", "status", "seed", "passes", "sampler", "tier"))
        for sampler, solved in outcomes.items():
            for o in solved:
                writer.writerow((o.problem.text, o.answer, o.status, o.seed, o.passes, sampler, o.problem.tier))
    with _whole(folder / METRICS) as file:
        json.dump({"header": header, "rows": rows}, file, indent=1)


@contextmanager
def _whole(path: Path) -> Iterator[Any]:
    """A file that appears under its name when it is complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def print_table(rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> None:
    """Print tiers down and samplers side by side: solved with its 95 % interval, and mean passes."""
    # A log file has no width: let the table take what it needs rather than wrap at 80.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table("tier")
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    table.add_column("n", justify="right")
    for sampler in samplers:
        table.add_column(sampler, justify="right")
    for tier in dict.fromkeys(row["tier"] for row in rows):
        cells = {row["sampler"]: row for row in rows if row["tier"] == tier}
        if tier == "all":
            table.add_section()
        counts = dict.fromkeys(str(row["n"]) for row in cells.values())
        table.add_row(tier, "/".join(counts), *(_cell(cells.get(sampler)) for sampler in samplers))
    console.print(table)
    # Not a caption: that would wrap at the width of the table.
    console.print("\n".join(["solved %, 95 % interval, mean passes", *notes]), soft_wrap=True, markup=False)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    low, high = row["ci95"]
    return f"{100 * row['solved']:5.1f} ({100 * low:.1f}-{100 * high:.1f})  {row['mean_passes']:5.1f}"


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[Sequence[Outcome]], None]]:
    """A bar in a terminal; elsewhere a line in the log every few seconds. Yields what `solve` calls."""
    done = solved = 0
    last = time.monotonic()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(name, total=total)

        def told(outcomes: Sequence[Outcome]) -> None:
            nonlocal done, solved, last
            done, solved = done + len(outcomes), solved + sum(o.solved for o in outcomes)
            bar.update(line, completed=done, description=f"{name}: {solved} of {done} solved")
            if not console.is_terminal and (time.monotonic() - last > _EVERY or done == total):
                last = time.monotonic()
                log.info("%s: %d of %d done, %d solved", name, done, total, solved)

        yield told
