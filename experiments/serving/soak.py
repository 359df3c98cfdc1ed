"""Thousands of requests, good, bad and aborted: none is lost, every answer is that of Python, and memory does not grow.

    python -m experiments.serving.soak                     # 10,000 requests, 32 at a time: some minutes
    python -m experiments.serving.soak n=600 marks=200

At last the server is killed (SIGKILL) and started again: there is nothing to repair.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from constrained_dg.errors import check
from constrained_dg.evaluation import solve
from constrained_dg.runs import Run, load
from constrained_dg.sampling import named
from experiments.arguments import parse
from experiments.arguments import run as command
from experiments.serving.client import Server, ask, pin, started

KEYS: dict[str, Any] = {
    "n": 10_000,
    "concurrency": 32,
    "marks": 1000,
    "run": "sudoku/plain",
    "server_core": 1,
    "load_core": 0,
}
PUZZLES = (
    *("12..34.2..43.321", "1...............", "..3.........4...", "12..............", "1....1.........."),
    *("1234............", ".2.43.1..1.34.2.", "11..............", "................"),
)
SAMPLERS = ("restarts", "guaranteed", "symmetry", "autoregressive", "search")
#: Seeds of each pair of puzzle and sampler.
SEEDS = 4
#: Path, body and status of what is refused.
BAD: tuple[tuple[str, Any, int], ...] = (
    ("/v1/solve", {"problem": "12"}, 400),
    ("/v1/solve", {"problem": PUZZLES[0], "sampler": "os.system"}, 400),
    ("/v1/solve", {"problem": PUZZLES[0], "seed": -1}, 400),
    ("/v1/solve", {"problem": PUZZLES[0], "path": "/etc/passwd"}, 400),
    ("/v1/solve", b"{", 400),
    ("/v1/solve", b"[" * 100_000, 400),
    ("/v1/chat/completions", {"model": "sudoku/plain", "messages": [{"role": "user", "content": "a"}]}, 404),
    ("/nothing", {}, 404),
)


def main(arguments: Sequence[str]) -> None:
    """Ask, compare, and print what was found. Raises InputError before any work, AssertionError for a wrong answer."""
    given = parse(arguments, KEYS)
    check(0 < given["marks"] < given["n"], f"marks={given['marks']}", f"give less than n={given['n']}")
    torch.set_num_threads(1)
    arguments, core, expected = [f"run={given['run']}"], given["server_core"], answers(load(given["run"]))
    pin(given["load_core"])
    with started(arguments, core) as server:
        found = asyncio.run(soak(server, expected, given["n"], given["concurrency"], given["marks"]))
        server.process.kill()
    with started(arguments, core, server.port) as server:
        again = asyncio.run(soak(server, expected, given["marks"], given["concurrency"], given["marks"]))
    print(json.dumps(found | {"after a kill and a restart": again["answers"]}, indent=1))


def answers(run: Run) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What Python answers to every puzzle, sampler and seed, each alone."""
    found = {}
    for text in PUZZLES:
        for sampler in SAMPLERS:
            for seed in range(SEEDS):
                problem = run.task.parse(text)
                [one] = solve(run.model, run.task, named(sampler), [problem], batch_size=1, seed=seed)
                answer = None if one.status == "unsatisfiable" else one.answer
                found[text, sampler, seed] = {"status": str(one.status), "answer": answer, "passes": one.passes}
    return found


async def soak(
    server: Server, expected: dict[tuple[str, str, int], dict[str, Any]], n: int, concurrency: int, marks: int
) -> dict[str, Any]:
    """Send n requests, so many at a time: of ten, seven good, two bad, one aborted.

    Returns:
        counts of the answers, seconds, and resident memory in MB after `marks` requests and at the end.
    """
    asked, counts, memory = list(expected), Counter[str](), []
    begun, left = time.perf_counter(), iter(range(n))

    async def one(index: int) -> str:
        draws = random.Random(index)
        kind = draws.choices(("good", "bad", "aborted"), (7, 2, 1))[0]
        if kind == "bad":
            path, body, status = draws.choice(BAD)
            reply = await ask(server.port, path, body)
            assert reply is not None and reply.status == status, (body, reply)
            assert set(json.loads(reply.text)["error"]) == {"message", "type", "param", "code"}
            return kind
        problem, sampler, seed = draws.choice(asked)
        body = {"problem": problem, "sampler": sampler, "seed": seed, "stream": draws.random() < 0.3}
        if kind == "aborted":
            await ask(server.port, "/v1/solve", body, leave_after=draws.random() * 0.05)
            return kind
        reply = await ask(server.port, "/v1/solve", body)
        assert reply is not None and reply.status == 200, reply
        answer = reply.events[-1] if reply.events else json.loads(reply.text)
        want = expected[problem, sampler, seed]
        assert {key: answer.get(key) for key in want} == want, (problem, sampler, seed, want, answer)
        return kind

    async def client() -> None:
        for index in left:
            counts[await one(index)] += 1
            done = counts.total()
            if done in (marks, n):
                memory.append(server.memory())
            if done % 1000 == 0:
                print(f"{done} of {n}, {server.memory():.0f} MB", file=sys.stderr, flush=True)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    assert counts.total() == n
    seconds = time.perf_counter() - begun
    return {"answers": dict(counts), "seconds": round(seconds, 1), "memory_mb": memory}


if __name__ == "__main__":
    command(main)
