"""The task text/records: prompts of a user, judging, bad input, and quick trainings of the model and of its twin."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import constrained_dg
from constrained_dg.constraints import Json
from constrained_dg.errors import InputError
from constrained_dg.model import Backbone, preset
from constrained_dg.sampling import Status, named
from constrained_dg.training.settings import Objective
from experiments.text.records import measure
from tasks.text import Records
from tasks.text.records import CANVAS, Note, right_fields
from tasks.text.records_notes import Record
from tests.training import refusal, train_here

SCHEMA = (
    '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": false}'
)
RECORD = Record(
    "person",
    "New person. It has age 9. It is married. Their home is Oslo.",
    {"age": 9, "married": True, "town": "Oslo"},
    {"age": "count", "married": "flag", "town": "place"},
)


@pytest.fixture(scope="module")
def task() -> Records:
    return Records()


@pytest.fixture(scope="module")
def model(task) -> Backbone:
    shape = {"vocab_size": task.vocab_size, "canvas_length": CANVAS, "sliding_window": 512, "loops": 1}
    return Backbone(preset("tiny", **shape)).init_weights(torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"age": 9, "married": true, "town": "Oslo"}', (True, True, True)),
        ('{"age": 9.0, "married": 1, "town": "oslo"}', (True, False, False)),
        ('{"town": "Oslo"}', (False, False, True)),
        ("[9]", (False, False, False)),
        ('{"age": 9', (False, False, False)),
    ],
)
def test_fields_are_judged_one_by_one_with_their_type(answer, right):
    assert tuple(right_fields(RECORD, answer).values()) == right


def test_the_metrics_of_a_report(task):
    note = Note.of("known", RECORD)
    answers = [RECORD.answer, '{"age": 9, "married": false, "town": "Oslo"}']
    metrics = task.measure([SimpleNamespace(problem=note, answer=answer) for answer in answers])
    assert metrics["fields_right"]["value"] == 5 / 6 and metrics["records_right"]["value"] == 0.5
    assert "new_fields_right" not in metrics
    assert task.measure([SimpleNamespace(problem=task.parse(f"{SCHEMA} Hello."), answer="{}")]) == {}


def test_the_ids_of_special_tokens_are_those_of_the_tokenizer(task):
    assert (task.blank_id, task.padding_id, task.ends) == (
        task.tokenizer.pad_id,
        task.tokenizer.eos_id,
        task.tokenizer.ends,
    )


def test_held_out_notes_have_two_tiers(task):
    notes = task.held_out(3, 0)
    assert [note.tier for note in notes] == ["known"] * 3 + ["held_out_schema"] * 3
    assert notes == task.held_out(3, 0) and notes != task.held_out(3, 1)
    assert {task.shape_of(note)[1] for note in notes} == {CANVAS}


def test_a_prompt_of_ones_own(task):
    note = task.parse(f" {SCHEMA} Mia is 12 years old. ")
    assert json.loads(note.schema) == json.loads(SCHEMA) and note.record is None
    assert task.draw(note, None) == note.text
    answer = torch.tensor(task.tokenizer.fill(task.tokenizer.encode('{"age": 12}'), CANVAS))
    assert task.decode(note, answer) == '{"age": 12}'
    assert bool(task.constraint([note]).is_satisfied(answer[None]))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("New person. It has age 9.", "does not begin with JSON"),
        (SCHEMA, "no note behind the schema"),
        ('{"type": "banana"} Hello.', "banana"),
        ('{"allOf": [{"type": "string"}, {"type": "integer"}]} Hello.', "no text fits"),
        ('{"type": "string", "minLength": 500} Hello.', "needs at least .* tokens, and there are 32"),
        (f"{SCHEMA} {'word ' * 300}", "tokens; write at most 256"),
        ('{"$ref": "http://example.com/x"} Hello.', "example.com"),
    ],
)
def test_bad_prompts_are_refused_in_one_line(task, prompt, message):
    with pytest.raises(InputError, match=message) as refused:
        task.parse(prompt)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("seed", [-1, 0.5, True, 2**63])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(InputError, match=r"task\.seed"):
        Records(seed=seed)


@pytest.mark.parametrize("name", ["completed", "autoregressive_rules"])
def test_with_rules_even_an_untrained_model_writes_valid_records(task, model, name):
    notes = task.held_out(2, 5)
    batch, rule = task.encode(notes), task.constraint(notes)
    ends = {"eos": task.ends, "pad": task.padding_id, "canvas_length": CANVAS}
    answer = named(name).run(model, batch, rule, **ends)
    if name == "completed":
        assert answer.status == [Status.SOLVED] * 4 and int(answer.passes.max()) <= 12
    # From left to right a string may go on until the canvas ends; every prefix can still become valid.
    assert all(state is not Status.UNSATISFIABLE for state in answer.status)
    for note, tokens, state in zip(notes, answer.tokens, answer.status, strict=True):
        if state is Status.SOLVED:
            assert set(json.loads(task.decode(note, tokens))) == set(note.record.fields)


def test_the_masked_baseline_asks_the_rule_token_by_token(task, model):
    """The slow twin: the rule's own `allowed` for each prefix, and the likeliest token among them."""
    notes = task.held_out(1, 9)
    batch, rule = task.encode(notes), task.constraint(notes)
    got = named("autoregressive_rules").run(model, batch, rule)
    for row in range(2):
        written = batch.prompt[row][batch.mask[row]].tolist()
        for at in range(CANVAS):
            logits = model.causal_logits(torch.tensor([written]), model.empty_cache(1, len(written)))[0, -1]
            known = torch.arange(CANVAS)[None] < at
            allowed = rule.select(torch.tensor([row])).allowed(got.tokens[row][None], known, slice(at, at + 1))[0, 0]
            assert int(logits.masked_fill(~allowed, -torch.inf).argmax()) == int(got.tokens[row, at])
            written.append(int(got.tokens[row, at]))
    assert got.status == [Status.SOLVED] * 2


def test_one_call_with_text(task, model):
    prompt = f"{SCHEMA} Mia is 12 years old."
    answer = constrained_dg.generate(model, prompt, Json(SCHEMA), tokenizer=task.tokenizer, sampler="completed")
    assert answer.status == [Status.SOLVED] and set(json.loads(task.tokenizer.decode(answer.tokens[0]))) == {"age"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"canvas_weight": -1.0}, "canvas_weight is -1.0"),
        ({"canvas_weight": 0.0, "encoder_weight": 0.0}, "nothing else is learned"),
        ({"canvas_weight": 0.0, "encoder_rows": 0.0}, "nothing else is learned"),
        ({"canvas_weight": 0.0, "rollouts": True}, "canvas_weight is 0 with rollouts"),
        ({"encoder_prompt": 1}, "encoder_prompt is 1"),
    ],
)
def test_bad_objectives(values, message):
    with pytest.raises(InputError, match=message):
        Objective(**values)


def test_a_sampler_must_fit_the_objective(capsys):
    line = refusal(["task=text/records", "debug=steps", "objective=autoregressive"], capsys)
    assert "sampler 'completed', and the objective teaches no canvas" in line
    line = refusal(["task=text/records", "debug=steps", "sampler=autoregressive"], capsys)
    assert "'autoregressive' does not denoise" in line


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [[], ["experiment=records_twin"]], ids=["diffusion", "twin"])
def test_a_whole_run_in_seconds(tmp_path, capsys, experiment):
    out = tmp_path / "run"
    arguments = ["task=text/records", "debug=steps", *experiment]
    assert train_here(*arguments, f"out={out}", "report_per_tier=2") == 0
    run = constrained_dg.load(out)
    rows = json.loads((out / "final.json").read_text())["rows"]
    assert {row["tier"] for row in rows} == {"known", "held_out_schema", "all"}
    assert all("fields_right" in row["metrics"] for row in rows)
    assert run.task.name == "text/records"
    if experiment:
        return
    assert all(row["solved"] == 1.0 for row in rows)
    # The table beside a twin; a second call only reads what the first one saved.
    command = [f"run={out}", f"twin={out}", f"out={tmp_path / 'table'}", "n=2", "few=2", "batches=2"]
    measure.main(command)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "table" / "cells").iterdir()}
    table = json.loads((tmp_path / "table" / "records.json").read_text())["rows"]
    measure.main(command)
    assert len(first) == 8 and all(path.stat().st_mtime_ns == time for path, time in first.items())
    assert {row["metrics"]["valid"]["value"] for row in table if "completed" in row["sampler"]} == {1.0}
    assert capsys.readouterr().out.count("| diffusion, plain@untrained, batch 2 | known | 2 |") == 2


@pytest.mark.parametrize(
    ("answer", "fit"), [('{"age": 9}', True), ('{ "age": 9.0 }', True), ('{"age": "9"}', False), ('{"age"', False)]
)
def test_the_second_judge_of_the_table(answer, fit):
    assert measure.fits(answer, SCHEMA) == fit


@pytest.mark.slow
def test_the_twin_learns_the_next_token_of_the_answer_alone(task):
    from constrained_dg.training.module import DiffusionModule

    shape = {"vocab_size": task.vocab_size, "canvas_length": CANVAS, "sliding_window": 512, "loops": 1}
    model = Backbone(preset("tiny", **shape)).init_weights(torch.Generator().manual_seed(1))
    optimisation = SimpleNamespace(batch_size=8, steps=30)
    objective = Objective(canvas_weight=0.0, encoder_prompt=False, encoder_rows=1.0, self_conditioning=0.0)
    # The module reads no more of its parts than these stand-ins have.
    module = DiffusionModule(model, objective, optimisation, 0)  # type: ignore[arg-type]
    batch = task.train_batch(0, 8)
    loss = module._encoder_loss(batch, 8, None)
    tokens = torch.cat([batch.prompt, batch.answer], 1)
    mask = torch.cat([batch.mask, torch.ones_like(batch.pinned)], 1)
    logits = model.causal_logits(tokens, model.empty_cache(8, tokens.shape[1]), mask=mask)
    before = batch.prompt.shape[1] - 1
    expected = torch.nn.functional.cross_entropy(logits[:, before:-1].flatten(0, 1), batch.answer.flatten())
    assert torch.allclose(loss, expected, rtol=1e-4)
