"""The generation API: lengths, infill, candidates, guarantees, limits, hooks, and what is refused."""

import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.errors import InputError
from constrained_dg.sampling import (
    Autoregressive,
    Completer,
    Diffusion,
    Options,
    Search,
    Stable,
    Status,
    distribution,
    generate,
    loop,
)
from constrained_dg.sampling.distribution import draw, settle
from constrained_dg.sampling.named import VALIDITY
from tests.fakes import GRIDS, HIGH, LOW, VOCAB, Anything, Fake, Oracle, Restless, sudoku4, sudoku_batch

PROMPT = torch.tensor([[0, 6], [1, 6], [2, 6]])
FREE = torch.zeros(3, 16, dtype=torch.bool)
CLUES = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) < 0.4


def equal(one, other) -> bool:
    names = ("tokens", "passes", "free_tokens", "search_nodes", "seeds", "log_probability")
    return one.status == other.status and all(torch.equal(getattr(one, n), getattr(other, n)) for n in names)


# -- one sweep over the logits -----------------------------------------------------------------------------------------


@given(st.integers(1, 700), st.integers(0, 2**32), st.sampled_from([0.1, 1.0, 30.0]), st.sampled_from([1, 300, 2**18]))
def test_the_sweep_agrees_with_its_slow_twin(vocab, seed, scale, chunk):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, 3, vocab, generator=generator)
    logits = logits.masked_fill(torch.rand(logits.shape, generator=generator) < 0.3, -torch.inf)
    logits[..., seed % vocab] = 0.0  # something is always possible
    uniform, temperature = torch.rand(2, 3, generator=generator), torch.tensor(0.7)
    log_probs = (logits / temperature).log_softmax(-1)
    old, distribution.swept_at_once = distribution.swept_at_once, lambda device: chunk
    try:
        fast = settle(logits.clone(), temperature, uniform)
        alone = settle(logits[1:].clone(), temperature, uniform[1:])
    finally:
        distribution.swept_at_once = old
    assert torch.equal(fast.best, logits.argmax(-1))
    torch.testing.assert_close(fast.log_best, log_probs.amax(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.probabilities, log_probs.exp(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fast.entropy, torch.special.entr(log_probs.exp()).sum(-1), rtol=1e-4, atol=1e-5)
    assert (fast.probabilities[logits == -torch.inf] == 0).all()
    # The sample's share of the cumulative distribution holds the uniform, and is not empty.
    exact = log_probs.double().exp()
    above = exact.cumsum(-1).gather(-1, fast.sample[..., None])[..., 0]
    below = above - exact.gather(-1, fast.sample[..., None])[..., 0]
    assert ((below - 1e-5 <= uniform) & (uniform <= above + 1e-5)).all()
    assert (fast.probabilities.gather(-1, fast.sample[..., None]) > 0).all()
    for name in ("best", "sample", "entropy", "log_best", "probabilities"):
        assert torch.equal(getattr(alone, name), getattr(fast, name)[1:])  # no row knows of another


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_shows_in_the_entropy(value):
    logits = torch.zeros(1, 3, 300)
    logits[0, 1, 299] = value
    logits[0, 2] = -torch.inf
    assert settle(logits, 1.0, torch.full((1, 3), 0.5)).entropy.isnan().tolist() == [[False, True, True]]


def test_draws_reach_every_block():
    weights = torch.zeros(1000, 1000)
    weights[:, [3, 255, 256, 999]] = 0.25
    grid = (torch.arange(1000) + 0.5) / 1000
    assert torch.bincount(draw(weights, grid)).nonzero().flatten().tolist() == [3, 255, 256, 999]


# -- the stop flag -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler", [Diffusion(stop=Stable(1, 0.8), max_passes=12), replace(VALIDITY, max_passes=8)], ids=lambda s: s.name
)
@pytest.mark.parametrize("candidates", [1, 3])
def test_the_reading_interval_changes_nothing(monkeypatch, sampler, candidates):
    batch, rules = sudoku_batch([0, 1, 2, 3, 4, 5], CLUES.repeat(2, 1))
    made = []
    for interval in (1, 3, 7):
        monkeypatch.setattr(loop, "reading_interval", lambda *_, n=interval: n)
        made.append(sampler.run(Restless(5), batch, rules, 5, candidates=candidates))
    assert len(made[0].passes.unique()) > 1  # rows do stop at different passes
    assert equal(made[0], made[1]) and equal(made[0], made[2])


def test_who_is_read_after_every_pass():
    gpu, rules = torch.device("cuda"), Anything()
    assert loop.reading_interval(torch.device("cpu"), VALIDITY, Options(), rules) == 1
    assert loop.reading_interval(gpu, VALIDITY, Options(), rules) == loop.READ_EVERY > 1
    for options in ({"trace": True}, {"on_step": print}, {"time_limit": 9.0}, {"rng": "transformers"}):
        assert loop.reading_interval(gpu, VALIDITY, Options(**options), rules) == 1
    assert loop.reading_interval(gpu, replace(VALIDITY, complete=Completer()), Options(), rules) == 1
    rules.reads_every_pass = True
    assert loop.reading_interval(gpu, VALIDITY, Options(), rules) == 1
    assert loop.reading_interval(gpu, VALIDITY, Options(), Anything() & rules) == 1


# -- lengths -----------------------------------------------------------------------------------------------------------


def test_defaults_come_from_the_model_and_the_rules():
    class Told(Fake):
        canvas_length, eos_token_ids, pad_token_id = 4, (6,), 5

        def logits(self, canvas, cache, signal):
            predicted = torch.full(canvas.shape, 2)
            predicted[:, 1] = torch.where(cache.row == 1, 6, 3)
            return 40.0 * torch.nn.functional.one_hot(predicted, VOCAB)

    model = Told()
    one = generate(model, PROMPT)
    assert one.tokens.tolist() == [[2, 3, 2, 2], [2, 6, 5, 5], [2, 3, 2, 2]] and one.status == [None] * 3
    assert one.free_tokens.tolist() == [4, 2, 4]
    ruled = generate(model, PROMPT, Anything(10))  # T is what the rules judge; the last canvas is shorter
    assert ruled.tokens.shape == (3, 10) and ruled.status == [Status.SOLVED] * 3
    assert ruled.passes.tolist() == [5, 1, 5]  # the judge accepts an answer that has ended
    assert generate(model, PROMPT, max_new_tokens=5).tokens.shape == (3, 8)


@pytest.mark.parametrize("canvas_length", [3, 5, 16, 99])
def test_text_is_filled_in_where_it_stands(canvas_length):
    pinned = CLUES.clone()
    pinned[0, :6] = True  # the first row has nothing to do in the first canvas
    made = generate(
        Oracle(GRIDS[:, :canvas_length].repeat(1, 6)[:, :16]) if canvas_length > 9 else Restless(2),
        PROMPT,
        canvas=GRIDS,
        pinned=pinned,
        canvas_length=canvas_length,
        trace=True,
        max_passes=5,
    )
    assert made.tokens.shape == (3, 16) and (made.tokens == GRIDS)[pinned].all()
    assert {record.best.shape[1] for record in made.trace} <= {min(canvas_length, 16), 16 % canvas_length}
    assert sorted({record.start for record in made.trace}) == list(range(0, 16, canvas_length))


def test_the_judge_sees_a_token_that_is_fixed_behind_the_end():
    """An end token stands before a pinned token that the rule asks for: the first pass already has the answer."""

    class Last(Anything):
        def is_satisfied(self, answer):
            return (answer[:, 7] == 4) & (answer[:, 2] == 6) & (answer[:, 3] == 0)

        def violations(self, answer):
            return ~self.is_satisfied(answer)[:, None].expand_as(answer)

    class Ending(Fake):
        def logits(self, canvas, cache, signal):
            return 40.0 * (torch.arange(VOCAB) == 6).float().expand(*canvas.shape, VOCAB)

    canvas, pinned = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 4]]), torch.tensor([[True, True] + [False] * 5 + [True]])
    made = generate(Ending(), PROMPT[:1], Last(8), canvas=canvas, pinned=pinned, eos=6, pad=0, max_passes=9)
    assert made.status == [Status.SOLVED] and made.passes.tolist() == [1]
    assert made.tokens.tolist() == [[1, 1, 6, 0, 0, 0, 0, 4]]


# -- candidates, guarantee, limits -------------------------------------------------------------------------------------


def test_candidates_share_a_prefill_and_stop_together():
    class Counting(Restless):
        prefills = 0

        def prefill(self, prompt, mask=None, relations=None):
            self.prefills += 1
            return super().prefill(prompt, mask, relations)

    batch, rules = sudoku_batch([0, 1, 2, 3, 4, 5], CLUES.repeat(2, 1))
    model, sampler = Counting(2), replace(VALIDITY, max_passes=9)
    one = sampler.run(model, batch, rules, 1)
    four = sampler.run(model, batch, rules, 1, candidates=4, trace=True)
    assert model.prefills == 2 and four.tokens.shape == one.tokens.shape
    won = [sum(s == Status.SOLVED for s in made.status) for made in (one, four)]
    assert won[1] > won[0] > 0
    for row in range(6):
        if one.status[row] == Status.SOLVED:
            assert four.status[row] == Status.SOLVED
        passes = [int((record.rows // 4 == row).sum()) for record in four.trace]
        assert sum(passes) == four.passes[row]
        if four.status[row] == Status.SOLVED:
            assert set(passes) <= {0, 4}  # all stop in the pass that one is accepted in
    again = sampler.run(model, batch, rules, four.seeds)
    solved = torch.tensor([status == Status.SOLVED for status in four.status])
    assert torch.equal(again.tokens[solved], four.tokens[solved])  # the seed of the winner makes it again


def test_without_rules_the_likeliest_candidate_is_the_answer():
    sampler = Diffusion(max_passes=4)
    best = sampler.run(Restless(1), sudoku_batch([0, 1, 2], CLUES)[0], None, 3, candidates=5)
    alone = sampler.run(Restless(1), sudoku_batch([0, 1, 2], CLUES)[0], None, best.seeds)
    first = sampler.run(Restless(1), sudoku_batch([0, 1, 2], CLUES)[0], None, 3)
    assert torch.equal(alone.tokens, best.tokens) and (best.log_probability >= first.log_probability).all()
    assert (best.log_probability > first.log_probability).any() and (best.passes > first.passes).all()


def test_a_guarantee_adds_the_search():
    free = {"canvas": GRIDS, "pinned": CLUES, "noise": (LOW, HIGH), "max_passes": 1}
    rules = sudoku_batch([0, 1, 2], CLUES)[1]
    assert Status.UNSOLVED in generate(Fake(), PROMPT, rules, **free).status
    sure = generate(Fake(), PROMPT, rules, guarantee=True, **free)
    assert sure.status == [Status.SOLVED] * 3
    with pytest.raises(InputError, match="'autoregressive' cannot search"):
        generate(Fake(), PROMPT, rules, guarantee=True, sampler=Autoregressive(), **free)


def test_a_time_limit_leaves_what_it_has():
    model = Fake()
    sampler = Diffusion(max_passes=48)
    one = generate(model, PROMPT, sampler=sampler, canvas_length=4, max_new_tokens=12, pad=5, time_limit=1e-9)
    assert model.calls == 0 and (one.tokens == 5).all() and one.free_tokens.tolist() == [0] * 3
    late = generate(model, PROMPT, sudoku4(), guarantee=True, canvas_length=16, time_limit=1e-9)
    assert late.status == [Status.UNSOLVED] * 3 and late.search_nodes.sum() == 0
    slow = generate(
        model, PROMPT, sampler=sampler, canvas_length=4, max_new_tokens=8, pad=5, time_limit=0.2,
        on_step=lambda record: time.sleep(0.25),
    )  # fmt: skip
    assert slow.passes.tolist() == [1] * 3 and (slow.tokens[:, 4:] == 5).all()


def test_rules_on_classes_of_tokens_hold_on_text():
    class Writer(Fake):
        """Every symbol is written in two ways, k and 10 + k; it likes the second, and cannot play."""

        vocab_size = 30

        def logits(self, canvas, cache, signal):
            at = cache.length - 2 + torch.arange(canvas.shape[1])
            predicted = torch.where((at > 1) & (at < 18), 11, 25).expand(canvas.shape)
            tokens = torch.arange(30)
            return 9.0 * torch.nn.functional.one_hot(predicted, 30) + 4.0 * ((tokens >= 10) & (tokens < 17))

    classes = TokenClasses.of(30, [(k, 10 + k) for k in range(VOCAB)])
    rules = sudoku4().on(torch.arange(2, 18), classes, 20)
    canvas, pinned = torch.zeros(3, 20, dtype=torch.int64), torch.zeros(3, 20, dtype=torch.bool)
    canvas[:, 2:18], pinned[:, 2:18] = GRIDS, CLUES
    made = generate(
        Writer(),
        PROMPT,
        rules,
        canvas=canvas,
        pinned=pinned,
        guarantee=True,
        max_passes=2,
        canvas_length=12,
        trace=True,
    )
    assert made.status == [Status.SOLVED] * 3
    assert (made.tokens[:, [0, 1, 18, 19]] == 25).all() and (made.tokens == canvas)[pinned].all()
    written = made.tokens[:, 2:18][~CLUES]
    # The class is the rules', the token the model's, but where the search revises what an earlier canvas had ruled out.
    assert ((written % 10 > 0) & (written % 10 < 5)).all() and (written > 10).float().mean() > 0.9
    for record in made.trace:
        window = slice(record.start, record.start + record.best.shape[1])
        allowed = rules.of_tokens(rules.allowed(canvas, pinned, window))[record.rows]
        assert allowed.gather(-1, record.best[..., None]).all()


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_a_hook_sees_raw_logits_and_replaces_them():
    seen = []

    def hook(logits, info):
        seen.append((info.pass_index, info.start, info.rows.tolist(), info.answer.shape))
        return torch.where(torch.arange(VOCAB) == 3, 99.0, logits)

    made = generate(Fake(), PROMPT, canvas_length=4, max_new_tokens=8, logits_hook=hook)
    assert (made.tokens == 3).all() and seen[0] == (0, 0, [0, 1, 2], (3, 8)) and seen[-1][1] == 4
    with pytest.raises(InputError, match="logits_hook returned NoneType"):
        generate(Fake(), PROMPT, canvas_length=4, logits_hook=lambda logits, info: None)


def test_an_interruption_breaks_nothing():
    def stop(record):
        raise KeyboardInterrupt

    model = Restless(2)
    whole = generate(model, PROMPT, canvas_length=8)
    with pytest.raises(KeyboardInterrupt):
        generate(model, PROMPT, canvas_length=8, on_step=stop)
    assert torch.is_grad_enabled() and equal(whole, generate(model, PROMPT, canvas_length=8))


def test_the_padding_of_a_prompt_reaches_the_model():
    class Masked(Fake):
        def prefill(self, prompt, mask=None, relations=None):
            self.mask = mask
            return super().prefill(prompt, mask, relations)

    model, mask = Masked(), torch.tensor([[True, True], [False, True], [True, True]])
    generate(model, PROMPT, mask=mask, canvas_length=4, max_passes=1)
    assert torch.equal(model.mask, mask)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refusing(**attributes):
    model = Fake()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


@pytest.mark.parametrize(
    "model, keywords, words",
    [
        (refusing(canvas_length=8), {"canvas_length": 9}, "canvases of 9 tokens are longer than the 8"),
        (refusing(max_context=17), {"canvas_length": 16}, "a prompt of 2 and an answer of 16 tokens do not fit"),
        (refusing(memory_needed=lambda *_: 2**60), {"canvas_length": 4}, "this call needs about 1152921504.61 GB"),
        (Fake(), {}, "canvas_length is None"),
        (Fake(), {"canvas_length": 4, "max_new_tokens": 0}, "max_new_tokens is 0"),
        (
            Fake(),
            {"canvas_length": 4, "constraint": Anything(4), "sampler": Search(), "candidates": 2},
            "does not support candidates",
        ),
    ],
)
def test_what_cannot_work_is_said_before_any_pass(model, keywords, words):
    with pytest.raises(InputError, match=words):
        generate(model, PROMPT, **keywords)
    assert model.calls == 0


def test_the_memory_is_asked_for_the_whole_call():
    asked = []
    model = refusing(memory_needed=lambda *sizes: asked.append(sizes) or 0)
    generate(model, PROMPT, canvas_length=4, max_new_tokens=12, candidates=2, max_passes=1)
    assert asked == [(6, 10, 4)]


def test_unknown_options_of_a_sampler_are_named():
    batch, rules = sudoku_batch([0, 1, 2], CLUES)
    for sampler in (Diffusion(), Autoregressive(), Search()):
        with pytest.raises(InputError, match="unknown options max_steps; there are max_passes, canvas_length"):
            sampler.run(Fake(), batch, rules, max_steps=3)


def test_nan_is_named_in_both_ways_of_drawing():
    class Broken(Fake):
        def logits(self, canvas, cache, signal):
            return torch.full((*canvas.shape, VOCAB), torch.nan if signal is not None else 0.0)

    for rng in ("counter", "transformers"):
        with pytest.raises(InputError, match=r"NaN (by|or inf in) pass 1"):
            generate(Broken(), PROMPT, canvas_length=4, rng=rng)
