"""One connection of uvicorn, with a time limit for clients that send or read too slowly."""

from __future__ import annotations

import asyncio
import socket

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from constrained_dg.serving.refusals import Refused

#: Seconds for the head of a request, counted from the connection or from its first byte.
HEAD = 10.0
#: Seconds in which a client must take what is in the buffer.
TAKE = 30.0

#: Connections that wait to be accepted.
BACKLOG = 2048
#: Seconds that requests have to end after SIGTERM.
GRACE = 10


def uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves the application, except for where."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE,
    )


class Connection(H11Protocol):
    """uvicorn limits the time between requests alone; a client that sends nothing, or never reads, would stay."""

    head: asyncio.TimerHandle | None = None
    taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        # asyncio does so for its own sockets alone; without it head and body of an answer are 40 ms apart.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self.head, self.taking):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.taking = self.loop.call_later(TAKE, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.taking is not None:
            self.taking.cancel()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused as other requests are; uvicorn answers plain text."""
        message = "this is no request of HTTP/1.1, or its head is larger than 64 kB; send another one"
        body = Refused(400, message, code="http").response()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        events = (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(body.body)),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _watch(self) -> None:
        """Start the time limit while no request is being served, and stop it once one is."""
        served = self.cycle is not None and not self.cycle.response_complete
        if served and self.head is not None:
            self.head.cancel()
            self.head = None
        elif not served and self.head is None:
            self.head = self.loop.call_later(HEAD, self.transport.abort)
