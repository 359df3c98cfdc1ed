"""What every sampler yaml promises, over models that know, lie, guess and wander."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch

from constrained_dg.cli import adjusted, load_sampler
from constrained_dg.constraints import Pinned
from constrained_dg.errors import InputError
from constrained_dg.sampling import Candidates, Diffusion, EntropyBound, Status, named, sampler_names
from constrained_dg.task import Batch, Moves, Symmetric
from tests.fakes import GRIDS, VOCAB, Anything, Fake, Oracle, Restless, sudoku4, sudoku_batch

FOLDER = Path(__file__).parents[2] / "conf" / "sampler"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
#: `views` needs pictures, see tests/unit/test_views.py.
WITHOUT_PICTURES = [name for name in NAMES if name != "views"]
MODELS = {"uniform": Fake, "oracle": Oracle, "liar": lambda: Oracle(lies=(1, 6)), "restless": lambda: Restless(3)}
CLUES = torch.rand(6, 16, generator=torch.Generator().manual_seed(1)) < 0.3


def sampler_of(name: str):
    return named(name)


def unmoved(batch: Batch, seeds: torch.Tensor) -> Symmetric:
    """The least of symmetries; those of Sudoku are tested with the task."""
    still, names = (torch.arange(size).repeat(len(batch), 1) for size in (batch.answer.shape[1], VOCAB))
    return Symmetric(batch, sudoku4() & Pinned(batch.answer, batch.pinned, VOCAB), Moves(still, names))


def run(sampler, model, batch, rules=None, seeds=0, **options):
    """With the symmetry, for the sampler that needs one."""
    if sampler.uses_symmetry:
        options["symmetric"] = unmoved
    return sampler.run(model, batch, rules, seeds, **options)


@pytest.fixture(params=WITHOUT_PICTURES)
def sampler(request):
    return sampler_of(request.param)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def test_the_promised_samplers_are_there():
    assert {"plain", "validity", "autoregressive", "search", "guaranteed"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_builds_the_sampler_of_that_name(name):
    assert load_sampler(name) == named(name) and named(name).name == name


def test_every_name_has_a_yaml_and_every_key_can_be_adjusted():
    assert sampler_names() == NAMES and named("plain") == Diffusion()
    adjusted = load_sampler("restarts", ["sampler.accept.bound=3", "attempts=2"])
    inner = replace(named("restarts").sampler, accept=EntropyBound(3))
    assert adjusted == replace(named("restarts"), sampler=inner, attempts=2)
    for name in NAMES:
        sampler = named(name)
        for each in fields(sampler):
            value = getattr(sampler, each.name)
            if not is_dataclass(value) and value is not None:
                assert load_sampler(name, [f"{each.name}={value}"]) == sampler


def test_the_yaml_files_say_only_what_differs():
    assert sum(len(path.read_text().splitlines()) for path in FOLDER.glob("*.yaml")) < 180


def test_pinned_cells_never_change_and_the_free_ones_are_partitioned(sampler, model):
    batch, rules = sudoku_batch(list(range(6)), CLUES)
    result = run(sampler, model, batch, rules, 3, max_passes=9, trace=True)
    assert (result.tokens == batch.answer)[CLUES].all()
    assert bool(result.trace) == sampler.needs_model
    for record in result.trace:
        prompts = record.rows // (16 if sampler.name == "candidates" else 1)
        span = slice(record.start, record.start + record.best.shape[1])
        pinned, given = CLUES[prompts, span], batch.answer[prompts, span]
        for canvas in (record.canvas, record.best):
            assert (canvas == given)[pinned].all()
        assert torch.equal(record.accepted ^ record.renoised, ~pinned)
        assert not (record.accepted & record.renoised).any() and not record.entropy.isnan().any()
    for before, after in zip(result.trace, result.trace[1:], strict=False):
        # Accepted tokens stay for the next pass, which only rows that did not stop enter; a new attempt begins anew.
        assert after.pass_index == 0 or torch.equal(before.rows[~before.stopped], after.rows)


def test_only_the_judge_says_solved(sampler, model):
    batch, rules = sudoku_batch(list(range(6)), CLUES)
    result = run(sampler, model, batch, rules, 3, max_passes=9)
    solved = [status == Status.SOLVED for status in result.status]
    assert solved == rules.is_satisfied(result.tokens).tolist()


def test_contradictory_clues_are_unsatisfiable(sampler, model):
    batch, _ = sudoku_batch([0, 1], CLUES[:2])
    canvas, pinned = batch.answer.clone(), batch.pinned.clone()
    canvas[0, [0, 5]], pinned[0, [0, 5]] = 2, True
    rules = sudoku_batch([0], CLUES[:1])[1].parts[0]
    result = run(sampler, model, replace(batch, answer=canvas, pinned=pinned), rules, max_passes=2)
    assert result.status[0] == Status.UNSATISFIABLE and result.status[1] != Status.UNSATISFIABLE
    assert (result.tokens == canvas)[pinned].all()


def test_a_row_depends_on_its_own_seed_alone(sampler, model):
    rows = [0, 1, 2, 3, 4, 5]
    seeds = torch.arange(100, 106)

    def answers(order: list[int]):
        batch, rules = sudoku_batch([rows[i] for i in order], CLUES[order])
        return run(sampler, model, batch, rules, seeds[order], max_passes=9)

    whole = answers(rows)
    for order in ([5, 2, 0, 1, 4, 3], [3], [4, 1], [2, 2, 0]):
        part = answers(order)
        for name in ("tokens", "passes", "free_tokens", "search_nodes", "seeds", "log_probability"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[order]), name
        assert part.status == [whole.status[i] for i in order]


@pytest.mark.parametrize("name", [name for name in WITHOUT_PICTURES if sampler_of(name).inner is not None])
def test_an_oracle_is_believed(name):
    """By every sampler that denoises, wrappers included; several candidates stop together."""
    batch, rules = sudoku_batch([0, 1, 2], CLUES[:3])
    result = run(sampler_of(name), Oracle(), batch, rules)
    assert torch.equal(result.tokens, GRIDS) and result.status == [Status.SOLVED] * 3
    assert result.passes.max() <= (2 * 16 if name == "candidates" else 2)


def test_without_a_constraint_there_is_no_status(sampler, model):
    batch, _ = sudoku_batch([0, 1], CLUES[:2])
    if not sampler.needs_model:
        with pytest.raises(InputError, match="no constraint"):
            sampler.run(None, batch)
    else:
        assert run(sampler, model, batch, max_passes=3).status == [None, None]


def test_a_sampler_that_needs_no_model_runs_without_one():
    batch, rules = sudoku_batch([0, 1, 2], CLUES[:3])
    assert sampler_of("search").run(None, batch, rules).status == [Status.SOLVED] * 3


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(sampler_of(name), Diffusion)])
def test_a_rule_that_never_objects_reproduces_the_sampler_without_rules(name, model):
    """Judge stop off: whatever the parts, bit for bit."""
    sampler = replace(sampler_of(name), judge_stop=False, max_passes=6)
    batch, _ = sudoku_batch(list(range(6)), CLUES)
    free = sampler.run(model, batch, None, 5, trace=True)
    ruled = sampler.run(model, batch, Anything(), 5, trace=True)
    assert torch.equal(free.tokens, ruled.tokens) and torch.equal(free.passes, ruled.passes)
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(free.trace, ruled.trace, strict=True))


def test_a_yaml_of_ones_own_builds_on_a_shipped_one(tmp_path):
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "mine.yaml").write_text(
        "defaults: [restarts, _self_]\nname: mine\nsampler: {accept: {bound: 2.5}}\nattempts: 3\n"
    )
    inner = replace(named("restarts").sampler, accept=EntropyBound(2.5))
    mine = replace(named("restarts"), name="mine", sampler=inner, attempts=3)
    assert load_sampler("mine", folders=[tmp_path]) == mine
    assert load_sampler("mine", ["attempts=4"], [tmp_path]) == replace(mine, attempts=4)
    with pytest.raises(InputError, match="no sampler 'mine'"):
        load_sampler("mine")


def test_changes_reach_the_sampler_they_name():
    inner = {"sampler": {"accept": {"bound": 3}}, "complete": None}
    assert adjusted("restarts", ["restarts", "restarts"], inner) == ["sampler.accept.bound=3", "complete=null"]
    several = {"restarts": {"attempts": 2}, "eager": {"max_passes": 3}}
    assert adjusted("restarts", ["restarts", "eager"], several) == ["attempts=2"]
    assert adjusted("plain", ["plain", "restarts", "eager"], several) == []
    assert adjusted("candidates", ["candidates"], {"candidates": 4}) == ["candidates=4"]  # a name and a key
    for changes, words in (({"attempts": 3}, "sampler.attempts names no sampler"), ("plain", "'sampler' is 'plain'")):
        with pytest.raises(InputError, match=words):
            adjusted("restarts", ["restarts", "eager"], changes)


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("restarts", "sampler.acept.bound=3", "did you mean accept. known in restarts.sampler: name, guide"),
        ("eager", "bound=3", "sampler 'eager' has no key 'bound'; known in eager: name, guide"),
        ("eager", "accept.bound=-1", "entropy bound is -1"),
        ("egaer", "x=1", "known: autoregressive.*did you mean eager"),
    ],
)
def test_a_change_that_fits_nothing_is_named(name, change, words):
    with pytest.raises(InputError, match=words):
        load_sampler(name, [change])


@pytest.mark.parametrize("free_passes", [0, 2])
def test_rows_that_are_given_up_cost_no_more_passes_and_change_no_other_row(sampler, free_passes):
    model = Restless(3)
    batch, rules = sudoku_batch(list(range(6)), CLUES)
    calls = 0

    def leave():
        nonlocal calls
        calls += 1
        return [] if calls <= free_passes else [1, 4]

    whole = run(sampler, model, batch, rules, 3, max_passes=9)
    made = run(sampler, model, batch, rules, 3, max_passes=9, leave=leave)
    others = torch.tensor([0, 2, 3, 5])
    assert torch.equal(made.tokens[others], whole.tokens[others])
    assert torch.equal(made.passes[others], whole.passes[others])
    assert [made.status[row] for row in others] == [whole.status[row] for row in others]
    copies = sampler.candidates if isinstance(sampler, Candidates) else 1
    assert (made.passes[[1, 4]] <= (free_passes + 1) * copies).all()
    if not sampler.needs_model:
        assert calls > 0 and (free_passes or made.status[1] is Status.UNSOLVED)


def test_rows_that_are_given_up_commit_no_further_canvas():
    batch = sudoku_batch([0, 1, 2], CLUES[:3])[0]
    passes = []
    made = named("plain").run(
        Restless(3), batch, None, 3, canvas_length=4, on_step=lambda record: passes.append(record), leave=lambda: [1]
    )
    of_row = [record for record in passes if 1 in record.rows.tolist()]
    assert len(of_row) == made.passes[1] == 1 and of_row[0].start == 0
    assert made.padding[1].tolist() == [False] * 4 + [True] * 12
    with pytest.raises(InputError, match="leave was given with rng='transformers'"):
        named("plain").run(Restless(3), batch, None, 3, leave=lambda: [1], rng="transformers")
