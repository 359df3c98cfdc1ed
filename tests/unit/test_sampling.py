from dataclasses import replace

import pytest
import torch

from constrained_dg.errors import InputError
from constrained_dg.sampling import (
    Autoregressive,
    Completer,
    Diffusion,
    EntropyBound,
    Guide,
    LinearTemperature,
    Stable,
    Status,
    Uniform,
    Violations,
    generate,
)
from constrained_dg.sampling.distribution import Distribution, draw
from constrained_dg.sampling.renoise import Accepted
from constrained_dg.task import Batch
from tests.fakes import GRIDS, HIGH, LOW, VOCAB, Anything, Fake, Oracle, Restless, sudoku4, sudoku_batch

CLUES = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) < 0.4
VALIDITY = Diffusion("validity", Guide(True), renoise=Violations(), judge_stop=True)


def known(**values: torch.Tensor) -> Distribution:
    """A distribution of which only some is known."""
    return Distribution(**{**dict.fromkeys(("best", "sample", "entropy", "log_best", "probabilities")), **values})


def test_temperature_starts_at_the_maximum_and_never_reaches_the_minimum():
    temperature = LinearTemperature()
    assert temperature(0, 48) == torch.tensor(0.8) and temperature(0, 48).dtype == torch.float32
    assert temperature(47, 48).item() == pytest.approx(0.4 + 0.4 / 48)


def test_the_accepted_prefix_by_hand():
    entropy = torch.tensor([[0.05, 0.9, 0.04, 0.0, 0.07]])
    free = torch.tensor([[True, True, True, False, True]])
    # ascending 0.04 0.05 0.07 0.9; sums before each 0, 0.04, 0.09, 0.16
    assert EntropyBound(0.1)(known(entropy=entropy), free).tolist() == [[True, False, True, False, True]]
    assert EntropyBound(0.01)(known(entropy=entropy), free).tolist() == [[False, False, True, False, False]]


def test_draws_follow_the_distribution_and_skip_what_is_impossible():
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0]).expand(1000, 5)
    grid = (torch.arange(1000) + 0.5) / 1000
    assert torch.bincount(draw(probabilities, grid), minlength=5).tolist() == [0, 250, 0, 750, 0]
    assert draw(probabilities[:1], torch.tensor([1 - 2.0**-24])).tolist() == [3]


def test_stable_needs_the_same_canvas_and_confidence():
    best, free = torch.tensor([[1, 2]]), torch.tensor([[True, False]])
    calm, vague = (known(entropy=torch.tensor([row])) for row in ([0.001, 9.0], [0.1, 0.0]))
    for threshold, passes in ((0, 1), (1, 2), (2, 3)):
        stop = Stable(threshold)
        history, outcomes = stop.start(best), []
        for _ in range(passes):
            stopped, history = stop(best, calm, free, history)
            outcomes.append(stopped.item())
        assert outcomes == [False] * (passes - 1) + [True]
        assert not stop(best, vague, free, history)[0] and history.shape == (1, threshold, 2)
        assert stop(best + 1, calm, free, history)[0] == (threshold == 0)


def test_violations_asks_decided_tokens_only():
    answer, rules = GRIDS[:1].clone(), sudoku4()
    answer[0, 0] = answer[0, 5] = 3  # 3 stands at cells 0, 2, 4, 5 and 13; cell 2 was not accepted
    accepted = torch.ones(1, 16, dtype=torch.bool)
    accepted[0, 2] = False
    nothing = torch.zeros(1, 16, dtype=torch.bool)
    state = Accepted(accepted, answer, nothing, slice(0, 16), rules)
    kept = Violations()(state)
    assert (accepted & ~kept)[0].nonzero().flatten().tolist() == [0, 4, 5, 13]
    assert torch.equal(Uniform()(state), accepted)
    assert torch.equal(Violations()(replace(state, constraint=None)), accepted)


def test_the_guide_masks_what_is_forbidden():
    logits, known = torch.zeros(1, 16, VOCAB), torch.arange(16)[None] < 4
    forbidden, conflict = Guide(True).forbidden(GRIDS[:1], known, slice(0, 16), sudoku4())
    masked = Guide(True)(logits.clone(), forbidden, sudoku4())
    assert ((masked == -torch.inf) == forbidden).all() and (masked[~forbidden] == 0).all() and not conflict.any()
    assert masked[0, 5].isfinite().sum() == 2


def test_an_empty_set_lifts_the_mask_and_is_never_accepted():
    batch, _ = sudoku_batch([0], CLUES[:1] & False)
    result = VALIDITY.run(Oracle(), batch, Anything(accepts=False, forbidden=(3, 7)), trace=True)
    for record in result.trace:
        assert record.conflict[0].nonzero().flatten().tolist() == [3, 7]
        assert record.renoised[0, [3, 7]].all() and not record.entropy.isnan().any()
    assert torch.equal(result.tokens, GRIDS[:1])  # where the mask is lifted the model speaks alone


def test_known_accepted_changes_the_masks():
    batch, rules = sudoku_batch([0, 1, 2], CLUES)
    plain, knowing = (
        Diffusion("x", Guide(True, known), max_passes=12).run(Restless(4), batch, rules, trace=True)
        for known in (False, True)
    )
    assert not all(torch.equal(a.entropy, b.entropy) for a, b in zip(plain.trace, knowing.trace, strict=False))


def test_oracle_needs_two_passes_and_the_judge_saves_one():
    batch, rules = sudoku_batch([0, 1, 2], CLUES)
    plain, validity = (sampler.run(Oracle(), batch, rules) for sampler in (Diffusion(), VALIDITY))
    assert plain.passes.tolist() == [2, 2, 2] and validity.passes.tolist() == [1, 1, 1]
    assert plain.status == validity.status == [Status.SOLVED] * 3
    assert torch.equal(plain.tokens_per_pass, (~CLUES).sum(-1) / 2)


def test_a_liar_is_overruled_by_the_masks_and_found_out_by_the_judge():
    batch, rules = sudoku_batch([0], CLUES[:1] & False | (torch.arange(16) != 3))
    assert Diffusion().run(Oracle(lies=(3,)), batch, rules).status == [Status.UNSOLVED]
    assert VALIDITY.run(Oracle(lies=(3,)), batch, rules).status == [Status.SOLVED]


def test_contradictory_clues_are_refused_without_a_pass():
    batch, _ = sudoku_batch([0, 1], torch.zeros(2, 16, dtype=torch.bool))
    canvas, pinned = batch.answer.clone(), batch.pinned.clone()
    canvas[0, :2], pinned[0, :2] = 2, True
    batch = Batch(batch.prompt, canvas, pinned, None, batch.noise)
    result = Diffusion().run(Oracle(), batch, sudoku4())
    assert result.status == [Status.UNSATISFIABLE, Status.SOLVED] and result.passes.tolist() == [0, 2]
    assert result.tokens[0, :2].tolist() == [2, 2]


def test_the_completer_finishes_what_the_passes_left():
    batch, rules = sudoku_batch([0, 1, 2], CLUES)
    spent = Diffusion("c", max_passes=1, complete=Completer(0)).run(Fake(), batch, rules)
    done = Diffusion("c", max_passes=1, complete=Completer(100)).run(Fake(), batch, rules)
    assert Status.UNSOLVED in spent.status and done.status == [Status.SOLVED] * 3
    assert torch.allclose(done.log_probability, -(~CLUES).sum(-1) * torch.tensor(7.0).log())
    assert rules.is_satisfied(done.tokens).all()


def test_several_canvases_and_the_end_of_an_answer():
    class Counting(Fake):
        """Says 1 in the first canvas, 2 in the second, ...; EOS is 6, as the third token of canvas 2 in row 1."""

        def denoise(self, canvas, cache, signal=None, relations=None):
            predicted = torch.full(canvas.shape, (cache.length - 2) // 4 + 1)
            predicted[:, 2] = torch.where((cache.row == 1) & (cache.length == 6), 6, predicted[:, 2])
            self.calls += 1
            return 40.0 * torch.nn.functional.one_hot(predicted, VOCAB)

    prompt = torch.tensor([[0, 5], [1, 5]])
    model = Counting()
    result = generate(
        model,
        prompt,
        sampler=Diffusion(),
        canvas_length=4,
        max_new_tokens=10,
        eos=6,
        pad=5,
        noise=(LOW, HIGH),
        trace=True,
    )
    assert result.tokens.tolist() == [[1] * 4 + [2] * 4 + [3] * 4, [1] * 4 + [2, 2, 6, 5] + [5] * 4]
    assert result.passes.tolist() == [6, 4] and result.free_tokens.tolist() == [12, 7]
    assert result.status == [None, None] and model.calls == 6
    assert [record.start for record in result.trace] == [0, 0, 4, 4, 8, 8]
    assert result.log_probability.abs().max() < 1e-6


def test_the_judge_waits_for_the_last_canvas():
    prompt = torch.tensor([[0, 5]])
    result = generate(
        Fake(), prompt, Anything(8), sampler=Diffusion(judge_stop=True, max_passes=3), canvas_length=4, max_new_tokens=8
    )
    assert result.passes.tolist() == [4] and result.status == [Status.SOLVED]


def test_a_full_canvas_needs_no_pass():
    batch, rules = sudoku_batch([0, 1], torch.ones(2, 16, dtype=torch.bool))
    result = Diffusion().run(Fake(), batch, rules)
    assert result.passes.tolist() == [0, 0] and result.status == [Status.SOLVED] * 2
    assert result.tokens_per_pass.tolist() == [0, 0]


def test_records_reach_the_caller():
    batch, rules = sudoku_batch([0, 1, 2], CLUES)
    seen = []
    assert VALIDITY.run(Restless(), batch, rules, on_step=seen.append, max_passes=7).trace == []
    assert [record.pass_index for record in seen] == list(range(len(seen))) and 0 < len(seen) <= 7


@pytest.mark.parametrize("rows", [1, 3])
def test_relations_follow_the_rows(rows):
    class Related(Restless):
        """Surer of the solution in rows where relations hold."""

        def denoise(self, canvas, cache, signal=None, relations=None):
            logits = super().denoise(canvas, cache, signal, relations)
            return logits + 9 * relations[:, 0, :1, :1].float() * torch.nn.functional.one_hot(GRIDS[cache.row], VOCAB)

    batch, rules = sudoku_batch([0, 1, 2], CLUES)
    relations = torch.zeros(rows, 1, 18, 18, dtype=torch.bool)
    relations[-1] = True
    result = VALIDITY.run(Related(), replace(batch, relations=relations), rules, max_passes=5, trace=True)
    assert result.passes[2] == 1 and (rows == 3) == bool(result.passes[0] > 1)


def test_logits_of_another_shape_are_named():
    class Narrow(Fake):
        def logits(self, canvas, cache, signal):
            return torch.zeros(*canvas.shape, 3)

    batch, rules = sudoku_batch([0], CLUES[:1])
    with pytest.raises(InputError, match=r"logits \(1, 16, 3\)"):
        Diffusion().run(Narrow(), batch, rules)


def test_a_model_that_returns_nan_is_named():
    class Broken(Fake):
        def logits(self, canvas, cache, signal):
            return torch.full((*canvas.shape, VOCAB), torch.nan)

    batch, rules = sudoku_batch([0], CLUES[:1])
    with pytest.raises(InputError, match="NaN by pass 0"):
        Diffusion(max_passes=1).run(Broken(), batch, rules)


@pytest.mark.parametrize(
    "change",
    [
        {"guide": Guide(True)},
        {"guide": Guide(True, True)},
        {"temperature": LinearTemperature(0.8, 0.1)},
        {"temperature": LinearTemperature(2.0, 0.4)},
        {"accept": EntropyBound(2.0)},
        {"renoise": Violations()},
        {"stop": Stable(0, 2.0)},
        {"stop": Stable(3, 2.0)},
        {"judge_stop": True},
        {"max_passes": 11},
        {"complete": Completer()},
    ],
    ids=str,
)
def test_every_part_changes_something(change):
    batch, rules = sudoku_batch([0, 1, 2], CLUES)
    base = Diffusion(accept=EntropyBound(1.0), stop=Stable(1, 2.0), max_passes=10)
    model = Restless(5)
    one, other = (sampler.run(model, batch, rules, 1, trace=True) for sampler in (base, replace(base, **change)))
    same = len(one.trace) == len(other.trace) and one.status == other.status
    assert not same or not all(
        torch.equal(a.canvas, b.canvas) and torch.equal(a.entropy, b.entropy)
        for a, b in zip(one.trace, other.trace, strict=True)
    )


PROMPT, CANVAS, FREE = torch.zeros(1, 2, dtype=torch.int64), GRIDS[:1], torch.zeros(1, 16, dtype=torch.bool)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"max_passes": 0}, "max_passes is 0"),
        ({"noise": (3, 3)}, r"\[3, 3\)"),
        ({"noise": (0, 8)}, r"\[0, 8\)"),
        ({"canvas_length": 0}, "canvas_length is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"rng": "numpy"}, "rng is 'numpy'"),
        ({"time_limit": 0}, "time_limit is 0"),
        ({"pad": 7}, "pad is 7"),
        ({"mask": PROMPT > 9}, r"the mask has shape \(1, 2\)"),
        ({"guarantee": True}, "guarantee is set without a constraint"),
        ({"canvas": None}, "canvas and pinned go together"),
        ({"canvas": None, "pinned": None}, "canvas_length is None"),
        ({"max_new_tokens": 4}, "given with a canvas"),
        ({"pinned": FREE[:, :3]}, r"pinned has shape \(1, 3\)"),
        ({"pinned": ~FREE, "canvas": CANVAS + 5}, "a pinned token lies outside the vocabulary of 7"),
        ({"prompt": PROMPT + 7}, "a prompt token lies outside"),
        ({"prompt": PROMPT.float()}, "prompt has type torch.float32"),
        ({"prompt": PROMPT[0]}, "prompt has shape"),
        ({"prompt": PROMPT.repeat(2, 1)}, "do not fit"),
        ({"relations": torch.ones(1, 1, 16, 16, dtype=torch.bool)}, r"relations have shape \(1, 1, 16, 16\)"),
        ({"constraint": Anything(4)}, "judges 4 tokens, the answer has 16"),
        ({"constraint": sudoku_batch([0, 1], CLUES[:2])[1]}, "2 rows"),
        ({"seeds": torch.zeros(3, dtype=torch.int64)}, r"seeds have shape \(3,\)"),
    ],
)
@pytest.mark.parametrize("sampler", [Diffusion(), Autoregressive()])
def test_bad_input_is_named_before_any_pass(sampler, change, words):
    if isinstance(sampler, Autoregressive) and not change.keys().isdisjoint({"max_passes", "canvas_length"}):
        pytest.skip("it has neither passes to bound nor canvases")
    model = Fake()
    arguments = {"prompt": PROMPT, "canvas": CANVAS, "pinned": FREE, "sampler": sampler, **change}
    with pytest.raises(InputError, match=words):
        generate(model, **arguments)
    assert model.calls == 0


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="temperatur"):
        generate(Fake(), PROMPT, canvas=CANVAS, pinned=FREE, sampler=Diffusion(), temperatur=1)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: LinearTemperature(0.4, 0.4), "t_min 0.4 and t_max 0.4"),
        (lambda: EntropyBound(0.0), "entropy bound is 0.0"),
        (lambda: Stable(-1), "stability_threshold is -1"),
        (lambda: Stable(1, 0.0), "confidence_threshold is 0.0"),
        (lambda: Stable(1.5), "stability_threshold is 1.5"),
        (lambda: Completer(-1), "budget is -1"),
        (lambda: Completer("much"), "budget is .much."),
        (lambda: Diffusion(max_passes=0), "max_passes is 0"),
        (lambda: Diffusion(max_passes=1.5), "max_passes is 1.5"),
        (lambda: Diffusion(max_passes=True), "max_passes is True"),
        (lambda: Diffusion(guide=None), "guide is None"),
        (lambda: Diffusion(stop={"stability_threshold": 1}), "stop is {'stability_threshold': 1}"),
    ],
)
def test_bad_parts_fail_at_construction(build, words):
    with pytest.raises(InputError, match=words):
        build()
