"""The rows of one request: what they tell, in the loop of the server, and how long somebody listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from constrained_dg.serving.jobs import LAST_WORDS, Draft, Job, Kind, Queue, Result
from constrained_dg.serving.refusals import Refused, timed_out

#: Drafts that wait for a client that reads slowly; later ones are left out until it has read some.
_DRAFTS = 256
#: Seconds beyond its time limit after which a request waits no longer for the thread that solves.
LATE = 2 * LAST_WORDS


Answer = TypeVar("Answer")


class Rows:
    """Puts the rows of a request into the queue, and gives them up when nobody listens any more.

    Args:
        works: what each solves.
        key: of a work, see `Job`.
        seeds: of the rows.

    Raises:
        Refused: the queue is full.
    """

    def __init__(
        self,
        queue: Queue,
        kind: Kind,
        works: Sequence[Any],
        key: Callable[[Any], tuple[object, ...]],
        seeds: Sequence[int],
        deadline: float,
    ) -> None:
        self.queue, self.loop = queue, asyncio.get_running_loop()
        self.heard: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self.jobs = [
            Job(kind, key(work), work, seed, self._teller(index), deadline)
            for index, (work, seed) in enumerate(zip(works, seeds, strict=True))
        ]
        queue.put(self.jobs)
        limit = deadline + LATE - time.monotonic()
        self.late = self.loop.call_later(limit, self.heard.put_nowait, (0, timed_out(queue.settings.time_limit)))

    def _teller(self, index: int) -> Callable[[Any], None]:
        def hear(what: Any) -> None:
            if self.heard.qsize() < _DRAFTS or not isinstance(what, Draft):
                self.heard.put_nowait((index, what))

        def tell(what: Any) -> None:
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(hear, what)

        return tell

    async def events(self) -> AsyncIterator[tuple[int, Any]]:
        """(index of the row, `Draft`, `texts.Piece` or `Result`), until each row has its result.

        Raises:
            Refused: a row cannot be answered, or nothing was heard of it in time.
        """
        left = len(self.jobs)
        try:
            while left:
                index, what = await self.heard.get()
                if isinstance(what, Refused):
                    raise what
                left -= isinstance(what, Result)
                yield index, what
        finally:
            self.close()

    def close(self) -> None:
        """Nobody listens any more."""
        self.late.cancel()
        self.queue.give_up(self.jobs)

    async def results(self) -> list[Result]:
        """The results in the order of the rows; see `events`."""
        found: dict[int, Result] = {}
        async for index, what in self.events():
            if isinstance(what, Result):
                found[index] = what
        return [found[index] for index in range(len(self.jobs))]


async def while_there(request: Request, answer: Awaitable[Answer]) -> Answer | None:
    """The answer, or None where the client goes before it is there: then the answer is cancelled."""
    answering = asyncio.ensure_future(answer)
    going = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({answering, going}, return_when=asyncio.FIRST_COMPLETED)
        return await answering if answering.done() else None
    finally:
        for task in (answering, going):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
