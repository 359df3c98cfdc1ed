"""What `generate` takes and refuses: lists, names, padding, end tokens, and logits of minus infinity."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import constrained_dg.sampling as sampling
from constrained_dg.constraints import Pinned
from constrained_dg.constraints.combine import ByRow
from constrained_dg.errors import InputError
from constrained_dg.sampling import Autoregressive, Completer, Diffusion, Restarts, Status, generate, named, solve
from tests.fakes import GRIDS, HIGH, LOW, VOCAB, Anything, Fake, Oracle, Restless, sudoku4, sudoku_batch

PROMPT = torch.tensor([[0, 6], [1, 6], [2, 6]])
CLUES = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) < 0.4
SAMPLERS = [Diffusion(), named("validity"), named("restarts"), Autoregressive()]


# -- padding of prompts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
@pytest.mark.parametrize("row", [[1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 0]])
def test_padding_behind_a_token_is_refused_by_name(sampler, row):
    mask = torch.tensor([[0, 1, 1, 1], row]).bool()
    with pytest.raises(InputError, match=r"prompt 1 has padding behind a token .*pad prompts on the left"):
        generate(Fake(), torch.ones(2, 4, dtype=torch.int64), mask=mask, sampler=sampler, canvas_length=4)


def test_padding_on_the_left_is_taken():
    mask = torch.tensor([[False, True], [True, True], [True, True]])
    made = generate(Fake(), PROMPT, mask=mask, canvas_length=4, max_passes=1)
    assert made.tokens.shape == (3, 4)
    with pytest.raises(InputError, match="with a token in every row"):
        generate(Fake(), PROMPT, mask=mask & False, canvas_length=4)


# -- plain lists, names, models ----------------------------------------------------------------------------------------


def test_lists_are_taken_and_prompts_of_several_lengths_are_padded_on_the_left():
    class Seen(Fake):
        pad_token_id = 5

        def prefill(self, prompt, mask=None, relations=None):
            self.seen = prompt.tolist(), None if mask is None else mask.tolist()
            return super().prefill(prompt, mask, relations)

    model = Seen()
    generate(model, [[0, 6], [1, 2, 3]], canvas_length=4, max_passes=1)
    assert model.seen == ([[5, 0, 6], [1, 2, 3]], [[False, True, True], [True, True, True]])
    generate(model, [[3]], canvas_length=4, max_passes=1)
    assert model.seen == ([[3]], None)
    made = generate(
        Restless(2), PROMPT.tolist(), canvas=GRIDS.tolist(), pinned=CLUES.tolist(), seeds=[1, 2, 3], max_passes=2
    )
    same = generate(Restless(2), PROMPT, canvas=GRIDS, pinned=CLUES, seeds=torch.tensor([1, 2, 3]), max_passes=2)
    assert torch.equal(made.tokens, same.tokens)


@pytest.mark.parametrize(
    "keywords, words",
    [
        ({"prompt": [[1], []]}, "a prompt is empty"),
        ({"prompt": [1, 2]}, r"the prompt has shape \(2,\)"),
        ({"prompt": [[0.5, 1.0]]}, "the type of prompt is torch.float32"),
        ({"prompt": [["a"]]}, "prompt is not a table of numbers"),
        ({"prompt": [[1], [2]], "canvas": [[1], [1, 2]], "pinned": [[True], [True]]}, "canvas is not a table"),
        ({"sampler": "restart"}, "no sampler 'restart'; did you mean restarts.*known: autoregressive"),
        ({"sampler": 7}, "sampler is 7"),
        ({"sampler": "symmetry"}, "was given no symmetries"),
        ({"model": SimpleNamespace(model=Fake(), task=None)}, "a SimpleNamespace is not a denoiser.*run.model"),
        ({"eos": 7}, "eos is 7"),
        ({"eos": "end"}, "eos is 'end'"),
        ({"eos": [1, None]}, "eos is None"),
        ({"eos": [1, -1]}, "eos is -1"),
        ({"eos": 1.0}, "eos is 1.0"),
        ({"eos": True}, "eos is True"),
        ({"pad": 1.5}, "pad is 1.5"),
        ({"pad": 7}, "pad is 7"),
        ({"pad": "x"}, "pad is 'x'"),
        ({"time_limit": "soon"}, "time_limit is 'soon'"),
        ({"time_limit": float("nan")}, "time_limit is nan"),
        ({"seeds": None}, "seeds are a NoneType"),
        ({"noise": (0.5, 2)}, "noise cannot be drawn from"),
        ({"noise": 5}, "noise cannot be drawn from 5"),
        ({"noise": ("a", "b")}, "noise cannot be drawn from"),
        ({"logits_hook": 5}, "logits_hook is 5"),
        ({"on_step": "print"}, "on_step is 'print'"),
    ],
)
def test_bad_input_is_named_before_any_pass(keywords, words):
    model = Fake()
    with pytest.raises(InputError, match=words):
        generate(**{"model": model, "prompt": PROMPT, "canvas_length": 4, **keywords})
    assert model.calls == 0


@pytest.mark.parametrize("name", sampling.sampler_names())
def test_every_name_is_a_sampler_of_generate(name):
    if named(name).uses_symmetry or name == "views":
        pytest.skip("it needs the symmetries of a task, or its pictures")
    free = {"canvas": GRIDS, "pinned": CLUES, "noise": (LOW, HIGH)}
    made = generate(Oracle(), PROMPT, sudoku_batch([0, 1, 2], CLUES)[1], sampler=name, **free)
    assert made.status == [Status.SOLVED] * 3 or name == "autoregressive"


def test_a_guarantee_reaches_wrappers():
    free = {"canvas": GRIDS, "pinned": CLUES, "noise": (LOW, HIGH), "max_passes": 1}
    for name in ("restarts", "candidates"):
        made = generate(Fake(), PROMPT, sudoku4(), sampler=name, guarantee=True, **free)
        assert made.status == [Status.SOLVED] * 3


# -- search without a model --------------------------------------------------------------------------------------------


def test_solve_needs_no_model():
    made = solve(sudoku4())
    assert made.status == [Status.SOLVED] and sudoku4().is_satisfied(made.tokens).all()
    given = solve(sudoku4(), canvas=GRIDS[0].tolist(), pinned=CLUES[0].tolist())
    assert (given.tokens[0] == GRIDS[0])[CLUES[0]].all() and given.status == [Status.SOLVED]
    several = solve(sudoku4() & Pinned(GRIDS, CLUES, VOCAB))
    assert several.status == [Status.SOLVED] * 3 and (several.tokens == GRIDS)[CLUES].all()
    clash = GRIDS[0].clone()
    clash[0] = clash[1]
    assert solve(sudoku4(), clash, torch.arange(16) < 2).status == [Status.UNSATISFIABLE]
    assert solve(sudoku4(), budget=0).status == [Status.UNSOLVED]
    with pytest.raises(InputError, match="canvas and pinned go together"):
        solve(sudoku4(), GRIDS)


# -- canvases without anything to do -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "validity", "restarts", "candidates", "guaranteed", "exact"])
@pytest.mark.parametrize("canvas_length", [4, 16])
def test_rows_that_are_wholly_pinned_make_no_pass(name, canvas_length):
    rules = ByRow([sudoku4() & Pinned(GRIDS[row : row + 1], CLUES[row : row + 1], VOCAB) for row in range(3)])
    made = generate(
        Oracle(), PROMPT, rules, canvas=GRIDS, pinned=CLUES | True, canvas_length=canvas_length, sampler=name
    )
    assert made.status == [Status.SOLVED] * 3 and made.passes.tolist() == [0] * 3 and torch.equal(made.tokens, GRIDS)


# -- logits of minus infinity ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "validity", "known", "restarts", "exact"])
@pytest.mark.parametrize("rng", ["counter", "transformers"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_hook_that_rules_out_all_that_is_allowed_ends_nothing(name, rng, everywhere):
    """At one position, or everywhere: what the rules allow there is equally likely, the other rows are as before."""
    batch, rules = sudoku_batch([0, 1, 2], CLUES)
    may = rules.allowed(batch.answer, batch.pinned, slice(0, 16))
    at = int((~CLUES[0]).nonzero()[0])

    def hook(logits, info):
        rows = info.rows == 0
        banned = may[info.rows] & rows[:, None, None]
        banned &= torch.arange(16)[:, None] == at if not everywhere else True
        return logits.masked_fill(banned, -torch.inf)

    torch.manual_seed(0)
    made = named(name).run(Oracle(), batch, rules, 1, logits_hook=hook, rng=rng, trace=True)
    assert made.trace and not any(record.entropy.isnan().any() for record in made.trace)
    assert made.status[1:] == [Status.SOLVED] * 2 and torch.equal(made.tokens[1:], GRIDS[1:])
    if name in ("validity", "known"):
        for record in made.trace:
            drawn = record.best[record.rows == 0]
            assert may[:1].expand(len(drawn), -1, -1).gather(-1, drawn[..., None]).all()


def test_a_hook_that_rules_out_every_token_leaves_all_equally_likely():
    heard = []
    made = generate(
        Oracle(), PROMPT, canvas_length=16, max_passes=1, on_step=heard.append,
        logits_hook=lambda logits, info: torch.full_like(logits, -torch.inf),
    )  # fmt: skip
    assert made.passes.tolist() == [1] * 3
    torch.testing.assert_close(heard[0].entropy, torch.full((3, 16), float(torch.tensor(VOCAB).log())))


def test_an_infinite_logit_is_named_in_both_modes():
    for rng in ("counter", "transformers"):
        with pytest.raises(InputError, match="NaN"):
            generate(Fake(), PROMPT, canvas_length=4, rng=rng, logits_hook=lambda logits, info: logits + torch.inf)


# -- rules that raise in the middle of a run ---------------------------------------------------------------------------


@pytest.mark.parametrize("calls", range(1, 7))
@pytest.mark.parametrize("name", ["validity", "known", "restarts", "guaranteed"])
def test_masks_that_raise_after_the_first_pass_end_no_run(name, calls, caplog):
    class Raising(Anything):
        left = calls

        def allowed(self, answer, known, span):
            Raising.left -= 1
            if Raising.left < 0:
                raise RuntimeError("no masks left")
            return super().allowed(answer, known, span)

        def is_satisfied(self, answer):
            return (answer[:, 0] == 4) & (answer[:, 1] == 4)

        def violations(self, answer):
            return ~self.is_satisfied(answer)[:, None].expand_as(answer)

    batch, _ = sudoku_batch([0, 1, 2], CLUES & False)
    sampler = named(name)
    if isinstance(sampler, Restarts):
        few = sampler.complete and Completer(0.02)
        sampler = replace(sampler, sampler=replace(sampler.sampler, max_passes=1), complete=few)
    made = sampler.run(Restless(1), batch, Raising(), 1, max_passes=3)
    assert len(made.status) == 3 and Status.UNSATISFIABLE not in made.status
    assert Raising.left >= 0 or "no masks left" in caplog.text
    assert calls > 2 or Raising.left < 0


# -- seeds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge_stop", [False, True])
@pytest.mark.parametrize("eos", [(), (3,)])
def test_the_seed_of_the_chosen_candidate_makes_its_answer_again(judge_stop, eos):
    """Also where a candidate was accepted that another one had stopped, and where answers end early."""

    class Lax(Anything):
        def is_satisfied(self, answer):
            return (answer[:, :2] != 2).all(1)

        def violations(self, answer):
            return ~self.is_satisfied(answer)[:, None].expand_as(answer)

    solved = 0
    sampler = Diffusion(judge_stop=judge_stop, stop=sampling.Stable(1, 1.5), max_passes=8)
    for seed in range(10):
        batch, _ = sudoku_batch([0, 1, 2], CLUES & False)
        options = {"eos": eos, "pad": 0, "canvas_length": 8}
        several = sampler.run(Restless(3), batch, Lax(), seed, candidates=5, **options)
        again = sampler.run(Restless(3), batch, Lax(), several.seeds, **options)
        for row in range(3):
            if several.status[row] is Status.SOLVED:
                solved += 1
                assert torch.equal(several.tokens[row], again.tokens[row])
    assert solved > 20


def test_the_seed_of_an_attempt_makes_its_answer_again():
    batch, rules = sudoku_batch([0, 1, 2], CLUES)
    inner = Diffusion(judge_stop=True, max_passes=2)
    made = Restarts("restarts", inner, attempts=6).run(Restless(3), batch, rules, 5)
    again = inner.run(Restless(3), batch, rules, made.seeds)
    assert torch.equal(made.tokens, again.tokens)
