"""Requests made from the server's own OpenAPI description: none is answered with a 5xx, and every refusal is JSON."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    schemathesis = pytest.importorskip("schemathesis")

import constrained_dg
from constrained_dg.sampling import named
from tests.serving import Served, serving, text_run

#: Requests for each endpoint; FUZZ_EXAMPLES=1000 asks for more.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 10))
TEXT = ("/v1/completions", "/v1/chat/completions")


@pytest.fixture(scope="module")
def puzzles() -> Iterator[Served]:
    with serving(constrained_dg.load("sudoku"), "sudoku", time_limit=5, batch_size=8) as served:
        yield served


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PLAIN", "VALIDITY"):
            patch.setattr(f"constrained_dg.serving.texts.{name}", replace(named(name.lower()), max_passes=2))
        with serving(text_run(tmp_path_factory.mktemp("text")), "tiny", time_limit=5, batch_size=8) as served:
            yield served


def description(served: Served) -> dict[str, Any]:
    """The OpenAPI description, in which the model and the problem are such as exist, so that requests get far."""
    described = httpx.get(f"{served.url}/openapi.json", trust_env=False).json()
    for name, body in described["components"]["schemas"].items():
        if name.endswith("Request"):
            fields = body["properties"]
            if "model" in fields:
                fields["model"] = {"const": next(iter(served.server.models))}
            if "problem" in fields:
                fields["problem"]["pattern"] = "^[.1-4]{16}$"
    return described


def fuzz(served: Served, path: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses of requests that fit the description of an endpoint, or do not."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    schema, seen = schemathesis.openapi.from_dict(description(served)), []
    mode = schemathesis.GenerationMode.POSITIVE if fits else schemathesis.GenerationMode.NEGATIVE

    @seed(0)
    @settings(max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(base_url=served.url)
        seen.append(response.status_code)
        assert response.status_code < 500, (case.body, response.text)
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    ask()
    return seen


def test_the_description_names_every_endpoint_and_its_refusals(puzzles: Served) -> None:
    described = description(puzzles)
    assert set(described["paths"]) == {"/health", "/metrics", "/v1/models", "/v1/solve", *TEXT}
    for path in described["paths"].values():
        for operation in path.values():
            assert {"4XX", "5XX"} <= set(operation["responses"]) and "422" not in operation["responses"]


@pytest.mark.parametrize("fits", [True, False])
def test_no_made_request_breaks_a_server_of_puzzles(
    puzzles: Served, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = fuzz(puzzles, "/v1/solve", fits, monkeypatch)
    assert fits == (200 in seen) and seen


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("path", TEXT)
def test_no_made_request_breaks_a_server_of_texts(
    texts: Served, path: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fuzz(texts, path, fits, monkeypatch)
