"""Make a table of this folder again, and compare it with the saved one:

    python -m experiments.reproduce                                      # list of tables
    python -m experiments.reproduce graph/coloring/dimacs data=DATA out=FOLDER
    python -m experiments.reproduce samplers/passes data=DATA limit=10   # further keys go to the command

DATA is a folder of fetched files (see experiments/DATA.md), needed by tables with `data` in their header. The command
of a report of evaluate.py is read from its header; COMMANDS holds the others.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from constrained_dg.errors import check
from experiments.arguments import run

HERE = Path(__file__).resolve().parent
#: Table -> arguments of `python`; {data} and {out} are filled in.
COMMANDS = {
    "samplers/table": "-m experiments.samplers run=experiments/sudoku/plain "
    "data={data}/sudoku/dev_mixed.csv.gz out={out}",
    "samplers/passes": "-m experiments.samplers.passes run=experiments/sudoku/plain "
    "data={data}/sudoku/dev_mixed.csv.gz out={out}",
    "sudoku/sets/passes": "-m experiments.samplers.passes run=sudoku data={data}/sudoku/dev_mixed.csv.gz "
    "samplers=sets passes=1024 limit=300 untrained=10 untrained_passes=64 out={out}",
    "sudoku/sets/passes_16384": "-m experiments.samplers.passes run=sudoku data={data}/sudoku/dev_mixed.csv.gz "
    "samplers=sets tiers=hardest_1905_11plus passes=16384 limit=300 untrained=1 untrained_passes=8 out={out}",
    "sudoku/default/final": "train.py task=sudoku out={out}",
    "sudoku/ablations/table": "-m experiments.sudoku.ablations.run {out}",
    "amino_acid/rule_sets/table": "-m experiments.amino_acid.rule_sets.run run=experiments/amino_acid/design n=1112 "
    "samplers=exact out={out} prosite={data}/protein/biopython_tests",
    "amino_acid/acceptance": "-m experiments.amino_acid.acceptance",
    "amino_acid/exact_product": "-m experiments.amino_acid.exact_product",
    "graph/coloring/cold_long": "-m experiments.graph.symmetry run=experiments/graph/coloring "
    "data={data}/graph/dimacs_col attempts=16 passes=64 nodes=64 sampler=cold",
    "graph/hamiltonian/symmetry_long": "-m experiments.graph.symmetry run=experiments/graph/hamiltonian "
    "data={data}/graph/hcp14_dev.tsv.gz attempts=128 passes=8",
    "text/records/records": "-m experiments.text.records.measure run=experiments/text/records "
    "twin=experiments/text/records_twin out={out}",
    "serving/serving": "-m experiments.serving out={out}",
    "throughput/cpu_256_1": "-m experiments.throughput shape=cpu contexts=256 batches=1 repeats=5",
    "throughput/cpu_4096_1": "-m experiments.throughput shape=cpu contexts=4096 batches=1 repeats=4",
    "throughput/cpu_4096_4": "-m experiments.throughput shape=cpu contexts=4096 batches=4 repeats=2",
}
#: Compared values of a row, with its metrics. Seconds depend on the machine.
COMPARED = ("n", "solved", "ci95", "mean_passes", "solved_after")


def reports() -> Iterator[tuple[str, dict[str, Any]]]:
    """The saved reports of evaluate.py whose checkpoint is also saved, with their headers."""
    for path in sorted(HERE.rglob("*.json")):
        table = json.loads(path.read_text())
        header = table.get("header", {}) if isinstance(table, dict) else {}
        if header.get("samplers") and (path.parent / "model.safetensors").exists() and "untrained" not in path.stem:
            yield path.relative_to(HERE).with_suffix("").as_posix(), header


def command_of(name: str, data: str | None, out: Path) -> list[str]:
    """The arguments of `python` that make a table.

    Raises:
        InputError: no such table, or it needs fetched files and `data` names no folder with them.
    """
    headers = dict(reports())
    known = sorted({*COMMANDS, *headers})
    check(name in known, f"no table {name!r}", f"there are {', '.join(known)}")
    if name in COMMANDS:
        check(data is not None or "{data}" not in COMMANDS[name], f"{name} needs data=DATA", "see experiments/DATA.md")
        return COMMANDS[name].format(data=data, out=out).split()
    header = headers[name]
    arguments = ["evaluate.py", f"run={(HERE / name).parent.relative_to(HERE.parent)}", f"out={out}"]
    arguments.append(f"samplers=[{','.join(header['samplers'])}]")
    keys = ("limit", "seed", "batch_size", "max_passes")
    arguments += [f"{key}={header[key]}" for key in keys if header.get(key) is not None]
    if header.get("data") is not None:
        check(data is not None, f"{name} needs data=DATA", "see experiments/DATA.md")
        path = Path(data) / header["data"].removeprefix("DATA/")
        check(path.exists(), f"no {str(path)!r}", "see experiments/DATA.md")
        arguments.append(f"data={path}")
    return arguments


def differences(kept: Sequence[dict[str, Any]], again: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each difference between rows of the same sampler and tier."""
    old = {(row["sampler"], row["tier"]): row for row in kept}
    lines = []
    for row in again:
        before, now = (_flat(each) for each in (old.get((row["sampler"], row["tier"]), {}), row))
        lines += [
            f"{row['sampler']}, {row['tier']}: {key} {before[key]} -> {now[key]}"
            for key in sorted(before.keys() & now.keys())
            if not _equal(before[key], now[key])
        ]
    return lines


def _equal(before: Any, now: Any) -> bool:
    """Whether two values are equal except for rounding, which depends on the processor."""
    if isinstance(before, dict):
        return isinstance(now, dict) and all(key in now and _equal(before[key], now[key]) for key in before)
    if isinstance(before, list):
        return isinstance(now, list) and len(before) == len(now) and all(map(_equal, before, now))
    if isinstance(before, float) and isinstance(now, int | float):
        return math.isclose(before, now, rel_tol=1e-9, abs_tol=1e-12)
    return bool(before == now)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The compared values of a row, its metrics by their names."""
    return {key: row[key] for key in COMPARED if key in row} | row.get("metrics", {})


def main(arguments: Sequence[str]) -> int:
    """Run the command of a table; 1 if rows differ from the saved ones."""
    if not arguments:
        print("\n".join(sorted({*COMMANDS, *dict(reports())})))
        return 0
    name, *rest = arguments
    given = dict(argument.partition("=")[::2] for argument in rest)
    out = Path(given.pop("out", None) or Path("outputs") / "reproduce" / name.replace("/", "_"))
    command = command_of(name, given.pop("data", None), out)
    command = [part for part in command if part.partition("=")[0] not in given]
    command += [f"{key}={value}" for key, value in given.items()]
    print("python", *command, flush=True)
    code = subprocess.run([sys.executable, *command], cwd=HERE.parent).returncode
    kept = HERE / f"{name}.json"
    table = next((out / file for file in ("metrics.json", kept.name) if (out / file).exists()), None)
    if code or table is None or not kept.exists():
        return code
    lines = differences(json.loads(kept.read_text())["rows"], json.loads(table.read_text())["rows"])
    print("\n".join(lines) or f"every row equals that of experiments/{name}.json")
    return int(bool(lines))


if __name__ == "__main__":
    run(main)
