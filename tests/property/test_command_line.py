"""Any command line ends with exit code 0, or with exit code 2 and one line. EXAMPLES=800 for a long run by hand."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import evaluate
import train
from constrained_dg import cli
from constrained_dg.model import Backbone, preset
from constrained_dg.runs import save_run

few = settings(
    max_examples=int(os.environ.get("EXAMPLES", "12")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PIECES = [
    *(
        "0",
        "1",
        "7",
        "-1",
        "1.5",
        "1e400",
        "nan",
        "1_0",
        "9" * 5000,
        str(2**32),
        str(2**63),
        str(10**15),
        "0xff",
    ),
    *("true", "null", "plain", "search", "cpu", "tiny", "???", "_target_", "a b", "é", "\udce9", "\x07", "x" * 300),
    *("=", ",", ":", "[", "]", "{", "}", "(", ")", "'", '"', "\\", "$", "${seed}", "${", "~", "+", "@", "/", "."),
    *("..", " ", "\n"),
]
EVALUATE_KEYS = [*cli.keys_of("evaluate"), "sampler", "seeds", "run.x", "", "hydra.run.dir", "defaults", "_target_"]
TRAIN_KEYS = [
    *("task", "task.seed", "task.sizes", "task.x", "model", "model.loops", "model.pretrained", "model.run", "sampler"),
    *("sampler.max_passes", "sampler.accept", "trainer", "trainer.devices", "optimisation", "optimisation.steps"),
    *("objective.pure_start", "validate", "validate.every", "validate.x", "debug", "experiment", "out", "resume"),
    *("data", "seed", "packages", "threads", "x", "hydra", "hydra/launcher", "task@x", "", "defaults"),
]
PREFIXES = ["", "", "", "", "", "+", "++", "~", "-", "--"]


def words(keys: list[str]) -> st.SearchStrategy[str]:
    """One argument: mostly key=value, of pieces that mean something to somebody."""
    value = st.one_of(
        st.sampled_from(PIECES), st.lists(st.sampled_from(PIECES), max_size=5).map("".join), st.text(max_size=8)
    )
    value = value.map(lambda text: text.replace("\0", ""))
    pair = st.tuples(st.sampled_from(PREFIXES), st.sampled_from(keys), st.sampled_from(["=", "=", "=", "=", ""]), value)
    return pair.map("".join)


def ends_well(main: Callable[[list[str]], Any], arguments: list[str]) -> int:
    """Run it and check how it ends; returns the exit code."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    before = list(sys.argv)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
    assert sys.argv == before
    assert code in (0, 2), (code, arguments)
    if code == 2:
        text = err.getvalue()
        assert text.startswith("error: ") and text.count("\n") == 1 and len(text) < 3000, (text, arguments)
    return code


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run folder of an untrained model; the working folder is one to write in."""
    folder = tmp_path_factory.mktemp("fuzz")
    config = preset("tiny", vocab_size=19, num_relations=5, canvas_length=16)
    model = Backbone(config).init_weights(torch.Generator().manual_seed(1))
    task = {"_target_": "tasks.sudoku.Sudoku", "sizes": {"4": 1.0}, "puzzles": 50}
    save_run(folder / "run", model, {"task": task, "sampler": cli.load_config("sampler", "plain")})
    threads, here = torch.get_num_threads(), os.getcwd()
    os.chdir(folder)
    yield folder / "run"
    os.chdir(here)
    torch.set_num_threads(threads)


@few
@given(st.lists(words(EVALUATE_KEYS), min_size=1, max_size=3))
def test_evaluate_ends_well(tiny: Path, arguments: list[str]) -> None:
    ends_well(evaluate.main, [f"run={tiny}", "limit=1", "samplers=[search]", *arguments])


@few
@given(st.lists(words(TRAIN_KEYS), min_size=1, max_size=3), st.booleans())
def test_the_configuration_of_training_ends_well(tiny: Path, arguments: list[str], sweep: bool) -> None:
    configured = cli.entry("train", text=("data", "out", "resume", "model.run"), implied=train.implied)(lambda cfg: 0.0)
    ends_well(configured, ["task=sudoku", *arguments, *["-m"] * sweep])


@few
@given(st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1))
def test_texts_arrive_as_they_are(text: str) -> None:
    got: list[dict[str, Any]] = []
    main = cli.entry("train", text=("out", "model.run"), implied=train.implied)(got.append)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    expected = None if text == "null" else text[1:-1] if quoted else text
    assert ends_well(main, ["task=sudoku", f"out={text}", f"model.run={text}x"]) == 0
    assert got[0]["out"] == expected and got[0]["model"]["run"] == f"{text}x"


#: What once was a traceback, a hang or silence; each with a word of its message.
REFUSED = {
    "=5": "not of the form key=value",
    "seed": "not of the form key=value",
    "~seed": "would remove a key",
    "~trainer": "would remove a key",
    "+more=1": "no configuration key 'more'",
    "hydra.run.dir=x": "no configuration key 'hydra.run.dir'",
    "--info": "unknown flag",
    "seed=" + "9" * 5000: "digits",
    f"seed={2**63}": "seed is",
    "threads=100000": "threads is 100000",
    "show=100000000": "show is 100000000",
    f"limit={10**15}": "use at most 100000",
    "samplers=" + "[" * 3000 + "]" * 3000: "too deeply",
    "samplers=plain": "give a list of names",
    "samplers=[plian]": "did you mean plain",
    "sampler=plain": "use samplers=[NAME]",
    "data=" + "x" * 300: "",
    "out=" + "x" * 300: "File name too long",
    "data=fifo": "not a regular file",
    "data=/dev/zero": "not a regular file",
    "out=": "out is empty",
    "puzzle=" + "1" * 5000: "symbols",
}


@pytest.mark.parametrize("argument", REFUSED, ids=[argument[:20] for argument in REFUSED])
def test_refused_in_one_line(tiny: Path, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    if argument == "data=fifo" and not Path("fifo").exists():
        os.mkfifo("fifo")
    with pytest.raises(SystemExit) as ended:
        evaluate.main([f"run={tiny}", argument])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and REFUSED[argument] in err, (
        err
    )


@pytest.mark.parametrize(
    "name", ["a=b", "a,b", "it's", "'a", '"', "[a]", "{a: b}", "a b", "é", "${x}", "\\", "$HOME", "#", "-a", "~"]
)
def test_folders_of_any_name(tiny: Path, name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "run").symlink_to(tiny)
    (tmp_path / name / "data").write_text("1234341221434321\n")
    here = [f"{key}={tmp_path / name / key}" for key in ("run", "data", "out")]
    assert ends_well(evaluate.main, [*here, "samplers=[search]"]) == 0
    assert (tmp_path / name / "out" / "metrics.json").is_file()
