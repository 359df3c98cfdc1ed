"""Pictures over HTTP: the answers are those of `generate`, nothing is fetched, and what cannot be read is named."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

import constrained_dg
from constrained_dg.runs import Run
from constrained_dg.vision import Vision
from tests.pictures import file, huge_png, pixels
from tests.serving import PASSES, USER, Served, text_run, text_server, until

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return text_run(tmp_path_factory.mktemp("pictures"), pictures=True)


@pytest.fixture(scope="module")
def served(run: Run) -> Iterator[Served]:
    yield from text_server(run)


def picture(seed: int = 0, height: int = 9, width: int = 14) -> np.ndarray:
    return pixels(height, width, seed)


def url(picture: np.ndarray | bytes, kind: str = "png") -> str:
    data = file(Image.fromarray(picture), kind) if isinstance(picture, np.ndarray) else picture
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image(link: str, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": link, **more}}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def python(run: Run, said: str, pictures: list[np.ndarray], seed: int) -> str:
    kind = run.task.tokenizer
    made = constrained_dg.generate(
        run.model,
        said,
        tokenizer=kind,
        images=pictures,
        vision=Vision.load(run.model.origin.folder, kind),
        max_new_tokens=32,
        max_passes=PASSES,
        seeds=seed,
    )
    return kind.decode(made.tokens[0])


def test_pictures_are_answered_as_python_does(run: Run, served: Served) -> None:
    """Alone, several answers to one, and beside requests without pictures."""
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)
    asked = [
        ("<|image|>What is this?", [picture()], [image(url(picture())), text("What is this?")]),
        ("Look: <|image|><|image|> Why?", [picture(1), picture(2, 30, 9)], None),
        ("Who wrote this?", [], "Who wrote this?"),
    ]
    asked[1] = (
        *asked[1][:2],
        [text("Look: "), *(image(url(each), detail="auto") for each in asked[1][1]), text(" Why?")],
    )

    def ask(number: int) -> str:
        made = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": asked[number][2]}], seed=number
        )
        return made.choices[0].message.content

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, range(3)))
    expected = [python(run, said, pictures, seed) for seed, (said, pictures, _) in enumerate(asked)]
    assert answers == expected
    other = python(run, asked[0][0], [picture(9)], 0)
    assert other != expected[0], "the picture changes nothing, so the comparison would show nothing"


def test_pictures_in_earlier_turns_and_several_answers(served: Served) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [image(url(picture(3), "jpeg")), text("What?")]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": [text("And this?"), image(url(picture(4), "webp"))]},
    ]
    body = {"model": "tiny", "messages": turns, "n": 3, "seed": 5}
    answers = [served.post("/v1/chat/completions", body).json() for _ in range(2)]
    assert len(answers[0]["choices"]) == 3 and answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["usage"]["prompt_tokens"] > 2 * 200  # soft tokens count


@pytest.mark.parametrize(
    "content, param, said",
    [
        (
            [image("https://example.org/cat.png")],
            "messages.0.content.0.image_url.url",
            "nothing is fetched; give data:",
        ),
        ([image("file:///etc/passwd")], "messages.0.content.0.image_url.url", "nothing is fetched"),
        (
            [image("data:text/html;base64,AAAA")],
            "messages.0.content.0.image_url.url",
            "is not a picture in the text itself",
        ),
        ([text("a"), image("data:image/png;base64,A*")], "messages.0.content.1.image_url.url", "is not base64"),
        ([image("data:image/png;base64,é")], "messages.0.content.0.image_url.url", "is not base64"),
        ([image("data:image/png;base64,AAAA")], "messages.0.content.0.image_url.url", "the image is not a picture"),
        (
            [image(url(huge_png(8192, 8192)))],
            "messages.0.content.0.image_url.url",
            "has 8192 x 8192 pixels; give at most 16,777,216",
        ),
        ([image(url(picture()), detail="high")], "messages.0.content.0.image_url.detail", "'auto'"),
        ([image(url(picture())), text("<|image|>")], "messages.0.content", "<|image|> belongs to the chat format"),
        ([text("<|video|>")], "messages.0.content", "<|video|> belongs to the chat format"),
        ([{"type": "video_url", "video_url": {"url": "a"}}], "messages.0.content.0", "video_url is not read"),
        ([{"type": "image_url"}], "messages.0.content.0.image_url", "required"),
        ([{"type": "poem"}], "messages.0.content.0", "'image_url'"),
        ([image(url(picture()))] * 5, "messages", "shorten it"),
    ],
)
def test_what_cannot_be_read_is_refused(served: Served, content: list, param: str, said: str) -> None:
    response = served.post(
        "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": content}]}
    )
    error = response.json()["error"]
    assert response.status_code == 400 and said in error["message"], error
    assert error["param"] == param, error
    assert "\n" not in error["message"] and len(error["message"]) < 400


def test_only_the_user_shows_pictures(served: Served) -> None:
    turns = [{"role": "system", "content": [image(url(picture()))]}, *USER]
    response = served.post("/v1/chat/completions", {"model": "tiny", "messages": turns})
    assert response.status_code == 400 and "only the user shows images" in response.json()["error"]["message"]


def test_image_tokens_without_a_picture_are_refused_alone_and_in_company(run: Run, served: Served) -> None:
    token = run.task.tokenizer.raw.token_to_id("<|image>")
    body = {"model": "tiny", "prompt": [2, token, 9], "seed": 1}
    chat = {"model": "tiny", "messages": [{"role": "user", "content": [image(url(picture())), text("a")]}], "seed": 1}
    with ThreadPoolExecutor(2) as pool, served.held():
        asked = [
            pool.submit(served.post, *each) for each in (("/v1/completions", body), ("/v1/chat/completions", chat))
        ]
        until(lambda: served.waiting() == 2)
    answers = [each.result() for each in asked]
    assert [each.status_code for each in answers] == [400, 200]
    assert "image tokens" in answers[0].json()["error"]["message"]
