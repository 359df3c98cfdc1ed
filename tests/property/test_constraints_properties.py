"""The invariants of shared/design.md, against brute force over every answer of a small space."""

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import All, AllDifferent, Constraint, Pinned

LENGTH, ALPHABET = 4, 4
EVERY = torch.tensor(list(product(range(ALPHABET), repeat=LENGTH)))
ALL_POSITIONS = slice(0, LENGTH)


class DefaultPropagate(AllDifferent):
    """The same rule with the propagation every constraint gets for nothing."""

    propagate = Constraint.propagate


@st.composite
def all_different(draw) -> AllDifferent:
    low = draw(st.integers(0, ALPHABET - 1))
    high = draw(st.integers(low + 1, ALPHABET))
    size = draw(st.integers(1, high - low))
    groups = draw(st.lists(st.permutations(range(LENGTH)).map(lambda order: order[:size]), min_size=1, max_size=3))
    kind = draw(st.sampled_from([AllDifferent, DefaultPropagate]))
    return kind(torch.tensor(groups), [f"group {n}" for n in range(len(groups))], (low, high), LENGTH, ALPHABET)


answers = st.lists(st.integers(0, ALPHABET - 1), min_size=LENGTH, max_size=LENGTH).map(lambda a: torch.tensor([a]))
masks = st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH).map(lambda m: torch.tensor([m]))
pins = st.builds(Pinned, answers, masks, st.just(ALPHABET))
simple = st.one_of(all_different(), pins)
constraints = st.one_of(simple, st.lists(simple, min_size=1, max_size=3).map(All))


def judge_of(constraint: Constraint) -> torch.Tensor:
    """Which answers of EVERY satisfy, one answer at a time."""
    return torch.cat([constraint.is_satisfied(answer[None]) for answer in EVERY])


def slow_judge(constraint: Constraint, answer: list[int]) -> bool:
    if isinstance(constraint, All):
        return all(slow_judge(part, answer) for part in constraint.parts)
    if isinstance(constraint, Pinned):
        pairs = zip(constraint.tokens[0].tolist(), constraint.mask[0].tolist(), answer, strict=True)
        return all(token == held for token, given_, held in pairs if given_)
    held = [[answer[position] for position in group] for group in constraint.groups.tolist()]
    low, high = constraint.tokens
    return all(len(set(group)) == len(group) and all(low <= token < high for token in group) for group in held)


def held(sets: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Whether each answer (N, T) lies in the sets (1 or N, T, A) at every position."""
    return sets.expand(len(answers), -1, -1).gather(-1, answers[..., None]).all(1)[:, 0]


@given(constraints)
def test_the_judge_agrees_with_the_rule_in_plain_words(constraint):
    assert judge_of(constraint).tolist() == [slow_judge(constraint, answer) for answer in EVERY.tolist()]


@given(constraints)
def test_blame_and_words_agree_with_the_judge(constraint):
    for answer in EVERY[::7]:
        satisfied = constraint.is_satisfied(answer[None])[0]
        assert constraint.violations(answer[None])[0].any() != satisfied
        assert (constraint.explain(answer[None])[0] == []) == satisfied


@given(constraints, answers, masks)
def test_allowed_is_sound(constraint, answer, known):
    satisfying = EVERY[judge_of(constraint)]
    agreeing = satisfying[((satisfying == answer) | ~known).all(-1)]
    assert held(constraint.allowed(answer, known, ALL_POSITIONS), agreeing).all()


@given(constraints, answers, masks, masks)
def test_knowing_more_never_allows_more(constraint, answer, known, more):
    before = constraint.allowed(answer, known, ALL_POSITIONS)
    assert not (constraint.allowed(answer, known | more, ALL_POSITIONS) & ~before).any()


@given(constraints, answers, answers, masks)
def test_allowed_reads_known_tokens_only(constraint, answer, other, known):
    mixed = torch.where(known, answer, other)
    assert torch.equal(*(constraint.allowed(a, known, ALL_POSITIONS) for a in (answer, mixed)))


@given(constraints, answers, masks, st.integers(0, LENGTH), st.integers(0, LENGTH))
def test_a_window_is_a_part_of_the_whole(constraint, answer, known, start, stop):
    whole = constraint.allowed(answer, known, ALL_POSITIONS)
    assert torch.equal(constraint.allowed(answer, known, slice(start, stop)), whole[:, start:stop])


@given(simple, simple, answers, masks)
def test_both_means_both(first, second, answer, known):
    both = first & second
    assert torch.equal(judge_of(both), judge_of(first) & judge_of(second))
    sets = [rule.allowed(answer, known, ALL_POSITIONS) for rule in (both, first, second)]
    assert torch.equal(sets[0], sets[1] & sets[2])


@given(constraints, st.integers(0, 2**32))
def test_propagation_is_sound_and_never_grows(constraint, seed):
    candidates = torch.rand(1, LENGTH, ALPHABET, generator=torch.Generator().manual_seed(seed)) < 0.7
    left = constraint.propagate(candidates)
    assert not (left & ~candidates).any()
    satisfying = EVERY[judge_of(constraint)]
    inside = satisfying[held(candidates, satisfying)]
    if len(inside):
        assert held(left, inside).all()


@given(constraints, st.lists(answers, min_size=2, max_size=4), masks)
def test_rows_do_not_see_each_other(constraint, rows, known):
    many, batch = constraint.repeat(len(rows)), torch.cat(rows)
    known = known.expand_as(batch)
    alone = [constraint.allowed(row, known[:1], ALL_POSITIONS) for row in rows]
    assert torch.equal(many.allowed(batch, known, ALL_POSITIONS), torch.cat(alone))
    assert torch.equal(many.violations(batch), torch.cat([constraint.violations(row) for row in rows]))
    stacked = type(constraint).stack([constraint] * len(rows))
    assert torch.equal(stacked.violations(batch), many.violations(batch))
