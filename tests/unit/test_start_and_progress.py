"""Where training starts from, how many processes it takes, and what it shows."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from constrained_dg.errors import InputError
from constrained_dg.model import preset
from constrained_dg.training import progress as training_progress
from constrained_dg.training.folder import Checkpoint
from constrained_dg.training.progress import SlowEvery, TrainingProgress, Waiting
from constrained_dg.training.settings import Optimisation, check_groups
from constrained_dg.training.start import FromRun, Released, Scratch, check_size, start_of
from constrained_dg.training.trainer import new_trainer

OPTIMISATION = Optimisation(
    steps=20, batch_size=8, learning_rate=0.01, warmup=2, weight_decay=0.0, clip=1.0, average=0.9
)


def cfg(**model: object) -> dict:
    return {"model": model, "objective": {"rollouts": False}, "trainer": {"strategy": "auto"}, "seed": 3}


def test_the_group_model_says_which_start_it_is() -> None:
    assert start_of(cfg(preset="tiny", relations=True, loops=2), ()) == Scratch("tiny", True, {"loops": 2}, 3)
    assert start_of(cfg(run="RUN"), ["mine"]) == FromRun("RUN", ["mine"])
    # What a task says about a new model gives way.
    assert start_of(cfg(run="RUN", loops=2), ["mine"]) == FromRun("RUN", ["mine"])
    assert start_of(cfg(pretrained="FOLDER", lora=4), ()) == Released("FOLDER", 4, 3)
    assert start_of(cfg(pretrained="FOLDER", lora=4), ()).record() == {"pretrained": "FOLDER", "lora": 4}


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({}, "model.preset is missing"),
        ({"preset": "tiny"}, "model.relations is missing"),
        ({"run": "RUN", "lora": 2}, "model.lora"),
        ({"pretrained": "FOLDER"}, "model.lora is missing"),
        ({"pretrained": "FOLDER", "lora": 1, "preset": "tiny"}, "model.preset"),
        ({"pretrained": "FOLDER", "lora": True}, "model.lora is True"),
    ],
)
def test_keys_that_do_not_go_together_are_named(model: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        start_of(cfg(**model), ())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loops": 1000, "num_hidden_layers": 1000}, "model.loops"),
        ({"hidden_size": 2**20, "num_experts": 2**12}, "GiB"),
        ({"vocab_size": 2**24, "hidden_size": 2**18}, "GiB"),
    ],
)
def test_a_model_too_large_is_refused_before_it_is_built(changes: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_size(preset("tiny", **changes))
    check_size(preset("base"))


@pytest.mark.parametrize(("now", "before"), [("1", 2), ("2", 1)])
def test_a_run_is_resumed_with_as_many_processes(now: str, before: int) -> None:
    """The carried rows in its checkpoint say how many there were, so this holds for runs of earlier versions, too."""
    trainer = {"accelerator": "cpu", "devices": int(now), "strategy": "auto" if now == "1" else "ddp"}
    settings = {"trainer": trainer | {"precision": "32-true"}}
    with pytest.raises(InputError, match=f"{before} x 8 rows .*{now} x 8.*devices={before}"):
        new_trainer(settings, OPTIMISATION, Checkpoint(Path("last.ckpt"), 5, before))
    assert new_trainer(settings, OPTIMISATION, Checkpoint(Path("last.ckpt"), 5, int(now))).world_size == int(now)


def test_groups_that_are_none_are_named() -> None:
    good = {name: {} for name in ("model", "objective", "optimisation", "trainer")}
    good |= {"task": {"_target_": "a.B"}, "sampler": {"_target_": "a.B"}, "validate": {"every": 1, "per_tier": 1}}
    good |= {"out": None, "resume": None, "data": None}
    check_groups(good)
    for change in ({"trainer": None}, {"task": {"_target_": 5}}, {"validate": {"every": 1}}, {"out": 5}):
        with pytest.raises(InputError, match=next(iter(change))):
            check_groups(good | change)


def test_time_left_leaves_out_what_was_compiled(monkeypatch, caplog) -> None:
    """Two of ten steps compile for 100 s, the others take 2 s; solving takes 30 s every 5 steps."""
    now = SimpleNamespace(time=0.0, graphs=0)
    monkeypatch.setattr(training_progress, "time", SimpleNamespace(monotonic=lambda: now.time))
    monkeypatch.setattr(training_progress, "_graphs", lambda: now.graphs)
    caplog.set_level(logging.INFO)
    solve_rate = SlowEvery()
    solve_rate.every, solve_rate.seconds = 5, 30.0
    shown = TrainingProgress(True, solve_rate, seconds=10.0)
    module = SimpleNamespace(optimisation=OPTIMISATION)
    trainer = SimpleNamespace(is_global_zero=True, max_steps=20, global_step=0, world_size=1, callback_metrics={})
    shown.setup(trainer, module, "fit")
    for step in range(10):
        shown.on_train_batch_start(trainer, module)
        compiles = step in (0, 3)
        now.time += 100 if compiles else 2
        now.graphs += compiles
        trainer.global_step += 1
        shown.on_train_batch_end(trainer, module)
    shown.on_train_end(trainer, module)
    lines = [record.message for record in caplog.records]
    assert lines[0].startswith("compiling the training step") and "left" not in lines[0]
    # After step 4: 16 steps of 2 s and 4 times 30 s are left.
    assert lines[1].startswith("step 4 of 20") and "4 examples/s" in lines[1] and "2.5 min left" in lines[1]
    assert lines[2].startswith("step 9 of 20") and len(lines) == 3


def test_what_takes_long_says_that_it_still_runs(caplog) -> None:
    caplog.set_level(logging.INFO)
    waiting = Waiting("preparing examples", 0.01, lines=True)
    while len(caplog.records) < 2:
        time.sleep(0.01)
    waiting.done()
    assert all(record.message.startswith("preparing examples: 0 s so far") for record in caplog.records)
