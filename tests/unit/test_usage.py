import sys

import pytest

from constrained_dg import cli, usage

CONFIG = """# python main.py shape=NAME
# Second line.
defaults:
  - shape: ??? # what it looks like
  - size: small # how large it is
  - _self_
number: 1 # of corners
text: null # it may hold a "#" sign
validate: # of what
  every: 500 # steps
names: [] # names of conf/size
"""


@pytest.fixture
def conf(tmp_path):
    for name, text in {
        "main.yaml": CONFIG,
        "shape/round.yaml": "# Without corners.\nkind: circle # what it is called\nradius: 3\n",
        "shape/flat/square.yaml": "# @package _global_\n# With corners.\nshape:\n  kind: square\n  side: {1: 2.5}\n",
        "size/small.yaml": "_target_: a.B\nlength: 2 # in metres\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def help_of(conf, monkeypatch, capsys):
    def call(*arguments, program="main.py"):
        monkeypatch.setattr(cli, "CONF", conf)
        monkeypatch.setattr(sys, "argv", [program])
        cli.entry("main")(lambda cfg: pytest.fail("help runs nothing"))(["--help", *arguments])
        return capsys.readouterr().out

    return call


def test_help_explains_every_key(help_of):
    lines = [" ".join(line.split()) for line in help_of().splitlines()]
    assert lines[:2] == ["python main.py shape=NAME", "Second line."]
    for line in (
        "number=1 of corners",
        'text=null it may hold a "#" sign',
        "validate.every=500 steps",
        "shape=NAME what it looks like",
        "flat/square With corners.",
        "round Without corners.",
        "size=small how large it is",
        "size.length=2 in metres",
        "names=[] names of conf/size",
    ):
        assert line in lines, line
    assert not any("_target_" in line for line in lines) and lines.count("small") == 2


def test_help_of_a_choice(help_of):
    lines = [" ".join(line.split()) for line in help_of("shape=flat/square", "number=7").splitlines()]
    assert (
        "shape.kind=square what it is called" in lines
        and "shape.side={1: 2.5}" in lines
        and "number=7 of corners" in lines
    )


def test_help_names_the_command_that_was_typed(help_of):
    assert help_of(program="/usr/bin/constrained-dg").startswith("constrained-dg main shape=NAME")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("numbr", "did you mean number?"),
        ("validate.evry", "did you mean validate.every?"),
        ("shap", "did you mean shape?"),
        ("size.lenght", "did you mean size.length?"),
        ("size.zzz", "known in size: length"),
        ("zzz", "--help lists all keys"),
    ],
)
def test_what_a_key_may_have_meant(conf, key, hint):
    assert usage.similar(key, "main", [conf]).startswith(f"; {hint}")


def test_what_a_name_may_have_meant():
    assert usage.unknown("task", "sudoko", ["sudoku", "text"]) == (
        "no task 'sudoko'",
        "known: sudoku, text; did you mean sudoku?",
    )
    assert usage.unknown("task", "x", []) == ("no task 'x'", "known: none")


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_every_key_of_the_scripts_has_a_comment(name):
    comments = usage._comments(cli.CONF / f"{name}.yaml")
    assert {key for key, comment in comments.items() if not comment} - {"defaults", "validate"} == set()


def test_a_users_own_folder_is_listed(help_of, tmp_path):
    (tmp_path / "mine" / "shape").mkdir(parents=True)
    (tmp_path / "mine" / "shape" / "oval.yaml").write_text("# Long.\nkind: oval\n")
    (tmp_path / "mine" / "shape" / "folder.yaml").mkdir()
    lines = [" ".join(line.split()) for line in help_of(f"--config-dir={tmp_path / 'mine'}").splitlines()]
    assert "oval Long." in lines and "folder" not in lines
