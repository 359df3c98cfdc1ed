"""Long work that nobody waits for any more ends: building a rule hears a flag, and Ctrl-C."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from constrained_dg.constraints import Json, Regex
from constrained_dg.constraints.language.chain_loops import chains
from constrained_dg.constraints.language.dfa_loops import pairs
from constrained_dg.constraints.language.minimal_loops import smallest
from constrained_dg.constraints.language.pattern import matches
from constrained_dg.constraints.running import StoppedError, check_time, interruptible, once, run_loop, stopped_by
from tests.slow_rules import END, QUICK, SLOW, TEXTS, build

#: Seconds in which a build must have ended; a machine that does other work too is slow.
SOON = 3.0


@pytest.fixture
def compiled() -> None:
    """Compiling what a build uses takes longer than the tests wait."""
    build(QUICK)


def later(what, seconds: float = 0.5) -> list[float]:
    """When it was called, in some seconds."""
    called: list[float] = []

    def call() -> None:
        called.append(time.monotonic())
        what()

    threading.Timer(seconds, call).start()
    return called


@pytest.mark.usefixtures("compiled")
def test_a_flag_stops_a_build_in_the_middle_of_a_compiled_loop():
    stop, heard = np.zeros(1, np.bool_), []

    def work() -> None:
        with stopped_by(stop):
            try:
                build(SLOW)
            except StoppedError:
                heard.append(time.monotonic())

    thread = threading.Thread(target=work)
    called = later(lambda: stop.fill(True), 3.0)
    thread.start()
    thread.join()
    assert heard and 0 <= heard[0] - called[0] < SOON


@pytest.mark.usefixtures("compiled")
def test_ctrl_c_ends_a_build_and_its_thread():
    threads = set(threading.enumerate())
    called = later(lambda: os.kill(os.getpid(), signal.SIGINT), 3.0)
    with pytest.raises(KeyboardInterrupt):
        build(SLOW)
    assert 0 <= time.monotonic() - called[0] < SOON
    end = time.monotonic() + SOON
    while any(thread.daemon for thread in set(threading.enumerate()) - threads) and time.monotonic() < end:
        time.sleep(0.01)
    assert not [thread for thread in set(threading.enumerate()) - threads if thread.daemon]


def test_other_threads_go_on_while_a_compiled_loop_runs():
    """A loop that kept the interpreter for itself would hold up a server's every request."""
    build(QUICK)
    stop, longest = np.zeros(1, np.bool_), 0.0

    def work() -> None:
        with stopped_by(stop), pytest.raises(StoppedError):
            build(SLOW)

    thread = threading.Thread(target=work)
    thread.start()
    end = time.monotonic() + 3
    while (before := time.monotonic()) < end:
        time.sleep(0.001)
        longest = max(longest, time.monotonic() - before)
    stop[0] = True
    thread.join()
    assert longest < 1


def test_each_loop_that_a_flag_stops_does_less():
    stop, go = np.ones(1, np.bool_), np.zeros(1, np.bool_)
    dfa, anything = matches(QUICK), (matches(".*").table, matches(".*").group)
    label, tail = np.nonzero(dfa.table.T >= 0)
    moves = (len(dfa.table), tail, label, dfa.table[tail, label].astype(np.int64), dfa.accepting)
    for of_all, of_some in (
        (pairs(dfa.table, dfa.table, False, 99, go)[2], pairs(dfa.table, dfa.table, False, 99, stop)[2]),
        (smallest(*moves, go).max(), smallest(*moves, stop).max()),
        ((chains(*anything, go)[0] >= 0).sum(), (chains(*anything, stop)[0] >= 0).sum()),
    ):
        assert of_some < of_all


@pytest.mark.parametrize("make", [lambda: matches("a*bc"), lambda: matches("a") & matches("."), lambda: build("a*bcd")])
def test_what_is_stopped_raises_and_is_made_anew_later(make):
    with stopped_by(np.ones(1, np.bool_)), pytest.raises(StoppedError):
        interruptible(make)
    assert make() is not None


@pytest.mark.parametrize(
    "rule",
    [
        lambda: Regex("[ab]" * 30_000),
        lambda: Regex("(?:" + "|".join(f"w{number}" for number in range(15_000)) + ")*"),
        lambda: Json({"enum": [*range(100_000)]}),
        lambda: Json({"properties": {f"p{n}": {"type": "integer"} for n in range(1500)}}),
        lambda: Json({"not": {"allOf": [{"anyOf": [{"minimum": n}, {"maximum": -n}]} for n in range(60)]}}),
    ],
)
def test_builds_in_plain_python_stop_too(rule):
    stop, heard = np.zeros(1, np.bool_), []

    def work() -> None:
        with stopped_by(stop):
            try:
                rule().over(TEXTS, 64, END)
            except StoppedError:
                heard.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(0.5)
    stop[0], called = True, time.monotonic()
    thread.join()
    assert heard and heard[0] - called < SOON


def test_one_thread_reads_a_schema_while_another_one_does():
    """`functools.cached_property` has one lock for all instances until Python 3.12."""
    inside, go, counts = threading.Event(), threading.Event(), []

    class Rule:
        def __init__(self, slow: bool) -> None:
            self.slow = slow

        @once
        def compiled(self) -> int:
            if self.slow:
                inside.set()
                go.wait(20)
            counts.append(1)
            return len(counts)

    thread = threading.Thread(target=lambda: Rule(True).compiled)
    thread.start()
    assert inside.wait(20)
    quick = Rule(False)
    assert (quick.compiled, quick.compiled) == (1, 1)
    go.set()
    thread.join()
    assert len(counts) == 2 and isinstance(vars(Json)["compiled"], once)


def test_flags_nest_and_end():
    with stopped_by(np.ones(1, np.bool_)):
        with stopped_by(np.zeros(1, np.bool_)):
            check_time()
        with pytest.raises(StoppedError):
            run_loop(lambda stop: stop)
    check_time()


def test_what_the_other_thread_raises_and_returns_comes_back():
    assert interruptible(lambda: threading.current_thread() is threading.main_thread()) is False
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)
