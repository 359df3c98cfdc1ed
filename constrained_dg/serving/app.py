"""The endpoints."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response

import constrained_dg
from constrained_dg.constraints.text_rule import TextRule
from constrained_dg.errors import InputError
from constrained_dg.evaluation import check_sampler
from constrained_dg.runs import Run
from constrained_dg.sampling import Autoregressive, named, sampler_names
from constrained_dg.sampling.named import AUTOREGRESSIVE, AUTOREGRESSIVE_RULES
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.serving.access import Access
from constrained_dg.serving.answers import Bodies
from constrained_dg.serving.jobs import Draft, Queue, Result
from constrained_dg.serving.messages import ChatRequest, CompletionRequest, SolveRequest, TextRequest
from constrained_dg.serving.metrics import Metrics
from constrained_dg.serving.puzzles import Puzzle, Puzzles
from constrained_dg.serving.readings import Read, Readings, Rules, compile_rules
from constrained_dg.serving.refusals import Failure, Refused, internal, json_response, of_http, of_validation, timed_out
from constrained_dg.serving.rows import Rows, while_there
from constrained_dg.serving.settings import Settings
from constrained_dg.serving.streams import DONE, Deltas, EventStream, event
from constrained_dg.serving.texts import Piece, Prompt, Texts, check_kept, rule_of
from constrained_dg.viz.page.writing import live_page

#: Rules that are kept, with their automata.
_RULES = 64


class Model:
    """A run under the name that clients call it, with what solves problems and what writes texts, or None."""

    def __init__(self, name: str, run: Run) -> None:
        self.name, self.run = name, run
        self.puzzles = None if run.task.compares else Puzzles(run)
        self.texts = None if run.task.tokenizer is None else Texts(run, run.task.tokenizer)

    def samplers(self) -> list[str]:
        """Those that fit the run, the ones of its task first. The endpoints take others too."""
        if isinstance(self.run.sampler, Autoregressive):
            rules = [] if self.run.task.compares else [AUTOREGRESSIVE_RULES.name]
            return [*rules, AUTOREGRESSIVE.name]
        first = [*self.run.samplers]
        others = [named(name) for name in sampler_names() if name not in first]
        inner = [each for each in others if each.inner]
        return [*first, *(each.name for each in (*inner, AUTOREGRESSIVE) if self._takes(each))]

    def _takes(self, sampler: Sampler) -> bool:
        try:
            check_sampler(self.run.task, sampler)
        except InputError:
            return False
        return True


class Server:
    """What the endpoints share: the models, the queue, the rules in the making.

    Args:
        runs: by the names that clients call them; the first is asked where a request names none.
    """

    def __init__(self, runs: Mapping[str, Run], settings: Settings) -> None:
        self.models, self.settings = {name: Model(name, run) for name, run in runs.items()}, settings
        self.metrics, self.begun = Metrics(), int(time.time())
        self.queue, self.readings = Queue(settings, self.metrics), Readings(settings.queue)
        if any(model.texts is not None for model in self.models.values()):
            compile_rules()
        self.rules: Rules[TextRule] = Rules(self.readings, _RULES)

    async def read(self, request: Request, reading: Awaitable[Read], deadline: float) -> Read | None:
        """What is read, or None where the client goes meanwhile. Raises Refused where the time is up."""
        try:
            async with asyncio.timeout_at(deadline):
                return await while_there(request, reading)
        except TimeoutError:
            raise timed_out(self.settings.time_limit) from None

    def deadline(self) -> float:
        return time.monotonic() + self.settings.time_limit

    # -- puzzles -------------------------------------------------------------------------------------------------------

    async def solve(self, request: Request, body: SolveRequest) -> Response:
        deadline, model = self.deadline(), self.model(body.model)
        puzzles = model.puzzles
        if puzzles is None:
            raise Refused(404, "this run has no puzzles; use /v1/chat/completions", code="no_puzzles")
        seed = secrets.randbits(53) if body.seed is None else body.seed
        work = await self.read(request, self.readings.run(lambda: _puzzle(model.run, body)), deadline)
        if work is None:
            return _no_one()
        rows = Rows(self.queue, puzzles, [work], puzzles.key, [puzzles.seed(seed)], deadline)
        head = {"object": "solve", "model": model.name, "seed": seed, "sampler": work.sampler.name}
        if work.opening is not None:
            return EventStream(_solving(rows, head, work.opening), rows)
        results = await while_there(request, rows.results())
        return _no_one() if results is None else json_response(head | results[0].values)

    # -- texts ---------------------------------------------------------------------------------------------------------

    async def text(self, request: Request, body: TextRequest) -> Response:
        deadline, model = self.deadline(), self.model(body.model)
        texts = model.texts
        if texts is None:
            raise Refused(404, "this run reads no text; use /v1/solve", code="no_text")
        prompts = await self.read(request, self._prompts(texts, body), deadline)
        if prompts is None:
            return _no_one()
        works = [prompt for prompt in prompts for _ in range(body.n)]
        if len(works) > self.settings.queue:
            raise Refused(400, f"n: {len(works)} answers; ask for at most {self.settings.queue}", "n", "too_many")
        seed = secrets.randbits(53) if body.seed is None else body.seed
        rows = Rows(self.queue, texts, works, texts.key, texts.seeds(seed, len(works)), deadline)
        size = sum(len(prompt.tokens) for prompt in prompts)
        bodies = Bodies(isinstance(body, ChatRequest), model.name, seed, size)
        if body.stream:
            openings = [texts.opening(work) for work in works] if body.drafts else []
            return EventStream(_writing(rows, bodies, works, openings, body.stream_options.include_usage), rows)
        results = await while_there(request, rows.results())
        if results is None:
            return _no_one()
        for result in results:
            check_kept(result, works[0].limit)
        return json_response(bodies.whole(results))

    async def _prompts(self, texts: Texts, body: TextRequest) -> list[Prompt]:
        prompts = await self.readings.run(lambda: texts.read(body))
        asked = rule_of(body)
        if asked is None:
            return prompts
        try:
            key = (id(texts), asked, prompts[0].length)
            rule = await self.rules.get(key, lambda: texts.rule(asked, prompts[0].length))
        except InputError as error:
            raise Refused(400, f"{asked.where}: {error}", asked.where, "rule") from None
        return [replace(prompt, rule=rule) for prompt in prompts]

    def model(self, name: str | None) -> Model:
        """The model of this name. Raises Refused where there is none."""
        names = list(self.models)
        if name is not None and name not in self.models:
            message = f"no model {name[:100]!r}; there is {' and '.join(map(repr, names))}"
            raise Refused(404, message, "model", "model_not_found")
        return self.models[names[0] if name is None else name]

    def listed(self) -> dict[str, Any]:
        """The body of /v1/models; `samplers` and `asks` are for the page."""
        data = []
        for model in self.models.values():
            one = {"id": model.name, "object": "model", "created": self.begun, "owned_by": "constrained_dg"}
            doors = {"solve": model.puzzles is not None, "text": model.texts is not None}
            task = model.run.task
            data.append(one | {"task": task.name, **doors, "samplers": model.samplers(), "asks": dict(task.asks)})
        return {"object": "list", "data": data}


def _puzzle(run: Run, body: SolveRequest) -> Puzzle:
    try:
        return Puzzle(run, body.problem, body.sampler, body.stream)
    except InputError as error:
        of_sampler = body.sampler is not None and repr(body.sampler) in str(error)
        field = "sampler" if of_sampler else "problem"
        raise Refused(400, f"{field}: {error}", field, field) from None


async def _solving(rows: Rows, head: dict[str, Any], opening: dict[str, Any]) -> AsyncIterator[str]:
    """The puzzle, its drafts and its answer as events."""
    yield event(head | opening, "problem")
    try:
        async for _, what in rows.events():
            final = isinstance(what, Result)
            yield event(head | what.values, "answer") if final else event(what.values, "draft")
    except Refused as refusal:
        yield event(refusal.body(), "error")


async def _writing(
    rows: Rows, bodies: Bodies, works: list[Prompt], openings: list[dict[str, Any]], with_usage: bool
) -> AsyncIterator[str]:
    """With drafts what the page shows first; drafts, finished canvases and ends of texts as chunks."""
    deltas = [Deltas(work.stops) for work in works]
    results: dict[int, Result] = {}
    for index, opening in enumerate(openings):
        yield event(bodies.extension("problem", index, opening))
    for index in range(len(works)):
        if (begin := bodies.begin(index)) is not None:
            yield event(begin)
    try:
        async for index, what in rows.events():
            if isinstance(what, Result):
                check_kept(what, works[index].limit)
                results[index] = what
                if "answer" in what.values:
                    yield event(bodies.extension("answer", index, what.values["answer"]))
                if rest := deltas[index].next(what.values["text"], last=True):
                    yield event(bodies.piece(index, rest))
                yield event(bodies.piece(index, "", what.values["finish_reason"]))
            elif isinstance(what, Piece):
                if new := deltas[index].next(what.text, last=False):
                    yield event(bodies.piece(index, new))
            elif isinstance(what, Draft):
                yield event(bodies.extension("draft", index, what.values))
    except Refused as refusal:
        yield event(refusal.body())
        return
    if with_usage:
        yield event(bodies.usage([results[index] for index in sorted(results)]))
    yield DONE


def _no_one() -> Response:
    """For a client that has gone: nobody reads it."""
    return Response(status_code=499)


def create_app(runs: Mapping[str, Run], settings: Settings) -> FastAPI:
    """The application that serves a run, or several, see `Server`."""
    server = Server(runs, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.queue.close)

    app = FastAPI(
        title="constrained_dg",
        version=constrained_dg.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
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
        return server.listed()

    document, policy = live_page()

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(document, headers={"content-security-policy": policy})

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

    paths = frozenset(("/", "/health", "/metrics", "/openapi.json", "/v1/models", "/v1/solve"))
    paths |= {"/v1/completions", "/v1/chat/completions"}
    app.add_middleware(Access, settings=settings, metrics=server.metrics, paths=paths)
    return app
