"""The script that measures everything a GPU is to measure; the legs themselves are tested beside their modules."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest

from constrained_dg.errors import InputError
from experiments.throughput import legs


def fake(results: dict[str, dict], asked: list[list[str]]):
    """Stands for the processes: writes results of the legs that are in `results`; others take too long."""

    def call(line: list[str], timeout: float):
        asked.append(line)
        leg = next(leg for leg, (module, *given) in legs.LEGS.items() if {module, *given} <= set(line))
        if leg not in results:
            raise subprocess.TimeoutExpired(line, timeout)
        out = legs.Path(next(each for each in line if each.startswith("out="))[4:])
        path = out if out.suffix == ".json" else out / "results.json"
        path.write_text(json.dumps(results[leg]))
        return SimpleNamespace(returncode=0)

    return call


def passes(over: float, compiled: float, rate: float, memory: float) -> dict:
    row = {"side": "ours", "memory_bytes": None}
    return {
        "rows": [
            row | {"what": "canvas pass", "over_floor": over},
            row | {"what": "canvas pass", "side": "ours, compiled", "over_floor": compiled},
            row | {"what": "canvas pass", "side": "transformers", "over_floor": 0.1},
            row | {"what": "step", "tokens_per_second": rate},
            row | {"what": "generation", "memory_bytes": memory},
        ]
    }


def test_what_is_measured_is_kept_and_the_rest_measured_later(tmp_path, monkeypatch, capsys):
    found = {"bf16": passes(1.3, 1.1, 300, 5e10), "context": {"over_first": {"8192": 1.0, "262144": 1.4}}}
    asked: list[list[str]] = []
    monkeypatch.setattr(legs.subprocess, "run", fake(found, asked))
    assert legs.main([f"out={tmp_path}"]) == 1 and len(asked) == 4
    assert all("shape=26b" in line for line in asked)
    text = capsys.readouterr().out
    assert "a canvas pass takes 1.10 times the floor (asked: 1.15)" in text
    assert "behind 262144 tokens takes 1.40 times one behind 8192 (asked: 1.5)" in text
    assert text.count("took more than 10 minutes") == 2

    found |= {"fp8": passes(1, 1, 1234, 3e10), "nvfp4": passes(1, 1, 900, 17.5e9)}
    asked.clear()
    assert legs.main([f"out={tmp_path}"]) == 0 and len(asked) == 2
    text = capsys.readouterr().out
    assert "1234 tokens a second at 18 a pass (asked: 1,000)" in text and "take 17.50 GB (asked: 18)" in text
    assert text.count("kept from an earlier run") == 2
    assert sorted(path.name for path in (tmp_path / "26b").iterdir()) == ["bf16", "context", "fp8", "nvfp4"]


def test_a_leg_that_fails_or_measures_nothing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(legs.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    assert legs.main(["shape=tiny", f"out={tmp_path}"]) == 1
    assert capsys.readouterr().out.count("NOT MEASURED: see above (exit status 0)") == 4


@pytest.mark.parametrize("argument, words", [("shape=x", "give tiny, cpu or 26b"), ("minutes=0", "1 or more")])
def test_bad_arguments_are_named(argument, words, tmp_path):
    with pytest.raises(InputError, match=words):
        legs.main([argument, f"out={tmp_path}"])
