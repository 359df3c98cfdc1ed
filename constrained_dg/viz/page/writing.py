"""The page as one file: markup, style and script of this folder, and recorded passes as JSON.

The data of the page is plain values:

    {"title", "notes": [sentences], "problems": [{"tier", "text", "given": positions, "best": tokens, "labels":
    {token: text}, "runs": [a run of each sampler, see `recording.record_run`]}]}

A picture says how a run is drawn:

    {"kind": "row"}                                       tokens one after the other
    {"kind": "grid", "columns", "box"}                    cells, with thick lines every `box` cells; tokens from
                                                          "clues" on are clues that were read in the "photo"
    {"kind": "nodes", "first", "places", "edges"}         position = node, token - first = its color
    {"kind": "steps", "first", "places", "edges"}         position = node, token - first = the node that follows
    {"kind": "pairs", "first", "places", "pairs"}         bit k of token - first = whether pair k is joined
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constrained_dg.errors import InputError, check
from constrained_dg.evaluation import Outcome
from constrained_dg.files import write_whole
from constrained_dg.report import progress
from constrained_dg.sampling.base import Denoiser
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.task import Problem, Task
from constrained_dg.viz.page.recording import MOST_PASSES, Recorder, labels, record_run, tokens_of

#: Most problems of a report that are recorded, and most bytes of all recorded passes.
MOST_PROBLEMS, MOST_BYTES = 12, 20_000_000
_HERE = Path(__file__).parent
_SCRIPTS = ("words.js", "boards.js", "player.js", "page.js")


@dataclass(frozen=True)
class Shown:
    """A problem to record.

    Attributes:
        seed: of its row.
        answers: sampler -> its answer in the report, if there is one.
    """

    problem: Problem
    seed: int
    answers: dict[str, str]


def of_report(
    problems: Sequence[Problem], seeds: Sequence[int], outcomes: Mapping[str, Sequence[Outcome]]
) -> list[Shown]:
    """At most MOST_PROBLEMS of a report, evenly spread, so that all tiers are seen.

    Args:
        outcomes: of each sampler, for every problem.
    """
    last, most = len(problems) - 1, min(MOST_PROBLEMS, len(problems))
    indices = [round(k * last / max(1, most - 1)) for k in range(most)]
    answers = [{name: solved[at].answer for name, solved in outcomes.items()} for at in indices]
    return [Shown(problems[at], seeds[at], said) for at, said in zip(indices, answers, strict=True)]


def check_path(page: str, out: str | None) -> None:
    """Raise InputError unless a new file can be written there.

    Args:
        out: the folder of the report, which may be made later.
    """
    path, exists = Path(page), True
    try:
        path.lstat()
    except FileNotFoundError:
        exists = False
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write to page {page[:200]!r}: {error}"[:300], "give another page") from None
    check(not exists, f"page {page!r} exists", "give another page: nothing is overwritten")
    coming = out is not None and path.parent.absolute() == Path(out).absolute()
    check(coming or path.parent.is_dir(), f"page {page!r}: no folder {str(path.parent)!r}", "make it first")
    writable = coming or os.access(path.parent, os.W_OK)
    check(writable, f"page {page!r}: the folder {str(path.parent)!r} is read-only", "give another page")


def write_page(
    page: str,
    title: str,
    header: dict[str, Any],
    task: Task,
    samplers: Sequence[tuple[str, Sampler, Denoiser | None]],
    shown: Sequence[Shown],
    total: int,
    **options: Any,
) -> str:
    """Solve problems again, each alone, with every sampler, and write the page.

    Args:
        header: of the report; its command, commit, date, device and seed are shown.
        samplers: name, sampler and model of each.
        total: problems of the report.
        options: `max_passes` and `device`, see `record_run`.

    Returns:
        a sentence about what was recorded.

    Raises:
        InputError: the file cannot be written.
    """
    problems: list[dict[str, Any]] = []
    size = 0
    with progress("recording the passes of the page"):
        for each in shown:
            recorded = record_problem(task, samplers, each, **options)
            size += len(as_json(recorded))
            if problems and size > MOST_BYTES:
                break
            problems.append(recorded)
    said = f"{len(problems)} of {total} problems are recorded"
    said += f" (more than {MOST_BYTES // 10**6} MB are not)" if len(problems) < len(shown) else ""
    longest = max(run["answer"]["passes"] for problem in problems for run in problem["runs"])
    if longest > MOST_PASSES:
        said += f", and of each run the first {MOST_PASSES} passes at most"
    notes = [f"{key}: {header[key]}" for key in ("command", "commit", "date", "device", "seed")] + [f"{said}."]
    data = {"title": title, "notes": notes, "problems": problems}
    try:
        write_whole(page, html_of(data), new=True)
    except OSError as error:
        raise InputError(f"cannot write to page {page!r}: {error.strerror}", "give another page") from None
    return f"page: {page}; {said}"


def record_problem(
    task: Task, samplers: Sequence[tuple[str, Sampler, Denoiser | None]], shown: Shown, **options: Any
) -> dict[str, Any]:
    """One problem of the page, with a run of each sampler from the same seed."""
    problem = shown.problem
    batch = task.encode([problem])
    runs: list[dict[str, Any]] = []
    for name, sampler, model in samplers:
        run, outcome = record_run(model, task, name, sampler, problem, shown.seed, **options)
        runs.append(run | {"as_in_report": shown.answers.get(name, outcome.answer) == outcome.answer})
    opening = Recorder(task, batch, None).opening()
    passed = [each for run in runs for each in (opening, *run["passes"], run["answer"])]
    tokens = set().union(*map(tokens_of, passed))
    texts = labels(task, tokens)
    return {"tier": problem.tier, "text": problem.text, **opening, "labels": texts, "runs": runs}


def as_json(data: Any) -> str:
    """JSON for a script element: it holds no <, > or &, so that no text can end the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def html_of(data: dict[str, Any]) -> str:
    """The page that replays: one file.

    Args:
        data: see the head of this file.
    """
    form = '<p class="field"><label for="problem">Problem</label> <select id="problem"></select></p>'
    return _filled(data, form, "stored.js", "'none'")[0]


def live_page() -> tuple[str, str]:
    """The page that asks the server it comes from, and its content security policy. It holds nothing of a run."""
    form = (_HERE / "live.html").read_text(encoding="utf-8")
    return _filled({"title": "constrained_dg"}, form, "inputs.js", "live.js", "'self'")


def _filled(data: dict[str, Any], form: str, *last: str) -> tuple[str, str]:
    """The template with style, scripts and data.

    Args:
        last: scripts beside the common ones, then what the policy lets the page connect to.
    """
    *scripts, connect = last
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    codes = [(_HERE / name).read_text(encoding="utf-8") for name in (*_SCRIPTS, *scripts)]
    script = "\n".join(['"use strict";', "(() => {", *codes, "})();", ""])
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src {connect}"
    policy = f"{policy}; img-src data:; base-uri 'none'; form-action 'none'"
    parts = {
        "policy": policy,
        # A lone surrogate, as a file name may hold it, has no UTF-8.
        "title": html.escape(data["title"]).encode(errors="backslashreplace").decode(),
        "style": style,
        "script": script,
        "form": form,
        "data": as_json(data),
    }
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    # In one go, so that nothing in a part is taken for a place of another.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template), policy


def _hash(text: str) -> str:
    """The source of a content security policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
