"""The report, from a run folder to files; answers are judged again here, without the library."""

import csv
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

import evaluate
from constrained_dg.cli import ROOT, load_config
from constrained_dg.errors import InputError
from constrained_dg.intervals import wilson
from constrained_dg.model import Backbone, preset
from constrained_dg.runs import save_run
from constrained_dg.sampling import Status

PUZZLES = ["1234341221434321", "12343412214343..", "1.34.4122.4.4321", "12..34.2..43.321", ".2.43.1..1.34.2."]
SEVERAL = "1234............"  # has more than one answer
CONTRADICTION = "11.............."  # its clues break a rule
DEAD_END = "123...4........."  # its clues do not, yet nothing fits the end of the first row


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder of an untrained tiny model on 4x4."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = preset("tiny", vocab_size=19, num_relations=5, canvas_length=16)
    model = Backbone(config).init_weights(torch.Generator().manual_seed(1))
    task = {"_target_": "tasks.sudoku.Sudoku", "sizes": {"4": 1.0}, "puzzles": 50}
    save_run(folder, model, {"task": task, "sampler": load_config("sampler", "plain")})
    return folder


@pytest.fixture
def cfg(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "puzzles.csv"
    rows = [f"{puzzle},{'easy' if k % 2 else 'hard'}" for k, puzzle in enumerate(PUZZLES)]
    data.write_text("\n".join(["Puzzle,level", *rows]))
    values = load_config_file()
    return {**values, "run": str(trained), "data": str(data), "out": str(tmp_path / "out"), "max_passes": 6}


def load_config_file():
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "evaluate.yaml"))


@pytest.mark.slow
def test_processes_share_the_problems_and_change_nothing(cfg, tmp_path):
    """Two processes, joined by gloo, beside one."""
    names = ["plain", "restarts", "search", "plain@untrained"]
    trainer = {"accelerator": "cpu", "strategy": "ddp", "precision": "auto"}
    made = {}
    for size in (1, 2):
        out = tmp_path / f"out{size}"
        values = {**cfg, "out": str(out), "samplers": names, "batch_size": 2, "trainer": {**trainer, "devices": size}}
        report = evaluate.evaluate(values)
        made[size] = answers_of(out)
        assert report["header"]["processes"] == size
        for row in report["rows"]:
            del row["seconds"], row["most_seconds"]
        made[size] = [{**row, "seconds": None} for row in made[size]], report["rows"]
    assert made[1] == made[2] and len(made[1][0]) == len(names) * len(PUZZLES)


@pytest.mark.parametrize(
    "trainer, match",
    [
        ({"accelerator": "gpu"}, "trainer is ddp on gpu; use trainer=ddp"),
        ({"strategy": "fsdp"}, "trainer is fsdp on cpu"),
        ({"devices": 0}, "trainer.devices is 0"),
        ({"devices": 10**6}, "trainer.devices is 1000000"),
        ({"nodes": 2}, "no key trainer.nodes"),
    ],
)
def test_other_processes_are_refused(cfg, trainer, match):
    values = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "precision": "auto"} | trainer
    with pytest.raises(InputError, match=match):
        evaluate.evaluate({**cfg, "trainer": values})


def test_a_twin_is_another_run_of_the_task(cfg, trained, tmp_path, capsys):
    model = Backbone(preset("tiny", vocab_size=19, num_relations=5, canvas_length=16))
    model.init_weights(torch.Generator().manual_seed(2))
    description = json.loads((trained / "run.json").read_text())
    other = {key: description[key] for key in ("task", "sampler")}
    save_run(tmp_path / "twin", model, other)
    values = {**cfg, "samplers": ["plain", "plain@twin"], "twin": str(tmp_path / "twin"), "seed": 3}
    evaluate.evaluate(values)
    both = answers_of(cfg["out"])
    alone = {**cfg, "run": values["twin"], "out": str(tmp_path / "alone"), "samplers": ["plain"], "seed": 3}
    evaluate.evaluate(alone)
    mine, theirs = ([row["answer"] for row in both if row["sampler"] == name] for name in values["samplers"])
    assert theirs == [row["answer"] for row in answers_of(alone["out"])] != mine
    with pytest.raises(InputError, match="sampler 'plain@twin' uses the model of twin; give twin=RUN"):
        evaluate.evaluate({**cfg, "out": None, "samplers": ["plain@twin"]})
    with pytest.raises(InputError, match="the twin 'text/records' has task text/records; give a run of task sudoku"):
        evaluate.evaluate({**cfg, "out": None, "twin": "text/records"})


def is_solution(puzzle, answer):
    """The rules of 4x4 Sudoku, written without the library."""
    rows = [answer[4 * k : 4 * k + 4] for k in range(4)]
    columns = ["".join(row[k] for row in rows) for k in range(4)]
    boxes = [rows[r][c : c + 2] + rows[r + 1][c : c + 2] for r, c in product((0, 2), (0, 2))]
    fits = all(clue in (".", "0", symbol) for clue, symbol in zip(puzzle, answer, strict=True))
    return fits and all(sorted(group) == list("1234") for group in rows + columns + boxes)


def answers_of(folder):
    with (Path(folder) / "answers.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_report(cfg, capsys):
    names = ["plain", "validity", "guaranteed", "search", "autoregressive", "validity@untrained"]
    evaluate.evaluate({**cfg, "samplers": names, "batch_size": 2, "check_overlap": True})
    shown = capsys.readouterr().out
    assert all(name in shown for name in [*names, "easy", "hard", "all", "seconds", "could equal"])
    out = Path(cfg["out"])
    pictures = {"answers.png", "solve_rate_by_given.png", "solve_rate_by_passes.png"}
    assert set(os.listdir(out)) == {"metrics.json", "answers.csv"} | pictures
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)

    saved = json.loads((out / "metrics.json").read_text())
    assert set(saved) == {"header", "rows"}
    header = saved["header"]
    assert {"command", "seed", "commit", "device", "date", "versions", "batch_size", "run", "data"} <= set(header)
    assert header["complete"] is True and header["batch_size"] == 2 and isinstance(header["overlap_with_training"], int)

    answers = answers_of(out)
    assert list(answers[0])[:5] == ["problem", "answer", "status", "seed", "passes"]
    assert [(row["sampler"], row["problem"]) for row in answers] == list(product(names, PUZZLES))
    for row in answers:
        solved = is_solution(row["problem"], row["answer"])
        assert row["status"] == ("solved" if solved else "unsolved"), row
        assert solved or row["sampler"] not in ("guaranteed", "search")

    assert [(row["sampler"], row["tier"]) for row in saved["rows"]] == list(product(names, ("easy", "hard", "all")))
    for row in saved["rows"]:
        counted = [r for r in answers if r["sampler"] == row["sampler"] and row["tier"] in (r["tier"], "all")]
        solved = sum(is_solution(r["problem"], r["answer"]) for r in counted)
        assert row["n"] == len(counted) and row["solved"] == solved / len(counted)
        assert row["ci95"] == list(wilson(solved, len(counted))) and row["seconds"] > 0
        assert row["mean_passes"] == pytest.approx(sum(int(r["passes"]) for r in counted) / len(counted))
        free = sum(r["problem"].count(".") for r in counted)
        passes = row["mean_passes"] * row["n"]
        assert row["tokens_per_pass"] == pytest.approx(free / passes if passes else 0.0, abs=0.5)
        for metric in row["metrics"].values():
            assert metric["ci95"][0] <= metric["value"] <= metric["ci95"][1] and metric["n"] <= row["n"]


def test_same_seed_same_answers_in_any_batch(cfg, tmp_path):
    made = []
    for number, (seed, batch_size) in enumerate([(0, 64), (0, 1), (0, 3), (1, 64)]):
        out = str(tmp_path / f"again{number}")
        evaluate.evaluate({**cfg, "out": out, "seed": seed, "batch_size": batch_size, "check_overlap": False})
        made.append([tuple(row.values()) for row in answers_of(out)])
    assert made[0] == made[1] == made[2] != made[3]


def test_verdicts(cfg, tmp_path):
    data = tmp_path / "odd.txt"
    data.write_text("\n".join([SEVERAL, CONTRADICTION, DEAD_END]))
    evaluate.evaluate({**cfg, "data": str(data), "samplers": ["guaranteed", "search"]})
    for row in answers_of(cfg["out"]):
        expected = "solved" if row["problem"] == SEVERAL else "unsatisfiable"
        assert row["status"] == expected and is_solution(row["problem"], row["answer"]) == (expected == "solved")
    metrics = json.loads((Path(cfg["out"]) / "metrics.json").read_text())["rows"][-1]["metrics"]
    assert metrics["unsatisfiable"]["value"] == pytest.approx(2 / 3)


def test_generated_problems_and_limit(cfg, tmp_path):
    evaluate.evaluate({**cfg, "data": None, "limit": 3, "samplers": ["search"]})
    assert len(answers_of(cfg["out"])) == 3
    drawn = []
    for seed in range(4):
        out = str(tmp_path / f"limit{seed}")
        evaluate.evaluate({**cfg, "out": out, "limit": 1, "samplers": ["search"], "seed": seed})
        drawn.append([row["problem"] for row in answers_of(out)])
        assert sorted(row["tier"] for row in answers_of(out)) == ["easy", "hard"]
    assert len({tuple(puzzles) for puzzles in drawn}) > 1


def test_samplers_are_those_of_the_task_unless_named(cfg, monkeypatch, capsys):
    monkeypatch.setattr("tasks.sudoku.Sudoku.samplers", ("search", "plain"))
    rows = evaluate.evaluate({**cfg, "check_overlap": False})["rows"]
    assert list(dict.fromkeys(row["sampler"] for row in rows)) == ["search", "plain"]
    evaluate.evaluate({**cfg, "data": None, "out": None, "puzzle": PUZZLES[0]})
    assert "search on " in capsys.readouterr().out


def interrupted_at(call, monkeypatch, error=KeyboardInterrupt):
    """Makes `solve` stop after its first batch, in this call of it."""
    solve, calls = evaluate.solve, []

    def stopped(model, task, sampler, problems, *, progress, **options):
        calls.append(1)
        if len(calls) < call:
            return solve(model, task, sampler, problems, progress=progress, **options)
        solve(model, task, sampler, problems[:2], progress=progress, **options)
        raise error

    monkeypatch.setattr(evaluate, "solve", stopped)


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("a rule raised")])
def test_what_is_solved_is_saved_and_printed_when_something_ends_it(cfg, monkeypatch, capsys, error):
    interrupted_at(2, monkeypatch, error)
    with pytest.raises(type(error) if isinstance(error, InputError) else error):
        evaluate.evaluate({**cfg, "samplers": ["search", "plain", "validity"]})
    saved = json.loads((Path(cfg["out"]) / "metrics.json").read_text())
    counts = {row["sampler"]: row["n"] for row in saved["rows"] if row["tier"] == "all"}
    assert counts == {"search": 5, "plain": 2} and saved["header"]["complete"] is False
    assert [row["sampler"] for row in answers_of(cfg["out"])] == ["search"] * 5 + ["plain"] * 2
    assert sorted(os.listdir(cfg["out"])) == ["answers.csv", "metrics.json"]
    shown = capsys.readouterr().out
    assert "search" in shown and "5/2" in shown and "not complete" in shown


def test_nothing_is_left_when_nothing_was_solved(cfg, monkeypatch, tmp_path):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "solve", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate({**cfg, "out": None})
    assert os.listdir(tmp_path) == ["puzzles.csv"]


def test_training_problems_are_compared_where_it_is_cheap_or_asked_for(cfg, monkeypatch, capsys):
    def note(**change):
        shutil.rmtree(cfg["out"], ignore_errors=True)
        header = evaluate.evaluate({**cfg, "samplers": ["search"], **change})["header"]
        return header["overlap_with_training"], capsys.readouterr().out.splitlines()[-1]

    monkeypatch.setattr("tasks.sudoku.Sudoku.overlap", lambda self, problems: [0, 2])
    assert note() == (None, "not compared with the training problems; check_overlap=true does, and may take minutes")
    assert note(check_overlap=True) == (2, "2 of 5 problems could equal a training problem up to symmetry")
    monkeypatch.setattr(evaluate, "COMPARED_FROM", 5)
    assert note()[0] == 2 and note(check_overlap=False)[0] is None
    monkeypatch.setattr("tasks.sudoku.Sudoku.overlap", lambda self, problems: None)
    assert note() == (None, "not compared with the training problems: this task has no comparison")


def test_a_report_is_never_overwritten(cfg):
    out = Path(cfg["out"])
    out.mkdir()
    (out / "metrics.json").write_text("earlier")
    with pytest.raises(InputError, match="never overwritten"):
        evaluate.evaluate(cfg)
    assert {p.name: p.read_text() for p in out.iterdir()} == {"metrics.json": "earlier"}


def test_one_puzzle_settles(cfg, capsys, tmp_path):
    cfg = {**cfg, "data": None}
    evaluate.evaluate({**cfg, "puzzle": PUZZLES[4], "samplers": ["guaranteed"]})
    shown = capsys.readouterr().out
    assert re.search(r"pass 1: \d+ of 8 accepted, \d+ break a rule", shown) and "\x1b" not in shown
    assert re.search(r"solved: passes \d, search branches \d+, \d\.\d\d s", shown)
    assert is_solution(PUZZLES[4], shown.split()[-1])
    trace = json.loads((Path(cfg["out"]) / "trace_1.json").read_text())
    assert trace["status"] == "solved" and (Path(cfg["out"]) / "settling_1.png").exists()
    assert (Path(cfg["out"]) / "certainty_1.png").exists()
    evaluate.evaluate({**cfg, "out": None, "puzzle": SEVERAL, "samplers": ["plain"]})
    assert re.search(r"unsolved: passes 6, .*\n(row|column|box) \d holds", capsys.readouterr().out)
    evaluate.evaluate({**cfg, "out": None, "puzzle": CONTRADICTION})
    shown = capsys.readouterr().out
    assert "1!1!" in shown and "unsatisfiable: passes 0" in shown and "no answer" in shown
    assert sorted(os.listdir(tmp_path)) == ["out", "puzzles.csv"]


def test_show(cfg, capsys):
    rows = evaluate.evaluate({**cfg, "data": None, "out": None, "show": 2, "samplers": ["validity"]})["rows"]
    assert rows[-1]["n"] == 2 and capsys.readouterr().out.count("validity on ") == 2


def test_generated_problems_are_shown_that_take_several_passes(cfg, capsys, monkeypatch):
    taken = iter([1, 9, 2, 1, 5, 1])

    def settle(cfg, run, one, problem, seed):
        settled = real(cfg, run, one, problem, seed)
        return replace(settled, outcome=replace(settled.outcome, passes=next(taken), status=Status.SOLVED))

    real = evaluate.settle
    monkeypatch.setattr(evaluate, "settle", settle)
    evaluate.evaluate({**cfg, "data": None, "out": None, "show": 2})
    shown = capsys.readouterr().out
    assert re.findall(r"solved: passes (\d+)", shown) == ["9", "5"] and list(taken) == [1]
    assert "5 of 5 generated problems are solved; shown are those that take several passes" in shown


def test_the_last_picture_shows_the_answer_of_the_search(cfg):
    # One pass of an untrained model does not solve this; the search does.
    evaluate.evaluate({**cfg, "data": None, "puzzle": SEVERAL, "samplers": ["guaranteed"], "max_passes": 1})
    trace = json.loads((Path(cfg["out"]) / "trace_1.json").read_text())
    assert [each["pass"] for each in trace["passes"]] == [1] and trace["passes"][0]["violations"]
    assert is_solution(SEVERAL, trace["answer"])


def cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def cut_description(folder):
    description = folder / "run.json"
    description.write_text(description.read_text()[:200])


def reshape(folder):
    description = json.loads((folder / "run.json").read_text())
    description["model"]["hidden_size"] = 64
    (folder / "run.json").write_text(json.dumps(description))


def kill(folder):
    for name in ("run.json", "model.safetensors"):
        (folder / name).rename(folder / name.replace("run", "train").replace("model", "last"))


def rename_task(folder):
    (folder / "run.json").write_text((folder / "run.json").read_text().replace("tasks.sudoku.Sudoku", "tasks.kakuro.X"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"puzzle": "123", "data": None}, "3 symbols; use 16"),
        ({"puzzle": "12!4341221434321", "data": None}, "symbol '!'"),
        ({"puzzle": "1274341221434321", "data": None}, "symbol '7' in a 4x4"),
        ({"puzzle": "." * 81, "data": None}, "canvas of 81 tokens; the model of .* holds 16"),
        ({"data": b""}, "bad.csv is empty"),
        ({"data": b"puzzle,level\n"}, "bad.csv has a header and no puzzles"),
        ({"data": b"clues,level\n" + PUZZLES[1].encode() + b",easy"}, "no puzzle column, only: clues, level"),
        ({"data": b"puzzle\n" + PUZZLES[1].encode() + b"\n12345"}, "line 3: a puzzle of 5 symbols"),
        ({"data": ("." * 81).encode()}, "canvas of 81 tokens"),
        ({"data": b"\xff\xfe\x00"}, "bad.csv cannot be read"),
        ({"data": "nowhere.csv"}, "no file .nowhere.csv"),
        ({"data": "."}, "cannot be read"),
        ({"run": "nowhere"}, "no run.json in 'nowhere'"),
        ({"run": cut}, "model.safetensors cannot be read"),
        ({"run": cut_description}, "not a run description"),
        ({"run": reshape}, "has shape"),
        ({"run": rename_task}, "tasks.kakuro"),
        ({"run": kill}, "broken' was not finished; go on with: python train.py resume="),
        ({"samplers": ["plan"]}, "no sampler 'plan'; known: .*plain"),
        ({"samplers": ["plain@trained"]}, "no sampler 'plain@trained'"),
        ({"samplers": ["search@untrained"]}, "'search@untrained' needs no model"),
        ({"samplers": []}, r"samplers is \[\]"),
        ({"samplers": "plain"}, "samplers is 'plain'"),
        ({"samplers": ["plain", "plain"]}, "each once"),
        ({"limt": 3}, "no configuration key .*limt.*limit"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": 1.5}, "limit is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": None}, "batch_size is None"),
        ({"seed": -1}, "seed is -1"),
        ({"max_passes": 0}, "max_passes is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"show": 0, "data": None}, "show is 0"),
        ({"show": 100_000_000, "data": None}, "show is 100000000; use an integer from 1 to 100"),
        ({"limit": 10**15, "data": None}, "use at most 100000, or give data=FILE"),
        ({"threads": 100_000}, "threads is 100000; use an integer from 0 to "),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"device": None}, "device is None"),
        ({"device": "meta"}, "device 'meta' cannot be used"),
        ({"run": "x" * 300}, "x"),
        ({"data": "x" * 300}, "x"),
        ({"page": "puzzles.csv"}, "page 'puzzles.csv' exists; give another page: nothing is overwritten"),
        ({"page": "no/page.html"}, "no folder 'no'; make it first"),
        ({"page": 3}, "page is 3; give a path"),
        ({"page": "x" * 300}, "cannot write to page 'x.*File name too long"),
        ({"out": "x" * 300}, "cannot write to out 'x.*File name too long"),
        ({"puzzle": PUZZLES[1]}, "data and puzzle were given together"),
        ({"check_overlap": 3}, "check_overlap is 3"),
        ({"packages": "mine"}, "packages is 'mine'"),
        ({"device": "tpux"}, "device 'tpux' cannot be used"),
        ({"out": "puzzles.csv"}, "'puzzles.csv' exists"),
        ({"out": "puzzles.csv/below"}, "cannot write to out 'puzzles.csv/below'"),
        ({"out": "/proc/nowhere"}, "cannot write to out '/proc/nowhere'"),
    ],
)
def test_bad_input(cfg, change, match, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "solve", None)  # nothing long begins
    (tmp_path / "bad.csv").write_bytes(b"")
    if isinstance(change.get("data"), bytes):
        (tmp_path / "bad.csv").write_bytes(change["data"])
        change = {**change, "data": "bad.csv"}
    if callable(change.get("run")):
        shutil.copytree(cfg["run"], tmp_path / "broken")
        change["run"](tmp_path / "broken")
        change = {**change, "run": str(tmp_path / "broken")}
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=match):
        evaluate.evaluate({**cfg, **change})
    assert sorted(os.listdir(tmp_path)) == before


def main(monkeypatch, *arguments):
    """The script's own main, in this process; returns its exit code."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    try:
        evaluate.main()
    except SystemExit as error:
        return error.code
    return 0


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["run is missing"]),
        (["sampler=plain"], ["'sampler'", "samplers"]),
        (["limit=0"], ["limit is 0"]),
        (["samplers=[plan]"], ["'plan'", "plain"]),
        (["+more=1"], ["'more'"]),
        (["puzzle=12"], ["2 symbols"]),
        (["out=/proc/nowhere"], ["/proc/nowhere"]),
    ],
)
def test_the_command_refuses_in_one_line(trained, tmp_path, monkeypatch, capsys, arguments, names):
    monkeypatch.chdir(tmp_path)
    run = [f"run={trained}"] if arguments else []
    assert main(monkeypatch, *run, *arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ") and all(name in err for name in names), err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("sign", "code", "line"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_signals(trained, tmp_path, monkeypatch, capsys, sign, code, line):
    def signalled(*_, **__):
        os.kill(os.getpid(), getattr(signal, sign))
        time.sleep(10)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "solve", signalled)
    # A shell starts what runs in the background without it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(monkeypatch, f"run={trained}", "limit=1") == code
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == f"{line}\n" and os.listdir(tmp_path) == []


def test_progress_is_logged(cfg, caplog):
    with caplog.at_level(logging.INFO):
        evaluate.evaluate({**cfg, "samplers": ["search"]})
    assert "search: 5 of 5 done, 5 solved" in caplog.messages


def test_the_script_from_another_folder(trained, tmp_path):
    command = [sys.executable, str(ROOT / "evaluate.py"), f"run={trained}", "limit=2", "samplers=[search]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    [folder] = (tmp_path / "outputs" / "evaluate").iterdir()
    header = json.loads((folder / "metrics.json").read_text())["header"]
    assert f"run={trained}" in header["command"] and f"report: {folder.relative_to(tmp_path)}" in done.stdout
