"""The report of an evaluation: its header, table and files, and progress while it runs."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import logging
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from constrained_dg.errors import InputError, check
from constrained_dg.evaluation import COMMON_METRICS, Outcome
from constrained_dg.files import write_whole

log = logging.getLogger(__name__)

METRICS_FILE, ANSWERS_FILE = "metrics.json", "answers.csv"
#: Free disk space that a report needs, in bytes.
_ROOM = 1 << 20
#: Reserves that space while a report is written, and shows other processes that the folder is in use.
_CLAIM = "report.partial"
#: Seconds between two lines of progress without a terminal.
_EVERY = 10.0


def check_folder(folder: Path) -> None:
    """Raise InputError where a report exists already; writes nothing."""
    try:
        free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"cannot write to out {str(folder)!r}: {error.strerror}", "give another out") from None
    hint = "give another out: reports are never overwritten"
    check(free, f"out {str(folder)!r} exists and is not an empty folder", hint)


@contextmanager
def new_folder(out: str | None) -> Iterator[Path]:
    """A folder for one report, by default outputs/evaluate/<date>_<time>; removed again if nothing is written.

    Raises:
        InputError: it is not empty, another process makes a report there, it cannot be made, is read-only, or the disk
            is full.
    """
    folder = Path(out) if out else Path("outputs") / "evaluate" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    created: list[Path] = []
    try:
        folder = _claimed(folder, created, other_name=not out)
        try:
            yield folder
        finally:
            (folder / _CLAIM).unlink(missing_ok=True)
    finally:
        for path in created:
            with suppress(OSError):  # it holds something
                path.rmdir()


def _claimed(first: Path, created: list[Path], other_name: bool) -> Path:
    """Create a folder and check that a report has room there; new paths go into `created`, the deepest first.

    Args:
        other_name: if the folder exists, append a number to its name.
    """
    for number in itertools.count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        if other_name and folder.exists():
            continue
        check_folder(folder)
        try:
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            created[:] = missing
            # Only one process can create this file.
            with (folder / _CLAIM).open("xb") as file:
                try:
                    file.write(bytes(_ROOM))
                except OSError:
                    (folder / _CLAIM).unlink(missing_ok=True)
                    raise
            return folder
        except FileExistsError:
            created.clear()  # the other process removes them
            hint = "give another out"
            check(other_name, f"out {str(folder)!r} is a file, or in use by another evaluation", hint)
        except OSError as error:
            raise InputError(f"cannot write to out {str(folder)!r}: {error.strerror}", "give another out") from None
    raise AssertionError("unreachable")


def new_header(root: Path, seed: int, device: str, **more: Any) -> dict[str, Any]:
    """What is needed to repeat a report: command, seed, commit, device, date, versions, and further entries."""
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
    """Write metrics.json and answers.csv, each completely or not at all."""
    metrics, table = json.dumps({"header": header, "rows": rows}, indent=1), io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("problem", "answer", "status", "seed", "passes", "sampler", "tier"))
    for sampler, solved in outcomes.items():
        for o in solved:
            writer.writerow((o.problem.text, o.answer, o.status, o.seed, o.passes, sampler, o.problem.tier))
    # A lone surrogate, as a file name may hold it, has no UTF-8.
    write_whole(folder / ANSWERS_FILE, table.getvalue().encode(errors="backslashreplace"))
    write_whole(folder / METRICS_FILE, metrics)


def print_table(rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> None:
    """Print tiers down and samplers side by side: solved with its 95 % interval, and mean passes; below them what the
    task adds to the metrics, then the notes."""
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
    added = [line for row in rows if row["tier"] == "all" for line in _task_metrics(row)]
    console.print("\n".join(["solved %, 95 % interval, mean passes", *added, *notes]), soft_wrap=True, markup=False)


def _task_metrics(row: Mapping[str, Any]) -> list[str]:
    """The metrics that the task adds to those of every report, as a line."""
    added = {name: row["metrics"][name] for name in sorted(set(row["metrics"]) - set(COMMON_METRICS))}
    texts = [
        f"{name} {m['value']:.3g} ({m['ci95'][0]:.3g}-{m['ci95'][1]:.3g}, n={m['n']})" for name, m in added.items()
    ]
    return [f"{row['sampler']}: {', '.join(texts)}"] if texts else []


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    low, high = row["ci95"]
    return f"{100 * row['solved']:5.1f} ({100 * low:.1f}-{100 * high:.1f})  {row['mean_passes']:5.1f}"


@contextmanager
def progress(name: str, total: int | None = None) -> Iterator[Callable[[Sequence[Outcome]], None]]:
    """A bar in a terminal; elsewhere a line in the log every few seconds. Yields what `solve` calls.

    Args:
        total: how many problems there are; None for work that cannot be counted, of which only the time is shown.
    """
    done = solved = 0
    begun = time.monotonic()
    console = Console(stderr=True)
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), TimeElapsedColumn()]
    if total is not None:
        columns += [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    finished = threading.Event()

    def say() -> None:
        if total is None:
            log.info("%s: %s so far", name, _time(time.monotonic() - begun))
        else:
            log.info("%s: %d of %d done, %d solved%s", name, done, total, solved, left())

    def left() -> str:
        rest = (time.monotonic() - begun) * ((total or 0) - done) / done if done else 0.0
        return f", about {_time(rest)} left" if rest >= 1 else ""

    def repeat() -> None:
        while not finished.wait(_EVERY):
            say()

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(name, total=total)

        def advance(outcomes: Sequence[Outcome]) -> None:
            nonlocal done, solved
            done, solved = done + len(outcomes), solved + sum(o.solved for o in outcomes)
            bar.update(line, completed=done, description=f"{name}: {solved} of {done} solved")
            if done == total and not console.is_terminal:
                finished.set()
                say()

        # A thread prints the lines: a batch may take minutes.
        thread = threading.Thread(target=repeat, daemon=True)
        if not console.is_terminal:
            thread.start()
        try:
            yield advance
        finally:
            finished.set()


def _time(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
