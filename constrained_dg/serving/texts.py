"""Prompts in text, for a run whose task has a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from constrained_dg import rng
from constrained_dg.constraints import Json, Regex
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.by_row import ByRow
from constrained_dg.constraints.text_rule import TextRule
from constrained_dg.errors import InputError, check
from constrained_dg.model.images import Images
from constrained_dg.runs import Run
from constrained_dg.sampling import Autoregressive, Diffusion, Search, generate, named
from constrained_dg.sampling.base import Generation, Status, StepRecord
from constrained_dg.sampling.named import AUTOREGRESSIVE, AUTOREGRESSIVE_RULES, PLAIN, VALIDITY
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.serving.jobs import Job, Result
from constrained_dg.serving.messages import (
    AnyText,
    ChatRequest,
    CompletionRequest,
    JsonSchema,
    Pattern,
    TextPart,
    TextRequest,
)
from constrained_dg.serving.pictures import picture_of, vision_of
from constrained_dg.serving.puzzles import as_draft, as_ending, as_opening
from constrained_dg.serving.refusals import Refused
from constrained_dg.task import Batch
from constrained_dg.text import BOS, IMAGE, PAD, TURN, TURN_END, VIDEO, Tokenizer, pad_left
from constrained_dg.vision import Pictured
from constrained_dg.viz.page.recording import Recorder, candidates_of, kind_of

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "model"}


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt to answer.

    Attributes:
        tokens: of the prompt, without padding.
        pictured: the same with the pictures; None where the model reads none.
        limit: most tokens of the answer.
        length: T, whole canvases; what is behind the limit is pinned to the end.
        rule: over T, or None.
        stops: texts before which the answer is cut.
        streams: tell the text of finished canvases.
        drafts: tell the canvas after each pass.
    """

    tokens: tuple[int, ...]
    pictured: Pictured | None
    limit: int
    length: int
    rule: TextRule | None
    sampler: Sampler
    stops: tuple[str, ...]
    streams: bool
    drafts: bool


@dataclass(frozen=True)
class Piece:
    """The text of the finished canvases so far."""

    text: str


@dataclass(frozen=True)
class Asked:
    """A rule that a request asks for.

    Attributes:
        kind: "regex" or "json".
        text: the pattern, or the schema as JSON.
        where: the field that holds it.
    """

    kind: str
    text: str
    where: str


def rule_of(request: TextRequest) -> Asked | None:
    """The rule of a request, if it has one."""
    wanted = request.response_format
    if wanted is None or isinstance(wanted, AnyText):
        return None
    if isinstance(wanted, Pattern):
        return Asked("regex", wanted.pattern, "response_format.pattern")
    if isinstance(wanted, JsonSchema):
        return Asked("json", json.dumps(wanted.json_schema.schema_), "response_format.json_schema.schema")
    return Asked("json", '{"type": "object"}', "response_format")


class Texts:
    """Answers prompts as `generate(model, tokens, rule, tokenizer=..., canvas=..., pinned=..., seeds=...)` does."""

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self.run, self.tokenizer = run, tokenizer
        self.model: Any = run.model  # a Denoiser whose attributes have narrower types
        self.device = next(run.model.parameters()).device
        self.canvas = run.task.canvas_length or run.task.max_canvas
        self.vision = vision_of(run, tokenizer)

    # -- reading a request, in a thread of its own: rules may take seconds ---------------------------------------------

    def read(self, request: TextRequest) -> list[Prompt]:
        """A prompt for each of the request, without `n` and without its rule.

        Raises:
            Refused: naming the field.
        """
        longest = -(-self.run.task.max_canvas // self.canvas) * self.canvas
        limit = min(request.limit or longest, longest)
        length = -(-limit // self.canvas) * self.canvas
        ruled = rule_of(request) is not None
        try:
            sampler = named(request.sampler) if request.sampler else self._default(ruled)
        except InputError as error:
            raise Refused(400, str(error), "sampler", "sampler") from None
        needs = {
            "symmetries of a task": sampler.uses_symmetry,
            "a task with pictures": sampler.uses_pictures,
            "a response_format": isinstance(sampler, Search) and not ruled,
        }
        why = next((f"needs {what}" for what, missing in needs.items() if missing), None)
        if why is not None:
            raise Refused(400, f"sampler: {sampler.name} {why}; use {self._default(ruled).name}", "sampler", "sampler")
        sampler = _searching(sampler) if ruled else sampler
        prompts = self._prompts(request)
        stops, streams, drafts = tuple(request.stops), request.stream, request.drafts
        return [
            Prompt(tuple(tokens), pictured, limit, length, None, sampler, stops, streams, drafts)
            for tokens, pictured in prompts
        ]

    def _default(self, ruled: bool) -> Sampler:
        """As `generate` chooses, but left to right for a model that was trained so."""
        if isinstance(self.run.sampler, Autoregressive):
            return AUTOREGRESSIVE_RULES if ruled else AUTOREGRESSIVE
        return VALIDITY if ruled else PLAIN

    def _prompts(self, request: TextRequest) -> list[tuple[list[int], Pictured | None]]:
        prompts: list[tuple[list[int], Pictured | None]]
        if isinstance(request, ChatRequest):
            field, prompts = "messages", [self._chat(request)]
        else:
            assert isinstance(request, CompletionRequest)
            field, prompts = "prompt", [(tokens, None) for tokens in self._given(request)]
        context = self.model.max_context or self.run.task.max_prompt
        for tokens, _ in prompts:
            message = f"the prompt has {len(tokens)} tokens, and the model takes {context} with its answer; shorten it"
            if len(tokens) + self.canvas > context:
                raise Refused(400, message, field, "context_length_exceeded")
        return prompts

    def _chat(self, request: ChatRequest) -> tuple[list[int], Pictured | None]:
        pictures: list[np.ndarray] = []
        tokens = self.tokenizer.conversation(self._turns(request, pictures))
        if not pictures or self.vision is None:
            return tokens, None
        try:
            pictured = self.vision.expand(tokens, pictures)
        except InputError as error:
            raise Refused(400, f"messages: {error}", "messages", "image") from None
        return pictured.tokens, pictured

    def _turns(self, request: ChatRequest, pictures: list[np.ndarray]) -> list[tuple[str, str]]:
        """Roles and texts, in which <|image|> stands for a picture; the pictures are added to the list."""
        turns: list[tuple[str, str]] = []
        for number, message in enumerate(request.messages):
            where = f"messages.{number}"
            # 1. Roles: a system turn at most at the begin, then user and assistant in turn, the user last.
            before = turns[-1][0] if turns else None
            role = _ROLES[message.role]
            fits = {"system": before is None, "user": before != "user", "model": before == "user"}[role]
            if not fits:
                hint = "begin with system or user, then let user and assistant take turns"
                raise Refused(400, f"{where}.role: {message.role} cannot stand here; {hint}", f"{where}.role", "role")
            # 2. A text with tokens of the chat format would say what another role says.
            said = "".join(part.text for part in message.parts if isinstance(part, TextPart))
            special = next((token for token in (BOS, PAD, TURN, TURN_END, *self._placeholders) if token in said), None)
            if special is not None:
                text = f"{where}.content: {special} belongs to the chat format; leave it out, or use /v1/completions"
                raise Refused(400, text, f"{where}.content", "special_token")
            self._encoded(said, f"{where}.content")
            # 3. Pictures are decoded last: that takes longest.
            text = ""
            for place, part in enumerate(message.parts):
                if isinstance(part, TextPart):
                    text += part.text
                    continue
                field = f"{where}.content.{place}.image_url"
                if self.vision is None or role != "user":
                    whose = "this model reads no images" if self.vision is None else "only the user shows images"
                    raise Refused(400, f"{field}: {whose}; give text alone", field, "image")
                pictures.append(picture_of(part.image_url.url, field, pictures))
                text += IMAGE
            turns.append((role, text))
        if turns[-1][0] != "user":
            raise Refused(400, "messages: the last one is not the user's; end with role user", "messages", "role")
        return turns

    @property
    def _placeholders(self) -> tuple[str, ...]:
        return () if self.vision is None else (IMAGE, VIDEO)

    def _given(self, request: CompletionRequest) -> list[list[int]]:
        given: Any = request.prompt
        several = isinstance(given, list) and not all(isinstance(each, int) for each in given)
        prompts = given if several else [given]
        if not prompts or not all(prompts):
            raise Refused(400, "prompt: it is empty; give a text or tokens", "prompt", "empty")
        tokens = [self._encoded(BOS + each, "prompt") if isinstance(each, str) else list(each) for each in prompts]
        largest, size = max(max(each) for each in tokens), self.model.vocab_size
        if largest >= size:
            raise Refused(400, f"prompt: token {largest}; give tokens from 0 to {size - 1}", "prompt", "token")
        return tokens

    def _encoded(self, text: str, where: str) -> list[int]:
        half = next((letter for letter in text if "\ud800" <= letter <= "\udfff"), None)
        if half is not None:
            raise Refused(400, f"{where}: {half!r} is half of a surrogate pair; write whole characters", where, "text")
        return self.tokenizer.encode(text)

    def rule(self, asked: Asked, length: int) -> TextRule:
        """The rule over T tokens. Raises InputError where it is none."""
        rule = Regex(asked.text) if asked.kind == "regex" else Json(json.loads(asked.text))
        return rule.over(self.tokenizer.texts(), length, (self.tokenizer.ends, self.tokenizer.pad_id))

    @staticmethod
    def seeds(seed: int, count: int) -> list[int]:
        """The seeds of the rows of a call with this seed."""
        return rng.row_seeds(seed, count).tolist()

    # -- answering, in the thread of the queue -------------------------------------------------------------------------

    def key(self, work: Prompt) -> tuple[object, ...]:
        rule = work.rule
        layout = None if rule is None else (rule.num_classes, rule.classes)
        padded = pad_left([work.tokens], self.tokenizer.pad_id)[0].shape[1]
        return (id(self), work.sampler.name, padded, work.length, layout)

    def _images(self, works: Sequence[Prompt], length: int) -> Images | None:
        """The pictures of prompts that stand side by side."""
        if self.vision is None or all(work.pictured is None for work in works):
            return None
        plain = [work.pictured or Pictured(list(work.tokens), [-1] * len(work.tokens), []) for work in works]
        images = self.vision.images(plain, length)
        return images if images is None else images.to(self.device)

    def opening(self, work: Prompt) -> dict[str, Any]:
        """What the page shows of a prompt before the first pass."""
        drawn = {"kind": kind_of(work.sampler), "picture": {"kind": "row"}}
        return drawn | as_opening(self.run.task, Recorder(self.run.task, self._batch([work]), None))

    def _batch(self, works: Sequence[Prompt]) -> Batch:
        prompt, mask = pad_left([work.tokens for work in works], self.tokenizer.pad_id)
        behind = torch.arange(works[0].length) >= torch.tensor([[work.limit] for work in works])
        canvas = torch.full(behind.shape, self.tokenizer.eos_id)
        return Batch(prompt, canvas, behind, None, (0, self.model.vocab_size), mask).to(self.device)

    def answer(self, jobs: Sequence[Job], **options: Any) -> list[Result]:
        """See `Kind`. Each result holds text, finish_reason, completion_tokens and passes, with drafts also answer: the
        verdict for the page."""
        works: list[Prompt] = [job.work for job in jobs]
        batch, rules = self._batch(works), _joined([work.rule for work in works])
        task, copies = self.run.task, candidates_of(works[0].sampler)
        judges = [work.rule if work.drafts else None for work in works]
        recorders = [Recorder(task, batch, judge, row, row * copies) for row, judge in enumerate(judges)]
        followed = [pair for pair in zip(jobs, recorders, strict=True) if _is_followed(pair[0].work)]

        def on_step(record: StepRecord) -> None:
            for job, recorder in followed:
                if not job.gone:
                    self._tell(job, recorder, record)

        generation = generate(
            self.model,
            batch.prompt,
            rules if rules is None else rules.to(self.device),
            tokenizer=self.tokenizer,
            sampler=works[0].sampler,
            mask=batch.mask,
            images=self._images(works, batch.prompt.shape[1]),
            canvas=batch.answer,
            pinned=batch.pinned,
            canvas_length=self.canvas,
            seeds=torch.tensor([job.seed for job in jobs], device=self.device),
            on_step=on_step if followed else None,
            **options,
        )
        return [self._result(work, generation, row, recorders[row]) for row, work in enumerate(works)]

    def _tell(self, job: Job, recorder: Recorder, record: StepRecord) -> None:
        """Drafts; and where nothing can change a finished canvas any more, its text."""
        work: Prompt = job.work
        seen = recorder.see(record)
        if seen is None:
            return
        if work.drafts:
            job.tell(as_draft(self.run.task, seen, self.tokenizer.decode(recorder.best[: work.limit])))
        if not _stays(work):
            return
        stopped = bool(record.stopped[(record.rows == recorder.followed).nonzero().flatten()[0]])
        finished = record.start + record.best.shape[1] * stopped
        if finished:
            text = self.tokenizer.decode(recorder.best[: min(finished, work.limit)])
            job.tell(Piece(text))
            job.gone |= cut(text, work.stops) != text

    def _result(self, work: Prompt, generation: Generation, row: int, recorder: Recorder) -> Result:
        tokens = generation.tokens[row].cpu().tolist()[: work.limit]
        text = self.tokenizer.decode(tokens)
        shown = cut(text, work.stops)
        kept = work.rule is not None and generation.status[row] is Status.SOLVED
        ended = kept or shown != text or any(token in self.tokenizer.ends for token in tokens)
        values: dict[str, Any] = {
            "text": shown,
            "finish_reason": "stop" if ended else "length",
            "completion_tokens": int(generation.free_tokens[row]),
            "passes": int(generation.passes[row]),
        }
        if work.drafts:
            values["answer"] = self._verdict(generation, row, recorder, work, shown)
        return Result.of(generation, row, values)

    def _verdict(self, generation: Generation, row: int, recorder: Recorder, work: Prompt, text: str) -> dict[str, Any]:
        """An answer for the page, see `Recorder.verdict`; without a rule its status is "finished"."""
        tokens, status = generation.tokens[row].cpu(), generation.status[row]
        said = recorder.judged(tokens, len(tokens))
        by = recorder.author(status, tokens, "complete" in work.sampler.rule_uses, candidates_of(work.sampler))
        return {
            "status": "finished" if status is None else str(status),
            "answer": text,
            "violations": said["violations"],
            "sentences": said["sentences"],
            "passes": int(generation.passes[row]),
            "tokens_per_pass": float(generation.tokens_per_pass[row]),
            "search_nodes": int(generation.search_nodes[row]),
            **as_ending(self.run.task, recorder, tokens, by),
        }


def _stays(work: Prompt) -> bool:
    """Whether nothing changes a finished canvas any more: no search follows, and no other attempt."""
    return isinstance(work.sampler, Autoregressive) or (isinstance(work.sampler, Diffusion) and work.rule is None)


def _is_followed(work: Prompt) -> bool:
    return work.drafts or (_stays(work) and (work.streams or bool(work.stops)))


def check_kept(result: Result, limit: int) -> None:
    """Raise Refused for an answer that does not keep the rule of its request."""
    if result.status is Status.UNSATISFIABLE:
        message = f"no answer of at most {limit} tokens fits response_format; raise max_tokens, or change it"
        raise Refused(400, message, "response_format", "unsatisfiable")
    if result.status is Status.UNSOLVED:
        message = "no answer that fits response_format was found; use a sampler that reads rules, or change it"
        raise Refused(422, message, "response_format", "unsolved")


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of these texts in it."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


def _searching(sampler: Sampler) -> Sampler:
    """With a search for what the passes leave unsolved, where the sampler can have one."""
    try:
        return sampler.with_search()
    except InputError:
        return sampler


def _joined(rules: Sequence[TextRule | None]) -> Constraint | None:
    """The rules of a batch: one where all rows have the same."""
    present = [rule for rule in rules if rule is not None]
    check(len(present) in (0, len(rules)), "rows with and without rules share a batch", "give them separate keys")
    if not present:
        return None
    return present[0] if all(rule is present[0] for rule in present) else ByRow.stack(present)
