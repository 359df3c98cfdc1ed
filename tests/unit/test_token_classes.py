import pytest
import torch

from constrained_dg.constraints import AllDifferent, Constraint, Pinned, TokenClasses, complete, contradictory
from constrained_dg.errors import InputError
from tests.fakes import GRIDS, VOCAB, sudoku4

DIGITS = TokenClasses.of(12, [[5, 10], [6], [7, 11, 2]])
THREE = AllDifferent(torch.tensor([[0, 1, 2]]), ["the line"], (0, 3), 3, 3)
LINE = THREE.on(torch.tensor([4, 0, 2]), DIGITS, 6)
#: A line that satisfies, with token 9 (of no class) between.
GOOD = torch.tensor([[6, 9, 11, 9, 5, 9]])


def frame(token: int = 9, length: int = 6, vocab: int = 12) -> Pinned:
    """`token` at every odd position."""
    return Pinned(torch.full((1, length), token), torch.arange(length)[None] % 2 == 1, vocab)


def test_classes_are_a_partition():
    assert DIGITS.table.tolist() == [3, 3, 2, 3, 3, 0, 1, 2, 3, 3, 0, 2]
    assert (DIGITS.size, DIGITS.named, DIGITS.vocab_size, DIGITS.first.tolist()) == (4, 3, 12, [5, 6, 2, 0])
    assert TokenClasses.of(2, [[1], [0]]).size == 2  # no token is left for `other`
    assert TokenClasses.of(12, [[10, 5], [6], [2, 7, 11]]) == DIGITS.to("cpu") != TokenClasses.of(12, [[5]])


def test_both_spellings_of_a_token_count_and_a_foreign_one_does_not():
    for twin in (5, 10):
        answer = GOOD.clone()
        answer[0, 4] = twin
        assert LINE.is_satisfied(answer).all() and LINE.explain(answer) == [[]]
    answer = torch.tensor([[6, 9, 9, 9, 5, 9]])
    assert LINE.violations(answer)[0].nonzero().flatten().tolist() == [2]
    assert LINE.explain(answer) == [["position 3 holds token 9, which the rule does not know"]]


def test_sentences_name_positions_of_the_whole_answer():
    clash = torch.tensor([[6, 9, 6, 9, 5, 9]])
    assert LINE.explain(clash) == [["the line holds 1 twice, at positions 1 and 3"]]
    pins = Pinned(torch.tensor([[0, 0, 2]]), torch.tensor([[False, False, True]]), 3)
    sentences = (THREE & pins).on(torch.tensor([4, 0, 2]), DIGITS, 6).explain(clash)[0]
    assert sentences == ["the line holds 1 twice, at positions 1 and 3", "position 3 must stay 2 but holds 1"]
    # A rule that names its places keeps its own names, as a board does.
    board = torch.arange(VOCAB, VOCAB + 16)
    whole = sudoku4().on(board, TokenClasses.of(VOCAB, [[token] for token in range(VOCAB)]), VOCAB + 16)
    answer = torch.cat([torch.zeros(1, VOCAB, dtype=torch.int64), GRIDS[:1]], 1)
    answer[0, VOCAB] = 3
    assert whole.explain(answer)[0][0] == "row 1 holds 3 twice, at columns 1 and 3"


def test_allowed_speaks_of_classes_and_leaves_the_rest_open():
    known = torch.tensor([[True, False, False, False, False, False]])
    allowed = LINE.allowed(GOOD, known, slice(0, 6))[0]
    assert allowed[0].nonzero().flatten().tolist() == [1]
    assert [allowed[at].nonzero().flatten().tolist() for at in (2, 4)] == [[0, 2], [0, 2]]
    assert allowed[1::2].all()
    assert LINE.of_tokens(allowed)[2].nonzero().flatten().tolist() == [2, 5, 7, 10, 11]
    known[0, 0] = True
    foreign = GOOD.clone()
    foreign[0, 0] = 9
    assert not LINE.allowed(foreign, known, slice(0, 1)).any() and contradictory(LINE, foreign, known).all()


def test_a_rule_with_other_may_ask_for_it():
    rule = Pinned(torch.tensor([[3]]), torch.ones(1, 1, dtype=torch.bool), 4).on(torch.tensor([0]), DIGITS, 2)
    assert rule.is_satisfied(torch.tensor([[9, 0], [5, 0], [0, 0]])).tolist() == [True, False, True]


def test_rules_on_text_join_with_given_tokens_in_few_classes():
    both = LINE & frame()
    assert (both.num_classes, both.vocab_size) == (5, 12)  # three digits, the pinned 9, and all others
    assert both.is_satisfied(GOOD).all() and not both.is_satisfied(GOOD.where(GOOD != 9, 8)).any()
    nothing = torch.zeros(1, 6, dtype=torch.bool)
    allowed = both.of_tokens(both.allowed(GOOD, nothing, slice(0, 6)))[0]
    assert [at.nonzero().flatten().tolist() for at in allowed[1::2]] == [[9]] * 3
    same = LINE & LINE
    assert same.classes == DIGITS and same.num_classes == 4


def test_classes_stay_when_rows_are_selected():
    pins = Pinned(torch.tensor([[9, 0, 0, 0, 0, 0], [0, 8, 0, 0, 0, 0]]), torch.eye(6, dtype=torch.bool)[:2], 12)
    both = LINE & pins
    assert both.num_classes == 6 and both.select(torch.tensor([1])).classes is both.classes
    assert type(both).stack([both, both]).rows == 4


def test_search_writes_tokens_and_keeps_what_already_fits():
    draft = torch.tensor([10, 3, 11, 9, 0, 9])  # the middle frame token is wrong, the last cell is none
    model = torch.nn.functional.one_hot(draft, 12).float()
    both = LINE & frame()
    by_class, tokens = both.likeliest(model)
    found = complete(both, draft, torch.zeros(6, dtype=torch.bool), log_probs=by_class, tokens=tokens)
    assert found.answer.tolist() == [10, 9, 11, 9, 6, 9]
    free = complete(LINE, draft, torch.zeros(6, dtype=torch.bool), log_probs=LINE.likeliest(model)[0])
    assert free.answer.tolist() == [10, 3, 11, 9, 6, 9]


def test_a_large_vocabulary_costs_little():
    vocab, length, rows = 262_144, 256, 2
    symbols = TokenClasses.of(vocab, [[1000 + k, 200_000 + k] for k in range(VOCAB)])
    text = frame(235_248, length, vocab)
    even = torch.arange(16) * 2
    rule = sudoku4().on(even, symbols, length) & text
    assert rule.num_classes == VOCAB + 2
    answer = torch.full((rows, length), 7)
    answer[:, even] = 1000 + GRIDS[:rows]
    answer[:, 1::2] = 235_248
    assert rule.is_satisfied(answer).all()
    known = torch.zeros_like(answer, dtype=torch.bool)
    assert rule.allowed(answer, known, slice(0, length)).numel() == rows * length * (VOCAB + 2)
    started = answer[0].clone()
    started[even[3:]] = 0
    found = complete(rule, started, known[0])
    assert rule.is_satisfied(found.answer[None]).all() and (found.answer == started)[~rule.bound].all()


class Refuses(Constraint):
    """Looks up every token it is shown: a rule that must never see a foreign one."""

    length, num_classes, rows = 3, 3, 1

    def violations(self, answer):
        return torch.tensor([False, True, False])[answer]

    def is_satisfied(self, answer):
        return ~self.violations(answer).any(-1)

    def explain(self, answer):
        return [["bad"] * int(row.any()) for row in self.violations(answer)]

    def allowed(self, answer, known, span):
        return torch.tensor([True, False, True])[answer[:, span]][..., None] | ~known[:, span, None].expand(-1, -1, 3)

    def select(self, rows):
        return self

    def to(self, device):
        return self

    @classmethod
    def stack(cls, constraints):
        return constraints[0]


def test_a_rule_never_sees_a_token_it_does_not_know():
    rule = Refuses().on(torch.tensor([0, 2, 4]), DIGITS, 6)
    answer = torch.tensor([[9, 9, 6, 9, 5, 9]])
    assert rule.violations(answer)[0].nonzero().flatten().tolist() == [0, 2]
    assert len(rule.explain(answer)[0]) == 2
    rule.allowed(answer, torch.ones_like(answer, dtype=torch.bool), slice(0, 6))


ONE = torch.ones(1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: TokenClasses.of(9, []), "empty"),
        (lambda: TokenClasses.of(9, [[1], []]), r"classes \[1\] of 2 are empty"),
        (lambda: TokenClasses.of(9, [[1, 2], [2]]), r"tokens \[2\] are in a class twice"),
        (lambda: TokenClasses.of(9, [[1], [-1, 9]]), r"tokens \[-1, 9\] are out of range"),
        (lambda: THREE.on(torch.tensor([0, 1]), DIGITS, 6), "3 positions"),
        (lambda: THREE.on(torch.tensor([0, 1, 1]), DIGITS, 6), "twice"),
        (lambda: THREE.on(torch.tensor([0, 1, 6]), DIGITS, 6), "from 0 to 6"),
        (lambda: THREE.on(torch.tensor([0, 1, 2]), TokenClasses.of(9, [[1]]), 6), "1 classes do not fit"),
        (lambda: LINE.on(torch.arange(6), TokenClasses.of(12, [[k] for k in range(12)]), 6), "already uses"),
        (lambda: LINE & frame(vocab=13), r"vocabulary \[12, 13\]"),
        (lambda: type(LINE).stack([LINE, THREE.on(torch.tensor([0, 1, 2]), DIGITS, 6)]), "cannot stack"),
        (lambda: Pinned(torch.tensor([[5]]), ONE, 4, classes=DIGITS), "shares its class"),
        (lambda: Pinned(torch.tensor([[6]]), ONE, 12, classes=DIGITS), "12 with 4 classes"),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(InputError, match=words):
        build()
