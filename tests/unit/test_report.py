import csv
import io
import json
import logging
import os
import re

import pytest
from test_metrics import PROBLEMS, TinyTask

from constrained_dg import report
from constrained_dg.errors import InputError
from constrained_dg.metrics import solve, summarise
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
    assert [row["puzzle"] for row in table] == [p.text for p in PROBLEMS]
    assert list(table[0])[:5] == ["puzzle", "answer", "status", "seed", "passes"]
    assert [int(row["seed"]) for row in table] == [o.seed for o in outcomes["search"]]


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, outcomes):
    report.save(tmp_path, {"seed": 0}, [], outcomes)
    with pytest.raises(TypeError):
        report.save(tmp_path, {"seed": object()}, [], outcomes)
    assert json.loads((tmp_path / "metrics.json").read_text())["header"] == {"seed": 0}
    assert sorted(os.listdir(tmp_path)) == ["answers.csv", "metrics.json"]


def test_folder(tmp_path):
    report.make_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []
    report.make_folder(tmp_path / "a" / "b")  # empty: nothing is lost
    (tmp_path / "file").write_text("kept")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="never overwritten"):
            report.make_folder(taken)
    with pytest.raises(InputError, match=r"cannot write to out .*Not a directory"):
        report.make_folder(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        report.make_folder(tmp_path / "out")


def test_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="No space left on device; give another out"):
        report.make_folder(tmp_path / "out")


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
    monkeypatch.setattr(report, "_EVERY", 1e9)
    with caplog.at_level(logging.INFO), report.progress("mine", 6) as told:
        for outcome in outcomes["search"]:
            told([outcome])
    assert caplog.messages == ["mine: 6 of 6 done, 6 solved"]
