"""Each part of a sampler beside its slow twin."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg import rng
from constrained_dg.sampling import (
    AllowedToken,
    Blocks,
    Change,
    Confidence,
    Diffusion,
    FixedCount,
    Guide,
    Margin,
    Schedule,
    Violations,
)
from constrained_dg.sampling.distribution import Distribution, settle, settle_by_softmax
from constrained_dg.sampling.noise import among
from constrained_dg.sampling.randomness import NEIGHBOURS
from constrained_dg.sampling.renoise import Accepted
from tests.fakes import GRIDS, HIGH, LOW, Restless, sudoku4, sudoku_batch
from tests.property.examples import many

cells = st.lists(
    st.tuples(st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0]), st.sampled_from([0.0, 0.125, 0.5]), st.booleans()),
    min_size=1,
    max_size=10,
)
kinds = st.sampled_from(["entropy", "confidence", "margin"])


def distribution(best: list[float], apart: list[float]) -> Distribution:
    """One row with these probabilities of the best tokens, and margins."""
    log_best = torch.tensor([best]).log()
    nothing = torch.zeros_like(log_best)
    return Distribution(nothing, nothing, -log_best, log_best, nothing[..., None], torch.tensor([apart]))


@many
@given(
    cells, st.sampled_from([0.125, 0.5, 1.0]), st.integers(1, 5), st.sampled_from(["entropy", "confidence", "margin"])
)
def test_acceptance_by_threshold_and_by_count(cells, threshold, count, by):
    best, apart, free = ([cell[n] for cell in cells] for n in range(3))
    settled, open_ = distribution(best, apart), torch.tensor([free])
    places = [at for at in range(len(cells)) if free[at]]
    for part, certain in ((Confidence(threshold), best), (Margin(threshold), apart)):
        expected = {at for at in places if certain[at] >= threshold}
        if places:
            expected.add(max(places, key=lambda at: (certain[at], -at)))
        assert set(part(settled, open_)[0].nonzero().flatten().tolist()) == expected
    certain = apart if by == "margin" else best
    expected = sorted(places, key=lambda at: (-certain[at], at))[:count]
    assert set(FixedCount(count, by)(settled, open_)[0].nonzero().flatten().tolist()) == set(expected)


@many
@given(st.lists(st.booleans(), min_size=1, max_size=70), st.integers(1, 20))
def test_a_schedule_accepts_growing_shares_and_all_at_last(free, passes):
    open_, free_count = torch.tensor([free]), sum(free)
    before = torch.zeros_like(open_)
    for index in range(passes):
        accepted = Schedule()(None, open_, (index + 1) / passes)
        wanted = -(-free_count * (index + 1) // passes)
        assert int(accepted.sum()) == wanted and not (accepted & ~open_).any() and not (before & ~accepted).any()
        before = accepted
    assert torch.equal(before, open_)


def test_what_a_schedule_accepted_keeps_its_token():
    batch, rules = sudoku_batch([0], torch.zeros(1, 16, dtype=torch.bool))
    records = []
    sampler = Diffusion("any", accept=Schedule(), max_passes=8)
    made = sampler.run(Restless(3), batch, rules, seeds=0, on_step=records.append)
    assert len(records) == 8 and torch.equal(records[-1].accepted, ~batch.pinned)
    for one, following in itertools.pairwise(records):
        kept = one.accepted
        assert kept.any() and torch.equal(following.canvas[kept], following.best[kept])
        assert torch.equal(made.tokens[kept], following.canvas[kept])


@many
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([settle, settle_by_softmax]))
def test_the_margin_is_that_of_the_two_best(seed, vocab, how):
    logits = torch.randint(-3, 4, (2, 3, vocab), generator=torch.Generator().manual_seed(seed)).float()
    arguments = [logits.clone(), 0.5] + ([torch.full((2, 3), 0.5)] if how is settle else [])
    settled = how(*arguments, margin=True)
    ordered = (logits / 0.5).softmax(-1).sort(-1, descending=True).values
    expected = ordered[..., 0] - (ordered[..., 1] if vocab > 1 else 0)
    torch.testing.assert_close(settled.margin, expected, rtol=1e-5, atol=1e-6)
    assert how(*[a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]).margin is None


def slow_violating(mask: list[bool], answer: list[int], known: list[bool]) -> set[int]:
    """Accepted cells of a 4x4 grid that hold what another decided cell of a group holds, or no digit."""
    decided = [m or k for m, k in zip(mask, known, strict=True)]
    broken = set()
    for at in range(16):
        peers = {p for group in sudoku4().groups.tolist() if at in group for p in group} - {at}
        clash = any(decided[p] and answer[p] == answer[at] for p in peers)
        if mask[at] and (clash or not LOW <= answer[at] < HIGH):
            broken.add(at)
    return broken


@many
@given(st.integers(0, 2**32), st.integers(0, 9), st.sampled_from([0.25, 1.0]))
def test_violations_and_their_blocks(seed, index, share):
    draws = torch.Generator().manual_seed(seed)
    noise = torch.rand(16, generator=draws) < 0.2
    answer = torch.where(noise, torch.randint(LOW, HIGH, (16,), generator=draws), GRIDS[seed % 3])[None]
    mask = torch.rand(1, 16, generator=draws) < torch.rand(1, generator=draws)
    known = ~mask & (torch.rand(1, 16, generator=draws) < 0.5)
    told = Accepted(mask, answer, known, slice(0, 16), sudoku4(), torch.tensor([seed]), index, 10)
    broken = slow_violating(mask[0].tolist(), answer[0].tolist(), known[0].tolist())
    assert set((mask & ~Violations()(told))[0].nonzero().flatten().tolist()) == broken
    bound = sudoku4().neighbours()[0]
    chance = rng.uniform(torch.tensor([seed]), 0, index, NEIGHBOURS, count=16)[0].tolist()
    near = {at for at in range(16) if any(bool(bound[at, other]) for other in broken)}
    block = {at for at in near if mask[0, at] and chance[at] < share * (1 - index / 10)}
    assert set((mask & ~Blocks(share)(told))[0].nonzero().flatten().tolist()) == broken | block


@many
@given(st.integers(0, 2**32), st.sampled_from([0.01, 0.3, 1.0]))
def test_change_is_the_mean_total_variation(seed, threshold):
    draws = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(2, 3, 4, generator=draws).softmax(-1) for _ in range(2))
    free = torch.rand(2, 3, generator=draws) < 0.7
    second[0] = first[0]
    stop, best = Change(threshold), torch.zeros(2, 3, dtype=torch.int64)

    def settled(probabilities):
        return Distribution(best, best, best, best, probabilities)

    stopped, history = stop(best, settled(first), free, stop.start(best))
    assert stopped.tolist() == [not bool(free[row].any()) for row in range(2)]  # nothing has changed where nothing may
    stopped, _ = stop(best, settled(second), free, history)
    for row in range(2):
        apart = [0.5 * sum(abs(a - b) for a, b in zip(first[row, c], second[row, c], strict=True)) for c in range(3)]
        mean = sum(float(apart[c]) for c in range(3) if free[row, c]) / max(1, int(free[row].sum()))
        assert bool(stopped[row]) == (mean < threshold)


@many
@given(st.integers(0, 2**32))
def test_noise_among_what_is_allowed(seed):
    draws = torch.Generator().manual_seed(seed)
    may = torch.rand(1, 5, 7, generator=draws) < 0.4
    uniform = torch.rand(1, 5, generator=draws).clamp(1e-6, 1 - 1e-6)
    drawn = AllowedToken()(may, (2, 6), uniform)[0].tolist()
    for at, token in enumerate(drawn):
        choices = [t for t in range(2, 6) if may[0, at, t]] or list(range(2, 6))
        assert token == choices[int(float(uniform[0, at]) * len(choices))]


def test_noise_is_even_among_what_is_allowed():
    may = torch.tensor([True, False, True, True]).expand(3000, 4)
    assert torch.bincount(among(may, (torch.arange(3000) + 0.5) / 3000)).tolist() == [1000, 0, 1000, 1000]


@many
@given(st.integers(0, 2**32))
def test_what_broke_a_rule_is_forgotten_by_the_next_pass(seed):
    clues = torch.rand(2, 16, generator=torch.Generator().manual_seed(seed)) < 0.3
    batch, rules = sudoku_batch([0, 1], clues)

    def first_told(forgets: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """What the second pass is told, and what was accepted and kept in the first."""
        heard: list[torch.Tensor] = []

        class Listening(Restless):
            def self_condition(self, probabilities, mask=None):
                heard.append(probabilities.clone())
                return super().self_condition(probabilities, mask)

        guide = Guide(True, True, forget_violations=forgets)
        sampler = Diffusion("any", guide, accept=FixedCount(12), renoise=Violations(), max_passes=2)
        return heard, sampler.run(Listening(2), batch, rules, seed, trace=True).trace[0]

    (told, record), (kept, _) = first_told(True), first_told(False)
    uniform = Diffusion("any", Guide(True, True), accept=FixedCount(12), max_passes=2)
    taken = uniform.run(Restless(2), batch, rules, seed, trace=True).trace[0].accepted
    even = rules.allowed(batch.answer, clues, slice(0, 16)).float()
    even[..., :LOW], even[..., HIGH:] = 0, 0
    even = even / even.sum(-1, keepdim=True).clamp(min=1)
    assert torch.equal(told[0], torch.where((taken & ~record.accepted)[..., None], even, kept[0]))
