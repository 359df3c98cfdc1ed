"""What a server does with too many, too large, too slow and vanished clients, and how it begins and ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import constrained_dg
from constrained_dg.model import Backbone
from constrained_dg.places import ROOT
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


def test_a_large_body_is_refused_before_it_is_read(served: Served) -> None:
    address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
    head = f"POST /v1/solve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {10**8}\r\n\r\n"
    with socket.create_connection(address, timeout=10) as client:
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


def test_idle_and_slow_clients_are_let_go_and_others_served(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("constrained_dg.serving.connection.HEAD", 0.5)
    monkeypatch.setattr("constrained_dg.serving.access.BODY", 0.5)
    address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
    idle = [socket.create_connection(address, timeout=10) for _ in range(200)]
    idle[0].sendall(b"POST /v1/solve HTTP/1.1\r\nHost: 127.0")
    slow = socket.create_connection(address, timeout=10)
    slow.sendall(b"POST /v1/solve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    assert served.post("/v1/solve", {"problem": SMALL[0]}).status_code == 200
    assert slow.recv(4096).startswith(b"HTTP/1.1 408")
    for client in idle:
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        client.close()
    slow.close()


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
