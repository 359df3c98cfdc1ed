"""The invariants of a rule, against brute force over every answer of a small space."""

from itertools import pairwise, product

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from constrained_dg.constraints import (
    All,
    AllDifferent,
    Constraint,
    Count,
    DifferentAcross,
    Forbidden,
    On,
    Permutation,
    Pinned,
    Predicate,
    Sum,
    TokenClasses,
    Vocabulary,
    check_constraint,
    complete,
)
from constrained_dg.errors import InputError
from tests.property.examples import many

LENGTH, ALPHABET = 4, 4
EVERY = torch.tensor(list(product(range(ALPHABET), repeat=LENGTH)))
ALL_POSITIONS = slice(0, LENGTH)


class DefaultPropagate(AllDifferent):
    """The same rule with the propagation every constraint gets for nothing."""

    propagate = Constraint.propagate


def possible(build):
    """The rule, or an example to pass over where no answer satisfies it: that is refused when it is made."""
    try:
        return build()
    except InputError:
        assume(False)


@st.composite
def all_different(draw, length: int = LENGTH, num_classes: int = ALPHABET) -> AllDifferent:
    low = draw(st.integers(0, num_classes - 1))
    high = draw(st.integers(low + 1, num_classes))
    size = draw(st.integers(1, min(high - low, length)))
    groups = draw(st.lists(st.permutations(range(length)).map(lambda order: order[:size]), min_size=1, max_size=3))
    kind = draw(st.sampled_from([AllDifferent, DefaultPropagate]))
    names = [f"group {n}" for n in range(len(groups))]
    return possible(lambda: kind(torch.tensor(groups), names, (low, high), length, num_classes))


def rows_of(values, length: int) -> st.SearchStrategy:
    return st.lists(values, min_size=length, max_size=length).map(lambda row: torch.tensor([row]))


@st.composite
def placed(draw) -> On:
    """A rule on 1 to 3 of the positions, over classes of some or all tokens, with or without `other`."""
    length = draw(st.integers(1, 3))
    positions = torch.tensor(draw(st.permutations(range(LENGTH)))[:length])
    order, ends = draw(st.permutations(range(ALPHABET))), draw(st.sets(st.integers(1, ALPHABET), min_size=1))
    bounds = [0, *sorted(ends)]
    classes = TokenClasses.of(ALPHABET, [order[i:j] for i, j in pairwise(bounds)])
    tokens = draw(st.sampled_from([classes.named, classes.size]))
    pinned = st.builds(
        Pinned, rows_of(st.integers(0, tokens - 1), length), rows_of(st.booleans(), length), st.just(tokens)
    )
    rules = st.lists(st.one_of(all_different(length, tokens), pinned), min_size=1, max_size=2)
    return draw(rules.map(lambda parts: All(parts) if len(parts) > 1 else parts[0])).on(positions, classes, LENGTH)


answers = rows_of(st.integers(0, ALPHABET - 1), LENGTH)
masks = rows_of(st.booleans(), LENGTH)
pins = st.builds(Pinned, answers, masks, st.just(ALPHABET))


@st.composite
def vocabularies(draw) -> Vocabulary:
    sets = st.lists(st.sets(st.integers(0, ALPHABET - 1), min_size=1), min_size=LENGTH, max_size=LENGTH)
    may = torch.zeros(1, LENGTH, ALPHABET, dtype=torch.bool)
    for at, tokens in enumerate(draw(sets)):
        may[0, at, list(tokens)] = True
    return Vocabulary(may)


@st.composite
def graphs(draw) -> DifferentAcross:
    pairs = [(a, b) for a in range(LENGTH) for b in range(a)]
    edges = draw(st.lists(st.sampled_from([*pairs, (-1, -1)]), min_size=1, max_size=6))
    low = draw(st.integers(0, ALPHABET - 1))
    high = draw(st.integers(low + 1, ALPHABET))
    return possible(lambda: DifferentAcross(torch.tensor([edges]), (low, high), LENGTH, ALPHABET))


@st.composite
def permutations(draw) -> Permutation:
    size = draw(st.integers(1, LENGTH))
    low = draw(st.integers(0, ALPHABET - size))
    return Permutation(LENGTH, (low, low + size), ALPHABET, torch.tensor(draw(st.permutations(range(LENGTH)))[:size]))


tokens = st.integers(0, ALPHABET - 1)
counts = st.builds(
    lambda held, low, more: Count(list(held), low, LENGTH if more == LENGTH else max(low, more), LENGTH, ALPHABET),
    st.sets(tokens, min_size=1, max_size=ALPHABET - 1),
    st.integers(0, LENGTH),
    st.integers(0, LENGTH),
)
sums = st.builds(
    lambda low, more: Sum(torch.tensor([0, 1, 3, -1]), low, low + more, LENGTH), st.integers(-4, 8), tokens
)
words = st.lists(st.lists(tokens, min_size=2, max_size=3), min_size=1, max_size=2)
forbidden = st.builds(lambda held: Forbidden(held, LENGTH, ALPHABET), words)
predicates = st.builds(lambda rest: Predicate(lambda answer: sum(answer) % 3 != rest, LENGTH, ALPHABET), tokens)
simple = st.one_of(
    all_different(), pins, placed(), vocabularies(), graphs(), permutations(), counts, sums, forbidden, predicates
)
constraints = st.one_of(simple, st.lists(simple, min_size=1, max_size=3).map(All))


def judge_of(constraint: Constraint) -> torch.Tensor:
    """Which answers of EVERY satisfy; that rows do not see each other is a property of its own."""
    return constraint.is_satisfied(EVERY)


def slow_judge(constraint: Constraint, answer: list[int]) -> bool:
    if isinstance(constraint, All):
        return all(slow_judge(part, answer) for part in constraint.parts)
    if isinstance(constraint, Pinned):
        pairs = zip(constraint.tokens[0].tolist(), constraint.mask[0].tolist(), answer, strict=True)
        return all(token == held for token, given_, held in pairs if given_)
    if isinstance(constraint, Vocabulary):
        return all(constraint.may[0, at, token] for at, token in enumerate(answer))
    if isinstance(constraint, DifferentAcross):
        edges = [(a, b) for a, b in constraint.edges[0].tolist() if a >= 0]
        low, high = constraint.tokens
        return all(answer[a] != answer[b] and all(low <= answer[end] < high for end in (a, b)) for a, b in edges)
    if isinstance(constraint, Predicate):
        return constraint.function(answer)
    if isinstance(constraint, Count):
        return constraint.low <= sum(token in constraint.tokens.tolist() for token in answer) <= constraint.high
    if isinstance(constraint, Sum):
        return constraint.low <= sum([0, 1, 3, -1][token] for token in answer) <= constraint.high
    if isinstance(constraint, Forbidden):
        return not any(list(w) == answer[at : at + len(w)] for w in constraint.words for at in range(LENGTH))
    if isinstance(constraint, On):
        own = [int(constraint.classes.table[answer[position]]) for position in constraint.positions.tolist()]
        return max(own) < constraint.rule.num_classes and slow_judge(constraint.rule, own)
    held = [[answer[position] for position in group] for group in constraint.groups.tolist()]
    low, high = constraint.tokens
    return all(len(set(group)) == len(group) and all(low <= token < high for token in group) for group in held)


def held(constraint: Constraint, sets: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Whether each answer (N, T) lies in the sets (1 or N, T, A) at every position."""
    return sets.expand(len(answers), -1, -1).gather(-1, constraint.class_of(answers)[..., None]).all(1)[:, 0]


@many
@given(constraints)
def test_the_judge_agrees_with_the_rule_in_plain_words(constraint):
    assert judge_of(constraint).tolist() == [slow_judge(constraint, answer) for answer in EVERY.tolist()]


@many
@given(constraints)
def test_blame_and_words_agree_with_the_judge(constraint):
    for answer in EVERY[::7]:
        satisfied = constraint.is_satisfied(answer[None])[0]
        assert constraint.violations(answer[None])[0].any() != satisfied
        assert (constraint.explain(answer[None])[0] == []) == satisfied


@many
@given(constraints, answers, masks)
def test_allowed_is_sound(constraint, answer, known):
    satisfying = EVERY[judge_of(constraint)]
    agreeing = satisfying[((satisfying == answer) | ~known).all(-1)]
    assert held(constraint, constraint.allowed(answer, known, ALL_POSITIONS), agreeing).all()


@many
@given(constraints, answers, masks, masks)
def test_knowing_more_never_allows_more(constraint, answer, known, more):
    before = constraint.allowed(answer, known, ALL_POSITIONS)
    assert not (constraint.allowed(answer, known | more, ALL_POSITIONS) & ~before).any()


@many
@given(constraints, answers, answers, masks)
def test_allowed_reads_known_tokens_only(constraint, answer, other, known):
    mixed = torch.where(known, answer, other)
    assert torch.equal(*(constraint.allowed(a, known, ALL_POSITIONS) for a in (answer, mixed)))


@many
@given(constraints, answers, masks, st.integers(0, LENGTH), st.integers(0, LENGTH))
def test_a_window_is_a_part_of_the_whole(constraint, answer, known, start, stop):
    whole = constraint.allowed(answer, known, ALL_POSITIONS)
    assert torch.equal(constraint.allowed(answer, known, slice(start, stop)), whole[:, start:stop])


@many
@given(simple, simple, answers, masks)
def test_both_means_both(first, second, answer, known):
    both = first & second
    assert torch.equal(judge_of(both), judge_of(first) & judge_of(second))
    sets = [rule.of_tokens(rule.allowed(answer, known, ALL_POSITIONS)) for rule in (both, first, second)]
    # Both speak of classes: what holds for a token holds for its class.
    classes = both.class_of(torch.arange(ALPHABET))
    whole = ((sets[1] & sets[2])[..., None, :] & (classes[:, None] == classes)).any(-1)
    if isinstance(first, Count | Sum | Forbidden) or isinstance(second, Count | Sum | Forbidden):
        assert not (sets[0] & ~whole).any()  # swept together they know more
    else:
        assert torch.equal(sets[0], whole)


@many
@given(constraints)
def test_tokens_of_a_class_and_unbound_positions_change_no_verdict(constraint):
    verdict = judge_of(constraint)
    twins = constraint.tokens_of(constraint.class_of(EVERY))
    assert torch.equal(constraint.class_of(twins), constraint.class_of(EVERY))
    assert torch.equal(constraint.repeat(len(EVERY)).is_satisfied(twins), verdict)
    other = torch.where(constraint.bound, EVERY, EVERY.flip(0))
    assert torch.equal(constraint.repeat(len(EVERY)).is_satisfied(other), verdict)
    assert not constraint.repeat(len(EVERY)).violations(EVERY)[:, ~constraint.bound].any()


@many
@given(constraints, st.integers(0, 2**32))
def test_the_likeliest_token_of_each_class(constraint, seed):
    scores = torch.randint(3, (2, ALPHABET), generator=torch.Generator().manual_seed(seed)).float()  # with ties
    best, tokens = constraint.likeliest(scores)
    for row, of_row in enumerate(scores.tolist()):
        for k in range(constraint.num_classes):
            members = [token for token in range(ALPHABET) if int(constraint.class_of(torch.tensor(token))) == k]
            winner = max(members, key=of_row.__getitem__)
            assert (best[row, k], tokens[row, k]) == (of_row[winner], winner)
            assert constraint.tokens_of(torch.tensor([k]), scores[row : row + 1]).tolist() == [winner]


@many
@given(constraints, answers, masks, st.integers(0, 2**32))
def test_search_agrees_with_brute_force_and_keeps_what_it_may(constraint, answer, known, seed):
    scores = torch.rand(LENGTH, ALPHABET, generator=torch.Generator().manual_seed(seed))
    log_probs, tokens = constraint.likeliest(scores)
    found = complete(constraint, answer[0], known[0], log_probs=log_probs, tokens=tokens)
    possible = (judge_of(constraint) & ((answer == EVERY) | ~known).all(-1)).any()
    assert (found.answer is not None) == possible and found.exhausted != possible
    if possible:
        assert constraint.is_satisfied(found.answer[None])
        kept = found.answer == answer[0]
        same = constraint.class_of(found.answer) == constraint.class_of(answer[0])
        assert kept[known[0] | ~constraint.bound | same].all()


@many
@given(constraints, st.integers(0, 2**32))
def test_propagation_is_sound_and_never_grows(constraint, seed):
    candidates = torch.rand(1, LENGTH, constraint.num_classes, generator=torch.Generator().manual_seed(seed)) < 0.7
    left = constraint.propagate(candidates)
    assert not (left & ~candidates).any()
    satisfying = EVERY[judge_of(constraint)]
    inside = satisfying[held(constraint, candidates, satisfying)]
    if len(inside):
        assert held(constraint, left, inside).all()


@many
@given(constraints, st.lists(answers, min_size=2, max_size=4), masks)
def test_rows_do_not_see_each_other(constraint, rows, known):
    many, batch = constraint.repeat(len(rows)), torch.cat(rows)
    known = known.expand_as(batch)
    alone = [constraint.allowed(row, known[:1], ALL_POSITIONS) for row in rows]
    assert torch.equal(many.allowed(batch, known, ALL_POSITIONS), torch.cat(alone))
    assert torch.equal(many.violations(batch), torch.cat([constraint.violations(row) for row in rows]))
    stacked = type(constraint).stack([constraint] * len(rows))
    assert torch.equal(stacked.violations(batch), many.violations(batch))
    assert many.num_classes == constraint.num_classes and many.classes == constraint.classes


@many
@given(constraints, st.integers(0, 2**16))
def test_check_constraint_finds_nothing(constraint, seed):
    check_constraint(constraint, examples=4, seed=seed)
