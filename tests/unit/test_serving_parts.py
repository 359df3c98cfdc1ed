"""The parts of the server that need no connection."""

from __future__ import annotations

import threading
import time

import pytest

from constrained_dg.constraints.running import TimeIsUpError
from constrained_dg.errors import InputError

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.sampling.base import Status
from constrained_dg.serving.jobs import Job, Queue, Result
from constrained_dg.serving.metrics import Metrics
from constrained_dg.serving.refusals import Refused
from constrained_dg.serving.settings import Settings
from constrained_dg.serving.streams import Deltas, event
from constrained_dg.serving.texts import cut


@pytest.mark.parametrize(
    "host, name, known",
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "[::1]", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "10.0.0.1", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "", False),
        ("localhost", "127.0.0.1", True),
        ("localhost", "10.0.0.1", False),
        ("::1", "[::1]", True),
        ("::1", "localhost", True),
        ("0.0.0.0", "10.0.0.1", True),
        ("0.0.0.0", "localhost", True),
        ("0.0.0.0", "evil.example", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "localhost", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("models.example", "models.example", True),
        ("models.example", "10.0.0.1", False),
    ],
)
def test_the_names_that_a_server_goes_by(host: str, name: str, known: bool) -> None:
    assert Settings(host=host).knows(name) == known
    assert Settings(host=host, hosts=("evil.example",)).knows("evil.example")


@pytest.mark.parametrize(
    "values, said",
    [
        ({"queue": 0}, "queue is 0; give an integer from 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"time_limit": 0}, "time_limit is 0; give seconds"),
        ({"max_body": -1}, "max_body is -1"),
        ({"host": ""}, "host is ''"),
        ({"hosts": (3,)}, "hosts is"),
        ({"key": "short"}, "CONSTRAINED_DG_KEY is not a key; give at least 16"),
        ({"key": "key\nkey\nkey\nkey\nkey"}, "is not a key"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Settings(**values)


@given(st.text("abc\ufffd"), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3), st.data())
def test_the_pieces_of_a_text_join_to_what_stands_before_the_first_stop(text: str, stops: list[str], data) -> None:
    deltas, places = Deltas(stops), sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [deltas.next(text[:place], last=False) for place in places] + [deltas.next(text, last=True)]
    assert "".join(pieces) == cut(text, stops)
    first = min((text.index(stop) for stop in stops if stop in text), default=len(text))
    assert cut(text, stops) == text[:first]


@given(st.text())
def test_no_text_ends_the_line_of_an_event(text: str) -> None:
    lines = event({"text": text}, "draft").split("\n")
    assert len(lines) == 4 and lines[0] == "event: draft" and lines[2:] == ["", ""] and lines[1].isascii()


class Kind:
    """Notes its batches; the first waits until it may go on. Jobs whose work is "bad" fail."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.going, self.left = threading.Event(), []

    def answer(self, jobs, leave, time_limit):
        self.batches.append([job.work for job in jobs])
        assert time_limit > 0
        self.going.wait(10)
        self.left.append(leave())
        if any(job.work == "bad" for job in jobs):
            raise InputError("it is bad")
        if any(job.work == "slow" for job in jobs):
            raise TimeIsUpError
        return [Result({"work": job.work}, Status.SOLVED if job.work == "solved" else None, 2, 3) for job in jobs]


def job(kind: Kind, work: object, heard: list, key: str = "a", seconds: float = 10.0) -> Job:
    return Job(kind, (key,), work, 0, lambda what: heard.append((work, what)), time.monotonic() + seconds)


@pytest.fixture
def queue():
    made = Queue(Settings(batch_size=3, queue=5, time_limit=10), Metrics())
    yield made
    made.close()


def wait_for(heard: list, count: int) -> None:
    end = time.monotonic() + 10
    while len(heard) < count and time.monotonic() < end:
        time.sleep(0.002)
    assert len(heard) == count


def test_jobs_of_one_key_share_batches_in_their_order_and_failures_stay_alone(queue: Queue) -> None:
    kind, heard = Kind(), []
    queue.put([job(kind, 0, heard)])
    while not kind.batches:
        time.sleep(0.002)
    queue.put([job(kind, work, heard, key) for work, key in [(1, "a"), (2, "b"), ("bad", "a"), (4, "a"), (5, "a")]])
    kind.going.set()
    wait_for(heard, 6)
    assert kind.batches == [[0], [1, "bad", 4], [1], ["bad", 4], ["bad"], [4], [2], [5]]
    said = {work: what for work, what in heard}
    assert isinstance(said.pop("bad"), Refused) and [what.values["work"] for what in said.values()] == list(said)
    assert queue.metrics.registry.get_sample_value("constrained_dg_passes_total") == 2 * 5


def test_time_that_is_up_is_up_for_a_whole_batch(queue: Queue) -> None:
    kind, heard = Kind(), []
    queue.put([job(kind, 0, heard)])
    while not kind.batches:
        time.sleep(0.002)
    queue.put([job(kind, work, heard) for work in (1, "slow", 3)])
    kind.going.set()
    wait_for(heard, 4)
    assert kind.batches == [[0], [1, "slow", 3]] and [what.status for _, what in heard[1:]] == [408] * 3


def test_a_request_that_is_alone_waits_for_nobody(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("constrained_dg.serving.jobs.QUIET", 0.5)
    monkeypatch.setattr("constrained_dg.serving.jobs.MOST", 0.5)
    kind, heard, seconds = Kind(), [], []
    kind.going.set()
    for count, others in enumerate((0, 1), 1):
        queue.metrics.open, begun = 1 + others, time.monotonic()
        queue.put([job(kind, count, heard)])
        wait_for(heard, count)
        seconds.append(time.monotonic() - begun)
    assert seconds[0] < 0.5 <= seconds[1]


def test_a_full_queue_takes_all_rows_of_a_request_or_none(queue: Queue) -> None:
    kind, heard = Kind(), []
    queue.put([job(kind, 0, heard)])
    while not kind.batches:
        time.sleep(0.002)
    queue.put([job(kind, work, heard) for work in (1, 2, 3, 4)])
    with pytest.raises(Refused, match="4 rows wait, and the queue holds 5") as refused:
        queue.put([job(kind, work, heard) for work in (5, 6)])
    assert refused.value.status == 429
    queue.put([job(kind, 7, heard)])
    kind.going.set()
    wait_for(heard, 6)
    assert sorted(work for work, _ in heard) == [0, 1, 2, 3, 4, 7]


def test_rows_whose_client_has_gone_leave_the_queue_and_the_batch(queue: Queue) -> None:
    kind, heard = Kind(), []
    rows = [job(kind, work, heard) for work in range(3)]
    queue.put(rows)
    while not kind.batches:
        time.sleep(0.002)
    waiting = [job(kind, work, heard) for work in (7, 8)]
    queue.put(waiting)
    queue.give_up([rows[1], waiting[0]])
    kind.going.set()
    wait_for(heard, 4)
    assert kind.batches == [[0, 1, 2], [8]] and kind.left[0] == [1]


def test_rows_that_are_late_are_told_so_unless_they_are_solved(queue: Queue) -> None:
    kind, heard = Kind(), []
    kind.going.set()
    queue.put([job(kind, work, heard, seconds=-1) for work in ("late", "solved")])
    wait_for(heard, 2)
    said = dict(heard)
    assert kind.left == [[0, 1]] and said["late"].status == 408 and said["solved"].values == {"work": "solved"}


def test_a_closed_queue_refuses_what_waits_and_gives_up_what_runs() -> None:
    queue, kind, heard = Queue(Settings(batch_size=1), Metrics()), Kind(), []
    queue.put([job(kind, work, heard) for work in (0, 1)])
    while not kind.batches:
        time.sleep(0.002)
    threading.Timer(0.05, kind.going.set).start()
    queue.close()
    assert kind.left == [[0]] and {work: what.status for work, what in heard} == {0: 503, 1: 503}
    with pytest.raises(Refused, match="the server ends"):
        queue.put([job(kind, 2, heard)])
