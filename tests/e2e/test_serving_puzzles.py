"""Puzzles over HTTP: answers, drafts, batches, and who may ask."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

import constrained_dg
from constrained_dg import rng
from constrained_dg.evaluation import solve
from constrained_dg.places import ROOT
from constrained_dg.sampling import named
from constrained_dg.viz.page.writing import Shown, record_problem
from tests.pages import examples
from tests.serving import PUZZLE, SMALL, Served, serving, until

import httpx  # isort: skip  (tests.serving skips first where it is missing)


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
    assert answer["answer"] == outcome.answer and answer["sentences"] == broken != []
    positions = sudoku.task.constraint([problem]).violations(outcome.tokens[None])[0].nonzero().flatten().tolist()
    assert answer["violations"] == positions != []


def test_a_stream_shows_each_pass_and_ends_with_the_answer(served: Served, sudoku: constrained_dg.Run) -> None:
    response = served.post("/v1/solve", {"problem": PUZZLE, "sampler": "plain", "seed": 5, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    (first, opening), *drafts, (name, answer) = events_of(response.text)
    expected = python(sudoku, PUZZLE, "plain", 5)
    assert first == "problem" and opening["text"] == PUZZLE and opening["picture"]["kind"] == "grid"
    assert name == "answer" and {key: answer[key] for key in expected} == expected
    assert [draft["pass"] for _, draft in drafts] == list(range(1, answer["passes"] + 1))
    assert {name for name, _ in drafts} == {"draft"}
    for _, draft in drafts:
        free = {*draft["accepted"], *draft["renoised"]}
        assert len(free) == PUZZLE.count(".") and len(draft["entropy_nats"]) == 81
        assert bool(draft["sentences"]) == bool(draft["violations"])
    assert drafts[-1][1]["text"] == answer["answer"]


@pytest.mark.parametrize("sampler", ["restarts", "symmetry", "autoregressive", "sets", "guaranteed", "search"])
def test_events_are_the_json_that_the_page_stores(served: Served, sudoku: constrained_dg.Run, sampler: str) -> None:
    for seed, problem in enumerate((SMALL[1], "1234............", "11..............")):
        body = {"problem": problem, "sampler": sampler, "seed": seed, "stream": True}
        (_, opening), *drafts, (_, answer) = events_of(served.post("/v1/solve", body).text)
        shown = Shown(sudoku.task.parse(problem), int(rng.row_seeds(seed, 1)[0]), {})
        stored = json.loads(json.dumps(record_problem(sudoku.task, [(sampler, named(sampler), sudoku.model)], shown)))
        [run] = stored["runs"]
        for key in ("tier", "text", "given", "best"):
            assert opening[key] == stored[key]
        assert (opening["kind"], opening["picture"]) == (run["kind"], run["picture"])
        assert len(drafts) == len(run["passes"])
        labels = opening["labels"]
        for (_, draft), passed in zip(drafts, run["passes"], strict=True):
            assert set(draft) == {*passed, "text", "labels"} and {key: draft[key] for key in passed} == passed
            labels |= draft["labels"]
        assert {key: answer[key] for key in run["answer"]} == run["answer"]
        assert labels | answer["labels"] == stored["labels"]


def test_of_candidates_the_drafts_are_those_of_the_row_that_asked(served: Served) -> None:
    """A record counts candidates; the second row of a batch is not the second candidate of the first."""
    bodies = [{"problem": problem, "sampler": "candidates", "seed": 1, "stream": True} for problem in SMALL[:2]]
    with ThreadPoolExecutor(2) as pool:
        with served.held():
            waiting = [pool.submit(served.post, "/v1/solve", body) for body in bodies]
            until(lambda: served.waiting() == 2)
        streams = [events_of(each.result().text) for each in waiting]
    for (_, opening), (_, draft), *_ in streams:
        assert [draft["best"][at] for at in opening["given"]] == [opening["best"][at] for at in opening["given"]] != []


def test_clues_that_clash_are_named(served: Served) -> None:
    answer = served.post("/v1/solve", {"problem": "11..............", "sampler": "plain", "seed": 0}).json()
    assert (answer["status"], answer["answer"], answer["violations"]) == ("unsatisfiable", None, [0, 1])


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
        ({"problem": PUZZLE, "sampler": "views"}, "sampler", "'views' without pictures: 'sudoku' has none; use plain"),
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


def test_paths_methods_and_texts_that_are_not_there(served: Served, sudoku: constrained_dg.Run) -> None:
    assert httpx.get(f"{served.url}/v2", trust_env=False).json()["error"]["type"] == "not_found_error"
    assert httpx.get(f"{served.url}/v1/solve", trust_env=False).status_code == 405
    chat = {"model": "sudoku", "messages": [{"role": "user", "content": "a"}]}
    refused = served.post("/v1/chat/completions", chat)
    assert refused.status_code == 404 and "use /v1/solve" in refused.json()["error"]["message"]
    [model] = httpx.get(f"{served.url}/v1/models", trust_env=False).json()["data"]
    assert (model["id"], model["solve"], model["text"]) == ("sudoku", True, False)
    assert model["samplers"][:2] == ["restarts", "plain"] and not {"search", "views"} & {*model["samplers"]}
    assert model["asks"]["kind"] == "grid" and sudoku.task.parse(model["asks"]["example"]).text == PUZZLE


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
        page = httpx.get(served.url, trust_env=False)
        assert page.status_code == 200 and "sudoku" not in page.text, "the page holds nothing of the run"
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            for headers in ({}, {"Authorization": f"Bearer {key}x"}, {"Authorization": key}):
                response = httpx.get(served.url + path, headers=headers, trust_env=False)
                assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{served.url}/v1/models", headers=headers, trust_env=False).status_code == 200
