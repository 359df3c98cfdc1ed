"""Threads for what reads a request: problems, prompts and rules, some of which take seconds or minutes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import numpy as np
import torch

from constrained_dg.constraints import Json
from constrained_dg.constraints.running import stopped_by
from constrained_dg.serving.refusals import Refused

#: Seconds after which a reading makes room for the next one, and how many readings may take longer at a time.
BRIEF, LONG = 1.0, 2

Read = TypeVar("Read")
Rule = TypeVar("Rule")


class Readings:
    """Reads one request after the other; what takes long makes room, so that nobody waits for it.

    Args:
        most: requests that are read or wait for it, at most.
    """

    def __init__(self, most: int) -> None:
        self.most, self.open, self.long = most, 0, 0
        self._place = asyncio.Semaphore(1)

    async def run(self, read: Callable[[], Read]) -> Read:
        """What a reader returns, in a thread of its own. Where the caller is cancelled the thread stops.

        Raises:
            Refused: too many requests are being read, or too many that take long.
        """
        if self.open >= self.most:
            raise Refused(429, f"{self.open} requests are being read; ask again later", code="queue_full")
        self.open += 1
        stop = np.zeros(1, np.bool_)
        try:
            async with self._place:
                reading = self._begin(read, stop)
                await asyncio.wait([reading], timeout=BRIEF)
            if not reading.done():
                if self.long >= LONG:
                    message = f"{LONG} requests with rules that take long are being read; ask again later"
                    raise Refused(429, message, code="queue_full")
                self.long += 1
                reading.add_done_callback(self._one_less)
            return await asyncio.shield(reading)
        finally:
            stop[0] = True
            self.open -= 1

    def _begin(self, read: Callable[[], Read], stop: np.ndarray) -> asyncio.Future[Read]:
        def stoppable() -> Read:
            with stopped_by(stop):
                return read()

        thread = ThreadPoolExecutor(1, "reading")
        reading = asyncio.get_running_loop().run_in_executor(thread, stoppable)
        reading.add_done_callback(lambda it: it.cancelled() or it.exception())  # nobody may be left to hear it
        thread.shutdown(wait=False)
        return reading

    def _one_less(self, _: object) -> None:
        self.long -= 1


@dataclass
class _Building(Generic[Rule]):
    """A rule that is being built, and how many wait for it."""

    task: asyncio.Task[Rule]
    waiting: int = 0


class Rules(Generic[Rule]):
    """Keeps the rules that were asked for last, and builds each once for all requests that wait for it.

    Args:
        most: rules that are kept.
    """

    def __init__(self, readings: Readings, most: int) -> None:
        self.readings, self.most = readings, most
        self._kept: OrderedDict[Hashable, Rule] = OrderedDict()
        self._building: dict[Hashable, _Building[Rule]] = {}

    async def get(self, key: Hashable, build: Callable[[], Rule]) -> Rule:
        """The rule of a key. Building it stops when the last caller that waits for it is cancelled.

        Raises:
            Refused: see `Readings.run`; and whatever `build` raises.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        building = self._building.get(key)
        if building is None:
            building = self._building[key] = _Building(asyncio.create_task(self._built(key, build)))
        building.waiting += 1
        try:
            return await asyncio.shield(building.task)
        finally:
            building.waiting -= 1
            if not building.waiting:
                building.task.cancel()
                del self._building[key]

    async def _built(self, key: Hashable, build: Callable[[], Rule]) -> Rule:
        rule = self._kept[key] = await self.readings.run(build)
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return rule


@cache
def compile_rules() -> None:
    """Build a rule on text and sweep it once, before a server listens.

    The first time on a machine the loops are compiled, which takes up to a minute: no request should wait for that.
    """
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "maxLength": 5}}}}
    Json(schema, [bytes([byte]) for byte in range(256)], 64).most_likely(torch.zeros(1, 64, 256))
