"""The examples and commands of README and docs do what they say, and their links lead somewhere."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

import evaluate
from constrained_dg import places
from constrained_dg.places import CONF, ROOT
from constrained_dg.sampling import named
from tests.pages import PAGES, commands, examples
from train import implied

README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
RELEASED = "diffusiongemma-26B-A4B-it"
#: What each page prints; the examples of other pages only have to run. The task of one's own has a test of its own.
PRINTED = {
    "README.md": r"solved \d+ 5346789126721953.*\nsolved\n",
    "rules.md": r"solved 7 -\n\[True\] .+\nsolved 3\n\[\['broken: Tokens never fall\.'\]\]\nsolved \[.*\]\n",
    "puzzles.md": r"\[\d(, \d){4}\] True\n\[\d(, \d){4}\]\n"
    r"(\[\d(, \d){4}\] True\n){2}True\nTrue \d{81}\n(True -\d+\.\d+\n){2}"
    r"True \[\[.*15, 14, \d+\]\]\nTrue True\n3 impossible\n4 possible, likeliest: True\nTrue \[.*\]\n",
    "page.md": r"\d+ accepted; solved by passes\n",
    "samplers.md": r"restarts solved \d+\ncareful solved \d+\n",
    "sudoku.md": r"1\n16\n",
    "graphs.md": r"solved [1-3]( [1-3]){9}\nunsatisfiable\nsolved\n",
    "amino_acids.md": r"solved 20\n",
    "text.md": r'solved \{"town": "Bristad", "count": 36\}\nTrue\n0\n\{"age": 20\}\nsolved\nsolved\n3 True\n',
    "index.md": r"\['amino_acid/design', .*\]\n\[.*'restarts'.*\]\n\[.*'sudoku', .*\]\n",
}


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_python_examples_run(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = {"tasks.md": "tests/e2e/test_own_task.py trains", "serving.md": "tests/e2e/test_serving_*.py run"}
    if path.name in elsewhere:
        pytest.skip(f"{elsewhere[path.name]} this example")
    monkeypatch.chdir(ROOT)
    ran = [example for example in examples(path) if RELEASED not in example]
    for example in ran:
        exec(compile(example, path.name, "exec"), {"__name__": "example"})
    assert re.fullmatch(PRINTED.get(path.name, ""), capsys.readouterr().out, flags=re.DOTALL)
    assert bool(ran) == (path.name in PRINTED)


def test_puzzles_of_ones_own_take_fewer_than_fifteen_lines() -> None:
    counts = [len([line for line in example.splitlines() if line.strip()]) for example in examples(DOCS / "puzzles.md")]
    assert len(counts) >= 10 and max(counts) < 15, counts


def test_rules_of_ones_own_take_a_few_lines_and_are_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = [example for example in examples(DOCS / "rules.md") if "class Ascending" in example]
    rules = [part for part in re.split(r"^(?=class )", example, flags=re.MULTILINE) if part.startswith("class ")]
    bodies = [[line for line in part.splitlines()[1:] if line.startswith(" ")] for part in rules]
    assert len(rules) >= 3 and all(len([line for line in body if line.strip()]) < 10 for body in bodies)
    exec(compile(example, "rules.md", "exec"), {})
    [tokens] = re.findall(r"^solved \[([\d, ]+)\]$", capsys.readouterr().out, re.MULTILINE)
    answer = [int(token) for token in tokens.split(", ")]
    assert answer == answer[::-1] and all(a != b for a, b in itertools.pairwise(answer))
    assert 1 <= answer.count(3) <= 2 and answer[0] in (0, 1)


def test_the_example_with_a_released_checkpoint_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a tiny random one: it knows nothing, so what comes out right is the rule's doing, for both denoisers."""
    textual = pytest.importorskip("tests.textual")
    [example] = [example for example in examples(DOCS / "checkpoints.md") if RELEASED in example]
    folder = textual.save_checkpoint(tmp_path / "checkpoint")
    exec(compile(example.replace(RELEASED, str(folder)), "checkpoints.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        status, digits = line.split()
        assert status == "solved" and sorted(digits) == list("123456789")


def test_the_example_with_pictures_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    textual = pytest.importorskip("tests.textual")
    [example] = [example for example in examples(DOCS / "images.md") if RELEASED in example]
    folder = textual.save_checkpoint(tmp_path / "checkpoint", pictures=True)
    monkeypatch.chdir(ROOT)
    exec(compile(example.replace(RELEASED, str(folder)), "images.md", "exec"), {})
    assert re.match(r"solved (yes|no), because [a-z ]{5,20}\n", capsys.readouterr().out)


def test_the_first_minute_shows_what_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = re.findall(r"^    python (evaluate\.py run=sudoku puzzle=\S+)$", README, flags=re.MULTILINE)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", line.split())
    evaluate.main()
    said = capsys.readouterr().out
    [shown] = examples(ROOT / "README.md", "text")
    lines = [re.sub(r"(^\.\.\.|, [\d.]+ s)$", "", line) for line in shown.strip().splitlines()]
    assert len(lines) >= 10 and [line for line in lines if line not in said] == []


COMMANDS = sorted({line for path in PAGES for line in commands(path, "train")})
EVALUATIONS = sorted({line for path in PAGES for line in commands(path, "evaluate")})


@pytest.mark.parametrize("line", COMMANDS)
def test_train_commands_name_options_that_exist(line: str) -> None:
    given = shlex.split(line)
    if any(word.startswith("--config-dir") for word in given):
        pytest.skip("a task of one's own: tests/e2e/test_own_task.py")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", given + implied(given))
    task = dict(word.partition("=")[::2] for word in given).get("task")
    assert task is None or cfg.task._target_ == yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text()).get(
        "_target_", cfg.task._target_
    )


@pytest.mark.parametrize("line", EVALUATIONS)
def test_evaluate_commands_name_options_samplers_and_runs_that_exist(line: str) -> None:
    given = dict(word.partition("=")[::2] for word in shlex.split(line))
    known = set(yaml.safe_load((CONF / "evaluate.yaml").read_text())) | {"--config-dir", "trainer"}
    assert {key.split(".")[0] for key in given} <= known
    assert given["run"] in places.shipped_runs() or given["run"] == "RUN" or given["run"].startswith("outputs/")
    if "--config-dir" not in given:
        for name in re.findall(r"[\w@]+", given.get("samplers", "")):
            plain = name.removesuffix("@untrained").removesuffix("@twin")
            assert named(plain).name == plain


def test_the_sampler_of_the_readme_is_a_yaml_of_three_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, page in enumerate((ROOT / "README.md", DOCS / "samplers.md")):
        [choice] = examples(page, "yaml")
        folder = tmp_path / str(number)
        (folder / "mine" / "sampler").mkdir(parents=True)
        (folder / "mine" / "sampler" / "patient.yaml").write_text(choice)
        monkeypatch.chdir(folder)
        puzzle = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
        evaluate.main(["--config-dir=mine", "run=sudoku", "samplers=[patient]", f"puzzle={puzzle}"])
        assert "patient on " in capsys.readouterr().out


# -- the pages themselves ---------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_has_both_command_lines() -> None:
    assert len(README.splitlines()) <= 200
    lines = re.findall(r"^    (python3 -m venv \.venv && .*)$", README, flags=re.MULTILINE)
    assert len(lines) == 2 and all("-c constraints.txt" in line for line in lines)
    assert lines[0].endswith("python train.py task=sudoku") and "python -m pytest" in lines[1]


def test_results_name_no_targets() -> None:
    for path in PAGES:
        assert not re.search(r"\btargets?\b|\bmissed\b|: met\b", path.read_text()), path.name


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and zensical make them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_and_images_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http://", "https://")):
            name, _, anchor = link.partition("#")
            there = (path.parent / name).resolve() if name else path
            assert there.exists(), link
            assert not anchor or anchor in anchors(there), link


def test_the_documentation_is_built_without_a_warning(tmp_path: Path) -> None:
    """All pages, the API from docstrings, and every link between them."""
    pytest.importorskip("zensical")
    assert importlib.util.find_spec("mkdocstrings") is not None
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = {page for entry in configuration["nav"] for value in entry.values() for page in _pages(value)}
    assert listed == {path.name for path in DOCS.glob("*.md")}
    for name in ("docs", "constrained_dg"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "No issues found" in done.stdout + done.stderr, done.stdout + done.stderr
    page = (tmp_path / configuration["site_dir"] / "api" / "index.html").read_text()
    assert 'id="constrained_dg.generate"' in page and "max_new_tokens" in page


def _pages(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [page for each in value for page in each.values()]  # type: ignore[attr-defined]


def test_the_documentation_names_every_task_and_sampler() -> None:
    for group, page in (("task", "tasks.md"), ("sampler", "samplers.md")):
        listed = re.findall(r"`([a-z_]+(?:/[a-z_]+)?)`", (DOCS / page).read_text())
        assert set(places.choices(group)) <= set(listed)
