"""What a server does with too many, too large, too slow and vanished clients, and how it begins and ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import constrained_dg
from constrained_dg.model import Backbone
from constrained_dg.places import ROOT
from constrained_dg.serving.connection import Connection
from tests.serving import PUZZLE, SMALL, Served, serving, until

import httpx  # isort: skip  (tests.serving skips first where it is missing)


# -- limits ------------------------------------------------------------------------------------------------------------


def test_beyond_the_queue_requests_are_refused_with_429(sudoku: constrained_dg.Run) -> None:
    body = {"problem": SMALL[0], "seed": 0}
    with serving(sudoku, "sudoku", queue=2) as served, ThreadPoolExecutor(2) as pool:
        with served.held():
            waiting = [pool.submit(served.post, "/v1/solve", body) for _ in range(2)]
            until(lambda: served.waiting() == 2)
            refused = served.post("/v1/solve", body)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert "2 rows wait, and the queue holds 2" in refused.json()["error"]["message"]
        assert [each.result().status_code for each in waiting] == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_has_gone_costs_no_more_passes(
    served: Served, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise, passed = Backbone.denoise, threading.Event()

    def slow(self, *args, **more):
        passed.set()
        time.sleep(0.03)
        return denoise(self, *args, **more)

    monkeypatch.setattr(Backbone, "denoise", slow)
    before, passes = served.metric("given_up_rows_total"), served.metric("passes_total")
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
    body = json.dumps({"problem": "." * 256, "sampler": "plain", "seed": 0, "stream": stream})
    connection.request("POST", "/v1/solve", body, {"content-type": "application/json"})
    assert passed.wait(20)
    if stream:
        connection.getresponse().close()
    connection.close()
    until(lambda: served.metric("given_up_rows_total") == before + 1)
    assert 1 <= served.metric("passes_total") - passes < 40  # of 48


def test_a_client_that_goes_while_it_waits_leaves_the_queue(served: Served) -> None:
    batches = served.metric("batch_rows_sum")
    with served.held():
        connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
        body = json.dumps({"problem": PUZZLE})
        connection.request("POST", "/v1/solve", body, {"content-type": "application/json"})
        until(lambda: served.waiting() == 1)
        connection.close()
        until(lambda: served.waiting() == 0)
    assert served.post("/v1/solve", {"problem": SMALL[0]}).status_code == 200
    assert served.metric("batch_rows_sum") - batches == 2  # that of held(), and the last


def test_a_request_that_takes_too_long_ends(sudoku: constrained_dg.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    denoise = Backbone.denoise

    def slow(self, *args, **more):
        time.sleep(0.1)
        return denoise(self, *args, **more)

    monkeypatch.setattr(Backbone, "denoise", slow)
    with serving(sudoku, "sudoku", time_limit=0.25) as served:
        response = served.post("/v1/solve", {"problem": "." * 256, "sampler": "plain", "seed": 0})
        assert response.status_code == 408 and response.headers["x-should-retry"] == "false"
        assert "more than 0.25 seconds" in response.json()["error"]["message"]
        assert served.metric("passes_total") < 10


def test_a_judge_that_takes_minutes_holds_up_nobody() -> None:
    """Whether 64 nodes hold this pattern takes networkx longer than anybody waits."""
    run = constrained_dg.load("graph/generate")
    with serving(run, "graphs", time_limit=0.5) as served, ThreadPoolExecutor(1) as pool:
        begun = time.monotonic()
        body = {"problem": "nodes=64 avoids=C64", "sampler": "plain", "seed": 0}
        slow = pool.submit(served.post, "/v1/solve", body)
        response = served.post("/v1/solve", {"problem": "nodes=0", "seed": 0})
        assert response.status_code == 400
        assert slow.result().status_code == 408 and time.monotonic() - begun < 10
        answers = [served.post("/v1/solve", {"problem": "nodes=2 degree=1", "sampler": "one_pass"}) for _ in range(3)]
        assert answers[-1].status_code == 200  # the first may compile loops for longer than half a second


@pytest.mark.parametrize("stream", [False, True])
def test_a_batch_that_never_ends_leaves_no_client_waiting(
    sudoku: constrained_dg.Run, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("constrained_dg.serving.rows.LATE", 0.2)
    with serving(sudoku, "sudoku", time_limit=0.3) as served, served.held():
        response = served.post("/v1/solve", {"problem": SMALL[0], "stream": stream})
        assert response.status_code == (200 if stream else 408) and "more than 0.3 seconds" in response.text


def test_a_large_body_is_refused_before_it_is_read(served: Served) -> None:
    head = f"POST /v1/solve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {10**8}\r\n\r\n"
    with socket.create_connection(served.address, timeout=10) as client:
        client.sendall(head.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
        # And sent all the same, it is thrown away.
        for _ in range(100):
            client.sendall(bytes(10**6))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while b'{"status":"ok"}' not in (said := client.recv(4096)):
            assert said
    chunks = (b"1" * 65536 for _ in range(40))
    response = httpx.post(f"{served.url}/v1/solve", content=chunks, trust_env=False)
    assert response.status_code == 413 and "larger than 1048576 bytes" in response.json()["error"]["message"]


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of 1,000 connections are files of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_1000_idle_and_slow_clients_are_let_go_and_others_served(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 3.0  # in which all are open at once
    monkeypatch.setattr("constrained_dg.serving.connection.HEAD", seconds)
    monkeypatch.setattr("constrained_dg.serving.access.BODY", seconds)
    with contextlib.ExitStack() as stack:

        def connected(said: bytes = b"") -> socket.socket:
            client = stack.enter_context(socket.create_connection(served.address, timeout=30))
            client.sendall(said)
            return client

        begun = time.monotonic()
        idle = [connected() for _ in range(1000)]
        assert time.monotonic() - begun < seconds, "the first are let go before the last are there"
        head = b"POST /v1/solve HTTP/1.1\r\nHost: 127.0"
        letters = [connected(head) for _ in range(20)]
        slow = [connected(head + b".0.1\r\nContent-Length: 99\r\n\r\n{") for _ in range(20)]
        assert served.post("/v1/solve", {"problem": SMALL[0]}).status_code == 200
        with contextlib.suppress(OSError):  # a letter now and then wins no time
            for letter in b".0.0.1\r\n" * 20:
                letters[0].sendall(bytes([letter]))
                slow[0].sendall(b" ")
                time.sleep(seconds / 20)
        assert time.monotonic() - begun < 4 * seconds
        assert all(client.recv(4096).startswith(b"HTTP/1.1 408") for client in slow)
        for client in idle + letters:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
    assert served.post("/v1/solve", {"problem": SMALL[0]}).status_code == 200


def test_a_client_that_does_not_read_its_stream_is_let_go(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel does not take waits in the server, but not for ever."""
    made = Connection.connection_made

    def small(self: Connection, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", small)
    monkeypatch.setattr("constrained_dg.serving.connection.TAKE", 0.5)
    before = served.metric("given_up_rows_total")
    body = json.dumps({"problem": "." * 256, "sampler": "sets", "seed": 0, "stream": True}).encode()
    head = b"POST /v1/solve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.settimeout(60)
        client.connect(served.address)
        client.sendall(head + b"%d\r\n\r\n" % len(body) + body)
        assert client.recv(1) == b"H"
        until(lambda: served.metric("given_up_rows_total") == before + 1, 60)
        assert served.post("/v1/solve", {"problem": SMALL[0]}).status_code == 200
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(2**16):
                said += part
    assert b"event: draft" in said and b"event: answer" not in said


def test_metrics_count_and_unknown_paths_count_together(served: Served) -> None:
    for name in ("a", "b"):
        httpx.get(f"{served.url}/{name}", trust_env=False)
    said = httpx.get(f"{served.url}/metrics", trust_env=False)
    assert said.headers["content-type"].startswith("text/plain")
    assert 'constrained_dg_requests_total{path="other",status="404"}' in said.text and '"/a"' not in said.text
    assert "constrained_dg_passes_total" in said.text and "constrained_dg_open_requests 1.0" in said.text


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_serves_until_sigterm_and_finishes_what_runs() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "constrained_dg", "serve", "run=sudoku", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving sudoku at http://127.0.0.1:")
        url = line.split()[-1]
        with ThreadPoolExecutor(1) as pool:
            body = {"problem": "." * 81, "sampler": "plain", "seed": 0, "stream": True}
            with httpx.stream("POST", f"{url}/v1/solve", json=body, timeout=60, trust_env=False) as response:
                chunks = response.iter_text()
                next(chunks)
                process.send_signal(signal.SIGTERM)
                rest = pool.submit(lambda: "".join(chunks)).result(30)
        assert "event: answer" in rest
        assert process.wait(30) == 0 and process.stdout.read() == "ended\n"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["run=sudoku", "port=70000"], "port is 70000; give a number"),
        (["run=nothing"], "no run.json in 'nothing'"),
        (["run=sudoku", "host=203.0.113.7"], "cannot listen at 203.0.113.7"),
        (["run=sudoku", "prt=1"], "did you mean port"),
        (["run=sudoku", "queue=0"], "queue is 0"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from constrained_dg.serving.command import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err
