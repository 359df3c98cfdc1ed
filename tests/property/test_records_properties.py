"""Records: what the project makes for the task text/records, and its tokenizer."""

from __future__ import annotations

import json
import re

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from constrained_dg.constraints import json_text
from tasks.text.records import CANVAS, PROMPT, Records, right_fields
from tasks.text.records_notes import NEW, drawn_record, known_schema
from tasks.text.records_tokens import FILE, made, tokenizer
from tasks.text.records_values import held_out

SEEDS = st.integers(0, 2**32)


def texts_of(values):
    """Words and numbers of the values that may be held out, as they are written."""
    strings = [word for value in values if isinstance(value, str) for word in value.split()]
    return strings + [str(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]


@given(SEEDS, st.booleans(), st.booleans())
def test_every_answer_fits_its_schema_and_is_told_by_its_note(seed, new_values, new_schema):
    record = drawn_record(np.random.default_rng(seed), new_values, new_schema)
    jsonschema.Draft202012Validator.check_schema(record.schema)
    jsonschema.validate(record.fields, record.schema)
    assert json.loads(record.answer) == record.fields and json_text(record.fields, record.schema) == record.answer
    assert all(right_fields(record, record.answer).values())
    for key, value in record.fields.items():
        assert (
            f"not {key}" in record.note if value is False else str(value if value is not True else key) in record.note
        )


@given(SEEDS, st.booleans(), st.booleans())
def test_words_numbers_and_schemas_are_split_by_their_hash(seed, new_values, new_schema):
    record = drawn_record(np.random.default_rng(seed), new_values, new_schema)
    assert known_schema(record.entity, record.keys) != new_schema
    assert new_schema or not NEW & set(record.keys)
    closed = {"boolean": True, "enum": True}
    for key, value in record.fields.items():
        kind = record.schema["properties"][key]
        if closed.get(kind.get("type", "enum")) or str(value).endswith("day"):
            continue
        assert all(held_out(text) == new_values for text in texts_of([value])), (key, value)


@given(SEEDS)
def test_no_order_of_the_fields_makes_a_held_out_schema_known(seed):
    draws = np.random.default_rng(seed)
    record = drawn_record(draws, False, bool(draws.integers(2)))
    shuffled = tuple(record.keys[index] for index in draws.permutation(len(record.keys)))
    assert known_schema(record.entity, shuffled) == known_schema(record.entity, record.keys)


@given(st.text())
def test_the_tokenizer_keeps_any_text_and_tells_its_bytes(text):
    known = tokenizer()
    # Special tokens written in a text count as such.
    text = re.sub(r"<[a-z|]+>", "", text).encode("utf-8", "ignore").decode()
    tokens = known.encode(text)
    assert known.raw.decode(tokens, skip_special_tokens=False) == text
    assert known.texts().decode(tokens) == text.encode()


@given(SEEDS)
def test_a_value_has_the_same_tokens_in_the_note_and_in_the_answer(seed):
    record, known = drawn_record(np.random.default_rng(seed), True, True), tokenizer()
    words = "".join(f" {token}" for token in known.encode(record.note)) + " "
    for value in record.fields.values():
        if isinstance(value, str):
            tokens = "".join(f" {token}" for token in known.encode(value)) + " "
            inside = "".join(f" {token}" for token in known.encode(record.answer)) + " "
            assert tokens in words and tokens in inside


@pytest.fixture(scope="module")
def task() -> Records:
    return Records()


def test_the_rule_accepts_the_answers_and_refuses_wrong_ones(task):
    notes = task.held_out(8, 3)
    rule = task.constraint(notes)
    answers = torch.tensor([task.tokenizer.fill(task.tokenizer.encode(note.record.answer), CANVAS) for note in notes])
    assert bool(rule.is_satisfied(answers).all())
    nothing = torch.zeros_like(answers, dtype=torch.bool)
    allowed = rule.allowed(answers, nothing, slice(0, CANVAS))
    assert bool(allowed.gather(2, answers[..., None]).all())
    broken = answers.clone()
    broken[:, 0] = answers[:, 1]
    assert not bool(rule.is_satisfied(broken).any())
    classes, exists = rule.most_likely(torch.zeros(len(notes), CANVAS, rule.num_classes))
    assert bool(exists.all()) and bool(rule.is_satisfied(classes).all())
    for note, tokens in zip(notes, classes, strict=True):
        jsonschema.validate(json.loads(task.tokenizer.decode(tokens)), json.loads(note.schema))


@given(st.integers(0, 10**6), st.integers(0, 3))
def test_a_batch_is_a_function_of_its_step(step, rank):
    task = Records()
    first, second = (task.train_batch(step, 2, rank) for _ in range(2))
    assert torch.equal(first.prompt, second.prompt) and torch.equal(first.answer, second.answer)
    assert first.prompt.shape == (2, PROMPT) and first.answer.shape == (2, CANVAS)
    assert bool((first.answer == task.padding_id).any(1).all())  # an end is learned in every row
    other = task.train_batch(step + 1, 2, rank)
    assert not torch.equal(first.prompt, other.prompt)


def test_prompts_and_answers_read_as_they_were_written(task):
    batch = task.train_batch(7, 4)
    for prompt, mask, answer in zip(batch.prompt, batch.mask, batch.answer, strict=True):
        text = task.tokenizer.raw.decode(prompt[mask].tolist())
        schema, _ = json.JSONDecoder().raw_decode(text.removeprefix("user\n"))
        jsonschema.validate(json.loads(task.tokenizer.decode(answer)), schema)


@pytest.mark.slow
def test_the_tokenizer_is_what_its_recipe_makes():
    assert json.loads(made().to_str()) == json.loads(FILE.read_text())
