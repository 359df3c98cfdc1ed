"""The page in a browser: Debian's chromium, headless, without a network."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from test_evaluate import SEVERAL, cfg, load_config_file, trained  # noqa: F401  (fixtures)

import evaluate
from constrained_dg.viz.page.writing import html_of

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        reason = "no chromium: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    sync_playwright = pytest.importorskip("playwright.sync_api", reason="no playwright").sync_playwright
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):  # noqa: F811
    """A page of two problems and four samplers, as evaluate.py writes it."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "puzzles.txt").write_text("12..34.2..43.321\n" + SEVERAL)
    paths = {"run": trained, "data": folder / "puzzles.txt", "out": folder / "out", "page": folder / "page.html"}
    values = {**load_config_file(), **{name: str(path) for name, path in paths.items()}}
    names = ["plain", "guaranteed", "autoregressive", "sets"]
    evaluate.evaluate({**values, "samplers": names, "max_passes": 6})
    return folder / "page.html"


@pytest.fixture
def opened(browser, file, request):
    """The page, with all that its console said; a test fails if that is not nothing."""
    width = getattr(request, "param", 1280)
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith("file:") else None)
    page.goto(file.as_uri())
    yield page
    context.close()
    assert said == []


def data_of(file: Path):
    [text] = re.findall(r'id="data">(.*)</script>', file.read_text())
    return json.loads(text)


def at(page):
    return int(page.locator("#scrub").input_value())


def until(page, element, text):
    """Wait for a text in the first of these elements; a wait for JavaScript would break the policy of the page."""
    from playwright.sync_api import expect

    expect(page.locator(element).first).to_have_text(re.compile(text), timeout=60_000)


def tokens(page, lane):
    return page.locator(".lane").nth(lane).locator(".cell .token").all_text_contents()


def test_step_shows_what_each_pass_saw_in_every_lane(opened, file):
    problem = data_of(file)["problems"][0]
    assert opened.locator(".lane h2").all_text_contents() == [run["sampler"] for run in problem["runs"]]
    assert len(problem["runs"]) == 4 and opened.locator(".lane").first.locator(".cell.given").count() == 10
    for number in range(1, 7):
        opened.click("#step")
        for lane, run in enumerate(problem["runs"]):
            cells = opened.locator(".lane").nth(lane).locator(".cell")
            line = opened.locator(".lane .line").nth(lane).text_content()
            if number > len(run["passes"]):
                assert line.startswith(f"answer: {run['answer']['status']}, {run['answer']['passes']} pass")
                continue
            each = run["passes"][number - 1]
            assert line.startswith(f"pass {number}")
            listed = opened.locator(".lane").nth(lane).locator(".sentences li").all_text_contents()
            assert listed == each["sentences"]
            for name in ("accepted", "renoised", "broken"):
                shown = cells.evaluate_all(f"all => all.flatMap((c, at) => c.classList.contains('{name}') ? [at] : [])")
                assert shown == each["violations" if name == "broken" else name], (lane, number, name)
            if each["sets"] is None and run["kind"] == "canvas":
                assert tokens(opened, lane) == [problem["labels"][str(token)] for token in each["best"]]
                assert f"{len(each['accepted'])} accepted, {len(each['renoised'])} re-noised" in line
            marks = "all => all.map(c => [...c.querySelectorAll('.pencil span')].map(one => one.textContent))"
            for shown, alive in zip(cells.evaluate_all(marks), each["sets"] or [], strict=False):
                assert shown == ([problem["labels"][str(token)] for token in alive] if len(alive) > 1 else [])


def test_run_pause_scrub_and_reset(opened, file):
    opened.select_option("#speed", "20")
    assert at(opened) == 0 and opened.locator("#pause").is_disabled()
    opened.click("#run")
    until(opened, "#where", r"^(?:[2-9]|1\d) of ")
    opened.click("#pause")
    stopped = at(opened)
    opened.wait_for_timeout(200)
    assert at(opened) == stopped >= 2
    assert "Paused" in opened.locator("#status").text_content()
    opened.locator("#scrub").fill("1")
    assert at(opened) == 1 and "1 of " in opened.locator("#where").text_content()
    opened.click("#back")
    assert opened.locator(".lane .line").first.text_content().startswith("problem")
    opened.click("#run")
    until(opened, "#status", "At the end")
    last = int(opened.locator("#scrub").get_attribute("max"))
    longest = max(len(run["passes"]) for run in data_of(file)["problems"][0]["runs"])
    assert at(opened) == last == longest + 1 and opened.locator("#step").is_disabled()
    opened.click("#reset")
    assert at(opened) == 0 and tokens(opened, 0).count("") == 6


def test_the_answer_of_a_search_is_marked(opened, file):
    opened.select_option("#problem", "1")
    problem = data_of(file)["problems"][1]
    [run] = [run for run in problem["runs"] if run["sampler"] == "guaranteed"]
    assert run["answer"]["by"] == "completer"
    opened.locator("#scrub").fill(opened.locator("#scrub").get_attribute("max"))
    lane = opened.get_by_role("article", name="guaranteed")
    assert lane.locator(".cell.searched").count() == len(run["answer"]["changed"]) > 0
    assert lane.locator(".cell.searched .mark").all_text_contents() == ["◆"] * len(run["answer"]["changed"])
    assert "A search completed the answer" in lane.locator(".verdict").text_content()
    assert "unsolved" in opened.get_by_role("article", name="plain").locator(".line").text_content()


def test_the_keyboard_reaches_everything(opened):
    opened.locator("#problem").focus()
    reached = []
    while reached.count("speed") < 2 and len(reached) < 60:
        opened.keyboard.press("Tab")
        reached.append(opened.evaluate("document.activeElement.id || document.activeElement.className.split(' ')[0]"))
    for name in ("speed", "run", "step", "reset", "scrub", "cell"):
        assert name in reached, reached
    assert reached.count("cell") == 4, "each board is one stop"
    opened.locator("#step").focus()
    opened.keyboard.press("Enter")
    assert at(opened) == 1
    opened.locator("#scrub").focus()
    opened.keyboard.press("ArrowRight")
    assert at(opened) == 2
    outline = opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "what has the focus is seen"
    first = opened.locator(".lane").first
    first.locator(".cell").first.focus()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowDown")
    assert first.locator(".detail").text_content().startswith("row 2, column 2: ")
    opened.keyboard.press("Home")
    assert first.locator(".detail").text_content() == "row 1, column 1: 1, given"
    opened.locator("#run").focus()
    opened.keyboard.press("Space")
    assert opened.evaluate("document.activeElement.id") == "pause"


@pytest.mark.parametrize("opened", [320, 1280], indirect=True)
def test_nothing_is_wider_than_the_screen(opened):
    for _ in range(2):
        opened.click("#step")
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [lane.bounding_box() for lane in opened.locator(".lane").all()]
    narrow = opened.viewport_size["width"] < 400
    assert len({round(box["x"]) for box in boxes}) == (1 if narrow else 4), "below each other only where it is narrow"
    for name in ("run", "pause", "back", "step", "reset"):
        box = opened.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= opened.viewport_size["width"] and box["height"] >= 36


def picture(kind):
    """The data of a page that draws 4 nodes; two ends of an edge are equal."""
    places = [[0, 0], [1, 0], [1, 1], [0, 1]]
    edges = [[0, 1], [1, 2], [2, 3], [0, 3]]
    pairs = [[[1, 0]], [[2, 0], [2, 1]], [[3, 0], [3, 1], [3, 2]]]
    best = {"nodes": [4, 4, 5, 6], "steps": [5, 6, 7, 4], "pairs": [5, 6, 9], "row": [4, 5, 6, 7]}[kind]
    size = len(best)
    one = {"pass": 1, "attempt": 1, "canvas": [0, size], "best": best, "accepted": [0], "renoised": [*range(1, size)]}
    one |= {"conflicts": [], "judged": True, "violations": [0, 1], "sentences": ["no"], "mean_entropy_nats": 0.5}
    one |= {"entropy_nats": [0.5] * size, "sets": None}
    answer = {"status": "unsolved", "answer": "", "best": best, "violations": [], "sentences": [], "passes": 1}
    answer |= {"tokens_per_pass": 4.0, "search_nodes": 0, "by": "passes", "changed": []}
    drawing = {"kind": kind, "first": 4, "places": places, "edges": edges, "pairs": pairs}
    run = {"sampler": "it", "kind": "canvas", "picture": drawing, "passes": [one], "answer": answer}
    labels = {token: str(token - 3) for token in range(4, 20)}
    problem = {"tier": "t", "text": "x", "given": [], "best": [0] * size, "labels": labels, "runs": [run]}
    return {"title": kind, "notes": [], "problems": [problem]}


def drawn(browser, tmp_path, kind):
    (tmp_path / f"{kind}.html").write_text(html_of(picture(kind)))
    page = browser.new_page()
    page.goto((tmp_path / f"{kind}.html").as_uri())
    assert page.locator("line.step").count() == 0
    page.click("#step")
    return page


def test_graphs_are_drawn_as_graphs(browser, tmp_path):
    page = drawn(browser, tmp_path, "nodes")
    assert page.locator("line.edge").count() == 4 and page.locator("line.edge.same").count() == 1
    assert page.locator(".nodes .cell .token").all_text_contents() == ["1", "1", "2", "3"]
    page.close()
    page = drawn(browser, tmp_path, "steps")
    assert page.locator("line.step").count() == 4 and page.locator("line.step.accepted").count() == 1
    assert page.locator(".steps .cell").first.get_attribute("aria-label").startswith("node 1: 2, accepted")
    page.close()
    page = drawn(browser, tmp_path, "pairs")
    # The patterns 1, 2 and 5: pair 0; pair 1; pairs 0 and 2.
    names, lines = ("x1", "y1", "x2", "y2"), page.locator("line.step").all()
    ends = [tuple(float(each.get_attribute(name)) for name in names) for each in lines]
    corner = [(6.0, 94.0), (94.0, 94.0), (94.0, 6.0), (6.0, 6.0)]
    assert ends == [(*corner[a], *corner[b]) for a, b in ((1, 0), (2, 1), (3, 0), (3, 2))]
    page.close()


def test_the_page_of_a_shown_problem_has_all_samplers(cfg, tmp_path):  # noqa: F811
    path = tmp_path / "one.html"
    samplers = ["validity", "plain"]
    evaluate.evaluate({**cfg, "data": None, "out": None, "show": 2, "samplers": samplers, "page": str(path)})
    data = data_of(path)
    assert [[run["sampler"] for run in each["runs"]] for each in data["problems"]] == [samplers] * 2


def test_hostile_text_is_shown_as_text(browser, tmp_path):
    hostile = "</script><script>alert(1)</script><!-- {{script}} & \u2028 \ud800 <img src=x onerror=alert(1)>"
    data = picture("row") | {"title": hostile, "notes": [hostile]}
    [problem] = data["problems"]
    [run] = problem["runs"]
    problem |= {"tier": hostile, "text": hostile, "labels": dict.fromkeys(problem["labels"], hostile)}
    run["sampler"] = run["kind"] = run["answer"]["status"] = hostile
    run["passes"][0]["sentences"] = [hostile]
    (tmp_path / "page.html").write_text(html_of(data))
    page, said = browser.new_page(), []
    page.on("dialog", lambda dialog: said.append("dialog"))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    page.click("#step")
    assert page.locator("h1").text_content() == hostile.replace("\ud800", "\\ud800")
    for where in ("#notes li", "#text code", ".lane h2", ".kind", ".sentences li"):
        assert page.locator(where).text_content() == hostile, where
    assert page.locator(".cell .token").first.text_content() == hostile.replace(" ", "␣")
    page.click("#step")
    assert hostile in page.locator(".line").text_content()
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    page.close()
    assert said == []
