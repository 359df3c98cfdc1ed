"""A server in a process of its own, on one core, and a small client for HTTP that times what it reads."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from constrained_dg.errors import check
from constrained_dg.places import ROOT


@dataclass
class Reply:
    """What came back.

    Attributes:
        status: of HTTP.
        text: the body; of a stream the data of its events, one a line.
        first: seconds until the first piece of the answer's text; None without a stream.
        seconds: until the end.
    """

    status: int
    text: str
    seconds: float
    first: float | None = None
    events: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Server:
    """A server that runs: its process and its port on loopback."""

    process: subprocess.Popen[str]
    port: int

    def memory(self) -> float:
        """Resident memory, MB."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            [line] = [line for line in file if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1000


@contextmanager
def started(arguments: Sequence[str], core: int, port: int = 0) -> Iterator[Server]:
    """`constrained-dg serve` with these arguments, on one core.

    Raises:
        InputError: this machine has no such core.
    """
    cores = os.cpu_count() or 1
    check(0 <= core < cores, f"core {core}", f"give one from 0 to {cores - 1}")
    command = [sys.executable, "-m", "constrained_dg", "serve", f"port={port}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment, preexec_fn=lambda: pin(core)
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        check(line.startswith("serving "), "the server did not start", "its message stands above")
        yield Server(process, int(line.rpartition(":")[2]))
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def pin(core: int) -> None:
    """Let this process run on one core alone."""
    os.sched_setaffinity(0, {core})


async def ask(port: int, path: str, body: Any, leave_after: float | None = None) -> Reply | None:
    """Ask on a connection of its own.

    Args:
        body: sent as JSON; bytes as they are.
        leave_after: seconds after which the client goes without an answer; then None is returned.
    """
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
        if leave_after is not None:
            await asyncio.sleep(leave_after)
            return None
        status = int((await reader.readline()).split()[1])
        headers = {}
        while line := (await reader.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if not headers.get("content-type", "").startswith("text/event-stream"):
            text = (await reader.readexactly(int(headers["content-length"]))).decode()
            return Reply(status, text, time.perf_counter() - begun)
        first, events = None, []
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                events.append(json.loads(line[6:]))
                if first is None and _says_something(events[-1]):
                    first = time.perf_counter() - begun
        return Reply(status, "", time.perf_counter() - begun, first, events)
    finally:
        writer.close()


def _says_something(chunk: dict[str, Any]) -> bool:
    return any(choice["delta"].get("content") for choice in chunk.get("choices", []))
