"""Requests for texts that are refused, by the name of the field."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from constrained_dg.runs import Run
from tests.serving import FORMATS, USER, Served, text_run, text_server

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return text_run(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def served(run: Run) -> Iterator[Served]:
    yield from text_server(run)


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, param, said",
    [
        ({"temperature": 0.5}, "temperature", "the sampler's own schedule decides"),
        ({"logprobs": True}, "logprobs", "a canvas is drawn at once"),
        ({"tools": []}, "tools", "no tools are known"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 65}, "n", "64"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "at least 1"),
        ({"drafts": True}, None, "give stream=true"),
        ({"sampler": "nothing"}, "sampler", "known: autoregressive"),
        ({"sampler": "sets"}, "sampler", "sets needs symmetries of a task; use plain"),
        ({"sampler": "views"}, "sampler", "views needs a task with pictures; use plain"),
        ({"sampler": "search"}, "sampler", "search needs a response_format; use plain"),
        ({"response_format": {"type": "xml"}}, "response_format", "'json_schema'"),
        ({"response_format": {"type": "regex", "pattern": "("}}, "response_format.pattern", "("),
        ({"response_format": {"type": "regex", "pattern": r"(a)\1"}}, "response_format.pattern", "back-reference"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}},
            "response_format.json_schema.schema",
            "nothing",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": 3, "schema": {}}}}, None, "string"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "'user'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages.0.role", "begin with system or user"),
        ({"messages": [*USER, {"role": "assistant", "content": "a"}]}, "messages", "end with role user"),
        ({"messages": [*USER, *USER]}, "messages.1.role", "take turns"),
        ({"messages": [{"role": "user", "content": "a<turn|>"}]}, "messages.0.content", "belongs to the chat format"),
        ({"messages": [{"role": "user", "content": "a\0" * 600}]}, "messages", "shorten it"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
            "messages.0.content.0.image_url",
            "this model reads no images; give text alone",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file"}]}]},
            "messages.0.content.1",
            "file is not read: give text and image_url",
        ),
    ],
)
def test_bad_requests_are_refused_by_the_name_of_the_field(
    served: Served, changes: dict[str, Any], param: str | None, said: str
) -> None:
    response = served.post("/v1/chat/completions", {"model": "tiny", "messages": USER, **changes})
    error = response.json()["error"]
    assert response.status_code == 400 and said in error["message"], error
    assert param is None or error["param"] == param, error


@pytest.mark.parametrize(
    "prompt, said",
    [
        ("", "empty"),
        ([], "empty"),
        ([[]], "at least 1"),
        ([448], "give tokens from 0 to 447"),
        ([-1], "greater than or equal to 0"),
        (3, "valid"),
        ("\ud800", "surrogate"),
        ([447], "image tokens"),
    ],
)
def test_bad_prompts_are_refused(served: Served, prompt: object, said: str) -> None:
    body = json.dumps({"model": "tiny", "prompt": prompt})
    response = httpx.post(
        f"{served.url}/v1/completions",
        content=body,
        headers={"content-type": "application/json"},
        trust_env=False,
        timeout=60,
    )
    assert response.status_code == 400 and said in response.json()["error"]["message"], response.text


SCHEMA = '{"model": "tiny", "prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": %s}}}'


@pytest.mark.parametrize(
    "body, kind, said",
    [
        (SCHEMA % '{"minimum": NaN}', "application/json", "nan is no number of JSON"),
        (SCHEMA % '{"type": "string", "maxLength": Infinity}', "application/json", "inf is no number of JSON"),
        (SCHEMA % '{"items": [{"default": -1e999}]}', "application/json", "-inf is no number of JSON"),
        (SCHEMA % f'{{"const": {"9" * 5000}}}', "application/json", "without numbers of over 4,300 digits"),
        ("[" * 100_000, "application/json", "not nested deeply"),
        ("[1]", "application/json", "the body is no JSON object; send one"),
        ('{"model": "tiny", "prompt": "a"}', "text/plain", "with the header Content-Type: application/json"),
    ],
)
def test_bodies_that_are_no_json_are_refused(served: Served, body: str, kind: str, said: str) -> None:
    headers = {"content-type": kind}
    response = httpx.post(f"{served.url}/v1/completions", content=body, headers=headers, trust_env=False, timeout=60)
    assert response.status_code == 400 and said in response.json()["error"]["message"], response.text


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 99_999,
    ],
)
def test_what_is_no_http_is_refused_in_json(served: Served, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])), timeout=10) as client:
        client.sendall(head)
        said, _, body = client.recv(65536).partition(b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 Bad Request") and "HTTP/1.1" in json.loads(body)["error"]["message"]


def test_a_path_with_one_slash_more_is_no_path(served: Served) -> None:
    response = served.post("/v1/completions/", {"model": "tiny", "prompt": "a"})
    assert response.status_code == 404 and "no such path" in response.json()["error"]["message"]


def test_the_client_raises_the_errors_it_knows(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'; there is 'tiny'") as missing:
        client.chat.completions.create(model="gpt", messages=USER)
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="temperature is not served"):
        client.chat.completions.create(model="tiny", messages=USER, temperature=1)
    with pytest.raises(openai.APIError, match="no answer that fits"):
        sampler = {"sampler": "autoregressive"}
        chunks = client.chat.completions.create(
            model="tiny", messages=USER, response_format=FORMATS["schema"], stream=True, extra_body=sampler
        )
        list(chunks)
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_text_run_has_no_puzzles(served: Served) -> None:
    response = served.post("/v1/solve", {"problem": "a"})
    assert response.status_code == 404 and "use /v1/chat/completions" in response.json()["error"]["message"]
