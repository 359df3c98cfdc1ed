import csv
import io
import json
import logging
import os
import re
import time
from datetime import datetime

import pytest
from test_evaluation import PROBLEMS, TinyTask

from constrained_dg import report
from constrained_dg.errors import InputError
from constrained_dg.evaluation import solve, summarise
from constrained_dg.sampling import Search


@pytest.fixture
def outcomes():
    return {"search": solve(None, TinyTask(), Search(), PROBLEMS, batch_size=4, seed=0)}


def test_files_are_whole_and_hold_everything(tmp_path, outcomes):
    rows = summarise("search", outcomes["search"])
    report.save(tmp_path, {"seed": 0}, rows, outcomes)
    assert sorted(os.listdir(tmp_path)) == ["answers.csv", "metrics.json"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"header": {"seed": 0}, "rows": rows}
    table = list(csv.DictReader(io.StringIO((tmp_path / "answers.csv").read_text())))
    assert [row["problem"] for row in table] == [p.text for p in PROBLEMS]
    assert list(table[0])[:5] == ["problem", "answer", "status", "seed", "passes"]
    assert [int(row["seed"]) for row in table] == [o.seed for o in outcomes["search"]]


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, outcomes):
    report.save(tmp_path, {"seed": 0}, [], outcomes)
    with pytest.raises(TypeError):
        report.save(tmp_path, {"seed": object()}, [], outcomes)
    assert json.loads((tmp_path / "metrics.json").read_text())["header"] == {"seed": 0}
    assert sorted(os.listdir(tmp_path)) == ["answers.csv", "metrics.json"]


def test_folder(tmp_path):
    with report.new_folder(str(tmp_path / "a" / "b")) as folder:
        (folder / "kept").write_text("")
    assert os.listdir(tmp_path / "a" / "b") == ["kept"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("kept")
    with report.new_folder(str(tmp_path / "empty")), pytest.raises(InputError, match="not an empty folder"):
        # Another process that makes a report there.
        report.new_folder(str(tmp_path / "empty")).__enter__()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="never overwritten"), report.new_folder(str(taken)):
            pass
    with pytest.raises(InputError, match=r"cannot write to out .*Not a directory"):
        report.new_folder(str(tmp_path / "file" / "below")).__enter__()
    with pytest.raises(InputError, match=r"cannot write to out .*File name too long"):
        report.new_folder(str(tmp_path / ("x" * 300))).__enter__()
    assert (tmp_path / "file").read_text() == "kept" and os.listdir(tmp_path / "empty") == []


def test_an_empty_folder_is_removed_with_those_made_for_it(tmp_path):
    (tmp_path / "before").mkdir()
    for out in ("before", "before/a/b", "a"):
        with pytest.raises(KeyboardInterrupt), report.new_folder(str(tmp_path / out)):
            raise KeyboardInterrupt
        assert os.listdir(tmp_path) == ["before"] and os.listdir(tmp_path / "before") == []


def test_default_folders_of_the_same_second_differ(tmp_path, monkeypatch):
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "datetime", Frozen)
    with report.new_folder(None) as one, report.new_folder(None) as two, report.new_folder(None) as three:
        assert [path.name for path in (one, two, three)] == [
            "2026-01-02_03-04-05",
            "2026-01-02_03-04-05-2",
            "2026-01-02_03-04-05-3",
        ]
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        report.new_folder(str(tmp_path / "out")).__enter__()


def test_full_disk(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", lambda *_, **__: Full())
    with pytest.raises(InputError, match="No space left on device; give another out"):
        report.new_folder(str(tmp_path / "new" / "out")).__enter__()
    assert os.listdir(tmp_path) == []


def test_header(tmp_path):
    header = report.new_header(tmp_path, 7, "cpu", batch_size=3)
    assert {"command", "seed", "commit", "device", "date", "versions"} <= set(header)
    assert (header["seed"], header["batch_size"], header["commit"]) == (7, 3, None)
    assert header["device"].startswith("cpu (") and header["versions"]["torch"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", header["date"])


def test_table_names_every_number(capsys, outcomes):
    report.print_table(summarise("search", outcomes["search"]), ["a note"])
    shown = capsys.readouterr().out
    for tier in ("9", "17", "long", "all"):
        assert re.search(rf"│ {tier} +│ +{6 if tier == 'all' else 2} │ 100.0 \(\d+\.\d-100.0\) +0.0 │", shown), shown
    assert "a note" in shown and "95 % interval" in shown
    report.print_table([])


def test_progress_without_a_terminal_is_log_lines(caplog, monkeypatch, outcomes):
    with caplog.at_level(logging.INFO), report.progress("mine", 6) as advance:
        for outcome in outcomes["search"]:
            advance([outcome])
    assert caplog.messages == ["mine: 6 of 6 done, 6 solved"]


def test_progress_says_something_also_while_a_batch_takes_long(caplog, monkeypatch, outcomes):
    monkeypatch.setattr(report, "_EVERY", 0.001)

    def wait(text):
        while not any(text in message for message in caplog.messages):
            time.sleep(0.001)

    with caplog.at_level(logging.INFO):
        with report.progress("mine", 6) as advance:
            wait("mine: 0 of 6 done, 0 solved")
            advance(outcomes["search"][:2])
            wait("mine: 2 of 6 done, 2 solved")
        with report.progress("reading"):
            wait("reading: 0 s so far")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "60 min 0 s")])
def test_times(seconds, text):
    assert report._time(seconds) == text
