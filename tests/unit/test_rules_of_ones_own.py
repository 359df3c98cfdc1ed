"""What a sampler makes of rules that users wrote, good and bad."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import pytest
import torch

from constrained_dg.constraints import Constraint, Count, Pinned, Predicate, Regex, Sum, check_constraint
from constrained_dg.errors import InputError
from constrained_dg.sampling import Completer, Diffusion, Guide, Status, Violations, generate
from tests.fakes import VOCAB, Fake

VALIDITY = Diffusion("validity", Guide(True), renoise=Violations(), judge_stop=True, max_passes=4)
PROMPT = torch.zeros(2, 3, dtype=torch.int64)
LENGTH = 6


def ask(rule: Constraint, **options):
    return generate(Fake(), PROMPT, rule, canvas_length=LENGTH, seeds=1, **options)


class Ascending(Constraint):
    """Tokens never fall."""

    length, num_classes = LENGTH, VOCAB

    def is_satisfied(self, answer):
        return (answer.diff(dim=-1) >= 0).all(-1)


def test_a_judge_alone_is_a_rule():
    check_constraint(Ascending())
    assert Ascending().explain(torch.tensor([[1, 0, 0, 0, 0, 0]])) == [["broken: Tokens never fall."]]
    answer = ask(Ascending(), guarantee=True, sampler=replace(VALIDITY, complete=Completer()))
    assert answer.status == [Status.SOLVED] * 2 and Ascending().is_satisfied(answer.tokens).all()


def test_a_function_is_a_rule():
    rule = Predicate(lambda answer: sum(answer) == 7, LENGTH, VOCAB)
    answer = ask(rule, guarantee=True, sampler=replace(VALIDITY, complete=Completer()))
    assert answer.status == [Status.SOLVED] * 2 and (answer.tokens.sum(-1) == 7).all()


def divides(answer: list[int]) -> bool:
    return 6 // (answer[0] - answer[0]) == 1


def test_a_judge_that_raises_is_refused_before_the_first_pass():
    model = Fake()
    with pytest.raises(InputError, match=r"divides raised ZeroDivisionError: .* on the answer"):
        generate(model, PROMPT, Predicate(divides, LENGTH, VOCAB), canvas_length=LENGTH)
    assert model.calls == 0


@dataclass(eq=False)
class RaisesLater(Constraint):
    """Raises from the third call on."""

    length: int = LENGTH
    num_classes: int = VOCAB
    calls: int = 0

    def is_satisfied(self, answer):
        self.calls += 1
        if self.calls > 2:
            raise RuntimeError("out of luck")
        return torch.zeros(len(answer), dtype=torch.bool)


def test_a_judge_that_raises_later_is_a_status_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        answer = ask(RaisesLater(), sampler=VALIDITY)
    assert (
        answer.status == [Status.UNSOLVED] * 2
        and "RaisesLater.is_satisfied raised RuntimeError: out of luck" in caplog.text
    )


class Wrong(Ascending):
    """Allows too little of the wrong type."""

    def allowed(self, answer, known, span):
        return torch.zeros(len(answer), 2, VOCAB)


def test_a_rule_of_the_wrong_shape_is_refused_before_the_first_pass():
    with pytest.raises(InputError, match=r"allowed has shape \(2, 2, 7\) and type torch.float32"):
        ask(Wrong())


class Nothing(Ascending):
    """Excludes everything at the second position."""

    def allowed(self, answer, known, span):
        may = super().allowed(answer, known, slice(0, LENGTH)).clone()
        may[:, 1] = False
        return may[:, span]


def test_an_empty_set_is_a_proof_before_any_pass():
    answer = ask(Nothing())
    assert answer.status == [Status.UNSATISFIABLE] * 2 and not answer.passes.any()


def test_two_rules_that_contradict_each_other_are_unsatisfiable_before_any_pass():
    rule = Count([1], 4, None, LENGTH, VOCAB) & Count([2], 3, None, LENGTH, VOCAB)
    answer = ask(rule, guarantee=True)
    assert answer.status == [Status.UNSATISFIABLE] * 2 and not answer.passes.any()
    assert not answer.log_probability.isnan().any()
    pinned = torch.tensor([[True] * 2 + [False] * 4]).repeat(2, 1)
    pins = Pinned(torch.tensor([[1, 1, 0, 0, 0, 0]]), pinned[:1], VOCAB)
    assert ask(pins & Count([1], 0, 1, LENGTH, VOCAB)).status == [Status.UNSATISFIABLE] * 2


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Regex("ab", "abcdefg", LENGTH), "'ab' fits no answer of 6 tokens"),
        (lambda: Regex("(a", "abcdefg", LENGTH), r"'\(a' is not a valid regular expression"),
        (lambda: Regex("a{2}", ["ab"], LENGTH), "the tokens write no text that fits"),
        (lambda: Count([1], 3, 2, LENGTH, VOCAB), "low 3 lies above high 2"),
        (lambda: Count([1], 7, None, LENGTH, VOCAB), "6 positions cannot hold at least 7"),
        (lambda: Count([9], 0, 1, LENGTH, VOCAB), r"tokens \[9\] do not fit"),
        (lambda: Count([1], 0, 1, LENGTH, VOCAB, positions=[0, 6]), r"positions \[6\] are out of range"),
        (lambda: Sum(torch.arange(VOCAB), 99, 100, LENGTH), "sums run from 0 to 36"),
        (lambda: Sum(torch.arange(VOCAB).float(), 1, 2, LENGTH), "see RealSum for real numbers"),
        (lambda: Sum(torch.tensor([0, 10]), 3, 7, LENGTH), "the weights leave gaps there"),
    ],
)
def test_what_no_answer_satisfies_is_named_when_it_is_made(build, words):
    with pytest.raises(InputError, match=words):
        build()


def test_a_pattern_over_a_vocabulary_of_262144_tokens_and_several_canvases():
    """Text in JSON's manner: the alphabet stays small, ends are judged, and rows end with the proof or the answer."""
    draws = torch.Generator().manual_seed(0)
    letters = 'abcdef 0123456789{}":,'
    picks = torch.randint(len(letters), (262_140, 3), generator=draws).tolist()
    texts = ["".join(letters[k] for k in pick[: 1 + at % 3]) for at, pick in enumerate(picks)] + [None] * 4
    rule = Regex('\\{"a":[0-9]{1,3}(,"b":[0-9]+)?\\}', texts, 16, end=([262_140], 262_141))
    assert rule.vocab_size == 262_144 and rule.num_classes < 3000

    class Text(Fake):
        vocab_size = 262_144
        canvas_length = 8

        def logits(self, canvas, cache, signal):
            return torch.zeros(*canvas.shape, self.vocab_size)

        def self_condition(self, probabilities, mask=None):
            return None

    options = {"eos": 262_140, "pad": 262_141, "guarantee": True, "max_passes": 2}
    answer = generate(Text(), PROMPT[:1], rule, seeds=0, **options)
    assert answer.status == [Status.SOLVED]
    written = "".join(texts[token] or "" for token in answer.tokens[0].tolist())
    import re

    assert re.fullmatch('\\{"a":[0-9]{1,3}(,"b":[0-9]+)?\\}', written)


def test_what_was_committed_counts_in_the_next_canvas():
    rule = Count([1], 3, 3, 8, VOCAB)
    answer = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]])
    known = torch.arange(8).expand(2, -1) < 4
    may = rule.allowed(answer, known, slice(4, 8))
    assert not may[0, :, 1].any() and may[1, :, 1].all() and may[1, :, 0].all()
    assert rule.allowed(answer[1:], torch.arange(8)[None] < 6, slice(6, 8))[0].nonzero().tolist() == [[0, 1], [1, 1]]
