"""A rule that takes minutes to build: nobody else waits for it, and it ends with its client, its time or the server."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serving import FORMATS, USER, Served, serving, text_run, text_server, until

import httpx  # isort: skip  (tests.serving skips first where it is missing)

from constrained_dg.constraints.running import StoppedError
from constrained_dg.runs import Run
from constrained_dg.serving.texts import Texts
from tests import slow_rules

#: Seconds in which what should be at once has happened on a machine that does other work too.
SOON = 3.0


class Builds:
    """The slow pattern stands for a rule of minutes over a large vocabulary; what became of each build is noted."""

    def __init__(self) -> None:
        self.begun = self.stopped = 0


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    noted, rule = Builds(), Texts.rule
    slow_rules.build(slow_rules.QUICK)  # compiles the loops

    def build(self: Texts, asked: Any, length: int) -> Any:
        if asked.text != slow_rules.SLOW:
            return rule(self, asked, length)
        noted.begun += 1
        try:
            return slow_rules.build(asked.text)
        except StoppedError:
            noted.stopped += 1
            raise

    monkeypatch.setattr(Texts, "rule", build)
    return noted


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return text_run(tmp_path_factory.mktemp("rules"))


@pytest.fixture(scope="module")
def served(run: Run) -> Iterator[Served]:
    yield from text_server(run)


def asked(pattern: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": USER, "response_format": {"type": "regex", "pattern": pattern}, **more}


def connected(served: Served, stream: bool = False) -> http.client.HTTPConnection:
    """A client that has asked for the slow rule."""
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
    body = json.dumps(asked(slow_rules.SLOW, stream=stream))
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_others_are_served_meanwhile_and_it_stops_with_its_client(served: Served, builds: Builds, stream: bool) -> None:
    connection = connected(served, stream)
    until(lambda: builds.begun == 1)
    for kind, text in ((None, None), ("regex", "(no|yes), [a-z]{2,8}!"), ("schema", None)):
        body = {"model": "tiny", "messages": USER, "seed": 0}
        body |= {"response_format": FORMATS[kind]} if text is None else asked(text)
        assert served.post("/v1/chat/completions", body).status_code == 200
    slowest = 0.0
    for _ in range(50):
        begun = time.monotonic()
        assert httpx.get(f"{served.url}/health", trust_env=False).status_code == 200
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 1 and not builds.stopped
    connection.close()
    gone = time.monotonic()
    until(lambda: builds.stopped == 1)
    assert time.monotonic() - gone < SOON and builds.begun == 1


def test_it_stops_when_the_time_is_up(run: Run, builds: Builds) -> None:
    with serving(run, "tiny", time_limit=1.5) as served:
        begun = time.monotonic()
        response = served.post("/v1/chat/completions", asked(slow_rules.SLOW))
        assert response.status_code == 408 and 1.5 <= time.monotonic() - begun < 1.5 + SOON
        assert "more than 1.5 seconds" in response.json()["error"]["message"]
        until(lambda: builds.stopped == 1, SOON)


def test_equal_requests_wait_for_one_build(served: Served, builds: Builds) -> None:
    clients = [connected(served) for _ in range(8)]
    until(lambda: [each.waiting for each in [*served.server.rules._building.values()]] == [8])
    for client in clients[:7]:
        client.close()
    time.sleep(0.3)
    assert (builds.begun, builds.stopped) == (1, 0)
    clients[7].close()
    until(lambda: builds.stopped == 1)


def test_the_server_ends_during_a_build(run: Run, builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after SIGTERM: uvicorn gives what runs some seconds, then cancels it."""
    monkeypatch.setattr("constrained_dg.serving.connection.GRACE", 1)
    threads = set(threading.enumerate())
    with ThreadPoolExecutor(1) as pool, serving(run, "tiny") as served:
        waiting = pool.submit(served.post, "/v1/chat/completions", asked(slow_rules.SLOW))
        until(lambda: builds.begun == 1)
    until(lambda: builds.stopped == 1, SOON)
    until(lambda: not [each for each in set(threading.enumerate()) - threads if each.name.startswith("reading")])
    assert isinstance(waiting.exception(5), httpx.HTTPError) or waiting.result().status_code >= 500
