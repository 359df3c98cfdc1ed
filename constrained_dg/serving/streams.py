"""Server-sent events, and the text of an answer in pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from constrained_dg.serving.rows import Rows
from constrained_dg.serving.texts import cut

DONE = "data: [DONE]\n\n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(content: Any, name: str | None = None) -> str:
    """One event: a line of JSON, in ASCII, so that no text can end a line."""
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(content)}\n\n"


class EventStream(StreamingResponse):
    """Events as they come; the rows that make them are given up when the client goes."""

    def __init__(self, events: AsyncIterator[str], rows: Rows) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_HEADERS)
        self.rows = rows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.rows.close()


class Deltas:
    """Cuts a growing text into pieces that can be sent, since nothing of them changes any more.

    Args:
        stops: texts before which the answer ends.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.sent = stops, ""

    def next(self, text: str, last: bool) -> str:
        """What can be sent now.

        Args:
            text: all that is finished.
            last: nothing follows it.
        """
        safe = cut(text, self.stops)
        if not last and safe == text:
            # A character may be in the middle, and so may a text to stop at.
            safe = safe.rstrip("\ufffd")
            begun = [size for stop in self.stops for size in range(1, len(stop)) if safe.endswith(stop[:size])]
            safe = safe[: len(safe) - max(begun, default=0)]
        new = safe[len(self.sent) :] if safe.startswith(self.sent) else ""
        self.sent += new
        return new
