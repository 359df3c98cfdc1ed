"""What the server adds: one request beside the same call in Python, and 32 clients beside a batch of 32.

    python -m experiments.serving.overhead

Sides take turns, problem by problem. All of one request runs on the core of the server: of Python, client and
server only one works at a time. The 32 clients have a core of their own.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from constrained_dg import rng
from constrained_dg.errors import check
from constrained_dg.evaluation import solve
from constrained_dg.intervals import mean
from constrained_dg.runs import load
from constrained_dg.sampling import named
from experiments.arguments import parse
from experiments.arguments import run as command
from experiments.serving.client import ask, pin, started

KEYS: dict[str, Any] = {
    "run": "sudoku/plain",
    "tier": "minimal",
    "sampler": "plain",
    "rounds": 6,
    "batch": 32,
    "server_core": 1,
    "load_core": 0,
}


def main(arguments: Sequence[str]) -> None:
    """Measure and print. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    check(given["rounds"] > 1, f"rounds={given['rounds']}", "give 2 or more, for an interval")
    torch.set_num_threads(1)
    run, sampler, size = load(given["run"]), named(given["sampler"]), given["batch"]
    problems = [each for each in run.task.held_out(size, 0) if each.tier == given["tier"]]
    check(len(problems) == size, f"tier {given['tier']!r} has {len(problems)} problems", "give one of the task's")
    bodies = [{"problem": each.text, "sampler": sampler.name, "seed": 0} for each in problems]
    ours, added, ratios, batches = [], [], [], []
    with started([f"run={given['run']}", f"batch_size={size}"], given["server_core"]) as server:

        async def post(body: dict[str, Any]) -> float:
            reply = await ask(server.port, "/v1/solve", body)
            assert reply is not None and reply.status == 200, reply
            return reply.seconds

        async def together(count: int) -> None:
            async def client(body: dict[str, Any]) -> None:
                for _ in range(count):
                    await post(body)

            await asyncio.gather(*map(client, bodies))

        def python(chosen: Sequence[Any]) -> float:
            begun = time.perf_counter()
            seeds = [int(rng.row_seeds(0, 1)[0])] * len(chosen)
            solve(run.model, run.task, sampler, chosen, batch_size=size, seed=0, seeds=seeds)
            return time.perf_counter() - begun

        for number in range(-1, given["rounds"]):  # the round before the first warms up
            pin(given["server_core"])
            pairs = [(python([each]), asyncio.run(post(body))) for each, body in zip(problems, bodies, strict=True)]
            whole = python(problems)
            pin(given["load_core"])
            begun = time.perf_counter()
            asyncio.run(together(4))
            busy = (time.perf_counter() - begun) / 4
            if number >= 0:
                ours += [here for here, _ in pairs]
                added += [there - here for here, there in pairs]
                ratios.append(whole / busy)
                batches.append(whole)
    print(
        json.dumps(
            {
                "milliseconds in Python": round(1000 * statistics.median(ours), 2),
                "milliseconds added by the server, median": round(1000 * statistics.median(added), 2),
                "added, 95th percentile": round(1000 * sorted(added)[int(0.95 * len(added))], 2),
                "n": len(added),
                f"seconds of a batch of {size}": round(statistics.median(batches), 3),
                f"throughput of {size} clients over that of a batch of {size}": mean(ratios),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    command(main)
