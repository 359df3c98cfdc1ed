"""What every sampler yaml promises, over models that know, lie, guess and wander."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from constrained_dg.errors import InputError
from constrained_dg.sampling import Diffusion, Status
from tests.fakes import GRIDS, Fake, Oracle, Restless, sudoku_batch

FOLDER = Path(__file__).parents[2] / "conf" / "sampler"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
MODELS = {"uniform": Fake, "oracle": Oracle, "liar": lambda: Oracle(lies=(1, 6)), "restless": lambda: Restless(3)}
CLUES = torch.rand(6, 16, generator=torch.Generator().manual_seed(1)) < 0.3


def sampler_of(name: str):
    return instantiate(OmegaConf.load(FOLDER / f"{name}.yaml"))


@pytest.fixture(params=NAMES)
def sampler(request):
    return sampler_of(request.param)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def test_the_promised_samplers_are_there():
    assert {"plain", "validity", "autoregressive", "search", "completer"} <= set(NAMES)


def test_a_yaml_says_every_value_and_its_own_name():
    for name in NAMES:
        sampler, said = sampler_of(name), OmegaConf.load(FOLDER / f"{name}.yaml")
        assert sampler.name == name
        assert set(said) - {"_target_"} == {field.name for field in fields(sampler)}
    assert sampler_of("plain") == Diffusion()  # the defaults are the reference


def test_pinned_cells_never_change_and_the_free_ones_are_partitioned(sampler, model):
    batch, rules = sudoku_batch(list(range(6)), CLUES)
    result = sampler.run(model, batch, rules, 3, max_passes=9, trace=True)
    assert (result.tokens == batch.canvas)[CLUES].all()
    for record in result.trace:
        pinned = CLUES[record.rows]
        for canvas in (record.canvas, record.best):
            assert (canvas == batch.canvas[record.rows])[pinned].all()
        assert torch.equal(record.accepted ^ record.renoised, ~pinned)
        assert not (record.accepted & record.renoised).any() and not record.entropy.isnan().any()
    for before, after in zip(result.trace, result.trace[1:], strict=False):
        # Accepted tokens stay for the next pass, which only rows that did not stop enter.
        assert torch.equal(before.rows[~before.stopped], after.rows)


def test_only_the_judge_says_solved(sampler, model):
    batch, rules = sudoku_batch(list(range(6)), CLUES)
    result = sampler.run(model, batch, rules, 3, max_passes=9)
    solved = [status == Status.SOLVED for status in result.status]
    assert solved == rules.is_satisfied(result.tokens).tolist()


def test_contradictory_clues_are_unsatisfiable(sampler, model):
    batch, _ = sudoku_batch([0, 1], CLUES[:2])
    canvas, pinned = batch.canvas.clone(), batch.pinned.clone()
    canvas[0, [0, 5]], pinned[0, [0, 5]] = 2, True
    rules = sudoku_batch([0], CLUES[:1])[1].parts[0]
    result = sampler.run(model, replace(batch, canvas=canvas, pinned=pinned), rules, max_passes=2)
    assert result.status[0] == Status.UNSATISFIABLE and result.status[1] != Status.UNSATISFIABLE
    assert (result.tokens == canvas)[pinned].all()


def test_a_row_depends_on_its_own_seed_alone(sampler, model):
    rows = [0, 1, 2, 3, 4, 5]
    seeds = torch.arange(100, 106)

    def answers(order: list[int]):
        batch, rules = sudoku_batch([rows[i] for i in order], CLUES[order])
        return sampler.run(model, batch, rules, seeds[order], max_passes=9)

    whole = answers(rows)
    for order in ([5, 2, 0, 1, 4, 3], [3], [4, 1], [2, 2, 0]):
        part = answers(order)
        for name in ("tokens", "passes", "free_tokens", "search_nodes", "seeds", "log_probability"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[order]), name
        assert part.status == [whole.status[i] for i in order]


def test_an_oracle_is_believed(sampler):
    batch, rules = sudoku_batch([0, 1, 2], CLUES[:3])
    if not isinstance(sampler, Diffusion):
        pytest.skip("it does not denoise")
    result = sampler.run(Oracle(), batch, rules)
    assert torch.equal(result.tokens, GRIDS) and result.passes.max() <= 2


def test_without_a_constraint_there_is_no_status(sampler, model):
    batch, _ = sudoku_batch([0, 1], CLUES[:2])
    if not sampler.needs_model:
        with pytest.raises(InputError, match="no constraint"):
            sampler.run(None, batch)
    else:
        assert sampler.run(model, batch, max_passes=3).status == [None, None]


def test_a_sampler_that_needs_no_model_runs_without_one():
    batch, rules = sudoku_batch([0, 1, 2], CLUES[:3])
    assert sampler_of("search").run(None, batch, rules).status == [Status.SOLVED] * 3
