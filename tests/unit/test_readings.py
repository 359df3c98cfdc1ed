"""Who waits for whom while requests are read, and which builds of rules go on."""

from __future__ import annotations

import asyncio
import time

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from constrained_dg.constraints.running import StoppedError, check_time
from constrained_dg.errors import InputError
from constrained_dg.serving import readings
from constrained_dg.serving.readings import Readings, Rules
from constrained_dg.serving.refusals import Refused


class Endless:
    """Reads until it is stopped; how often it began and was stopped is counted."""

    def __init__(self) -> None:
        self.begun = self.stopped = 0

    def __call__(self) -> None:
        self.begun += 1
        try:
            while True:
                check_time()
                time.sleep(0.001)
        except StoppedError:
            self.stopped += 1
            raise


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "BRIEF", 0.05)


async def until(true) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.002)


def test_one_that_takes_long_makes_room_and_stops_when_its_caller_goes() -> None:
    async def scene() -> None:
        reads, endless = Readings(9), Endless()
        long = asyncio.create_task(reads.run(endless))
        await until(lambda: endless.begun)
        assert await asyncio.wait_for(reads.run(lambda: 3), 5) == 3
        assert not long.done() and reads.long == 1
        long.cancel()
        await until(lambda: endless.stopped and reads.long == 0 and reads.open == 0)
        with pytest.raises(asyncio.CancelledError):
            await long

    asyncio.run(scene())


def test_few_take_long_at_a_time_and_the_next_is_told_so_and_stopped() -> None:
    async def scene() -> None:
        reads, endless, more = Readings(9), Endless(), Endless()
        long = [asyncio.create_task(reads.run(endless)) for _ in range(readings.LONG)]
        await until(lambda: reads.long == readings.LONG)
        with pytest.raises(Refused, match="with rules that take long are being read; ask again later") as refused:
            await reads.run(more)
        assert refused.value.status == 429
        await until(lambda: more.stopped)
        assert await reads.run(lambda: 3) == 3 and not endless.stopped
        for each in long:
            each.cancel()
        await until(lambda: endless.stopped == readings.LONG)

    asyncio.run(scene())


def test_one_whose_caller_goes_while_it_waits_never_begins() -> None:
    async def scene() -> None:
        reads, first, second = Readings(2), Endless(), Endless()
        tasks = [asyncio.create_task(reads.run(each)) for each in (first, second)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="2 requests are being read"):
            await reads.run(lambda: 3)
        tasks[1].cancel()
        await until(lambda: reads.long == 1)
        assert await reads.run(lambda: 3) == 3
        tasks[0].cancel()
        await until(lambda: first.stopped)
        assert second.begun == 0

    asyncio.run(scene())


def test_what_a_reader_raises_comes_back() -> None:
    async def scene() -> None:
        with pytest.raises(ZeroDivisionError):
            await Readings(9).run(lambda: 1 / 0)

    asyncio.run(scene())


def test_a_rule_is_built_once_for_all_that_wait_and_kept() -> None:
    async def scene() -> None:
        rules, made = Rules(Readings(9), 2), []

        def build() -> int:
            time.sleep(0.02)
            made.append(1)
            return len(made)

        assert await asyncio.gather(*(rules.get("a", build) for _ in range(3))) == [1, 1, 1]
        assert await rules.get("a", build) == 1
        assert await rules.get("b", build) == 2
        assert await rules.get("a", build) == 1
        assert await rules.get("c", build) == 3  # "b" was asked for longest ago
        assert await rules.get("a", build) == 1 and await rules.get("b", build) == 4
        assert not rules._building

    asyncio.run(scene())


def test_a_build_goes_on_while_anyone_waits_and_is_begun_anew_after_that() -> None:
    async def scene() -> None:
        rules, endless = Rules(Readings(9), 2), Endless()
        waiting = [asyncio.create_task(rules.get("a", endless)) for _ in range(3)]
        await until(lambda: endless.begun)
        waiting[0].cancel()
        waiting[1].cancel()
        await asyncio.sleep(0.1)
        assert endless.begun == 1 and not endless.stopped
        waiting[2].cancel()
        await asyncio.sleep(0)
        assert await rules.get("a", lambda: 3) == 3
        await until(lambda: endless.stopped)
        assert endless.begun == 1

    asyncio.run(scene())


def test_all_that_wait_hear_why_there_is_no_rule_and_the_next_tries_again() -> None:
    async def scene() -> None:
        rules, tried = Rules(Readings(9), 2), []

        def build() -> int:
            tried.append(1)
            raise InputError("it is none")

        heard = await asyncio.gather(*(rules.get("a", build) for _ in range(3)), return_exceptions=True)
        assert [str(each) for each in heard] == ["it is none"] * 3 and len(tried) == 1
        with pytest.raises(InputError):
            await rules.get("a", build)
        assert len(tried) == 2

    asyncio.run(scene())
