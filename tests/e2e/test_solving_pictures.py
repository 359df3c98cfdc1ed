"""A picture of a puzzle: from the command line, through the server, and in the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from test_page_browser import browser, until  # noqa: F401  (a fixture)
from test_page_live import visit  # noqa: F401  (a fixture)

import constrained_dg
import evaluate
from tasks.sudoku.pictures import draw
from tests.pictures import file, huge_png
from tests.serving import Served, serving
from tests.serving import until as became

CLUES = [int(sign) for sign in "530070000600195000098000060800060003400803001700020006060000280000419005000080079"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(constrained_dg.load("sudoku/picture"), "pictures", batch_size=4) as made:
        yield made


@pytest.fixture(scope="module")
def drawn() -> Image.Image:
    return Image.fromarray(draw(CLUES, "print", np.random.default_rng(5)))


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def run_here(*arguments: str) -> int:
    """The exit status of evaluate.py."""
    try:
        evaluate.main(["run=sudoku/picture", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def ask(served: Served, **body: object) -> httpx.Response:
    return httpx.post(f"{served.url}/v1/solve", json=body, timeout=60)


# -- the command line -------------------------------------------------------------------------------------------------


def test_a_picture_is_solved_from_the_command_line(drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "puzzle.jpg"
    drawn.save(path, quality=90)
    assert run_here(f"puzzle={path}", f"out={tmp_path / 'out'}") == 0
    said = capsys.readouterr().out
    assert "the puzzle, as it was read, has " in said and "solved" in said
    assert (tmp_path / "out" / "settling_1.png").is_file()


def test_pictures_of_a_list_become_a_report(drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn.save(tmp_path / "one.png")
    drawn.rotate(2, fillcolor="white").save(tmp_path / "two.png")
    (tmp_path / "list.txt").write_text("one.png\n\ntwo.png\n")
    page = tmp_path / "page.html"
    arguments = [
        f"data={tmp_path / 'list.txt'}",
        f"out={tmp_path / 'out'}",
        "samplers=[one_pass_completed]",
    ]
    assert run_here(*arguments, f"page={page}") == 0
    answers = (tmp_path / "out" / "answers.csv").read_text()
    assert "one.png" in answers and "two.png" in answers
    assert page.read_text().count("data:image/jpeg;base64,") == 2
    (tmp_path / "list.txt").write_text("one.png\nthree.png\n")
    assert run_here(f"data={tmp_path / 'list.txt'}") == 2
    assert "list.txt line 2: the picture" in capsys.readouterr().err


def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("RGB", (8, 8), shade) for shade in ("black", "white")]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "huge.png").write_bytes(huge_png(60_000, 60_000))
    (tmp_path / "short.png").write_bytes(file(Image.new("RGB", (90, 90)))[:-40])
    for name, message in (
        ("animated.gif", "is animated: it has 2 frames"),
        ("text.png", "is not a picture"),
        ("huge.png", "pixels; give at most"),
        ("short.png", "cut short or damaged"),
        ("none.png", "is not a file"),
    ):
        assert run_here(f"puzzle={tmp_path / name}") == 2
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error, error


# -- the server -------------------------------------------------------------------------------------------------------


def test_the_server_reads_a_picture_in_the_body(served: Served, drawn) -> None:
    answer = ask(served, problem=url(file(drawn)), seed=1)
    assert answer.status_code == 200
    body = answer.json()
    run = constrained_dg.load("sudoku/picture")
    problem = run.task.parse(url(file(drawn)))
    assert body["sampler"] == run.samplers[0]
    if body["status"] == "solved":
        read, solved = body["answer"].split()
        assert len(read) == len(solved) == 81 and "." not in solved
    assert problem.text == "a picture"


@pytest.mark.parametrize("kind", ["path", "http", "svg", "base64", "text", "huge", "empty"])
def test_the_server_opens_nothing_else(served: Served, tmp_path: Path, drawn, kind: str) -> None:
    path = tmp_path / "secret.png"
    drawn.save(path)
    problem = {
        "path": str(path),
        "http": f"{served.url}/picture.png",
        "svg": url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"),
        "base64": "data:image/png;base64,%%%",
        "text": url(b"no picture"),
        "huge": url(huge_png(60_000, 60_000)),
        "empty": "",
    }[kind]
    answer = ask(served, problem=problem)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "problem"), error
    assert str(tmp_path) not in error["message"] or kind == "path"


# -- the page ---------------------------------------------------------------------------------------------------------


def test_a_picture_is_chosen_in_the_page(visit: Any, served: Served, drawn, tmp_path: Path) -> None:  # noqa: F811
    page = visit(served)
    assert page.locator("#problem").is_hidden() and page.get_by_label("Picture of a puzzle").is_visible()
    small, large, wrong = tmp_path / "small.png", tmp_path / "large.png", tmp_path / "wrong.png"
    drawn.save(small)
    noisy = np.random.default_rng(0).normal(0, 20, (1500, 1500, 3)) + np.asarray(drawn.resize((1500, 1500)))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(large)
    wrong.write_bytes(b"no picture")
    for path in (small, large):
        page.set_input_files("#picture", str(path))
        became(lambda: page.locator("#problem").input_value().startswith("data:image"))
        assert len(page.locator("#problem").input_value()) < 1_000_000
        page.click("#run")
        until(page, ".lane .line", "answer: ")
        shown = page.locator(".lane img.photo")
        assert shown.evaluate("image => image.complete && image.naturalWidth > 100")
        assert page.locator(".lane .cell.clue").count() > 0
    page.set_input_files("#picture", str(wrong))
    page.click("#run")
    until(page, "#problem-wrong", "is not a picture")
    assert page.locator("#picture").get_attribute("aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "picture"
