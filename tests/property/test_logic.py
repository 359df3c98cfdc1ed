"""Or, not and implies: every invariant of a rule, and their meaning on every answer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import (
    All,
    Constraint,
    Count,
    Either,
    Pinned,
    Predicate,
    Regex,
    Required,
    TokenClasses,
    check_constraint,
    complete,
)
from constrained_dg.errors import InputError
from tests.property.examples import fewer, many
from tests.property.test_constraints_properties import ALPHABET, EVERY, LENGTH, answers, judge_of, masks, simple


def possible(build):
    try:
        return build()
    except InputError:  # the opposite of what every answer satisfies
        return None


@st.composite
def logical(draw) -> tuple[Constraint, torch.Tensor]:
    """A rule, and which answers of EVERY should satisfy it."""
    one, other = draw(simple), draw(simple)
    a, b = judge_of(one), judge_of(other)
    ways = [
        (lambda: one | other, a | b),
        (lambda: ~one, ~a),
        (lambda: one.implies(other), ~a | b),
        (lambda: ~(one & other), ~(a & b)),
        (lambda: ~(one | other), ~(a | b)),
        (lambda: (one | other) & other, b),
        (lambda: ~~one | other, a | b),
        (lambda: (one & other) | ~other, (a & b) | ~b),
    ]
    build, satisfied = draw(st.sampled_from(ways))
    return possible(build), satisfied


@many
@given(logical(), answers, masks)
def test_they_mean_what_they_say_and_rule_out_nothing_that_satisfies(pair, answer, known):
    rule, satisfied = pair
    if rule is None:
        return
    assert torch.equal(judge_of(rule), satisfied)
    agreeing = EVERY[satisfied & ((answer == EVERY) | ~known).all(-1)]
    for may in (
        rule.allowed(answer, known, slice(0, LENGTH)),
        rule.propagate(torch.ones(1, LENGTH, rule.num_classes, dtype=torch.bool)),
    ):
        tokens = rule.class_of(agreeing)[..., None]
        assert may.expand(len(agreeing), -1, -1).gather(-1, tokens).all()
    found = complete(rule, answer[0], known[0])
    some = bool((satisfied & ((answer == EVERY) | ~(known | ~rule.bound)).all(-1)).any())
    assert (found.answer is not None) == some and found.exhausted != some


@fewer
@given(logical(), st.integers(0, 2**16))
def test_every_invariant_of_a_rule(pair, seed):
    if pair[0] is not None:
        check_constraint(pair[0], examples=4, seed=seed)


def test_the_opposite_of_an_automaton_is_exact():
    rule = ~Regex("a*b", "ab", 4)
    assert rule.strength == "exact" and rule.has_most_likely
    known = torch.tensor([[True, True, True, False]])
    assert rule.allowed(torch.zeros(1, 4, dtype=torch.int64), known, slice(3, 4)).tolist() == [[[True, False]]]
    with pytest.raises(InputError, match="every answer satisfies"):
        ~Count([0], 0, None, 4, 2)


def test_a_function_that_fails_satisfies_neither_the_rule_nor_its_opposite():
    def fails(answer: list[int]) -> bool:
        raise ValueError("no")

    rule = Predicate(fails, LENGTH, ALPHABET)
    for each in (rule, ~rule, ~(rule & Count([0], 1, 2, LENGTH, ALPHABET))):
        assert not each.is_satisfied(torch.full((1, LENGTH), 1)).any() or isinstance(each, Either)
    classes = TokenClasses.of(ALPHABET, [[k] for k in range(ALPHABET)])
    with pytest.raises(InputError, match="negate the function instead"):
        ~rule.on(torch.arange(LENGTH), classes, LENGTH)


def test_names_stand_in_reprs_and_sentences():
    rule = Count([2], 1, None, LENGTH, ALPHABET, name="column 3")
    assert repr(rule) == "<Count 'column 3': 4 positions, 4 tokens>"
    assert rule.explain(EVERY[:1]) == [["column 3: 0 positions hold 2; at least 1 must"]]
    other = Required([[1, 1]], LENGTH, ALPHABET).named("a pair")
    assert repr(rule & ~other) == f"All({rule!r}, ~<Required 'a pair': 4 positions, 4 tokens>)"
    either = (rule | other).named("this or that")
    assert repr(either) == f"Either('this or that': {rule!r}, {other!r})"
    [[sentence]] = either.explain(EVERY[:1])
    assert sentence.startswith("this or that: column 3: 0 positions hold 2; at least 1 must or: the required 1 1")
    odd = Predicate(lambda answer: sum(answer) % 2 == 1, LENGTH, ALPHABET, name="an odd sum")
    assert odd.explain(EVERY[:1]) == [["the rule an odd sum is broken"]]
    pins = Pinned(EVERY[:2], torch.ones(2, LENGTH, dtype=torch.bool), ALPHABET)
    assert repr(All([odd, pins]).select(torch.tensor([1]))).startswith("All(<Predicate 'an odd sum'")


def test_a_row_of_a_negation_is_blamed_and_explained_as_it_is_alone():
    tokens = torch.tensor([[1, 0, 2], [0, 1, 1]])
    pinned = Pinned(tokens, torch.tensor([[True, False, False], [False, True, True]]), 3)
    empty = Pinned(tokens, torch.tensor([[False, False, False], [False, True, True]]), 3)
    check_constraint(~pinned), check_constraint(~empty)
    for rule in (~pinned, ~empty, ~pinned & ~Count([2], 1, None, 3, 3)):
        assert not (rule.violations(tokens) & ~rule.bound).any()
        blame, words = rule.violations(tokens), rule.explain(tokens)
        for row in range(2):
            alone = rule.select(torch.tensor([row]))
            assert torch.equal(alone.violations(tokens[row : row + 1])[0], blame[row])
            assert alone.explain(tokens[row : row + 1])[0] == words[row] != []


def test_names_stay_with_a_negation_and_only_rules_are_joined():
    pinned = Pinned(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool), 3)
    rule = (~pinned).named("not all zero")
    assert rule.select(torch.tensor([1])).name == rule.to("cpu").name == "not all zero"
    for join in (lambda: pinned & 5, lambda: pinned | None, lambda: pinned.implies("x")):
        with pytest.raises(InputError, match="join rules with rules alone"):
            join()
