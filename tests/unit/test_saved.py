"""Descriptions of samplers from before parts were renamed or deleted."""

import json

import pytest

from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.errors import InputError
from constrained_dg.runs import build
from constrained_dg.sampling import Autoregressive, Completer, Diffusion, Guide, Restarts, sampler_names
from constrained_dg.sampling.saved import DELETED, current

P = "constrained_dg.sampling."
ANY = {"_target_": f"{P}AnyToken"}
RUNS = sorted(ROOT.glob("experiments/**/run.json"))


def test_there_are_shipped_runs():
    assert len(RUNS) >= 7


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.parent.name)
def test_every_shipped_run_names_a_sampler_of_today(path):
    sampler = build(current(json.loads(path.read_text())["sampler"]))
    budget = [] if sampler.complete is None else [f"complete.budget={sampler.complete.budget}"]
    assert sampler == load_sampler(sampler.name, budget) and sampler.name in sampler_names()


def test_old_words_are_translated_at_every_depth():
    guide = {"_target_": f"{P}Guide", "mask_logits": True, "mask_self_conditioning": True, "forget_violations": False}
    inner = {"_target_": f"{P}Diffusion", "name": "x", "guide": guide, "noise": ANY}
    complete = {"_target_": f"{P}Completer", "node_budget": 7000, "time_limit": None}
    old = {"_target_": f"{P}Restarts", "name": "r", "sampler": inner, "complete": complete}
    assert build(old) == build(current(old))
    assert build(old) == Restarts("r", Diffusion("x", Guide(masks=True)), complete=Completer(7.0))
    assert inner["noise"] is ANY and "mask_logits" in guide  # what was given is not changed
    assert build({"_target_": f"{P}Autoregressive", "temperature": 0.0}) == Autoregressive()
    assert current(["a", 1, {"b": None}]) == ["a", 1, {"b": None}]


@pytest.mark.parametrize("part", DELETED)
@pytest.mark.parametrize("key", ["accept", "noise", "stop", "renoise"])
def test_a_deleted_part_is_refused_by_its_name(part, key):
    inner = {"_target_": f"{P}Diffusion", key: {"_target_": f"{P}{part}", "threshold": 0.5}}
    with pytest.raises(InputError, match=f"{part} is no longer a part of samplers; .*b677b14"):
        build({"_target_": f"{P}Restarts", "name": "r", "sampler": inner})


@pytest.mark.parametrize(
    "description, words",
    [
        ({"_target_": f"{P}Guide", "mask_logits": True, "mask_self_conditioning": False}, "masks logits and self-cond"),
        ({"_target_": f"{P}Guide", "mask_logits": True}, "masks logits and self-cond"),
        ({"_target_": f"{P}Guide", "forget_violations": True}, "Guide no longer has forget_violations=True"),
        ({"_target_": f"{P}Completer", "time_limit": 3.0}, "Completer no longer has time_limit=3.0"),
        ({"_target_": f"{P}Autoregressive", "temperature": 1.0}, "Autoregressive no longer has temperature=1.0"),
    ],
)
def test_a_value_that_nothing_does_any_more_is_refused(description, words):
    with pytest.raises(InputError, match=words):
        current(description)
