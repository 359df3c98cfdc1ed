"""`check_constraint` names the invariant that a planted fault breaks, and finds nothing in rules that are right."""

from __future__ import annotations

import pytest
import torch

from constrained_dg.constraints import (
    Automaton,
    Constraint,
    Count,
    DifferentAcross,
    Forbidden,
    Permutation,
    Pinned,
    Predicate,
    RealSum,
    Regex,
    Required,
    Sum,
    Vocabulary,
    candidates_of,
    check_constraint,
)
from constrained_dg.errors import InputError

LENGTH, ALPHABET = 4, 3


class Even(Constraint):
    """The tokens add up to an even number."""

    length, num_classes = LENGTH, ALPHABET

    def is_satisfied(self, answer):
        return answer.sum(-1) % 2 == 0


class WrongShape(Even):
    def is_satisfied(self, answer):
        return super().is_satisfied(answer)[:, None]


class WrongType(Even):
    def violations(self, answer):
        return super().violations(answer).long()


class WrongSet(Even):
    def allowed(self, answer, known, span):
        return super().allowed(answer, known, span).float()


class Unsound(Even):
    def allowed(self, answer, known, span):
        may = super().allowed(answer, known, slice(0, LENGTH)).clone()
        may[:, 2, 1] &= known[:, 2] & (answer[:, 2] == 1)
        return may[:, span]


class Growing(Even):
    """Sound: what it rules out it also rules out knowing less, but for one position that it forgets."""

    def allowed(self, answer, known, span):
        may = candidates_of(answer, known, ALPHABET).clone()
        may[:, 3] |= known[:, :3].all(-1)[:, None]
        return may[:, span]


class Peeking(Even):
    def allowed(self, answer, known, span):
        may = super().allowed(answer, known, slice(0, LENGTH)).clone()
        may[:, 0] |= (answer[:, 1] == 2)[:, None]
        return may[:, span]


class WrongWindow(Even):
    def allowed(self, answer, known, span):
        return super().allowed(answer, known, slice(0, span.stop - span.start))


class BlamesNobody(Even):
    def violations(self, answer):
        return torch.zeros_like(answer, dtype=torch.bool)


class Silent(Even):
    def explain(self, answer):
        return [[] for _ in answer]


class Neighbourly(Even):
    def is_satisfied(self, answer):
        return super().is_satisfied(answer) ^ (len(answer) > 1)


class Raising(Even):
    def is_satisfied(self, answer):
        raise ZeroDivisionError("by nothing")


class Losing(Even):
    def propagate(self, candidates):
        left = candidates.clone()
        left[:, 0, 0] = False
        return left


class Gaining(Even):
    def propagate(self, candidates):
        return candidates | True


class Second(Even):
    """Finds some satisfying answer, not the best."""

    has_most_likely = True

    def most_likely(self, log_probs):
        classes = torch.zeros(len(log_probs), LENGTH, dtype=torch.int64)
        return classes, torch.ones(len(log_probs), dtype=torch.bool)


class Writing(Even):
    def is_satisfied(self, answer):
        verdict = super().is_satisfied(answer)
        answer.zero_()
        return verdict


class OnlyTwice(Constraint):
    """Not three equal tokens in a row. What it writes is right but for one answer of 81."""

    length, num_classes = LENGTH, ALPHABET

    def is_satisfied(self, answer):
        return ~((answer[:, 1:] == answer[:, :-1]).unfold(1, 2, 1).all(-1).any(-1))

    def lower(self, into):
        for start in range(2):
            for token in range(3):
                into.forbid((at, token) for at in range(start, start + 3))


class WritesTooMuch(OnlyTwice):
    def lower(self, into):
        super().lower(into)
        into.forbid([(0, 0), (1, 1), (2, 2), (3, 1)])


class WritesTooLittle(OnlyTwice):
    def lower(self, into):
        super().lower(into)
        into.model.statements.pop()  # token 2 at the last three positions


class OppositeTooMuch(OnlyTwice):
    def lower_opposite(self, into):
        into.defer(~self)
        into.forbid([(0, 1), (1, 1), (2, 1), (3, 0)])


class CutsTooMuch(OnlyTwice):
    def lower(self, into):
        into.defer(self)

    def cut(self, answer, into):
        into.forbid((at, int(answer[at])) for at in range(2))


class BlamesTooFew(OnlyTwice):
    blame_is_reason = True

    def violations(self, answer):
        return ~self.is_satisfied(answer)[:, None] & (torch.arange(LENGTH) == 1)


class NamesNobody(OnlyTwice):
    def normal_form(self, into):
        into.clause([])


class RefutesTooMuch(OnlyTwice):
    def refuted(self, candidates, thorough):
        return thorough and bool(candidates[0, 0]) and int(candidates.sum()) < 8


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (WritesTooMuch, r"lower is unsound: \[0, 1, 2, 1\] satisfies"),
        (WritesTooLittle, r"lower is incomplete: \[[01], 2, 2, 2\] does not satisfy"),
        (OppositeTooMuch, r"lower_opposite is unsound: \[1, 1, 1, 0\] does not satisfy"),
        (CutsTooMuch, "cut is unsound: .* satisfies"),
        (BlamesTooFew, "cut is unsound: .* satisfies"),
        (NamesNobody, "normal_form is unsound"),
        (RefutesTooMuch, "refuted is unsound: .* satisfies"),
        (WrongShape, r"is_satisfied has shape \(\d+, 1\)"),
        (WrongType, r"violations has .*torch.int64; give \(B, T\)"),
        (WrongSet, r"allowed has .*torch.float32; give \(B, C, A\)"),
        (Unsound, r"allowed is unsound: .* satisfies, yet position 2 may not hold 1"),
        (Growing, "allowed grows with knowledge"),
        (Peeking, "allowed reads unknown positions"),
        (WrongWindow, "allowed of the span"),
        (BlamesNobody, "violations disagree with the judge"),
        (Silent, "explain disagrees with the judge"),
        (Neighbourly, "rows see each other"),
        (Raising, "is_satisfied raised ZeroDivisionError: by nothing"),
        (Losing, "propagate is unsound"),
        (Gaining, "propagate grows"),
        (Second, "most_likely"),
        (Writing, "is_satisfied changes what it was given"),
    ],
)
def test_a_planted_fault_is_found_and_its_invariant_named(kind, words):
    with pytest.raises(InputError, match=words):
        check_constraint(kind())


GRAPH = torch.tensor([[[0, 1], [1, 2], [-1, -1]], [[0, 3], [2, 3], [1, 3]]])
RULES = {
    "a judge alone": Even(),
    "clauses": OnlyTwice(),
    "Pinned": Pinned(torch.tensor([[0, 1, 2, 0]]), torch.tensor([[True, False, True, False]]), ALPHABET),
    "Vocabulary": Vocabulary(torch.tensor([[[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]]]).bool()),
    "graphs a row": DifferentAcross(GRAPH, (0, ALPHABET), LENGTH, ALPHABET),
    "Permutation": Permutation(LENGTH, (0, 3), ALPHABET, torch.tensor([3, 0, 1])),
    "Predicate": Predicate(lambda answer: answer[0] != answer[3], LENGTH, ALPHABET),
    "Count": Count([1, 2], 1, 2, LENGTH, ALPHABET),
    "RealSum": RealSum(torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64), 0.5, 2.25, LENGTH),
    "Sum beyond its tables": Sum(torch.tensor([0, 7_001, 9_000]), 7_000, 18_000, LENGTH),
    "Automaton": Automaton(torch.tensor([[0, 1, -1], [1, 0, 0]]), 0, [1], LENGTH, end=([2], 2)),
    "Regex": Regex("a+b?c*", "abc", LENGTH),
    "Forbidden & Required": Forbidden([[0, 0]], LENGTH, ALPHABET) & Required([[1, 2], [0]], LENGTH, ALPHABET),
    "Count & Predicate": Count([0], 0, 2, LENGTH, ALPHABET) & Predicate(lambda a: a[0] <= a[1], LENGTH, ALPHABET),
}


@pytest.mark.parametrize("name", RULES)
def test_our_own_rules_have_no_fault(name):
    check_constraint(RULES[name])


def test_rules_too_large_to_try_every_answer_of():
    check_constraint(Permutation(12, (0, 12), 12), examples=20)
    check_constraint(Regex("(abc|d)*", "abcd", 30), examples=20)
    with pytest.raises(InputError, match="allowed is unsound"):
        check_constraint(TooStrict(), examples=40, answers=(torch.arange(20) + torch.tensor([[0], [1]])) % 2)
    with pytest.raises(InputError, match="no answer that satisfies was found"):
        check_constraint(Predicate(lambda answer: answer == [1] * 30, 30, 5), examples=5)
    check_constraint(
        Predicate(lambda a: a == [1] * 30, 30, 5), examples=5, answers=torch.ones(1, 30, dtype=torch.int64)
    )


class TooStrict(Constraint):
    """No token stands twice in a row; forbids 0 at the end for no reason."""

    length, num_classes = 20, 4

    def is_satisfied(self, answer):
        return (answer.diff(dim=-1) != 0).all(-1)

    def allowed(self, answer, known, span):
        may = super().allowed(answer, known, slice(0, 20)).clone()
        may[:, 19, 0] &= known[:, 19]
        return may[:, span]


VOCABULARY_SAYS = ["position 1 holds 2; it may be 0 or 1", "position 2 holds 0; it may be 1 or 2"]
PERMUTATION_SAYS = ["the answer holds 0 twice, at positions 2 and 3", "the answer holds 1 nowhere"]
FORBIDDEN_SAYS = [f"the forbidden 0 1 stands at positions {at} and {at + 1}" for at in (1, 3)]


@pytest.mark.parametrize(
    ("rule", "answer", "sentences"),
    [
        (
            RULES["Vocabulary"],
            [2, 0, 0, 2],
            VOCABULARY_SAYS,
        ),
        (
            RULES["Permutation"],
            [0, 0, 1, 2],
            PERMUTATION_SAYS,
        ),
        (RULES["Count"], [1, 2, 1, 0], ["3 positions hold one of 1, 2, at positions 1, 2 and 3; at most 2 may"]),
        (RULES["Sum beyond its tables"], [0, 0, 0, 0], ["the sum is 0, below 7000"]),
        (
            Forbidden([[0, 1]], LENGTH, ALPHABET),
            [0, 1, 0, 1],
            FORBIDDEN_SAYS,
        ),
        (RULES["Predicate"], [1, 0, 0, 1], ["the rule <lambda> is broken"]),
        (RULES["Regex"], [0, 1, 2, 0], ["position 4 holds 'a'; the nearest answer that fits has 'c'"]),
    ],
)
def test_sentences_a_person_can_act_on(rule, answer, sentences):
    assert rule.explain(torch.tensor([answer])) == [sentences]


def test_sentences_about_graphs():
    sentences = RULES["graphs a row"].explain(torch.tensor([[1, 1, 1, 0], [2, 0, 1, 2]]))
    assert sentences == [
        ["nodes 1 and 2 are joined and both hold 1", "nodes 2 and 3 are joined and both hold 1"],
        ["nodes 1 and 4 are joined and both hold 2"],
    ]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: DifferentAcross(torch.tensor([[[1, 1]]]), (0, 3), 4, 3), "join a node to itself"),
        (lambda: DifferentAcross(torch.tensor([[[1, 9]]]), (0, 3), 4, 3), "name nodes out of range"),
        (lambda: DifferentAcross(torch.tensor([[[1, 2]]]), (0, 9), 4, 3), "do not fit the alphabet"),
        (lambda: Permutation(4, (0, 3), 3), "4 positions cannot hold a permutation of 3 tokens"),
        (lambda: Vocabulary(torch.zeros(1, 2, 3, dtype=torch.bool)), "no token is permitted at"),
        (lambda: Vocabulary(torch.zeros(2, 3)), "of torch.bool"),
        (lambda: Automaton(torch.tensor([[0, 5]]), 0, [0], 4), "lead to states 0 to 5"),
        (lambda: Automaton(torch.tensor([[0, 0]]), 3, [0], 4), r"states \[3\] are out of range"),
        (lambda: Automaton(torch.tensor([[0.0]]), 0, [0], 4), "torch.float32"),
        (lambda: Automaton(torch.tensor([[0, 0]]), 0, [0], 4, end=([7], 0)), "end is"),
        (lambda: Forbidden([[]], 4, 3), "none of them empty"),
        (lambda: Forbidden([[0], [1], [2]], 4, 3), "fits no answer of 4 tokens"),
        (lambda: Required([[0, 1, 2, 0, 1]], 4, 3), "fits no answer of 4 tokens"),
        (lambda: Required([[9]], 4, 3), r"tokens \[9\] lie outside"),
        (lambda: Count([], 0, 1, 4, 3), r"tokens \[\] do not fit"),
        (lambda: Count([0, 1, 2], 0, 2, 4, 3), "every token counts"),
        (lambda: check_constraint(Even(), examples=0), "examples is 0"),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(InputError, match=words):
        build()
