import errno
import logging
import os
import sys

import pytest

from constrained_dg import cli
from constrained_dg.errors import InputError
from constrained_dg.sampling import Completer, Diffusion, Search

CONFIG = """
defaults:
  - shape: ???
  - _self_
number: 1
name: null
path: null
nested: {inner: 2, also: "${number}"}
needed: ???
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a body with a command line; returns what it got, the exit code, and stderr."""
    (tmp_path / "conf" / "shape").mkdir(parents=True)
    (tmp_path / "conf" / "main.yaml").write_text(CONFIG)
    for name in ("round", "square"):
        (tmp_path / "conf" / "shape" / f"{name}.yaml").write_text(f"kind: {name}\n3: 0.5\n")
    monkeypatch.setattr(cli, "CONF", tmp_path / "conf")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*arguments, body=None):
        got = []
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
        code = 0
        try:
            cli.entry("main", text=("path",))(body or got.append)()
        except SystemExit as error:
            code = error.code
        assert sys.argv == ["script.py", *arguments]
        return got, code, capsys.readouterr().err

    return call


def test_the_body_gets_plain_values(run):
    [cfg], code, err = run("shape=round", "needed=[1,a]", "nested.inner=5")
    assert (code, err) == (0, "") and os.listdir(".") == []
    assert cfg == {
        "shape": {"kind": "round", 3: 0.5},
        "number": 1,
        "name": None,
        "path": None,
        "nested": {"inner": 5, "also": 1},
        "needed": [1, "a"],
        "overridden": ["needed", "nested", "shape"],
    }
    assert type(cfg["nested"]) is dict and type(cfg["needed"]) is list


@pytest.mark.parametrize(
    "value",
    ["53..7....6..195", "0005", "123412341234123.", "a b/(c)'s [x]", "C:\\dir\\", "\\'", "1e5", "null0", "a=b,c"],
)
def test_text_is_taken_as_it_stands(run, value):
    [cfg], code, _ = run("shape=round", "needed=1", f"path={value}")
    assert (cfg["path"], code) == (value, 0)


def test_text_may_be_null_or_quoted(run):
    assert run("shape=round", "needed=1", "path=null")[0][0]["path"] is None
    assert run("shape=round", "needed=1", "path='a b'")[0][0]["path"] == "a b"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["needed=1"], ["shape is missing", "round, square"]),
        (["shape=oval", "needed=1"], ["no shape 'oval'", "round, square"]),
        (["shape=round"], ["needed is missing"]),
        (["shape=round", "needed=1", "numbr=3"], ["'numbr'", "did you mean number"]),
        (["shape=round", "needed=1", "nested.iner=3"], ["'nested.iner'", "inner"]),
        (["shape=round", "needed=1", "shape.sides=3"], ["'shape.sides'", "kind"]),
        (["shape=round", "needed=[1"], ["[1"]),
        (["shape=round", "needed=1,2"], ["needed=1,2", "[value1,value2]"]),
        (["shape=round", "needed=${nowhere}"], ["nowhere"]),
    ],
)
def test_configuration_errors_are_one_line(run, arguments, names):
    got, code, err = run(*arguments)
    assert (got, code) == ([], 2) and os.listdir(".") == []
    assert err.count("\n") == 1 and err.startswith("error: ")
    assert all(name in err for name in names), err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("limit is 0", "use\nmore"), 2, "error: limit is 0; use more\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, "error: a/b: No space left on device; "),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), 2, "error: a/b: Read-only file system; "),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_of_the_body(run, error, code, line):
    def body(cfg):
        raise error

    _, got, err = run("shape=round", "needed=1", body=body)
    assert got == code and err.startswith(line) and err.count("\n") == 1


def test_our_own_mistakes_keep_their_traceback(run):
    def body(cfg):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run("shape=round", "needed=1", body=body)


def test_a_broken_yaml_is_one_line(run, tmp_path):
    (tmp_path / "conf" / "shape" / "round.yaml").write_text("kind: {a: ${b}}")
    got, code, err = run("shape=round", "needed=1")
    assert (got, code) == ([], 2) and err.count("\n") == 1 and "round.yaml" in err


def test_flags_may_stand_anywhere(run):
    got, code, _ = run("shape=round", "-m", "needed=1,2")
    assert code == 0 and [cfg["needed"] for cfg in got] == [1, 2]
    assert os.listdir(".") == []
    assert run("--cfg", "job", "shape=round")[:2] == ([], 0)


def test_further_processes_of_a_sweep_get_the_command_of_their_run(run, tmp_path):
    seen = []
    (tmp_path / "mine").mkdir()
    flags = ["-m", "--config-dir", str(tmp_path / "mine")]
    _, code, _ = run("shape=round", *flags, "needed=1,2", "path=a=b, 'c'", body=lambda cfg: seen.append(sys.argv[:]))
    assert code == 0
    for number, argv in enumerate(seen, 1):
        assert argv[0] == "script.py" and f"needed={number}" in argv and "-m" not in argv
        again, code, _ = run(*argv[1:])
        assert code == 0 and (again[0]["needed"], again[0]["path"]) == (number, "a=b, 'c'")
    assert len(seen) == 2


def test_another_tasks_package_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    got, code, err = run("shape=round", "needed=1")
    assert (got, code) == ([], 2) and "'tasks' comes from" in err and err.count("\n") == 1


def test_logging_is_left_alone(run):
    before = logging.root.handlers[:]
    run("shape=round", "needed=1")
    assert logging.root.handlers == before


def test_every_sampler_loads_under_its_own_name():
    names = sorted(path.stem for path in (cli.CONF / "sampler").glob("*.yaml"))
    assert {"plain", "validity", "guaranteed", "search", "autoregressive"} <= set(names)
    for name in names:
        assert cli.load_sampler(name).name == name
    assert cli.load_sampler("plain") == Diffusion()
    assert cli.load_sampler("search", ["complete.budget=7"]) == Search(complete=Completer(budget=7))


@pytest.mark.parametrize(
    ("name", "overrides", "match"),
    [
        ("plan", [], "no sampler 'plan'; known: .*plain"),
        ("../train", [], "no sampler"),
        ("plain", ["max_pases=3"], "max_pases"),
        ("plain", ["max_passes=0"], "max_passes is 0"),
    ],
)
def test_load_sampler_refuses(name, overrides, match):
    with pytest.raises(InputError, match=match):
        cli.load_sampler(name, overrides)


def test_choices_in_folders_are_named_with_them():
    assert {"sudoku", "text", "graph/coloring"} <= set(cli.choices("task"))
    assert cli.load_config("task", "graph/coloring")["task"]["_target_"] == "tasks.graph.Coloring"
    with pytest.raises(InputError, match=r"no task .graph/colouring.; known: .*graph/coloring"):
        cli.load_config("task", "graph/colouring")
