"""Automata, counts, sums and their products, against brute force over every answer of a small space."""

from itertools import product

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from constrained_dg.constraints import (
    All,
    Automaton,
    Constraint,
    Count,
    Forbidden,
    Pinned,
    Regex,
    Required,
    Sum,
    Vocabulary,
    check_constraint,
    complete,
)
from constrained_dg.constraints.product import Product
from constrained_dg.errors import InputError
from tests.property.examples import many

LENGTH, ALPHABET = 4, 3
EVERY = torch.tensor(list(product(range(ALPHABET), repeat=LENGTH)))
WHOLE = slice(0, LENGTH)


def possible(build):
    """The rule, or an example to pass over where no answer satisfies it: that is refused when it is made."""
    try:
        return build()
    except InputError:
        assume(False)


tokens = st.integers(0, ALPHABET - 1)
words = st.lists(st.lists(tokens, min_size=1, max_size=3), min_size=1, max_size=3)
positions = st.none() | st.lists(st.integers(0, LENGTH - 1), min_size=1, max_size=LENGTH, unique=True)


@st.composite
def automata(draw) -> Automaton:
    states = draw(st.integers(1, 4))
    table = draw(
        st.lists(st.lists(st.integers(-1, states - 1), min_size=3, max_size=3), min_size=states, max_size=states)
    )
    accepting = draw(st.sets(st.integers(0, states - 1), min_size=1))
    end = draw(st.sampled_from([None, ([2], 2), ([1], 2), ([1, 2], 1)]))
    return possible(
        lambda: Automaton(torch.tensor(table), draw(st.integers(0, states - 1)), list(accepting), LENGTH, end)
    )


@st.composite
def patterns(draw) -> Regex:
    letter = st.sampled_from(["a", "b", "c", "[ab]", "[^a]", "."])
    texts = st.recursive(
        letter,
        lambda inner: st.one_of(
            st.builds(lambda x: f"({x})*", inner),
            st.builds(lambda x: f"({x}){{1,2}}", inner),
            st.builds(lambda x, y: f"({x}|{y})", inner, inner),
            st.builds(lambda x, y: x + y, inner, inner),
        ),
        max_leaves=4,
    )
    return possible(lambda: Regex(draw(texts), draw(st.sampled_from(["abc", ["a", "b", None]])), LENGTH))


@st.composite
def counts(draw) -> Count:
    low = draw(st.integers(0, LENGTH))
    high = draw(st.none() | st.integers(low, LENGTH))
    chosen = list(draw(st.sets(tokens, min_size=1)))
    return possible(lambda: Count(chosen, low, high, LENGTH, ALPHABET, draw(positions)))


@st.composite
def sums(draw) -> Sum:
    row = st.lists(st.integers(-4, 4), min_size=ALPHABET, max_size=ALPHABET)
    weights = torch.tensor(draw(st.one_of(row, st.lists(row, min_size=LENGTH, max_size=LENGTH))))
    low = draw(st.integers(-8, 8))
    return possible(lambda: Sum(weights, low, low + draw(st.integers(0, 4)), LENGTH, draw(positions)))


forbidden = st.builds(lambda w: possible(lambda: Forbidden(w, LENGTH, ALPHABET)), words)
required = st.builds(lambda w: possible(lambda: Required(w, LENGTH, ALPHABET)), words)
machines = st.one_of(automata(), patterns(), counts(), sums(), forbidden, required)
rows = st.lists(tokens, min_size=LENGTH, max_size=LENGTH).map(lambda row: torch.tensor([row]))
masks = st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH).map(lambda row: torch.tensor([row]))
alone = st.one_of(
    st.builds(Pinned, rows, masks, st.just(ALPHABET)),
    st.integers(0, 2**32).map(lambda seed: Vocabulary(one_of_each(seed))),
)
in_words = st.one_of(patterns(), counts(), sums(), forbidden, required)
joined = st.tuples(machines, st.lists(st.one_of(machines, alone), min_size=1, max_size=2)).map(
    lambda p: All([p[0], *p[1]])
)
rules = st.one_of(machines, joined)


def one_of_each(seed: int) -> torch.Tensor:
    may = torch.rand(1, LENGTH, ALPHABET, generator=torch.Generator().manual_seed(seed)) < 0.6
    may[..., seed % ALPHABET] = True
    return may


def union(answers: torch.Tensor) -> torch.Tensor:
    """(N, T) -> (T, A), what some of the answers holds."""
    return (answers[..., None] == torch.arange(ALPHABET)).any(0)


def slow_judge(rule: Constraint, answer: list[int]) -> bool:
    """Each rule in plain words; patterns by Python's own `re`."""
    import re

    if isinstance(rule, All):
        return all(slow_judge(part, answer) for part in rule.parts)
    if isinstance(rule, Regex):
        symbols = ["a", "b", "c" if rule.show(2) == "'c'" else "\0"]
        text = "".join(symbols[token] for token in answer)
        return "\0" not in text and re.fullmatch(rule.pattern, text) is not None
    written = " " + " ".join(map(str, answer)) + " "
    if isinstance(rule, Forbidden | Required):
        stands = [f" {' '.join(map(str, word))} " in written for word in rule.words]
        return all(stands) if isinstance(rule, Required) else not any(stands)
    if isinstance(rule, Count):
        meant = [token for token, here in zip(answer, rule.mask.tolist(), strict=True) if here]
        return rule.low <= sum(token in rule.tokens.tolist() for token in meant) <= rule.high
    if isinstance(rule, Sum):
        return rule.low <= sum(rule.weights[at, token].item() for at, token in enumerate(answer)) <= rule.high
    return bool(rule.is_satisfied(torch.tensor([answer])))


@many
@given(automata(), st.integers(0, 2**32))
def test_compiled_loops_sweep_like_torch(rule, seed):
    machine, draws = rule.machine, torch.Generator().manual_seed(seed)
    compiled = Product(machine, [])
    candidates = torch.rand(3, LENGTH, ALPHABET, generator=draws) < 0.7
    assert torch.equal(compiled.shrink(candidates), machine.shrink(candidates))
    scores = torch.randn(LENGTH, ALPHABET, generator=draws).masked_fill(~candidates[0], -torch.inf)
    classes, exists = machine.best(scores[None])
    own, there = compiled.best(scores.numpy())
    assert there == bool(exists[0])
    if there:
        at = torch.arange(LENGTH)
        assert scores[at, classes[0]].sum() == pytest.approx(scores[at, torch.from_numpy(own)].sum().item(), abs=1e-5)


@many
@given(
    st.one_of(patterns(), counts(), sums(), forbidden, required, st.lists(counts(), min_size=2, max_size=2).map(All))
)
def test_the_judge_agrees_with_the_rule_in_plain_words(rule):
    assert rule.is_satisfied(EVERY).tolist() == [slow_judge(rule, answer) for answer in EVERY.tolist()]


@many
@given(rules, rows, masks)
def test_allowed_is_exactly_what_satisfying_answers_hold(rule, answer, known):
    good = EVERY[rule.is_satisfied(EVERY)]
    agreeing = good[((good == answer) | ~known).all(-1)]
    assert torch.equal(rule.allowed(answer, known, WHOLE)[0], union(agreeing))


@many
@given(rules, st.integers(0, 2**32))
def test_propagate_is_exact_too(rule, seed):
    candidates = torch.rand(1, LENGTH, ALPHABET, generator=torch.Generator().manual_seed(seed)) < 0.7
    good = EVERY[rule.is_satisfied(EVERY)]
    inside = good[candidates[0].expand(len(good), -1, -1).gather(-1, good[..., None]).all(1)[:, 0]]
    assert torch.equal(rule.propagate(candidates)[0], union(inside))


@many
@given(rules, st.integers(0, 2**32))
def test_most_likely_is_the_best_of_all(rule, seed):
    draws = torch.Generator().manual_seed(seed)
    log_probs = torch.randint(-8, 1, (2, LENGTH, ALPHABET), generator=draws).double()
    log_probs[torch.rand(log_probs.shape, generator=draws) < 0.2] = -torch.inf
    good = EVERY[rule.is_satisfied(EVERY)]
    classes, found = rule.most_likely(log_probs)
    for row in range(2):
        scores = log_probs[row].gather(-1, good.T).sum(0)
        best = scores.max() if len(scores) else torch.tensor(-torch.inf)
        assert bool(found[row]) == bool(best.isfinite())
        if found[row]:
            assert rule.is_satisfied(classes[row : row + 1]).all()
            assert log_probs[row].gather(-1, classes[row][:, None]).sum() == best
    if rule.has_most_likely:  # search takes it at the root: an answer or a proof without a branch
        done = complete(rule, EVERY[0], torch.zeros(LENGTH, dtype=torch.bool))
        assert done.nodes == 0 and (done.answer is not None) == bool(len(good)) and done.exhausted != bool(len(good))


@many
@given(st.lists(machines, min_size=2, max_size=3), rows, masks)
def test_rows_with_rules_of_their_own(parts, answer, known):
    joined = type(parts[0]).stack(parts)
    many_rows, many_known = (each.expand(len(parts), -1) for each in (answer, known))
    alone_ = [part.allowed(answer, known, WHOLE) for part in parts]
    assert torch.equal(joined.allowed(many_rows, many_known, WHOLE), torch.cat(alone_))
    assert torch.equal(joined.violations(many_rows), torch.cat([part.violations(answer) for part in parts]))
    assert joined.explain(many_rows) == [part.explain(answer)[0] for part in parts]
    back = joined.select(torch.tensor([len(parts) - 1, 0]))
    assert torch.equal(
        back.is_satisfied(many_rows[:2]), torch.cat([parts[-1].is_satisfied(answer), parts[0].is_satisfied(answer)])
    )


@many
@given(machines, st.integers(0, 2**16))
def test_every_invariant_of_a_constraint(rule, seed):
    check_constraint(rule, examples=4, seed=seed)
