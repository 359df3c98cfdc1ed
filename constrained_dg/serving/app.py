"""The endpoints."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

import constrained_dg
from constrained_dg.errors import InputError
from constrained_dg.runs import Run
from constrained_dg.serving.access import Access
from constrained_dg.serving.answers import Bodies
from constrained_dg.serving.jobs import Queue, Result
from constrained_dg.serving.messages import ChatRequest, CompletionRequest, SolveRequest, TextRequest
from constrained_dg.serving.metrics import Metrics
from constrained_dg.serving.puzzles import Puzzle, Puzzles
from constrained_dg.serving.refusals import Failure, Refused, internal, json_response, of_http, of_validation
from constrained_dg.serving.rows import Rows, while_there
from constrained_dg.serving.settings import Settings
from constrained_dg.serving.streams import DONE, Deltas, EventStream, event
from constrained_dg.serving.texts import Piece, Prompt, Texts, check_kept

Read = TypeVar("Read")


class Server:
    """What the endpoints share: the run, the queue, the rules in the making."""

    def __init__(self, run: Run, name: str, settings: Settings) -> None:
        self.run, self.name, self.settings = run, name, settings
        self.metrics, self.begun = Metrics(), int(time.time())
        self.queue = Queue(settings, self.metrics)
        self.puzzles = None if run.task.compares else Puzzles(run)
        self.texts = None if run.task.tokenizer is None else Texts(run, run.task.tokenizer)
        self._readers, self._reading = ThreadPoolExecutor(1, "rules"), 0

    def close(self) -> None:
        self.queue.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def read(self, reader: Callable[[], Read]) -> Read:
        """What a reader makes of a request, in a thread: parsing and rules may take seconds.

        Raises:
            Refused: as many requests are read already as the queue holds.
        """
        if self._reading >= self.settings.queue:
            raise Refused(429, f"{self._reading} requests are being read; ask again later", code="queue_full")
        self._reading += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, reader)
        finally:
            self._reading -= 1

    def deadline(self) -> float:
        return time.monotonic() + self.settings.time_limit

    # -- puzzles -------------------------------------------------------------------------------------------------------

    async def solve(self, request: Request, body: SolveRequest) -> Response:
        puzzles, deadline = self.puzzles, self.deadline()
        if puzzles is None:
            raise Refused(404, "this run has no puzzles; use /v1/chat/completions", code="no_puzzles")
        seed = secrets.randbits(53) if body.seed is None else body.seed
        work = await self.read(lambda: self._puzzle(body))
        rows = Rows(self.queue, puzzles, [work], puzzles.key, [puzzles.seed(seed)], deadline)
        head = {"object": "solve", "model": self.name, "seed": seed, "sampler": work.sampler.name}
        if body.stream:
            return EventStream(_solving(rows, head), rows)
        results = await while_there(request, rows.results())
        return _no_one() if results is None else json_response(head | results[0].values)

    def _puzzle(self, body: SolveRequest) -> Puzzle:
        try:
            return Puzzle(self.run, body.problem, body.sampler, body.stream)
        except InputError as error:
            of_sampler = body.sampler is not None and repr(body.sampler) in str(error)
            field = "sampler" if of_sampler else "problem"
            raise Refused(400, f"{field}: {error}", field, field) from None

    # -- texts ---------------------------------------------------------------------------------------------------------

    async def text(self, request: Request, body: TextRequest) -> Response:
        texts, deadline = self.texts, self.deadline()
        if texts is None:
            raise Refused(404, "this run reads no text; use /v1/solve", code="no_text")
        if body.model != self.name:
            message = f"no model {body.model[:100]!r}; there is {self.name!r}"
            raise Refused(404, message, "model", "model_not_found")
        prompts = await self.read(lambda: texts.read(body))
        works = [prompt for prompt in prompts for _ in range(body.n)]
        if len(works) > self.settings.queue:
            raise Refused(400, f"n: {len(works)} answers; ask for at most {self.settings.queue}", "n", "too_many")
        seed = secrets.randbits(53) if body.seed is None else body.seed
        rows = Rows(self.queue, texts, works, texts.key, texts.seeds(seed, len(works)), deadline)
        size = sum(len(prompt.tokens) for prompt in prompts)
        bodies = Bodies(isinstance(body, ChatRequest), self.name, seed, size)
        if body.stream:
            return EventStream(_writing(rows, bodies, works, body.stream_options.include_usage), rows)
        results = await while_there(request, rows.results())
        if results is None:
            return _no_one()
        for result in results:
            check_kept(result, works[0].limit)
        return json_response(bodies.whole(results))

    def models(self) -> dict[str, Any]:
        one = {"id": self.name, "object": "model", "created": self.begun, "owned_by": "constrained_dg"}
        doors = {"solve": self.puzzles is not None, "text": self.texts is not None}
        return {"object": "list", "data": [one | {"task": self.run.task.name, **doors}]}


async def _solving(rows: Rows, head: dict[str, Any]) -> AsyncIterator[str]:
    """Drafts and the answer of a puzzle as events."""
    try:
        async for _, what in rows.events():
            final = isinstance(what, Result)
            yield event(head | what.values, "answer") if final else event(what, "draft")
    except Refused as refusal:
        yield event(refusal.body(), "error")


async def _writing(rows: Rows, bodies: Bodies, works: list[Prompt], with_usage: bool) -> AsyncIterator[str]:
    """Drafts, finished canvases and ends of texts as chunks."""
    deltas = [Deltas(work.stops) for work in works]
    results: dict[int, Result] = {}
    for index in range(len(works)):
        if (begin := bodies.begin(index)) is not None:
            yield event(begin)
    try:
        async for index, what in rows.events():
            if isinstance(what, Result):
                check_kept(what, works[index].limit)
                results[index] = what
                if rest := deltas[index].next(what.values["text"], last=True):
                    yield event(bodies.piece(index, rest))
                yield event(bodies.piece(index, "", what.values["finish_reason"]))
            elif isinstance(what, Piece):
                if new := deltas[index].next(what.text, last=False):
                    yield event(bodies.piece(index, new))
            elif works[index].drafts:
                yield event(bodies.draft(index, what))
    except Refused as refusal:
        yield event(refusal.body())
        return
    if with_usage:
        yield event(bodies.usage([results[index] for index in sorted(results)]))
    yield DONE


def _no_one() -> Response:
    """For a client that has gone: nobody reads it."""
    return Response(status_code=499)


def create_app(run: Run, name: str, settings: Settings) -> FastAPI:
    """The application that serves a run.

    Args:
        name: of the model, as clients call it.
    """
    server = Server(run, name, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.close)

    app = FastAPI(
        title="constrained_dg",
        version=constrained_dg.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={"4XX": {"model": Failure}, "5XX": {"model": Failure}},
    )
    app.state.server = server

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return server.models()

    @app.post("/v1/solve")
    async def solve(request: Request, body: SolveRequest) -> Response:
        return await server.solve(request, body)

    @app.post("/v1/completions")
    async def completions(request: Request, body: CompletionRequest) -> Response:
        return await server.text(request, body)

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Response:
        return await server.text(request, body)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return of_validation(error).response()

    @app.exception_handler(HTTPException)
    async def unserved(_: Request, error: HTTPException) -> Response:
        return of_http(error).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return internal().response()

    paths = frozenset(("/health", "/metrics", "/openapi.json", "/v1/models", "/v1/solve"))
    paths |= {"/v1/completions", "/v1/chat/completions"}
    app.add_middleware(Access, settings=settings, metrics=server.metrics, paths=paths)
    return app
