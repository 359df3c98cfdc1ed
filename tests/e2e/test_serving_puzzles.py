"""Puzzles over HTTP: answers, drafts, batches, limits, and who may ask."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import constrained_dg
from constrained_dg.evaluation import solve
from constrained_dg.model import Backbone
from constrained_dg.places import ROOT
from constrained_dg.sampling import named
from tests.pages import examples
from tests.serving import PUZZLE, Served, serving, until

import httpx  # isort: skip  (tests.serving skips first where it is missing)

SMALL = "1...............", "..3.........4...", "12..............", "1....1.........."


@pytest.fixture(scope="module")
def sudoku() -> constrained_dg.Run:
    return constrained_dg.load("sudoku")


@pytest.fixture(scope="module")
def served(sudoku: constrained_dg.Run) -> Iterator[Served]:
    with serving(sudoku, "sudoku", queue=64, batch_size=8) as made:
        yield made


def python(run: constrained_dg.Run, problem: str, sampler: str, seed: int) -> dict[str, object]:
    """The same from Python, alone."""
    [outcome] = solve(run.model, run.task, named(sampler), [run.task.parse(problem)], batch_size=1, seed=seed)
    answer = None if outcome.status == "unsatisfiable" else outcome.answer
    return {"status": str(outcome.status), "answer": answer, "passes": outcome.passes}


def events_of(text: str) -> list[tuple[str, dict]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_requests_that_arrive_together_share_a_batch_and_get_the_answers_of_python(
    served: Served, sudoku: constrained_dg.Run
) -> None:
    asked = [
        (problem, sampler, seed)
        for seed, problem in enumerate((*SMALL, SMALL[0], PUZZLE, PUZZLE))
        for sampler in ("restarts", "plain", "symmetry", "guaranteed")
    ]
    batches, rows = served.metric("batch_rows_count"), served.metric("batch_rows_sum")
    with ThreadPoolExecutor(len(asked)) as pool:
        with served.held():
            waiting = [
                pool.submit(served.post, "/v1/solve", {"problem": problem, "sampler": sampler, "seed": seed})
                for problem, sampler, seed in asked
            ]
            until(lambda: served.waiting() == len(asked))
        answers = [each.result().json() for each in waiting]
    # Two shapes and four samplers; held() is a batch of its own.
    assert served.metric("batch_rows_count") - batches <= 4 * 2 + 1
    assert served.metric("batch_rows_sum") - rows == len(asked) + 1
    for (problem, sampler, seed), answer in zip(asked, answers, strict=True):
        expected = python(sudoku, problem, sampler, seed)
        assert {key: answer[key] for key in expected} == expected, (problem, sampler, seed)
        assert (answer["seed"], answer["sampler"], answer["model"]) == (seed, sampler, "sudoku")
    assert {answer["status"] for answer in answers} >= {"solved", "unsatisfiable"}


def test_an_answer_without_a_seed_says_its_seed(served: Served, sudoku: constrained_dg.Run) -> None:
    answer = served.post("/v1/solve", {"problem": SMALL[0], "sampler": "plain"}).json()
    expected = python(sudoku, SMALL[0], "plain", answer["seed"])
    assert answer["answer"] == expected["answer"]


def test_what_an_unsolved_answer_breaks_is_said_in_sentences(served: Served, sudoku: constrained_dg.Run) -> None:
    answer = served.post("/v1/solve", {"problem": "." * 81, "sampler": "autoregressive", "seed": 0}).json()
    assert answer["status"] == "unsolved" and answer["passes"] == 81
    problem = sudoku.task.parse("." * 81)
    [outcome] = solve(sudoku.model, sudoku.task, named("autoregressive"), [problem], batch_size=1, seed=0)
    broken = sudoku.task.constraint([problem]).explain(outcome.tokens[None])[0]
    assert answer["answer"] == outcome.answer and answer["violations"] == broken != []


def test_a_stream_shows_each_pass_and_ends_with_the_answer(served: Served, sudoku: constrained_dg.Run) -> None:
    response = served.post("/v1/solve", {"problem": PUZZLE, "sampler": "plain", "seed": 5, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *drafts, (name, answer) = events_of(response.text)
    expected = python(sudoku, PUZZLE, "plain", 5)
    assert name == "answer" and {key: answer[key] for key in expected} == expected
    assert [draft["pass"] for _, draft in drafts] == list(range(1, answer["passes"] + 1))
    assert {name for name, _ in drafts} == {"draft"}
    for _, draft in drafts:
        free = {*draft["accepted"], *draft["renoised"]}
        assert len(free) == PUZZLE.count(".") and len(draft["entropy_nats"]) == 81
        assert bool(draft["sentences"]) == bool(draft["violations"])
    assert drafts[-1][1]["text"] == answer["answer"]


def test_the_example_of_the_documentation(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = examples(ROOT / "docs" / "serving.md")
    exec(first.replace("http://127.0.0.1:8000", served.url), {})
    solution = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
    assert re.fullmatch(rf"solved {solution} \d+\n", capsys.readouterr().out)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, param, said",
    [
        ({"problem": "12"}, "problem", "use 16 "),
        ({"problem": 3}, "problem", "valid string"),
        ({}, "problem", "required"),
        ({"problem": PUZZLE, "sampler": "os.system"}, "sampler", "known: autoregressive"),
        ({"problem": PUZZLE, "sampler": "../plain"}, "sampler", "no sampler '../plain'"),
        ({"problem": PUZZLE, "seed": -1}, "seed", "greater than or equal to 0"),
        ({"problem": PUZZLE, "seed": 2**63}, "seed", "less than"),
        ({"problem": PUZZLE, "seed": True}, "seed", "valid integer"),
        ({"problem": PUZZLE, "path": "/etc/passwd"}, "path", "there is no such field"),
        ([], None, "the body"),
    ],
)
def test_bad_bodies_are_refused_by_the_name_of_the_field(
    served: Served, body: object, param: str | None, said: str
) -> None:
    response = served.post("/v1/solve", body)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param and said in error["message"], error
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"problem": ' + b"[" * 100_000, b"1" * 5000, b""])
def test_what_is_not_json_is_refused(served: Served, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{served.url}/v1/solve", content=content, headers=headers, trust_env=False)
    assert response.status_code == 400 and response.json()["error"]["message"]


def test_paths_methods_and_texts_that_are_not_there(served: Served) -> None:
    assert httpx.get(f"{served.url}/v2", trust_env=False).json()["error"]["type"] == "not_found_error"
    assert httpx.get(f"{served.url}/v1/solve", trust_env=False).status_code == 405
    chat = {"model": "sudoku", "messages": [{"role": "user", "content": "a"}]}
    refused = served.post("/v1/chat/completions", chat)
    assert refused.status_code == 404 and "use /v1/solve" in refused.json()["error"]["message"]
    [model] = httpx.get(f"{served.url}/v1/models", trust_env=False).json()["data"]
    assert (model["id"], model["solve"], model["text"]) == ("sudoku", True, False)


def test_a_host_or_an_origin_that_is_not_this_server_is_refused(served: Served) -> None:
    body, own = {"problem": SMALL[0], "seed": 0}, served.url.removeprefix("http://")
    for headers, status in [
        ({"Host": "evil.example"}, 403),
        ({"Host": f"evil.example:{own.rpartition(':')[2]}"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": served.url}, 200),
        ({"Host": "localhost"}, 200),
    ]:
        response = served.post("/v1/solve", body, headers=headers)
        assert response.status_code == status, headers
        assert "access-control-allow-origin" not in response.headers
        assert "default-src 'none'" in response.headers["content-security-policy"]


def test_a_key_is_asked_for_everywhere_but_at_health(sudoku: constrained_dg.Run) -> None:
    key = "a key of 16 letters"
    with serving(sudoku, "sudoku", key=key) as served:
        assert httpx.get(f"{served.url}/health", trust_env=False).status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            for headers in ({}, {"Authorization": f"Bearer {key}x"}, {"Authorization": key}):
                response = httpx.get(served.url + path, headers=headers, trust_env=False)
                assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{served.url}/v1/models", headers=headers, trust_env=False).status_code == 200


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
