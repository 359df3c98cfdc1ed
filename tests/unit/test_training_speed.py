"""The experiment on the speed of training steps: its step, and its rows."""

import json

import pytest

from constrained_dg.model import Backbone
from experiments.training_speed import __main__ as speed
from experiments.training_speed.worker import Step


@pytest.mark.parametrize("whole", [True, False])
def test_a_step_trains(monkeypatch, whole):
    monkeypatch.setattr(Backbone, "compile_training", lambda self: self)
    step = Step(whole, bf16=False, batch=4, loops=1, hidden=32)
    (first, norm), (second, _) = step(), step()
    assert second < first and norm > 0
    assert step.prompt.shape[1] == 81 * whole


def test_rows_compare_with_the_first(monkeypatch, tmp_path, capsys):
    class Side:
        def __init__(self, tree, what, stack):
            assert (tree / "constrained_dg").is_dir()
            self.first, self.seconds = {"first_step": 1.0, "loss": 2.0, "norm": 3.0}, []

        def measure(self):
            self.seconds.append(2.0 if not self.seconds else 1.0)

    monkeypatch.setattr(speed, "Side", Side)
    monkeypatch.setattr(speed, "COMPARED", speed.COMPARED[1:2])
    speed.main(["repeats=3", "sizes=false", f"out={tmp_path / 'out'}"])
    [row] = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert (row["states_per_second"], row["low"], row["high"]) == (32, 16, 32)
    assert row["to_first"]["median"] == 1 and row["gflops"] == pytest.approx(speed.arithmetic(row) / 1e9)
    assert "first step 1 s" in capsys.readouterr().out
