"""Processes that share work: what happens to the others when one fails."""

from __future__ import annotations

import os
import time

import pytest

from constrained_dg import ranks


def share(place: ranks.Ranks, fault: str) -> None:
    """What rank 1 does: take part in one exchange, and fail in another."""
    place.gathered({place.rank: "first"})
    if fault == "raises":
        raise ValueError("the fault of rank 1")
    if fault == "dies":
        os._exit(9)
    place.gathered({place.rank: "second"})
    if fault == "waits":
        time.sleep(600)


@pytest.mark.parametrize("fault", ["raises", "dies"])
def test_a_process_that_fails_ends_all(fault: str) -> None:
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="process"), ranks.started(2, share, fault) as place:
        assert place.gathered({0: "first"}) == {0: "first", 1: "first"}
        place.gathered({0: "second"})
    assert time.monotonic() - begun < 120


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_of_the_first_process_ends_the_others(error: type[BaseException]) -> None:
    begun = time.monotonic()
    with pytest.raises(error), ranks.started(2, share, "waits") as place:
        place.gathered({0: "first"})
        raise error
    assert time.monotonic() - begun < 120
