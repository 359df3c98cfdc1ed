"""A search over answers that may end early, compared with a list of all answers."""

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import Constraint, Count, TokenClasses, complete
from constrained_dg.sampling import Completer, Diffusion, Search, Status
from constrained_dg.sampling.ending import Ended, after_end
from constrained_dg.task import Batch
from tests.fakes import Fake
from tests.property.examples import many

LENGTH, VOCAB = 4, 4
ALL = torch.tensor(list(product(range(VOCAB), repeat=LENGTH)))


class Listed(Constraint):
    """Accepts the listed answers; knows at every step what can still become one of them, and the likeliest of them."""

    length, num_classes = LENGTH, VOCAB

    def __init__(self, answers: torch.Tensor, bound: torch.Tensor, exact: bool) -> None:
        self.answers, self.exact, self.about = answers, exact, bound

    @property
    def bound(self):
        return self.about

    @property
    def has_most_likely(self):
        return self.exact

    def is_satisfied(self, answer):
        same = (answer[:, None] == self.answers) | ~self.about
        return same.all(-1).any(-1)

    def allowed(self, answer, known, span):
        fits = ((answer[:, None] == self.answers) | ~(known & self.about)[:, None]).all(-1)
        hot = torch.nn.functional.one_hot(self.answers, VOCAB).bool() | ~self.about[:, None]
        may = (fits[..., None, None] & hot).any(1)
        kept = torch.nn.functional.one_hot(answer, VOCAB).bool() | ~known[..., None]
        return (may & kept)[:, span]

    def most_likely(self, log_probs):
        every = ALL[self.is_satisfied(ALL)]
        if len(every) == 0:
            return torch.zeros(len(log_probs), LENGTH, dtype=torch.int64), torch.zeros(len(log_probs)) > 0
        scores = log_probs[:, torch.arange(LENGTH), every].sum(-1)
        return every[scores.argmax(-1)], scores.amax(-1) > -torch.inf


def padded(answers: torch.Tensor, eos: tuple[int, ...], pad: int, known: torch.Tensor) -> torch.Tensor:
    """Written as the words say it, position by position."""
    rows = []
    for answer in answers.tolist():
        ended = False
        for at, token in enumerate(answer):
            if ended and not known[at]:
                answer[at] = pad
            ended = ended or token in eos
        rows.append(answer)
    return torch.tensor(rows)


cases = st.tuples(
    st.integers(0, 2**32),
    st.sampled_from([(3,), (0, 3), (2, 3)]),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([0.02, 0.2, 0.6]),
    st.booleans(),
    st.booleans(),
)


@many
@given(cases)
def test_a_search_with_ends_agrees_with_all_answers(case):
    seed, eos, pad, share, exact, partly = case
    draws = torch.Generator().manual_seed(seed)
    answers = ALL[torch.rand(len(ALL), generator=draws) < share]
    bound = torch.rand(LENGTH, generator=draws) < 0.6 if partly else torch.ones(LENGTH, dtype=torch.bool)
    answers = answers if len(answers) else ALL[:1]
    rule = Listed(answers, bound, exact)
    known = torch.rand(LENGTH, generator=draws) < 0.3
    draft = ALL[int(torch.randint(len(ALL), (), generator=draws))]
    draft = padded(draft[None], eos, pad, known)[0]
    log_probs = torch.randn(LENGTH, VOCAB, generator=draws)
    ended = Ended(rule, eos, pad, draft, known)
    start, table = ended.reopened(draft, log_probs, torch.arange(VOCAB).expand(LENGTH, -1))
    found = complete(ended, start, known, log_probs=log_probs, tokens=table)
    every = padded(ALL[(draft == ALL)[:, known].all(-1)], eos, pad, known)
    possible = bool(rule.is_satisfied(every).any())
    assert (found.answer is not None) == possible and found.exhausted != possible
    if found.answer is not None:
        answer = ended.padded(found.answer[None])
        assert rule.is_satisfied(answer).all() and (answer[0] == draft)[known].all()
        assert torch.equal(answer, padded(answer, eos, pad, known))


@many
@given(st.integers(0, 2**32), st.sampled_from([(1,), (1, 3)]), st.sampled_from([0, 1, 2]), st.integers(0, 4))
def test_what_a_guarantee_returns_is_what_was_judged(seed, eos, pad, count):
    """Over tokens, and over classes in which the end shares its class with other tokens."""
    draws = torch.Generator().manual_seed(seed)
    pinned = torch.rand(3, 6, generator=draws) < 0.2
    canvas = torch.randint(0, 5, (3, 6), generator=draws)
    batch = Batch(torch.zeros(3, 2, dtype=torch.int64), canvas, pinned, None, (0, 7))
    classes = TokenClasses.of(7, [[0], [2]])
    for rule in (Count([2], count, count, 6, 7), Count([1], min(count, 1), 1, 4, 3).on(torch.arange(1, 5), classes, 6)):
        made = Diffusion(max_passes=1, complete=Completer()).run(Fake7(), batch, rule, seed, eos=eos, pad=pad)
        proved = torch.tensor([status is Status.UNSATISFIABLE for status in made.status])
        after = after_end(made.tokens, eos)[0] & ~pinned & ~proved[:, None]
        assert (made.tokens[after] == pad).all() and (made.tokens == canvas)[pinned].all()
        solved = [status is Status.SOLVED for status in made.status]
        assert solved == rule.is_satisfied(made.tokens).tolist()
        assert Status.UNSOLVED not in made.status


def test_a_draft_that_the_model_is_sure_to_end_is_reopened():
    """The model rules out every token but the end, at a position that the rule does not bind."""
    rule = Count([2], 1, 1, 3, VOCAB, positions=[2])
    draft, known = torch.tensor([0, 1, 1]), torch.zeros(3, dtype=torch.bool)
    log_probs = torch.zeros(3, VOCAB)
    log_probs[0, 1:] = -torch.inf
    ended = Ended(rule, (0,), 1, draft, known)
    start, table = ended.reopened(draft, log_probs, torch.arange(VOCAB).expand(3, -1))
    found = complete(ended, start, known, log_probs=log_probs, tokens=table)
    assert found.answer is not None and rule.is_satisfied(ended.padded(found.answer[None])).all()


@many
@given(st.integers(0, 2**32))
def test_what_search_starts_from_is_padded_before_it_is_judged(seed):
    empty = torch.zeros(4, 3, dtype=torch.int64)
    batch = Batch(empty[:, :0], empty, empty > 0, None, (0, VOCAB))
    rule = Count([2], 1, None, 3, VOCAB)
    made = Search().run(None, batch, rule, seed, eos=[0], pad=1)
    assert made.status == [Status.SOLVED] * 4 and rule.is_satisfied(made.tokens).all()
    assert torch.equal(made.padding, after_end(made.tokens, (0,))[0]) and (made.tokens[made.padding] == 1).all()


class Fake7(Fake):
    vocab_size = 7
