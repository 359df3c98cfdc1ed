"""Each part of a sampler, compared with a slow version."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.sampling import Diffusion, Schedule, Violations
from constrained_dg.sampling.renoise import Accepted
from tests.fakes import GRIDS, HIGH, LOW, Restless, sudoku4, sudoku_batch
from tests.property.examples import many


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
@given(st.integers(0, 2**32))
def test_violations_are_what_a_slow_twin_says(seed):
    draws = torch.Generator().manual_seed(seed)
    noise = torch.rand(16, generator=draws) < 0.2
    answer = torch.where(noise, torch.randint(LOW, HIGH, (16,), generator=draws), GRIDS[seed % 3])[None]
    mask = torch.rand(1, 16, generator=draws) < torch.rand(1, generator=draws)
    known = ~mask & (torch.rand(1, 16, generator=draws) < 0.5)
    accepted = Accepted(mask, answer, known, slice(0, 16), sudoku4())
    broken = slow_violating(mask[0].tolist(), answer[0].tolist(), known[0].tolist())
    assert set((mask & ~Violations()(accepted))[0].nonzero().flatten().tolist()) == broken
