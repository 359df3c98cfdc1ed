"""Reads: every probability beside the sum over all answers, written out one by one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import constrained_dg
from constrained_dg.constraints import (
    AllDifferent,
    Automaton,
    Count,
    Forbidden,
    Predicate,
    Regex,
    Vocabulary,
    marginals,
)
from constrained_dg.constraints.marginals import Layers
from constrained_dg.errors import InputError
from constrained_dg.sampling.template import layout
from constrained_dg.texts import Texts
from tests.fakes import Fake, FakeCache
from tests.property.examples import fewer

LENGTH, CLASSES = 4, 3


def different(positions, length):
    """All of some positions differ, and hold one of as many tokens."""
    return AllDifferent(torch.tensor([list(positions)]), ["group"], (0, len(positions)), length, len(positions))


def rules():
    draws = torch.Generator().manual_seed(5)
    table = torch.randint(-1, 4, (4, CLASSES), generator=draws)
    may = torch.rand(1, LENGTH, CLASSES, generator=draws) < 0.8
    may[..., 0] = True
    rising = Predicate(lambda answer: sorted(answer) == answer, LENGTH, CLASSES)
    texts = ["a", "b", "ab"]
    return {
        "automaton": Automaton(table, 0, [0, 1, 2, 3], LENGTH),
        "count": Count([2], 1, 2, LENGTH, CLASSES),
        "both": Count([2], 1, 2, LENGTH, CLASSES) & Forbidden([[2, 1]], LENGTH, CLASSES) & Vocabulary(may),
        "permitted": Vocabulary(may),
        "judged": rising,
        "judged and counted": rising & Count([0], 0, 2, LENGTH, CLASSES),
        "different": different([0, 2, 3], LENGTH),
        "text": Regex("(ab)*b?a?b*", texts, LENGTH),
        "nothing": Predicate(lambda answer: answer[0] < 0, LENGTH, CLASSES),
    }


def enumerated(rule, log_probs):
    """The same as `marginals`, with all answers written out."""
    answers = torch.tensor(list(itertools.product(range(rule.num_classes), repeat=rule.length)))
    answers = answers[rule.is_satisfied(answers)]
    each = torch.stack([log_probs[:, at, answers[:, at]] for at in range(rule.length)]).sum(0).exp()  # (B, N)
    found, total = torch.zeros_like(log_probs), each.sum(1)
    for at in range(rule.length):
        found[:, at].index_add_(1, answers[:, at], each / total.clamp(min=1e-300)[:, None])
    return found, total


@pytest.mark.parametrize("name", list(rules()))
@fewer
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.2]))
def test_marginals_are_those_of_all_answers_written_out(name, seed, forbidden):
    rule, draws = rules()[name], torch.Generator().manual_seed(seed)
    log_probs = (3 * torch.randn(2, LENGTH, CLASSES, generator=draws)).double().log_softmax(-1)
    log_probs = log_probs.masked_fill(torch.rand(log_probs.shape, generator=draws) < forbidden, -torch.inf)
    found, total = marginals(rule, log_probs)
    expected, sums = enumerated(rule, log_probs)
    assert torch.allclose(found, expected, atol=1e-9) and torch.allclose(total.exp(), sums, atol=1e-9)


@fewer
@given(st.integers(0, 10**6), st.sampled_from(["automaton", "judged", "both"]))
def test_the_best_labels_keep_the_rule_and_have_the_highest_sum(seed, name):
    rule, draws = rules()[name], torch.Generator().manual_seed(seed)
    values = torch.rand(2, LENGTH, CLASSES, generator=draws).double()
    may = torch.ones(LENGTH, CLASSES, dtype=torch.bool)
    best = Layers.of(rule, may).best(values)
    answers = torch.tensor(list(itertools.product(range(CLASSES), repeat=LENGTH)))
    if name == "both":  # its permitted tokens bind single positions and are no part of its automaton
        rule = Count([2], 1, 2, LENGTH, CLASSES) & Forbidden([[2, 1]], LENGTH, CLASSES)
    answers = answers[rule.is_satisfied(answers)]
    sums = values.gather(-1, best[..., None])[..., 0].sum(-1)
    every = torch.stack([values[:, at, answers[:, at]] for at in range(LENGTH)]).sum(0)
    assert rule.is_satisfied(best).all() and torch.allclose(sums, every.amax(-1))


def test_a_long_answer_does_not_underflow():
    rule = Count([0], 100, 200, 400, 2)
    found, total = marginals(rule, torch.full((1, 400, 2), -50.0))
    assert total.isfinite() and torch.allclose(found.sum(-1), torch.ones(1, 400).double())


def test_a_rule_that_is_too_large_is_refused_by_its_size():
    rule = different(range(9), 9)
    with pytest.raises(InputError, match="387,420,489 answers are too many to judge each"):
        marginals(rule, torch.zeros(1, 9, 9))
    with pytest.raises(InputError, match="log_probs have shape"):
        marginals(rule, torch.zeros(1, 9, 8))


# -- text -------------------------------------------------------------------------------------------------------------

PIECES = ["y", "n", "e", "s", "o", "yes", "no", "a:", "a", ":", "ye", ":y", "1", "2", "12", "s1", " ", "b"]
END, PAD, VOCAB = len(PIECES), len(PIECES) + 1, len(PIECES) + 2


@dataclass
class Pieces:
    """A tokenizer of a few pieces: the longest first."""

    ends: tuple[int, ...] = (END,)
    pad_id: int = PAD
    pieces: list[str] = field(default_factory=lambda: PIECES)

    def texts(self):
        return Texts([*self.pieces, None, None])

    def encode(self, text):
        tokens = []
        while text:
            piece = max((each for each in self.pieces if text.startswith(each)), key=len)
            tokens.append(self.pieces.index(piece))
            text = text[len(piece) :]
        return tokens

    def fill(self, answer, length):
        return [*answer, *[END] * (length - len(answer))]

    def chat(self, text):
        return [len(text) % VOCAB]


class Noisy(Fake):
    """Random logits, which depend on the prompt, the position and the tokens of the canvas."""

    vocab_size = VOCAB
    canvas_length = 5
    seen: list

    def prefill(self, prompt, mask=None, relations=None):
        self.seen = []
        return FakeCache(prompt[:, 0], prompt.shape[1])

    def logits(self, canvas, cache, signal):
        rows = []
        for row, tokens in zip(cache.row.tolist(), canvas.tolist(), strict=True):
            draws = torch.Generator().manual_seed(hash((row, *tokens)) % 2**31)
            rows.append(2 * torch.randn(canvas.shape[1], VOCAB, generator=draws))
        self.seen.append((canvas, torch.stack(rows)))
        return torch.stack(rows)


def every_writing(length):
    """Texts of all answers of so many tokens that end rightly, with their tokens."""
    for used in range(length + 1):
        for tokens in itertools.product(range(len(PIECES)), repeat=used):
            for tail in itertools.product((END, PAD), repeat=max(0, length - used)):
                if not tail or tail[0] == END:
                    yield "".join(PIECES[token] for token in tokens), (*tokens, *tail)


TEMPLATES = [
    (["a:", ["yes", "no"]], None),
    ([["y", "ye", "yes"]], None),
    (["a", range(1, 3), [":", ":y"]], None),
    ([["no", "yes"], [1, 2, 12]], lambda answer: sum(answer) != 1),
    ([["y", "n"], ["e", "s"], ["o", "1"]], lambda answer: sum(answer) == 2),
]


@pytest.mark.parametrize("number", range(len(TEMPLATES)))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_text_is_read_as_all_its_writings_together(number, seed):
    parts, predicate = TEMPLATES[number]
    slots = [[str(each) for each in part] for part in parts if not isinstance(part, str)]
    rule = predicate and Predicate(predicate, len(slots), max(map(len, slots)))
    model, length = Noisy(), 3
    kind = Pieces()
    reading = constrained_dg.read(
        model, ["one", "three"], parts, rule, tokenizer=kind, canvas_length=length, passes=2, seeds=seed
    )
    said = {}
    for choice in itertools.product(*(range(len(slot)) for slot in slots)):
        if rule is None or bool(rule.is_satisfied(torch.tensor([choice]))):
            numbers = iter(choice)
            text = "".join(p if isinstance(p, str) else str(list(p)[next(numbers)]) for p in parts)
            said[text] = choice
    tokens, pinned = layout(
        [[part] if isinstance(part, str) else [str(each) for each in part] for part in parts],
        [at for at, part in enumerate(parts) if not isinstance(part, str)],
        kind,
        length,
    )
    for at, (canvas, logits) in enumerate(model.seen):
        assert torch.equal(canvas[:, pinned], tokens[pinned].expand(2, -1))
        log_probs = logits.double().log_softmax(-1)
        for row in range(2):
            expected, total = torch.zeros_like(reading.by_pass[at, row]), 0.0
            for text, answer in every_writing(length):
                if text in said and all(answer[k] == tokens[k] for k in pinned.nonzero().flatten().tolist()):
                    free = [k for k in range(length) if not pinned[k]]
                    probability = float(sum((log_probs[row, k, answer[k]] for k in free), torch.zeros(())).exp())
                    total += probability
                    for slot, label in enumerate(said[text]):
                        expected[slot, label] += probability
            assert torch.allclose(reading.by_pass[at, row], expected / total, atol=1e-6)
            assert reading.log_total[at, row].exp().item() == pytest.approx(total, rel=1e-5)
    chosen = reading.answers
    assert all("".join(map(str, row)) for row in chosen) and reading.probabilities.shape[:2] == (2, len(slots))
    if rule is not None:
        assert rule.is_satisfied(reading.best).all()
    numeric = [all(isinstance(each, int) for each in part) for part in parts if not isinstance(part, str)]
    assert reading.means.isnan().all(0).tolist() == [not each for each in numeric]
    assert torch.allclose(reading.confidence, reading.probabilities.gather(-1, reading.best[..., None])[..., 0])
    assert (reading.spread >= 0).all()


# -- positions --------------------------------------------------------------------------------------------------------


def test_positions_are_read_as_all_answers_under_the_rule():
    model = Noisy()
    canvas = torch.arange(5).expand(2, -1)
    pinned = torch.tensor([[True, False, False, False, True]] * 2)
    apart = different(range(3), 3)
    slots = {1: [3, 4, 5], 2: [3, 4, 5], 3: [3, 4, 5]}
    reading = constrained_dg.read(model, [[1], [2]], slots, apart, canvas=canvas, pinned=pinned)
    log_probs = model.seen[0][1].double().log_softmax(-1)[:, 1:4, 3:6]
    expected, totals = enumerated(apart, log_probs)
    assert torch.allclose(reading.probabilities, expected, atol=1e-6)
    assert torch.allclose(reading.log_total[0].exp(), totals, atol=1e-6)
    assert apart.is_satisfied(reading.best).all()
    assert [sorted(row) for row in reading.answers] == [[3, 4, 5]] * 2
    free = constrained_dg.read(model, [[1], [2]], slots, canvas=canvas, pinned=pinned)
    assert torch.allclose(free.probabilities, log_probs.softmax(-1), atol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours():
    parts, kind = ["a:", ["yes", "no"], range(1, 3)], Pieces()
    both = constrained_dg.read(Noisy(), [[1], [2]], parts, tokenizer=kind, passes=3, seeds=[7, 8])
    alone = constrained_dg.read(Noisy(), [[2]], parts, tokenizer=kind, passes=3, seeds=[8])
    assert torch.equal(both.by_pass[:, 1:], alone.by_pass)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slots", "options", "message"),
    [
        (["a:", ["yes", "no"]], {"tokenizer": None}, "there is no tokenizer"),
        ("yes", {}, "slots are 'yes'"),
        (["a:"], {}, "there are no slots"),
        (["a:", []], {}, r"a slot has the labels \[\]"),
        (["a:", ["yes", "yes"]], {}, "a slot has the labels"),
        (["a:", ["yes", ""]], {}, "a slot has the labels"),
        (["a:", ["yes", 1]], {}, "a slot has the labels"),
        ([["y", "ye"], ["es", "s"]], {}, "two choices of labels write the same text"),
        (["a:", ["yes", "no"]], {"passes": 0}, "passes is 0"),
        (["a:", ["yes", "no"]], {"canvas_length": 1}, "needs 2 tokens, the canvas has 1"),
        (["a:", ["yes", "nonono"]], {"canvas_length": 1}, "no text of 1 tokens fits"),
        (["a:", ["yes", "zz"]], {}, None),
        ([["zz", "z"]], {}, "the tokens write no text that fits"),
        ([["yes", "no"]], {"rule": Count([0], 1, 1, 2, 2)}, "the rule is over 2 positions and 2 classes"),
        ([["yes", "no"]], {"rule": Predicate(lambda answer: answer[0] > 1, 1, 2)}, "no text|write no text"),
        ([["yes", "no"]], {"rule": Predicate(lambda answer: answer[3] > 1, 1, 2)}, "raised IndexError"),
        ([["yes", "no"]], {"canvas": [[1]], "pinned": [[True]]}, "a canvas was given with a tokenizer"),
        ({9: [1, 2]}, {"tokenizer": None, "canvas": [[1, 2]], "pinned": [[True, False]]}, r"slots stand at \[9\]"),
        ({0: [1, 2]}, {"tokenizer": None, "canvas": [[1, 2]], "pinned": [[True, False]]}, r"slots stand at \[0\]"),
        ({1: [1, 99]}, {"tokenizer": None, "canvas": [[1, 2]], "pinned": [[True, False]]}, r"the tokens \[99\]"),
        ({1: [1, 2]}, {"tokenizer": None}, "canvas or pinned is missing"),
    ],
)
def test_bad_slots_are_named_before_any_pass(slots, options, message):
    model = Noisy()
    kind = Pieces()
    # A tokenizer that cannot write one letter.
    kind.encode = lambda text: [] if "z" in text else Pieces.encode(kind, text)  # type: ignore[method-assign]
    options = {"tokenizer": kind, **options}
    if message is None:  # a label that cannot be written has no probability
        reading = constrained_dg.read(model, [[1]], slots, **options)
        assert reading.answers == [["yes"]] and reading.probabilities[0, 0].tolist() == pytest.approx([1.0, 0.0])
        return
    with pytest.raises(InputError, match=message):
        constrained_dg.read(model, [[1]], slots, **options)
    assert model.calls == 0
