"""Requests of all kinds, many at a time, as `experiments.serving.soak` sends them: a small part of its 10,000."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from experiments.serving import soak


@pytest.mark.slow
def test_no_answer_is_lost_or_wrong_and_a_killed_server_starts_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "SEEDS", 1)
    monkeypatch.setattr(soak, "pin", lambda core: None)  # this process goes on with other tests
    soak.main(["n=300", "marks=100", "server_core=0"])
    found = json.loads(capsys.readouterr().out)
    assert sum(found["answers"].values()) == 300 and min(found["answers"].values()) > 10
    assert sum(found["after a kill and a restart"].values()) == 100
    first, last = found["memory_mb"]
    assert last < 1.1 * first


def test_a_wrong_answer_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is real: an answer that differs in one value is not let through."""
    import asyncio

    from tests.serving import serving

    for name in ("PUZZLES", "SAMPLERS"):
        monkeypatch.setattr(soak, name, getattr(soak, name)[:1])
    run = soak.load("sudoku")
    expected = {key: value | {"passes": -1} for key, value in soak.answers(run).items()}
    with serving(run, "sudoku") as served:
        server = type("Server", (), {"port": int(served.url.rpartition(":")[2]), "memory": lambda self: 0.0})()
        with pytest.raises(AssertionError):
            asyncio.run(soak.soak(server, expected, 20, 4, 10))
