"""Texts over HTTP, asked by the official client of OpenAI's endpoints, and compared with `generate`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
import torch

import constrained_dg
from constrained_dg import rng
from constrained_dg.constraints import Constraint, Json, Regex
from constrained_dg.places import ROOT
from constrained_dg.runs import Run
from constrained_dg.sampling import Generation, generate, named
from constrained_dg.text import BOS, pad_left
from tests.pages import examples
from tests.serving import FORMATS, PASSES, SCHEMA, USER, Served, serving, text_run, text_server, until
from tests.textual import tokenizer

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return text_run(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def served(run: Run) -> Iterator[Served]:
    yield from text_server(run)


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)


@cache
def rule_of(kind: str, length: int) -> Constraint:
    rule = {"schema": Json(SCHEMA), "regex": Regex("(yes|no), [a-z]{2,9}!")}[kind]
    kept = tokenizer()
    return rule.over(kept.texts(), length, (kept.ends, kept.pad_id))


def python(
    run: Run, tokens: list[int], seed: int, kind: str | None = None, limit: int = 32, n: int = 1, sampler: str = ""
) -> Generation:
    """The same from Python: n answers to one prompt, with their rule and most tokens."""
    length = -(-limit // 16) * 16
    prompt, mask = pad_left([tokens] * n, tokenizer().pad_id)
    options: dict[str, Any] = {"sampler": named(sampler)} if sampler else {"max_passes": PASSES}
    return generate(
        run.model,
        prompt,
        rule_of(kind, length) if kind else None,
        tokenizer=tokenizer(),
        mask=mask,
        canvas=torch.full((n, length), tokenizer().eos_id),
        pinned=(torch.arange(length) >= limit).expand(n, -1),
        canvas_length=16,
        guarantee=kind is not None,
        seeds=seed,
        **options,
    )


def texts_of(run: Run, made: Generation, limit: int = 32) -> list[str]:
    return [tokenizer().decode(row[:limit]) for row in made.tokens]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_requests_that_arrive_together_get_the_answers_of_python(served: Served, run: Run) -> None:
    kinds = [None, "schema", "regex", None, "schema"]
    asked = [
        {"prompt": f"{'long ' * (9 * (seed % 2))}prompt {seed}", "seed": seed, "n": 1 + seed % 2, "max_tokens": limit}
        for seed, limit in enumerate((32, 30, 30, 16, 32))
    ]
    batches = served.metric("batch_rows_count")
    with ThreadPoolExecutor(len(asked)) as pool:
        with served.held():
            bodies = [
                {**each, "model": "tiny", "response_format": FORMATS[kind]}
                for each, kind in zip(asked, kinds, strict=True)
            ]
            waiting = [pool.submit(served.post, "/v1/completions", body) for body in bodies]
            until(lambda: served.waiting() == sum(each["n"] for each in asked))
        answers = [each.result().json() for each in waiting]
    assert served.metric("batch_rows_count") - batches <= 6
    for each, kind, answer in zip(asked, kinds, answers, strict=True):
        tokens = tokenizer().encode(BOS + each["prompt"])
        made = python(run, tokens, each["seed"], kind, each["max_tokens"], each["n"])
        assert [choice["text"] for choice in answer["choices"]] == texts_of(run, made, each["max_tokens"])
        used = answer["usage"]
        assert used["passes"] == made.passes.sum() and used["completion_tokens"] == made.free_tokens.sum()
        assert used["prompt_tokens"] == len(tokens) and used["total_tokens"] == len(tokens) + made.free_tokens.sum()
        assert used["tokens_per_pass"] == pytest.approx(used["completion_tokens"] / used["passes"])


def test_a_chat_is_the_text_that_generate_takes(client: Any, run: Run) -> None:
    answer = client.chat.completions.create(model="tiny", messages=USER, seed=3)
    kept = tokenizer()
    made = generate(run.model, "Who wrote this?", tokenizer=kept, max_new_tokens=32, seeds=3, max_passes=PASSES)
    assert answer.choices[0].message.content == kept.decode(made.tokens[0])
    assert answer.usage.passes == made.passes[0] and answer.seed == 3 and answer.model == "tiny"
    ended = any(token in kept.ends for token in made.tokens[0].tolist())
    assert answer.choices[0].finish_reason == ("stop" if ended else "length")
    assert answer.choices[0].message.role == "assistant"


def test_turns_and_parts_of_a_chat(client: Any, run: Run) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "wrote this?"}]},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, seed=1, max_completion_tokens=16)
    turns = [("system", "Be brief."), ("user", "Hello"), ("model", "Yes?"), ("user", "Who wrote this?")]
    tokens = tokenizer().conversation(turns)
    assert [answer.choices[0].message.content] == texts_of(run, python(run, tokens, 1, limit=16), 16)


def test_prompts_as_tokens_and_several(client: Any, run: Run) -> None:
    prompts = [[2, 9, 9], [2, 8, 7, 6]]
    answer = client.completions.create(model="tiny", prompt=prompts, seed=4, n=2, max_tokens=16)
    seeds = torch.tensor(rng.row_seeds(4, 4).tolist())
    for index, choice in enumerate(answer.choices):
        prompt, mask = pad_left([prompts[index // 2]], tokenizer().pad_id)
        alone = generate(
            run.model,
            prompt,
            tokenizer=tokenizer(),
            mask=mask,
            max_new_tokens=16,
            max_passes=PASSES,
            seeds=seeds[index : index + 1],
        )
        assert choice.index == index and choice.text == tokenizer().decode(alone.tokens[0])
    assert answer.usage.prompt_tokens == 7


@pytest.mark.parametrize("kind", [None, "regex"])
def test_left_to_right_finished_tokens_stream_also_under_a_rule(client: Any, kind: str | None) -> None:
    sampler = "autoregressive_rules" if kind else "autoregressive"
    options = {"model": "tiny", "messages": USER, "seed": 2, "extra_body": {"sampler": sampler}}
    options |= {"response_format": FORMATS[kind]} if kind else {}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 5


def test_drafts_under_a_rule_say_what_breaks_it(client: Any) -> None:
    options = {"model": "tiny", "messages": USER, "seed": 0, "response_format": FORMATS["schema"], "max_tokens": 24}
    chunks = list(client.chat.completions.create(**options, stream=True, extra_body={"drafts": True}))
    extensions = [chunk for chunk in chunks if not chunk.choices]
    assert extensions[0].problem["given"] == list(range(24, 32))
    assert {draft.draft["judged"] for draft in extensions[1:-1]} == {True, False}, "judged from the last canvas on"
    answer = extensions[-1].answer
    assert answer["status"] == "solved" and set(json.loads(answer["answer"])) == {"a", "b"}
    assert answer["by"] in ("passes", "completer")


def test_other_samplers(client: Any, run: Run) -> None:
    tokens = tokenizer().encode(f"{BOS}Hello")
    for sampler in ("restarts", "autoregressive"):
        answer = client.completions.create(
            model="tiny", prompt="Hello", seed=2, max_tokens=16, extra_body={"sampler": sampler}
        )
        assert [answer.choices[0].text] == texts_of(run, python(run, tokens, 2, limit=16, sampler=sampler), 16)


@pytest.mark.parametrize("name, sampler", [("text/records", "validity"), ("text/records_twin", "autoregressive_rules")])
def test_a_shipped_model_and_its_twin(name: str, sampler: str) -> None:
    run = constrained_dg.load(name)
    notes = run.task.held_out(2, 0)
    schemas = [json.loads(note.schema) for note in notes]
    with serving(run, name) as served, ThreadPoolExecutor(4) as pool:
        with served.held():
            bodies = [
                {
                    "model": name,
                    "messages": [{"role": "user", "content": note.text}],
                    "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
                    "seed": seed,
                }
                for seed, (note, schema) in enumerate(zip(notes, schemas, strict=True))
            ]
            waiting = [pool.submit(served.post, "/v1/chat/completions", body) for body in bodies]
            until(lambda: served.waiting() == len(notes))
        answers = [each.result().json()["choices"][0]["message"]["content"] for each in waiting]
        assert served.metric("batch_rows_count") <= 1 + 2  # two lengths of prompts, and held()
        assert served.post("/v1/solve", {"problem": notes[0].text, "seed": 0}).json()["status"] in (
            "solved",
            "unsolved",
        )
    options = {"tokenizer": run.task.tokenizer, "sampler": named(sampler), "max_new_tokens": 32}
    options["guarantee"] = sampler == "validity"
    for seed, (note, schema, answer) in enumerate(zip(notes, schemas, answers, strict=True)):
        made = generate(run.model, note.text, Json(schema), seeds=seed, **options)
        assert answer == run.task.tokenizer.decode(made.tokens[0])
        assert set(json.loads(answer)) == set(schema["properties"])


# -- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["schema", "object", "regex"])
def test_answers_keep_their_format(client: Any, kind: str) -> None:
    answer = client.chat.completions.create(model="tiny", messages=USER, seed=0, n=2, response_format=FORMATS[kind])
    for choice in answer.choices:
        text = choice.message.content
        assert choice.finish_reason == "stop"
        if kind == "regex":
            assert re.fullmatch("(yes|no), [a-z]{2,9}!", text)
        else:
            assert isinstance(json.loads(text), dict)


def test_parse_gives_an_object_of_the_class(client: Any) -> None:
    class Person(pydantic.BaseModel):
        age: int
        old: bool

    answer = client.chat.completions.parse(model="tiny", messages=USER, seed=0, response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_the_example_of_the_documentation(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    _, second = examples(ROOT / "docs" / "serving.md")
    exec(second.replace("http://127.0.0.1:8000", served.url), {})
    assert capsys.readouterr().out == "Order True\n"


def test_a_rule_holds_within_max_tokens(client: Any) -> None:
    wanted = {"type": "regex", "pattern": "[a-z]{3}[a-z0-9]*"}
    answer = client.chat.completions.create(model="tiny", messages=USER, seed=0, max_tokens=4, response_format=wanted)
    text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert re.fullmatch("[a-z]{3}[a-z0-9]*", text) and answer.usage.completion_tokens <= 4
    assert reason in ("stop", "length")
    with pytest.raises(openai.BadRequestError, match="no answer of at most 3 tokens fits") as refused:
        long = {"type": "regex", "pattern": "[0-9]{12}"}
        client.chat.completions.create(model="tiny", messages=USER, max_tokens=3, response_format=long)
    assert refused.value.param == "response_format"


def test_an_answer_that_breaks_its_format_is_not_given(client: Any) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="no answer that fits response_format was found"):
        client.chat.completions.create(
            model="tiny",
            messages=USER,
            seed=0,
            response_format=FORMATS["schema"],
            extra_body={"sampler": "autoregressive"},
        )


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "schema"])
def test_a_stream_joins_to_the_answer(client: Any, kind: str | None) -> None:
    options = {
        "model": "tiny",
        "messages": USER,
        "seed": 3,
        "n": 2,
        "response_format": FORMATS[kind] or openai.NOT_GIVEN,
    }
    whole = client.chat.completions.create(**options)
    said, reasons, usage, pieces = {0: "", 1: ""}, {}, None, 0
    with client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                said[choice.index] += choice.delta.content or ""
                pieces += bool(choice.delta.content)
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
    assert list(said.values()) == [choice.message.content for choice in whole.choices]
    assert list(reasons.values()) == [choice.finish_reason for choice in whole.choices]
    assert usage.model_dump() == whole.usage.model_dump()
    # Canvases come as they finish; under a rule a search may change them, so all comes at the end.
    assert pieces == 2 if kind else pieces > 2


def test_drafts_are_chunks_without_choices(client: Any, run: Run) -> None:
    options = {"model": "tiny", "prompt": "Hello", "seed": 3, "max_tokens": 32}
    stream = client.completions.create(**options, stream=True, extra_body={"drafts": True})
    chunks = list(stream)
    opening, *drafts, answer = [chunk for chunk in chunks if not chunk.choices]
    opening, drafts, answer = opening.problem, [chunk.draft for chunk in drafts], answer.answer
    assert opening["given"] == [] and opening["kind"] == "canvas" and set(opening["labels"].values()) == {"<pad>"}
    assert answer["best"] == drafts[-1]["best"] and answer["by"] == "passes" and answer["status"] == "finished"
    assert all(draft["judged"] is None for draft in drafts), "there is no rule"
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    made = python(run, tokenizer().encode(f"{BOS}Hello"), 3, limit=32)
    assert [text] == texts_of(run, made, 32) and len(drafts) == made.passes[0]
    assert [draft["pass"] for draft in drafts] == list(range(1, len(drafts) + 1))
    assert drafts[-1]["text"] == text and drafts[-1]["index"] == 0 and len(drafts[0]["best"]) == 32


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_before_a_stop(client: Any, stream: bool) -> None:
    options = {"model": "tiny", "prompt": "Hello", "seed": 3}
    whole = client.completions.create(**options).choices[0].text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    made = client.completions.create(**options, stop=["\0\1", stop], stream=stream)
    if stream:
        chunks = list(made)
        text, reason = "".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0].finish_reason
    else:
        text, reason = made.choices[0].text, made.choices[0].finish_reason
    assert text == whole[: whole.index(stop)] and reason == "stop"


def test_passes_end_with_the_canvas_that_holds_a_stop(client: Any) -> None:
    options = {"model": "tiny", "prompt": "Hello", "seed": 4}
    whole = client.completions.create(**options)
    assert whole.usage.passes > PASSES
    first = client.completions.create(**options, max_tokens=16).choices[0].text
    stopped = client.completions.create(**options, stop=first[:3])
    assert stopped.choices[0].text == "" and stopped.usage.passes < whole.usage.passes
