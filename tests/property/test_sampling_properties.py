"""Invariants of the loop, and its slow twin written straight from section 6 of the reference."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg import rng
from constrained_dg.sampling import Diffusion, EntropyBound, Guide, Stable, Uniform, Violations
from constrained_dg.sampling.distribution import Distribution
from tests.fakes import HIGH, LOW, Anything, Restless, sudoku_batch

seeds = st.integers(0, 2**32)
clues = st.lists(st.lists(st.booleans(), min_size=16, max_size=16), min_size=1, max_size=4).map(torch.tensor)
models = st.integers(0, 9).map(Restless)
thresholds = st.builds(Stable, st.integers(0, 2), st.sampled_from([0.005, 0.3]))


def settled(**known: torch.Tensor) -> Distribution:
    """A distribution of which only some is known."""
    return Distribution(**{**dict.fromkeys(("best", "sample", "entropy", "log_best", "probabilities")), **known})


def slow_accept(entropy: list[float], free: list[bool], bound: float) -> list[bool]:
    total, accepted = torch.tensor(0.0), [False] * len(entropy)
    for position in sorted((p for p in range(len(entropy)) if free[p]), key=lambda p: entropy[p]):
        accepted[position] = bool(total <= bound)
        total = total + entropy[position]
    return accepted


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([0.125, 0.375, 1.0]),
)
def test_acceptance_agrees_with_its_slow_twin(cells, bound):
    # Entropies are sums of powers of two: both twins add them without rounding.
    entropy, free = ([cell[n] for cell in cells] for n in (0, 1))
    accepted = EntropyBound(bound)(settled(entropy=torch.tensor([entropy])), torch.tensor([free]))[0]
    assert accepted.tolist() == slow_accept(entropy, free, bound)
    assert accepted.any() == any(free)


def slow_plain(model, row_prompt, row_canvas, pinned, seed, stop, max_passes):
    """One row at a time, one position at a time: section 6.2. Returns the answer and the passes."""
    length = len(row_canvas)
    seed = torch.tensor([seed])
    cache = model.prefill(row_prompt[None])
    canvas = rng.integers(seed, 0, 0, 0, count=length, low=LOW, high=HIGH)[0]
    canvas = torch.where(pinned, row_canvas, canvas)
    signal, history = None, []
    for n in range(max_passes, 0, -1):
        logits = model.denoise(canvas[None], cache, signal)[0]
        temperature = 0.4 + (0.8 - 0.4) * (torch.tensor(n, dtype=torch.int32) / max_passes)
        z = logits / temperature
        uniform = rng.uniform(seed, 0, max_passes - n, 1, count=length)[0]
        noise = rng.integers(seed, 0, max_passes - n, 2, count=length, low=LOW, high=HIGH)[0]
        best, sample, entropy = canvas.clone(), canvas.clone(), []
        for position in range(length):
            p = z[position].softmax(-1)
            entropy.append(torch.special.entr(p).sum())
            if not pinned[position]:
                best[position] = z[position].argmax()
                below = p.cumsum(-1) <= uniform[position] * p.cumsum(-1)[-1]
                sample[position] = below.long().sum()
        accepted = torch.tensor(slow_accept(entropy, (~pinned).tolist(), 0.1))
        free = [h for h, fixed in zip(entropy, pinned.tolist(), strict=True) if not fixed]
        stable = len(history) >= stop.stability_threshold and all(
            torch.equal(best, old) for old in history[len(history) - stop.stability_threshold :]
        )
        history.append(best)
        if stable and sum(free) / len(free) < stop.confidence_threshold:
            break
        canvas = torch.where(accepted | pinned, sample, noise)
        signal = model.self_condition(z[None].softmax(-1))
    return best, max_passes - n + 1


@given(models, clues, seeds, thresholds)
def test_the_loop_agrees_with_its_slow_twin(model, clues, seed, stop):
    clues[:, 0] = False  # a canvas without a free cell makes no pass
    batch, _ = sudoku_batch(list(range(len(clues))), clues)
    result = Diffusion(stop=stop, max_passes=6).run(model, batch, None, rng.row_seeds(seed, len(clues)))
    for row in range(len(clues)):
        arguments = (batch.prompt[row], batch.answer[row], clues[row], int(result.seeds[row]))
        answer, passes = slow_plain(model, *arguments, stop, max_passes=6)
        assert passes == result.passes[row] and torch.equal(answer, result.tokens[row])


@given(models, clues, seeds, st.booleans(), st.booleans(), st.sampled_from([Uniform(), Violations()]))
def test_a_rule_that_never_objects_changes_nothing(model, clues, seed, masks, known, renoise):
    batch, _ = sudoku_batch(list(range(len(clues))), clues)
    plain = Diffusion(max_passes=6).run(model, batch, None, seed, trace=True)
    guided = Diffusion("guided", Guide(masks, known), renoise=renoise, max_passes=6)
    ruled = guided.run(model, batch, Anything(), seed, trace=True)
    for name in ("tokens", "passes", "log_probability", "free_tokens"):
        assert torch.equal(getattr(plain, name), getattr(ruled, name))
    for a, b in zip(plain.trace, ruled.trace, strict=True):
        assert all(
            torch.equal(getattr(a, name), getattr(b, name)) for name in ("canvas", "best", "entropy", "accepted")
        )


@given(models, clues, seeds, st.booleans(), st.booleans(), st.booleans())
def test_every_pass_accepts_and_no_mask_makes_a_nan(model, clues, seed, masks, known, judge):
    batch, rules = sudoku_batch(list(range(len(clues))), clues)
    sampler = Diffusion("any", Guide(masks, known), judge_stop=judge, max_passes=6)
    result = sampler.run(model, batch, rules, seed, trace=True)
    for record in result.trace:
        free, conflict = ~clues[record.rows], record.conflict
        assert (record.accepted.any(-1) | conflict.any(-1))[free.any(-1)].all()
        assert not (record.accepted & conflict).any() and record.renoised[conflict & free].all()
        assert record.entropy.isfinite().all()
    for before, after in zip(result.trace, result.trace[1:], strict=False):
        noise = after.canvas[before.renoised[~before.stopped]]
        assert ((noise >= LOW) & (noise < HIGH)).all()
    assert result.log_probability.isfinite().all()


@given(clues, seeds)
def test_masked_samples_never_leave_the_allowed_sets(clues, seed):
    batch, rules = sudoku_batch(list(range(len(clues))), clues)
    result = Diffusion("masked", Guide(True), max_passes=4).run(Restless(), batch, rules, seed, trace=True)
    allowed = rules.allowed(batch.answer, clues, slice(0, 16))
    for record in result.trace:
        assert allowed[record.rows].gather(-1, record.best[..., None]).all()
    for before, after in zip(result.trace, result.trace[1:], strict=False):
        going = ~before.stopped
        inside = allowed[after.rows].gather(-1, after.canvas[..., None])[..., 0]
        assert inside[before.accepted[going]].all()
