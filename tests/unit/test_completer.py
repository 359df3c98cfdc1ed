"""What the completer gives to a generation: the score of a stated pass, its bound, and whether it is proved."""

from dataclasses import replace

import pytest
import torch

from constrained_dg.constraints import Count, Permutation
from constrained_dg.errors import InputError
from constrained_dg.sampling import Completer, Diffusion, Restarts, Search, Status, named
from constrained_dg.sampling.temperature import LinearTemperature
from constrained_dg.task import Batch
from tests.fakes import Fake

LENGTH, VOCAB = 4, 7
BATCH = Batch(
    torch.zeros(2, 1, dtype=torch.int64),
    torch.zeros(2, LENGTH, dtype=torch.int64),
    torch.zeros(2, LENGTH) > 0,
    None,
    (0, 7),
)
RULE = Permutation(LENGTH, (1, 5), VOCAB) & Count([1], 1, 1, LENGTH, VOCAB, positions=[0, 1])


class Wandering(Fake):
    """Another distribution in each pass."""

    passes = 0

    def denoise(self, canvas, cache, signal=None, relations=None):
        self.passes += 1
        return torch.randn(*canvas.shape, VOCAB, generator=torch.Generator().manual_seed(self.passes))


def _scores(number):
    return torch.randn(2, LENGTH, VOCAB, generator=torch.Generator().manual_seed(number)).log_softmax(-1)


def _best(scores):
    every = torch.tensor([(a, b, c, d) for a in range(7) for b in range(7) for c in range(7) for d in range(7)])
    fits = every[RULE.is_satisfied(every)]
    return scores[:, torch.arange(LENGTH), fits].sum(-1).max(-1).values


@pytest.mark.parametrize("score, number", [("first", 1), ("last", 3)])
@pytest.mark.parametrize("restarts", [False, True])
def test_the_score_is_of_the_stated_pass(score, number, restarts):
    complete = Completer(score=score, improve=True)
    plain = Diffusion("x", temperature=LinearTemperature(1.0, 1 - 1e-6), max_passes=1 if restarts else 3)
    sampler = Restarts("x", plain, attempts=3, complete=complete) if restarts else replace(plain, complete=complete)
    model = Wandering()
    made = sampler.run(model, BATCH, RULE, 0)
    assert made.status == [Status.SOLVED] * 2 and made.proved.all()
    if model.passes == 3:  # where no attempt was accepted before
        assert torch.allclose(made.score, _best(_scores(number)), atol=1e-3)
        assert bool((made.bound >= made.score).all())


def test_without_improvement_an_accepted_answer_stays():
    sampler = Diffusion("x", max_passes=1, complete=Completer())
    rule = Count([0], 0, LENGTH, LENGTH, VOCAB)
    made = sampler.run(Wandering(), BATCH, rule, 0)
    assert made.status == [Status.SOLVED] * 2 and not made.proved.any() and (made.score == -torch.inf).all()


def test_a_search_alone_sums_nothing():
    made = Search().run(None, BATCH, RULE, 0)
    assert made.status == [Status.SOLVED] * 2 and (made.score == 0).all() and made.proved.all()


def test_bad_values_are_named():
    for words, values in {"budget is -1": {"budget": -1}, "score is 'best'": {"score": "best"}}.items():
        with pytest.raises(InputError, match=words):
            Completer(**values)
    assert named("validity").with_search().complete == Completer()
