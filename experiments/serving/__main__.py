"""How a busy server serves diffusion and its autoregressive twin: tokens a second, time to the first token, passes.

    python -m experiments.serving out=FOLDER

Each model is served alone, on core `server_core`; the load comes from core `load_core`, over loopback. In a closed loop
clients each ask again as soon as they are answered; in an open loop requests arrive at random (Poisson), at a rate that
does not depend on the answers. Finished cells are saved, so the same command continues an interrupted run.
`models=diffusion` makes the cells of one model; without `models` missing cells are made, then table and picture.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from constrained_dg.cli import ROOT
from constrained_dg.files import write_whole
from constrained_dg.intervals import mean
from constrained_dg.report import new_header
from constrained_dg.runs import load
from constrained_dg.viz.pictures import figure, save
from experiments.arguments import parse
from experiments.arguments import run as command
from experiments.serving.client import Reply, ask, pin, started

KEYS: dict[str, Any] = {
    "out": None,
    "run": "text/records",
    "twin": "text/records_twin",
    "levels": "1,2,4,8,16,32,64",
    "rates": "4,8,16",
    "n": 2,  # requests of a closed loop for each client, 32 at least
    "seconds": 5,  # of an open loop
    "repeats": 3,
    "models": "diffusion,twin",
    "server_core": 1,
    "load_core": 0,
}
#: Model -> its sampler. Neither reads a rule, so that a pass and not a rule is measured.
SAMPLERS = {"diffusion": "plain", "twin": "autoregressive"}
SEED = 2000


def main(arguments: Sequence[str]) -> None:
    """Make missing cells, then the table and the picture. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    out, names = Path(given["out"]), given["models"].split(",")
    notes = load(given["run"]).task.held_out(64, SEED)
    prompts = [note.text for note in notes if note.tier == "known"]
    pin(given["load_core"])
    for name in names:
        missing = [cell for cell in cells(given) if not _file(out, name, *cell).exists()]
        if not missing:
            continue
        folder = given["run" if name == "diffusion" else "twin"]
        with started([f"run={folder}", "batch_size=64"], given["server_core"]) as server:
            asker = Asker(server.port, folder, SAMPLERS[name], prompts)
            asyncio.run(asker.closed(4, 16))  # what is made at the first call
            for kind, level, repeat in missing:
                values = asyncio.run(
                    asker.cell(kind, level, given["n"] if kind == "closed" else given["seconds"], repeat)
                )
                path = _file(out, name, kind, level, repeat)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, json.dumps(values))
                print(
                    name, kind, level, repeat, f"{values['tokens_a_second']:.0f} tokens/s", file=sys.stderr, flush=True
                )
    if names == KEYS["models"].split(","):
        rows = [row_of(out, name, kind, level, given["repeats"]) for name in names for kind, level in _levels(given)]
        header = new_header(ROOT, SEED, "cpu", **{key: str(value) for key, value in given.items() if key != "out"})
        write_whole(out / "serving.json", json.dumps({"header": header, "rows": rows}, indent=0) + "\n")
        draw(out / "serving.png", rows)
        print(markdown(rows))


def _levels(given: dict[str, Any]) -> list[tuple[str, int]]:
    pairs = (("closed", given["levels"]), ("open", given["rates"]))
    return [(kind, int(level)) for kind, levels in pairs for level in levels.split(",")]


def cells(given: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(kind, concurrency or requests a second, repeat); all levels before they are repeated."""
    return [(kind, level, repeat) for repeat in range(given["repeats"]) for kind, level in _levels(given)]


def _file(out: Path, name: str, kind: str, level: int, repeat: int) -> Path:
    return out / "cells" / f"{name}_{kind}_{level}_{repeat}.json"


class Asker:
    """Sends the same prompts in the same order, each with a seed of its own."""

    def __init__(self, port: int, model: str, sampler: str, prompts: Sequence[str]) -> None:
        self.port, self.prompts = port, prompts
        self.common = {"model": model, "sampler": sampler, "stream": True, "stream_options": {"include_usage": True}}

    async def one(self, index: int) -> Reply:
        messages = [{"role": "user", "content": self.prompts[index % len(self.prompts)]}]
        reply = await ask(self.port, "/v1/chat/completions", {**self.common, "messages": messages, "seed": index})
        assert reply is not None and reply.status == 200 and reply.events[-1].get("usage"), reply
        return reply

    async def closed(self, clients: int, count: int) -> list[Reply]:
        left, replies = iter(range(count)), []

        async def client() -> None:
            for index in left:
                replies.append(await self.one(index))

        await asyncio.gather(*(client() for _ in range(clients)))
        return replies

    async def open(self, rate: int, seconds: int, repeat: int) -> list[Reply]:
        draws, waiting = random.Random(f"{rate} {repeat}"), []
        for index in range(rate * seconds):
            waiting.append(asyncio.ensure_future(self.one(index)))
            await asyncio.sleep(draws.expovariate(rate))
        return list(await asyncio.gather(*waiting))

    async def cell(self, kind: str, level: int, n: int, repeat: int) -> dict[str, Any]:
        begun = time.perf_counter()
        if kind == "closed":
            replies = await self.closed(level, max(32, n * level))
        else:
            replies = await self.open(level, n, repeat)
        return values_of(replies, time.perf_counter() - begun)


def values_of(replies: Sequence[Reply], seconds: float) -> dict[str, Any]:
    """The numbers of a cell."""
    usage = [reply.events[-1]["usage"] for reply in replies]
    return {
        "n": len(replies),
        "tokens_a_second": sum(each["completion_tokens"] for each in usage) / seconds,
        "requests_a_second": len(replies) / seconds,
        "passes": statistics.mean(each["passes"] for each in usage),
        "tokens": statistics.mean(each["completion_tokens"] for each in usage),
        **{f"first_{name}": value for name, value in _quantiles([reply.first or reply.seconds for reply in replies])},
        **{f"whole_{name}": value for name, value in _quantiles([reply.seconds for reply in replies])},
    }


def _quantiles(values: Sequence[float]) -> list[tuple[str, float]]:
    ordered = sorted(values)
    return [("median", statistics.median(ordered)), ("p95", ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))])]


def row_of(out: Path, name: str, kind: str, level: int, repeats: int) -> dict[str, Any]:
    """A row of the table: means over the repeats, with normal intervals."""
    made = [json.loads(_file(out, name, kind, level, repeat).read_text()) for repeat in range(repeats)]
    keys = [key for key in made[0] if key != "n"]
    count = sum(values["n"] for values in made)
    return {"model": name, "kind": kind, "level": level, "n": count} | {
        key: mean([values[key] for values in made]) for key in keys
    }


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Tokens a second and first token in the closed loop, whole answers in the open one; bars are 95 % intervals."""
    drawing, axes = figure(3, width=4.2, height=3.6)
    panels = (
        ("closed", "tokens_a_second", "tokens a second", "clients that ask again at once"),
        ("closed", "first_median", "seconds to the first token, median", "clients that ask again at once"),
        ("open", "whole_median", "seconds to the whole answer, median", "requests that arrive each second"),
    )
    for ax, (kind, key, title, below) in zip(axes, panels, strict=True):
        for name, mark in (("diffusion", "o-"), ("twin", "s--")):
            chosen = [row for row in rows if row["kind"] == kind and row["model"] == name]
            values = [row[key]["value"] for row in chosen]
            bars = [[abs(row[key]["value"] - row[key]["ci95"][side]) for row in chosen] for side in (0, 1)]
            label = "diffusion" if name == "diffusion" else "left to right, same backbone"
            ax.errorbar([row["level"] for row in chosen], values, bars, fmt=mark, capsize=3, label=label)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set(title=title, xlabel=below)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
    axes[0].legend()
    save(drawing, path)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each cell."""
    lines = ["| model | loop | n | tokens/s | passes | first token, median (95th) | whole answer, median (95th) |"]
    lines.append("|---" * 7 + "|")
    for row in rows:
        loop = (
            f"{row['level']} client{'s' * (row['level'] > 1)}"
            if row["kind"] == "closed"
            else f"{row['level']} a second"
        )
        low, high = row["tokens_a_second"]["ci95"]
        times = [
            f"{row[f'{what}_median']['value']:.3f} ({row[f'{what}_p95']['value']:.3f})" for what in ("first", "whole")
        ]
        speed = f"{row['tokens_a_second']['value']:.0f} ({low:.0f}-{high:.0f})"
        shown = [row["model"], loop, str(row["n"]), speed, f"{row['passes']['value']:.1f}", *times]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    command(main)
