import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.errors import InputError
from constrained_dg.intervals import mean_interval, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), table I: the worked examples of the score method without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(case):
    successes, n = case
    for bound in wilson(successes, n):
        assert 0 <= bound <= 1
        assert (successes / n - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / n, abs=1e-7)
    low, high = wilson(successes, n)
    assert low <= successes / n <= high
    assert (1 - high, 1 - low) == pytest.approx(wilson(n - successes, n), abs=1e-12)


@pytest.mark.parametrize("case", [(1, 0), (-1, 3), (4, 3)])
def test_wilson_refuses(case):
    with pytest.raises(InputError, match=f"{case[0]} of {case[1]}"):
        wilson(*case)


def test_mean_interval():
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 1.959964 * math.sqrt(5 / 3) / 2
    assert (low, high) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-6)
    assert mean_interval([0, 0, 0, 9])[0] == 0.0
    with pytest.raises(InputError, match="1 values"):
        mean_interval([3.0])
