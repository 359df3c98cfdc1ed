"""The page: what is recorded equals the step records and the rules' own words, and the file is whole and harmless."""

import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_evaluation import GRID, PROBLEMS, TinyTask

from constrained_dg.constraints import Pinned
from constrained_dg.errors import InputError
from constrained_dg.evaluation import solve
from constrained_dg.sampling import Autoregressive, Candidates, Diffusion, Restarts, Search, Sets, Violations
from constrained_dg.sampling.completer import Completer
from constrained_dg.task import Batch, Problem
from constrained_dg.viz.page import recording, writing
from tests.fakes import VOCAB, Oracle, Restless


class PageTask(TinyTask):
    canvas_length, padding_id = None, 0

    def token_text(self, token):
        return "" if token == 0 else f"<{token}>"

    def picture(self, problem, answer=None):
        return {"kind": "grid", "columns": 4, "box": 2}


WANDERS = Diffusion(renoise=Violations(), max_passes=6)


def recorded(sampler, model=None, problem=PROBLEMS[0], task=None, seed=7):
    """A run, its outcome, and the records of the same run seen by another listener."""
    task, model, records = task or PageTask(), model or Restless(1), []
    run, outcome = recording.record_run(model, task, "it", sampler, problem, seed)
    [again] = solve(
        model, task, sampler, [problem], batch_size=1, seed=0, seeds=[seed], on_step=records.append, max_passes=None
    )
    assert torch.equal(again.tokens, outcome.tokens) and again.passes == outcome.passes
    return run, outcome, records


def where(mask, start=0):
    return [start + at for at, value in enumerate(mask.tolist()) if value]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampler", [WANDERS, Restarts("restarts", WANDERS, attempts=3), Diffusion()])
def test_passes_are_those_of_the_records_and_sentences_those_of_the_rules(sampler, seed):
    run, outcome, records = recorded(sampler, seed=seed)
    rules = PageTask().constraint(PROBLEMS[:1])
    assert len(run["passes"]) == len(records) == outcome.passes and run["kind"] == "canvas"
    attempt = 0
    for number, (each, record) in enumerate(zip(run["passes"], records, strict=True), 1):
        attempt += record.pass_index == 0
        assert (each["pass"], each["attempt"], each["canvas"]) == (number, attempt, [0, 16])
        assert each["best"] == record.best[0].tolist()
        for name in ("accepted", "renoised"):
            assert each[name] == where(getattr(record, name)[0])
        assert each["conflicts"] == where(record.conflict[0]) and each["sets"] is None and each["judged"]
        assert each["violations"] == where(rules.violations(record.best)[0])
        assert each["sentences"] == (rules.explain(record.best)[0] if each["violations"] else [])
        assert bool(each["sentences"]) == (not rules.is_satisfied(record.best)[0])
        free = [at for at in range(16) if PROBLEMS[0].text[at] == "0"]
        for at in range(16):
            entropy = float(record.entropy[0, at]) if at in free else 0.0
            assert each["entropy_nats"][at] == pytest.approx(entropy, abs=6e-4)
        mean = sum(float(record.entropy[0, at]) for at in free) / len(free)
        assert each["mean_entropy_nats"] == pytest.approx(mean, abs=1e-5)


def test_the_verdict_is_that_of_the_outcome():
    run, outcome, _ = recorded(WANDERS)
    rules, answer = PageTask().constraint(PROBLEMS[:1]), run["answer"]
    assert answer["status"] == str(outcome.status) and answer["best"] == outcome.tokens.tolist()
    assert answer["passes"] == outcome.passes and answer["tokens_per_pass"] == outcome.tokens_per_pass
    assert answer["sentences"] == rules.explain(outcome.tokens[None])[0]
    assert answer["by"] == "passes" and answer["changed"] == []


def test_sets_are_the_living_tokens():
    class Unsure(Oracle):
        """Sure of nothing but the first free position."""

        def logits(self, canvas, cache, signal):
            logits = super().logits(canvas, cache, signal)
            logits[:, 1:] = 0
            return logits

    problem = Problem("9", "0" * 16)
    run, _, records = recorded(Diffusion(sets=Sets(), max_passes=8), Unsure(), problem)
    assert records and len(run["passes"]) == len(records)
    for each, record in zip(run["passes"], records, strict=True):
        assert each["sets"] == [[1 + k for k in where(alive)] for alive in record.sets[0]]
        assert each["accepted"] == [at for at, alive in enumerate(each["sets"]) if len(alive) == 1]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 9))
def test_large_sets_are_counted_and_small_ones_listed(alive, low):
    found = recording.living(torch.tensor(alive), low)
    tokens = [low + at for at, lives in enumerate(alive) if lives]
    assert found == (tokens if len(tokens) <= recording.MOST_LIVING else len(tokens))


def test_left_to_right_each_pass_writes_what_the_next_one_reads():
    class Heard(Restless):
        read = ()

        def next_token(self, tokens, cache, relations=None):
            self.read += (int(tokens[0, 0]),)
            logits = torch.zeros(len(tokens), VOCAB)
            logits[:, 1 + len(self.read) * 7 % 4] = 5
            return logits

    model = Heard()
    run, outcome = recording.record_run(model, PageTask(), "it", Autoregressive(), PROBLEMS[1], 3)
    assert run["kind"] == "left to right" and len(run["passes"]) == outcome.passes == len(model.read) == 16
    for at, each in enumerate(run["passes"]):
        assert each["canvas"] == [at, at + 1] and each["attempt"] == 1
        uniform = torch.tensor([5.0, *[0] * (VOCAB - 1)]).softmax(0)
        entropy = float(-(uniform * uniform.log()).sum()) if PROBLEMS[1].text[at] == "0" else 0.0
        assert each["entropy_nats"] == pytest.approx([0.0] * at + [entropy] + [0.0] * (15 - at), abs=6e-4)
        assert each["accepted"] == ([at] if PROBLEMS[1].text[at] == "0" else [])
        assert at == 15 or each["best"][at] == model.read[at + 1]
        assert each["judged"] == (at == 15)
    assert run["passes"][-1]["best"] == outcome.tokens.tolist() and run["answer"]["by"] == "passes"
    assert run["answer"]["violations"] == run["passes"][-1]["violations"] != []


def test_what_a_search_wrote_is_marked_as_its_part():
    unsure = Oracle(lies=(0, 1, 2))
    run, outcome, _ = recorded(Diffusion(max_passes=2, complete=Completer()), unsure)
    answer, last = run["answer"], run["passes"][-1]["best"]
    assert outcome.solved and answer["by"] == "completer" and answer["best"] == list(GRID)
    assert answer["changed"] == [at for at in range(16) if last[at] != GRID[at]] != []
    run, outcome, _ = recorded(Search())
    assert run["kind"] == "search" and run["passes"] == [] and run["answer"]["by"] == "completer"
    assert run["answer"]["changed"] == [at for at in range(16) if PROBLEMS[0].text[at] == "0"]


def test_an_answer_of_an_earlier_attempt_and_a_proof():
    found = [recorded(Restarts("restarts", WANDERS, attempts=4), Restless(0), seed=seed)[0] for seed in range(12)]
    by = {run["answer"]["by"] for run in found}
    assert by == {"passes", "earlier attempt"}
    for run in found:
        drafts = [each["best"] for each in run["passes"]]
        assert (drafts[-1] == run["answer"]["best"]) == (run["answer"]["by"] == "passes")
        assert run["answer"]["best"] in drafts
    clash = Problem("9", "11" + "0" * 14)
    run, _, _ = recorded(Diffusion(complete=Completer()), problem=clash)
    assert (run["answer"]["by"], run["answer"]["status"], run["answer"]["answer"]) == ("proof", "unsatisfiable", None)
    assert run["answer"]["sentences"] == []


def test_of_several_candidates_the_winner_is_recorded():
    sampler = Candidates("candidates", replace(WANDERS, judge_stop=True), 4)
    rows = set()
    for seed in range(8):
        run, outcome, records = recorded(sampler, Restless(2), seed=seed)
        row = recording.winner(records, outcome.tokens, ())
        assert row is not None and run["passes"][-1]["best"] == outcome.tokens.tolist()
        assert len(run["passes"]) == sum(row in record.rows.tolist() for record in records) < outcome.passes
        rows.add(row)
    assert len(rows) > 1


class Ending(PageTask):
    """Answers of up to 16 tokens in canvases of 4. 5 ends one, and 6 follows. The rule: 3 first, 6 at 7 and 15."""

    canvas_length, ends, padding_id = 4, (5,), 6

    def encode(self, problems):
        return Batch(torch.tensor([[0, 6]]), torch.ones(1, 16).long(), torch.zeros(1, 16).bool(), None, (1, 6))

    def constraint(self, problems):
        bound = sum(torch.arange(16)[None] == at for at in (0, 7, 15)) > 0
        return Pinned(torch.tensor([[3] + [6] * 15]), bound, VOCAB)


CANVASES = Diffusion(max_passes=2)


@pytest.mark.parametrize("sampler", [CANVASES, Restarts("restarts", CANVASES, attempts=2)])
@pytest.mark.parametrize(
    ("answer", "canvases", "broken"), [([3, 1, 2, 1, 2, 5] + [1] * 10, 2, []), ([2] + [1] * 15, 4, [0, 7, 15])]
)
def test_an_answer_is_judged_when_it_has_ended_and_with_its_padding(sampler, answer, canvases, broken):
    class Says(Restless):
        def logits(self, canvas, cache, signal):
            start = cache.length - 2
            return 2.0 * torch.nn.functional.one_hot(torch.tensor([answer[start : start + 4]]), VOCAB).float()

    run, outcome, records = recorded(sampler, Says(), Problem("9", "x"), Ending())
    assert outcome.solved == (not broken) and len(run["passes"]) == len(records)
    attempts = 1 if outcome.solved or sampler is CANVASES else 2
    order = [(each["attempt"], each["canvas"][0]) for each in run["passes"]]
    assert order == sorted(order)
    assert set(order) == {(attempt, 4 * k) for attempt in range(1, attempts + 1) for k in range(canvases)}
    for each in run["passes"]:
        start, end = each["canvas"]
        assert end == start + 4 and sorted(each["accepted"] + each["renoised"]) == list(range(start, end))
        assert each["best"] == answer[:end] + [0] * (16 - end), "what an earlier attempt wrote behind is gone"
        assert each["judged"] == (end == 4 * canvases)
        assert each["violations"] == (broken if each["judged"] else [])
        assert each["entropy_nats"][:start] == [0] * start and each["entropy_nats"][end:] == [0] * (16 - end)
        assert min(each["entropy_nats"][start:end]) > 0
    assert run["answer"]["by"] == "passes" and run["answer"]["violations"] == broken
    assert any(each["renoised"] for each in run["passes"] if each["canvas"][0])


def test_many_passes_are_cut_and_the_page_says_so(monkeypatch, tmp_path):
    for module in (recording, writing):
        monkeypatch.setattr(module, "MOST_PASSES", 4)
    run, outcome, _ = recorded(WANDERS)
    assert outcome.passes == 6 and len(run["passes"]) == 4 and run["answer"]["passes"] == 6
    assert run["answer"]["best"] == outcome.tokens.tolist() and run["answer"]["by"] == "passes"
    assert "of each run the first 4 passes at most" in page_of(tmp_path, PROBLEMS[:1])[1]["notes"][-1]


HEADER = dict.fromkeys(("command", "commit", "date", "device", "seed"), "x")


def page_of(tmp_path, problems, total=9, title="It", task=None):
    shown = [writing.Shown(each, 5, {"it": "another"}) for each in problems]
    samplers = [("it", WANDERS, Restless(1)), ("search", Search(), None)]
    path = str(tmp_path / "page.html")
    said = writing.write_page(path, title, HEADER, task or PageTask(), samplers, shown, total)
    text = (tmp_path / "page.html").read_text()
    [data] = re.findall(r'<script type="application/json" id="data">(.*)</script>', text)
    assert said.startswith(f"page: {path}; ")
    return text, json.loads(data)


def test_the_file_holds_all_and_loads_nothing(tmp_path):
    text, data = page_of(tmp_path, PROBLEMS[:2])
    assert [each["text"] for each in data["problems"]] == [each.text for each in PROBLEMS[:2]]
    assert data["notes"][-1] == "2 of 9 problems are recorded."
    assert [run["sampler"] for run in data["problems"][0]["runs"]] == ["it", "search"]
    assert [run["as_in_report"] for run in data["problems"][0]["runs"]] == [False, True]
    used = {token for run in data["problems"][0]["runs"] for token in run["answer"]["best"]}
    assert {str(token) for token in used} <= set(data["problems"][0]["labels"])
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}, (
        "the name of SVG, not an address"
    )
    assert not re.search(r"(src|href)=|@import|url\((?!#)|fetch\(|XMLHttpRequest|innerHTML|insertAdjacent|eval\(", text)
    assert "{{" not in text.replace(json.dumps(data), "")


def test_the_policy_allows_this_style_and_this_script_alone(tmp_path):
    text, _ = page_of(tmp_path, PROBLEMS[:1])
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "connect-src 'none'" in policy
    for tag in ("style", "script"):
        [body] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


HOSTILE = "</script><script>alert(1)</script><!-- {{script}} & \u2028 \ud800 <img src=x onerror=alert(1)>"


def test_hostile_text_stays_text(tmp_path):
    class Hostile(PageTask):
        def token_text(self, token):
            return HOSTILE

    problem = replace(PROBLEMS[0], tier=HOSTILE)
    text, data = page_of(tmp_path, [problem], title=HOSTILE, task=Hostile())
    assert data["problems"][0]["tier"] == HOSTILE and data["problems"][0]["labels"]["1"] == HOSTILE
    assert text.count("<script") == text.count("</script>") == 2 and "<img" not in text and "<!--" not in text


@given(st.text())
def test_json_in_the_page_ends_no_element_and_is_read_again(text):
    assert not set("<>&\u2028") & set(writing.as_json({text: [text]}))
    assert json.loads(writing.as_json({text: [text]})) == {text: [text]}


def test_problems_beyond_the_size_are_left_out_and_the_page_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(writing, "MOST_BYTES", 10)
    _, data = page_of(tmp_path, PROBLEMS[:3])
    assert len(data["problems"]) == 1 and data["notes"][-1].startswith("1 of 9 problems are recorded (more than")


@given(st.integers(1, 60))
def test_the_problems_of_a_report_are_spread(count):
    problems = [Problem("9", str(at)) for at in range(count)]
    shown = writing.of_report(problems, list(range(count)), {})
    numbers = [each.seed for each in shown]
    assert numbers == sorted(set(numbers)) and len(numbers) == min(count, writing.MOST_PROBLEMS)
    assert numbers[0] == 0 and numbers[-1] == count - 1
    assert [each.problem.text for each in shown] == [str(at) for at in numbers]


def test_a_page_is_never_overwritten_and_needs_a_folder(tmp_path):
    there = tmp_path / "there.html"
    there.write_text("earlier")
    for page, match in [
        (there, "exists; give another page"),
        (tmp_path, "exists"),
        (tmp_path / "no" / "page.html", "no folder .*/no.; make it first"),
        (there / "page.html", "no folder|cannot write"),
        ("a" * 300 + ".html", "cannot write to page"),
        ("\0", "cannot write to page"),
    ]:
        with pytest.raises(InputError, match=match):
            writing.check_path(str(page), None)
    writing.check_path(str(tmp_path / "page.html"), None)
    writing.check_path(str(tmp_path / "out" / "page.html"), str(tmp_path / "out"))
    assert there.read_text() == "earlier"
