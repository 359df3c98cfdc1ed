"""All that a GPU is to measure, leg by leg: `python -m experiments.throughput.legs`; see README.md."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from constrained_dg.errors import check
from experiments.arguments import parse, run

KEYS = {"shape": "26b", "minutes": 10, "out": "outputs/legs"}
PASS = "experiments.throughput"
#: Leg -> the module and arguments that measure it.
LEGS = {
    "bf16": (PASS, "weights=plain", "batches=1", "repeats=3"),
    "fp8": (PASS, "weights=fp8", "batches=1", "repeats=3"),
    "nvfp4": (PASS, "weights=nvfp4", "batches=1", "repeats=3"),
    "context": ("experiments.context", "dtype=bf16", "repeats=3"),
}


def measure(leg: str, shape: str, minutes: int, folder: Path) -> str:
    """Run a leg that has no results yet, in a process of its own; what became of it, in words."""
    if result(folder, leg).exists():
        return "kept from an earlier run"
    module, *arguments = LEGS[leg]
    partial = folder / f".{leg}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    out = partial if module == PASS else partial / "results.json"
    start = time.perf_counter()
    try:
        line = [sys.executable, "-m", module, f"shape={shape}", *arguments, f"out={out}"]
        code = subprocess.run(line, timeout=60 * minutes).returncode
    except subprocess.TimeoutExpired:
        return f"NOT MEASURED: it took more than {minutes} minutes"
    if code or not (partial / "results.json").exists():
        return f"NOT MEASURED: see above (exit status {code})"
    partial.rename(folder / leg)
    return f"measured in {time.perf_counter() - start:.0f} s"


def result(folder: Path, leg: str) -> Path:
    return folder / leg / "results.json"


def verdicts(leg: str, results: dict[str, Any]) -> list[str]:
    """What a leg found, beside its target on an H100."""
    if leg == "context":
        first, *_, last = results["over_first"]
        found = results["over_first"][last]
        return [f"a canvas pass behind {last} tokens takes {found:.2f} times one behind {first} (asked: 1.5)"]
    best: dict[str, float] = {}
    for row in results["rows"]:
        if row["side"].startswith("ours"):  # compiled or not
            if row["what"] == "canvas pass":
                best["over"] = min(best.get("over", row["over_floor"]), row["over_floor"])
            if row["what"] == "step":
                best["rate"] = max(best.get("rate", 0), row["tokens_per_second"])
            if row.get("memory_bytes") is not None:
                best["memory"] = max(best.get("memory", 0), row["memory_bytes"])
    return [
        f"a canvas pass takes {best['over']:.2f} times the floor" + (" (asked: 1.15)" if leg == "bf16" else ""),
        f"{best['rate']:.0f} tokens a second at 18 a pass" + (" (asked: 1,000)" if leg == "fp8" else ""),
        f"weights and a generation take {best['memory'] / 1e9:.2f} GB" + (" (asked: 18)" if leg == "nvfp4" else ""),
    ]


def main(arguments: Sequence[str]) -> int:
    """Measure what is not measured yet, then print every leg; 1 where one is missing."""
    values = parse(arguments, KEYS)
    check(values["shape"] in ("tiny", "cpu", "26b"), f"shape is {values['shape']!r}", "give tiny, cpu or 26b")
    check(values["minutes"] > 0, "minutes is 0", "give 1 or more")
    folder = Path(values["out"]) / values["shape"]
    state = {leg: measure(leg, values["shape"], values["minutes"], folder) for leg in LEGS}
    for leg, what in state.items():
        print(f"{leg}: {what}")
        if result(folder, leg).exists():
            for line in verdicts(leg, json.loads(result(folder, leg).read_text())):
                print(f"  {line}")
    print(f"results are in {folder}; the same command measures what is missing")
    return int(not all(result(folder, leg).exists() for leg in LEGS))


if __name__ == "__main__":
    run(main)
