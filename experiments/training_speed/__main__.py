"""Training steps a second, before and now: `python -m experiments.training_speed`; see README.md."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from constrained_dg.errors import check
from constrained_dg.files import write_whole
from constrained_dg.report import new_folder, new_header
from experiments.arguments import parse, run

ROOT = Path(__file__).resolve().parents[2]
#: The last commit before training became faster.
BEFORE = "e2e4b81"
DEFAULT = {"batch": 32, "loops": 4, "hidden": 96}
#: Measured in turn: (code, what).
COMPARED = [
    (code, {"whole": whole, "bf16": bf16, **DEFAULT})
    for whole, bf16, codes in (
        (True, False, ("before", "now")),
        (True, True, ("before", "now")),
        (False, False, ("now",)),
        (False, True, ("now",)),
    )
    for code in codes
]
#: For planning long runs: sizes of the canvas alone, with 24 layer applications.
SIZES = [
    ("now", {"whole": False, "bf16": True, "batch": batch, "loops": 8, "hidden": hidden})
    for hidden in (96, 128)
    for batch in (32, 64, 128)
]


class Side:
    """A worker process on the code in `tree`, with empty caches of compiled code."""

    def __init__(self, tree: Path, what: dict[str, Any], stack: ExitStack) -> None:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        paths = {"PYTHONPATH": str(tree), "TORCHINDUCTOR_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), json.dumps(what)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        start = time.perf_counter()
        self.process = subprocess.Popen(command, cwd=tree, env=os.environ | paths, text=True, **pipes)
        stack.callback(self.process.wait)
        stack.callback(self.process.terminate)
        self.first = self._answer() | {"first_step": time.perf_counter() - start}
        self.seconds: list[float] = []

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        check(line != "", "a worker ended early", f"run it by hand: {' '.join(self.process.args)}")
        return json.loads(line)

    def measure(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(self._answer())


@contextmanager
def trees() -> Iterator[dict[str, Path]]:
    """The code of each name: `before` is unpacked from git."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield {"before": Path(folder), "now": ROOT}


def arithmetic(what: dict[str, Any]) -> float:
    """Floating-point operations of a step, forward and backward, on the canvas: products with weights (each token
    with its two experts) and of attention; no prompt, norms or second forward pass."""
    size, keys = what["hidden"], 162 if what["whole"] else 81
    of_token = 2 * (4 * size * size + 3 * size * 64 + 2 * 3 * size * 32 + 2 * keys * size)
    return 3 * of_token * what["batch"] * 81 * 3 * what["loops"]


def measure(sides: Sequence[tuple[str, dict[str, Any]]], repeats: int, code: dict[str, Path]) -> list[dict[str, Any]]:
    """A row for each side; they take turns."""
    with ExitStack() as stack:
        workers = [Side(code[name], what, stack) for name, what in sides]
        for _ in range(repeats):
            for worker in workers:
                worker.measure()
    rows = []
    for (name, what), worker in zip(sides, workers, strict=True):
        rates = [what["batch"] / each for each in worker.seconds]
        row = {"code": name, **what, "states_per_second": statistics.median(rates)}
        row |= {"low": min(rates), "high": max(rates)}
        first = workers[0].seconds
        ratios = [other / own for other, own in zip(first, worker.seconds, strict=True)]
        row["to_first"] = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        row["gflops"] = arithmetic(what) * row["states_per_second"] / what["batch"] / 1e9
        rows.append(row := row | worker.first)
        print(
            f"{name:6} {'whole' if what['whole'] else 'canvas':6} {'bf16' if what['bf16'] else 'fp32'} "
            f"batch {what['batch']:3} applications {3 * what['loops']:2} hidden {what['hidden']:3} "
            f"{row['states_per_second']:6.1f} states/s ({row['low']:.1f} to {row['high']:.1f}), "
            f"{row['to_first']['median']:.2f} times the first row, "
            f"{row['gflops']:5.1f} GFLOP/s, first step {row['first_step']:.0f} s, loss {row['loss']:.6f}, "
            f"gradient {row['norm']:.6f}",
            flush=True,
        )
    return rows


def main(arguments: Sequence[str]) -> None:
    """Measure, print rows, write results.json."""
    given = parse(arguments, {"repeats": 5, "sizes": True, "compare": True, "out": ""})
    out = given["out"] or f"outputs/training_speed/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    check(given["repeats"] > 0, f"repeats={given['repeats']}", "give 1 or more")
    with new_folder(out) as folder, trees() as code:
        header = new_header(ROOT, 0, "cpu", before=BEFORE, load_at_start=os.getloadavg()[0], **given)
        rows = measure(COMPARED, given["repeats"], code) if given["compare"] else []
        rows += [row for side in SIZES if given["sizes"] for row in measure([side], given["repeats"], code)]
        results = {"header": header | {"load_at_end": os.getloadavg()[0]}, "rows": rows}
        write_whole(folder / "results.json", json.dumps(results, indent=1))


if __name__ == "__main__":
    run(main)
