"""A row of a batch is ruled as it is alone: after select, repeat and stack, with sums, automata and given tokens."""

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import All, Automaton, Constraint, Count, Pinned, RealSum, Sum
from tests.property.examples import fewer
from tests.property.test_exact_constraints import possible

LENGTH, TOKENS, ROWS = 4, 3, 3
EVERY = torch.tensor(list(product(range(TOKENS), repeat=LENGTH)))
WHOLE = slice(0, LENGTH)

size = st.sampled_from([1, 1, 5_000, 10**9])  # small sums have a table, larger ones are swept without it


@st.composite
def swept(draw) -> Constraint:
    values = draw(st.lists(st.integers(-4, 4), min_size=TOKENS, max_size=TOKENS))
    low, scale = draw(st.integers(-8, 8)), draw(size)
    high = low + draw(st.integers(0, 4))
    table = draw(st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=3, max_size=3))
    tokens = draw(st.sets(st.integers(0, 2), min_size=1))
    builders = [
        lambda: Automaton(torch.tensor(table), 0, [0, 2], LENGTH),
        lambda: Count(list(tokens), max(low, 0) % LENGTH, None, LENGTH, TOKENS),
        lambda: Sum(torch.tensor(values) * scale, low * scale, high * scale, LENGTH),
        lambda: RealSum(torch.tensor(values).double() * scale * 0.1, low * scale * 0.1, high * scale * 0.1, LENGTH),
    ]
    return possible(draw(st.sampled_from(builders)))


row = st.lists(st.integers(0, TOKENS - 1), min_size=LENGTH, max_size=LENGTH)
batches = st.lists(row, min_size=ROWS, max_size=ROWS).map(torch.tensor)
masks = st.lists(st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH), min_size=ROWS, max_size=ROWS)
pins = st.builds(lambda tokens, mask: Pinned(tokens, torch.tensor(mask), TOKENS), batches, masks)


def same(batch: Constraint, alone: list[Constraint], answer: torch.Tensor, known: torch.Tensor, seed: int) -> None:
    """Whether each row of the batch is ruled as the rule of that row alone rules it."""
    rows = range(len(alone))
    draws = torch.Generator().manual_seed(seed)
    candidates = torch.rand(len(alone), LENGTH, TOKENS, generator=draws) < 0.8
    scores = torch.randn(candidates.shape, generator=draws).masked_fill(~candidates, -torch.inf)
    for method, arguments in (
        ("is_satisfied", (answer,)),
        ("violations", (answer,)),
        ("allowed", (answer, known, WHOLE)),
        ("propagate", (candidates,)),
    ):
        own = [[each[k, None] if torch.is_tensor(each) else each for each in arguments] for k in rows]
        one_by_one = [getattr(rule, method)(*given_) for rule, given_ in zip(alone, own, strict=True)]
        assert torch.equal(getattr(batch, method)(*arguments), torch.cat(one_by_one)), method
    assert batch.has_most_likely == all(rule.has_most_likely for rule in alone)
    if batch.has_most_likely:
        classes, exists = batch.most_likely(scores)
        for k in rows:
            best, there = alone[k].most_likely(scores[k, None])
            assert bool(there) == bool(exists[k]) and (not there or torch.equal(best[0], classes[k]))


@fewer
@given(st.lists(swept(), min_size=1, max_size=3), pins, batches, masks, st.integers(0, 2**32))
def test_rows_of_given_tokens(rules, pinned, answer, known, seed):
    rule, known = All([*rules, pinned]), torch.tensor(known)
    alone = [rule.select(torch.tensor([k])) for k in range(ROWS)]
    same(rule, alone, answer, known, seed)
    apart = [All([*rules, pinned.select(torch.tensor([k]))]) for k in range(ROWS)]  # never in a batch
    same(rule, apart, answer, known, seed)
    same(All.stack(apart), alone, answer, known, seed)
    order = torch.tensor([2, 0])
    same(rule.select(order), [alone[2], alone[0]], answer[order], known[order], seed)
    twice = rule.select(torch.tensor([1])).repeat(2)
    same(twice, [alone[1]] * 2, answer[:2], known[:2], seed)
    # And all of it against every answer.
    good = EVERY[alone[0].is_satisfied(EVERY)]
    agreeing = good[((good == answer[0]) | ~known[0]).all(-1)]
    may = rule.allowed(answer, known, WHOLE)[0]
    assert may.expand(len(agreeing), -1, -1).gather(-1, agreeing[..., None]).all()


@fewer
@given(st.lists(st.tuples(swept(), swept()), min_size=2, max_size=3), batches, masks, st.integers(0, 2**32))
def test_rows_with_rules_of_their_own_in_a_product(pairs, answer, known, seed):
    rows = [All(list(pair)) for pair in pairs]
    kinds = {tuple(map(type, pair)) for pair in pairs}
    known = torch.tensor(known)[: len(rows)]
    if len(kinds) == 1:
        stacked = All.stack(rows)
        same(stacked.repeat(2).select(torch.arange(len(rows)) * 2), rows, answer[: len(rows)], known, seed)
