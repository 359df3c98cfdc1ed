"""A server on loopback in a thread of the test, and a way to hold its queue."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

import httpx
import uvicorn

from constrained_dg import load_pretrained
from constrained_dg.runs import Run
from constrained_dg.sampling import named
from constrained_dg.serving.app import Server, create_app
from constrained_dg.serving.connection import BACKLOG, uvicorn_config
from constrained_dg.serving.jobs import Job
from constrained_dg.serving.settings import Settings
from constrained_dg.text import Tokenizer
from tasks.text import Text

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SMALL = "1...............", "..3.........4...", "12..............", "1....1.........."

#: Of the random weights: with 1 the rounding of another batch shape grows from pass to pass until answers differ.
SPREAD = 0.5


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": [1, 22]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FORMATS = {
    None: None,
    "schema": {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}},
    "object": {"type": "json_object"},
    "regex": {"type": "regex", "pattern": "(yes|no), [a-z]{2,9}!"},
}
#: Of the samplers that are used where a request names none: the tiny model is not sure of anything in any pass.
PASSES = 6
USER = [{"role": "user", "content": "Who wrote this?"}]


@dataclass
class Served:
    """A server that runs.

    Attributes:
        url: without a path.
        server: its inside.
    """

    url: str
    server: Server

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, trust_env=False, **more)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(f"constrained_dg_{name}", labels) or 0.0

    def waiting(self) -> int:
        return len(self.server.queue._waiting)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within, the queue solves nothing, so that what is asked waits."""
        going, held = threading.Event(), threading.Event()

        class Holding:
            def answer(self, jobs: Any, **options: Any) -> list[Any]:
                held.set()
                going.wait(60)
                raise ValueError("only held")

        job = Job(Holding(), ("held",), None, 0, lambda _: None, time.monotonic() + 60)
        self.server.queue.put([job])
        assert held.wait(10)
        try:
            yield
        finally:
            going.set()


@contextlib.contextmanager
def serving(run: Run, name: str, twin: Run | None = None, **settings: Any) -> Iterator[Served]:
    runs = {name: run} | ({} if twin is None else {"twin": twin})
    app = create_app(runs, Settings(**settings))
    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    server = uvicorn.Server(uvicorn_config(app))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        until(lambda: server.started)
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", app.state.server)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.005)


def text_run(folder: Path, spread: float = SPREAD, pictures: bool = False) -> Run:
    """A tiny random model with canvases of 16 tokens, whose answers have at most two of them."""
    from tests.textual import save_checkpoint

    model = load_pretrained(save_checkpoint(folder, canvas=16, spread=spread, pictures=pictures))
    task = Text(canvases=2).in_text(Tokenizer.load(folder, model.config.vocab_size), 16)
    return Run(folder, model.eval(), task, named("plain"), {})


def text_server(run: Run) -> Iterator[Served]:
    """The tiny text model behind a server, with few passes."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PLAIN", "VALIDITY"):
            sampler = replace(named(name.lower()), max_passes=PASSES)
            patch.setattr(f"constrained_dg.serving.texts.{name}", sampler)
        with serving(run, "tiny", queue=64, batch_size=8) as made:
            yield made
