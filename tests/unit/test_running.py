"""What a search hears of the rules under it: judges that fail, and that its time is up."""

import gc

import pytest
import torch

from constrained_dg.constraints import Constraint, Predicate, complete
from constrained_dg.constraints.running import TimeIsUpError, check_time, listening, report_fault, time_limit
from constrained_dg.sampling import Search, Status
from constrained_dg.task import Batch

DRAFT, FREE = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)


class Failing(Constraint):
    """Accepts (0, 0, 0), and raises after `calls` verdicts."""

    length, num_classes = 3, 2

    def __init__(self, calls, error=MemoryError):
        self.left, self.error = [calls], error

    def is_satisfied(self, answer):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise self.error("no memory")
        return (answer == 0).all(1)


@pytest.mark.parametrize("calls", range(9))
@pytest.mark.parametrize("wrap", [lambda rule: rule, lambda rule: rule & Failing(99)])
def test_a_judge_that_raises_proves_nothing(calls, wrap):
    found = complete(wrap(Failing(calls)), DRAFT, FREE)
    assert not found.exhausted
    assert calls < 8 or found.answer.tolist() == [0, 0, 0]


@pytest.mark.parametrize("calls", [0, 3])
def test_a_function_that_raises_proves_nothing(calls):
    left = [calls]

    def rule(answer):
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError
        return False

    assert not complete(Predicate(rule, 3, 2), DRAFT, FREE).exhausted
    assert complete(Predicate(lambda answer: False, 3, 2), DRAFT, FREE).exhausted


def test_a_sampler_never_says_unsatisfiable_of_a_judge_that_raised():
    batch = Batch(torch.zeros(1, 2, dtype=torch.int64), DRAFT[None], FREE[None], None, (0, 2))
    for calls in range(2, 14):  # two for the look before the run
        made = Search().run(None, batch, Failing(calls))
        assert made.status in ([Status.UNSOLVED], [Status.SOLVED])
    assert Search().run(None, batch, Failing(99)).status == [Status.SOLVED]


class Raising(Failing):
    """Its masks raise after some calls."""

    def __init__(self, calls):
        super().__init__(999)
        self.masks = [calls]

    def allowed(self, answer, known, span):
        self.masks[0] -= 1
        if self.masks[0] < 0:
            raise RuntimeError("masks")
        return super().allowed(answer, known, span)


def test_a_rule_whose_masks_raise_is_searched_without_them():
    assert complete(Raising(2), DRAFT, FREE).answer.tolist() == [0, 0, 0]


class Endless(Failing):
    """Propagates without end."""

    def __init__(self):
        super().__init__(999)

    def propagate(self, candidates):
        while True:
            check_time()


@pytest.mark.parametrize("wrap", [lambda rule: rule, lambda rule: rule & Failing(99)])
def test_a_time_limit_reaches_into_a_rule(wrap):
    found = complete(wrap(Endless()), DRAFT, FREE, time_limit=0.01)
    assert found.answer is None and not found.exhausted


def test_no_garbage_is_collected_within_a_short_limit():
    for seconds, collects in ((None, True), (60.0, True), (0.5, False)):
        with time_limit(seconds):
            assert gc.isenabled() == collects
            with time_limit(60.0):
                assert gc.isenabled() == collects
            assert gc.isenabled() == collects
        assert gc.isenabled()


def test_limits_nest_and_end():
    with time_limit(0.0):
        with time_limit(99.0), pytest.raises(TimeIsUpError):
            check_time()
        with time_limit(None), pytest.raises(TimeIsUpError):
            check_time()
    check_time()
    report_fault("nobody listens")
    with listening() as outer, listening() as inner:
        report_fault("judge")
    assert inner == ["judge"] and outer == []
