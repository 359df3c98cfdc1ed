"""Who may ask, and how much: host, origin, key and size of a request, before anything reads it."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from constrained_dg.serving.metrics import Metrics
from constrained_dg.serving.refusals import Refused
from constrained_dg.serving.settings import Settings

#: Seconds in which a body must have arrived.
BODY = 10.0
#: Answered without a key: the page holds nothing of the run, and asks for the key.
OPEN = ("/", "/health")
#: Of every answer that has no such header of its own. JSON is never a page.
SAFE = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Access:
    """Checks a request, reads its body whole, and counts it.

    Args:
        app: what serves the request.
        paths: those that exist.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.settings, self.metrics, self.paths = app, settings, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        begun, status = time.perf_counter(), 499  # the client went before an answer

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        self.metrics.open += 1
        try:
            await self._serve(scope, receive, sending)
        finally:
            self.metrics.open -= 1
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - begun)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = Headers(scope=scope)
            self._check_caller(headers)
            if scope["path"] not in OPEN:
                self._check_key(headers)
            body = await self._body(headers, receive)
        except Refused as refusal:
            await refusal.response()(scope, receive, send)
            return
        if body is None:  # the client has gone
            return
        parts: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receiving() -> Message:
            return parts.pop() if parts else await receive()

        await self.app(scope, receiving, send)

    def _check_caller(self, headers: Headers) -> None:
        """Raise Refused for another host, and for a web page of another origin."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not self.settings.knows(name.lower()):
            hint = "call the server by the address it listens on, or start it with hosts=[NAME]"
            raise Refused(403, f"the host {host[:100]!r} is not this server; {hint}", "Host", "host")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            hint = "only its own pages may call it from a browser"
            raise Refused(403, f"the origin {origin[:100]!r} is not this server; {hint}", "Origin", "origin")

    def _check_key(self, headers: Headers) -> None:
        """Raise Refused unless the request brings the key; the comparison takes the same time for any."""
        if self.settings.key is None:
            return
        given = headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, f"Bearer {self.settings.key}".encode()):
            message = "the key is missing or wrong; send it as the header Authorization: Bearer KEY"
            raise Refused(401, message, "Authorization", "invalid_api_key")

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None where the client has gone. Raises Refused for one that is too large or too slow."""
        most, announced = self.settings.max_body, headers.get("content-length", "0")
        if not announced.isdigit() or int(announced[:20]) > most:
            raise _too_large(most)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Refused(408, f"the body took more than {BODY:g} seconds; send it faster", code="slow_body") from None


def _too_large(most: int) -> Refused:
    return Refused(413, f"the body is larger than {most} bytes; send less, or raise the server's max_body", code="size")
