"""Pictures that the project did not draw: puzzles as web pages, which Chromium draws.

    python -m experiments.sudoku.picture.browser run=sudoku/picture n=24 seed=12 out=FOLDER

FOLDER gets n pictures of each layout, and results.json: solved, cells and pictures read, by layout and sampler. Fonts
are those of the held-out style, and DejaVu Sans Condensed and DejaVu Serif Condensed of the system. It needs Debian's
chromium and playwright.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg.cli import load_sampler
from constrained_dg.errors import check
from constrained_dg.evaluation import solve, summarise
from constrained_dg.runs import load
from constrained_dg.vision.pictures import pixels_of
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.sudoku.picture_task import PicturedPuzzle, held_out_puzzles
from tasks.sudoku.pictures import FONTS, HELD_OUT_FONTS
from tasks.sudoku.pictures.fonts import path_of

KEYS: dict[str, Any] = {"run": None, "n": 24, "seed": 12, "out": None}
SAMPLERS = ("sets_restarts", "one_pass", "one_pass_completed", "views")
SYSTEM = ("DejaVu Sans Condensed", "DejaVu Serif Condensed")
#: Layout -> the style sheet of its table; `td` are cells, `.r` and `.b` those to the left of and above a thick line.
LAYOUTS = {
    "plain": "td {border: 1px solid #888} .r {border-right: 3px solid #000} .b {border-bottom: 3px solid #000}"
    "table {border: 3px solid #000}",
    "night": "body {background: #16181d} td {border: 1px solid #4a4f5a; color: #e4e7ee}"
    ".r {border-right: 3px solid #b8bfcc} .b {border-bottom: 3px solid #b8bfcc} table {border: 3px solid #b8bfcc}",
    "boxes": "td {border: 1px solid #667; color: #123} .odd {background: #dfe8f2}"
    ".r {border-right: 2px solid #334} .b {border-bottom: 2px solid #334} table {border: 2px solid #334}",
    "pale": "td {border: 1px solid #ccc; color: #777}"
    ".r {border-right: 2px solid #999} .b {border-bottom: 2px solid #999} table {border: 2px solid #999}",
    "chosen": "td {border: 1px solid #bcc4d0; color: #1a3c8c} .row {background: #e3ecf8} .at {background: #bbdcfb}"
    ".r {border-right: 3px solid #344861} .b {border-bottom: 3px solid #344861} table {border: 3px solid #344861}",
}


def page_of(cells: Sequence[int], layout: str, font: str, draws: np.random.Generator) -> str:
    """A puzzle as a page."""
    side = int(draws.integers(30, 61))
    digit, margin = int(side * draws.uniform(0.55, 0.75)), int(side * draws.uniform(0, 0.4))
    at = int(draws.integers(81))
    weight = FONTS[font].weight or 400 if font in FONTS else 400
    face = ""
    if font in FONTS:
        data = base64.b64encode(path_of(font).read_bytes()).decode()
        face = f"@font-face {{font-family: 'given'; src: url(data:font/ttf;base64,{data}); font-weight: 100 900}}"
    rows = []
    for row in range(9):
        items = []
        for column in range(9):
            value = cells[9 * row + column]
            names = [
                "r" if column in (2, 5) else "",
                "b" if row in (2, 5) else "",
                "odd" if (row // 3 + column // 3) % 2 else "",
                "row" if row == at // 9 or column == at % 9 else "",
                "at" if 9 * row + column == at else "",
            ]
            items.append(f'<td class="{" ".join(names)}">{value or ""}</td>')
        rows.append(f"<tr>{''.join(items)}</tr>")
    name = "given" if face else font
    return (
        f"<style>{face} body {{margin: {margin}px; display: inline-block}}"
        f"table {{border-collapse: collapse; font: {weight} {digit}px/1 '{name}'}}"
        f"td {{width: {side}px; height: {side}px; padding: 0; text-align: center; vertical-align: middle}}"
        f"{LAYOUTS[layout]}</style><table>{''.join(rows)}</table>"
    )


def photographed(n: int, seed: int, folder: Path) -> list[PicturedPuzzle]:
    """n puzzles in each layout, drawn by Chromium into PNG files."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for number, layout in enumerate(LAYOUTS):
            draws = np.random.default_rng((seed, number))
            for at, puzzle in enumerate(held_out_puzzles(layout, n, draws)):
                scale = int(draws.integers(1, 3))
                page = browser.new_page(viewport={"width": 700, "height": 700}, device_scale_factor=scale)
                page.set_content(page_of(puzzle.cells, layout, str(draws.choice([*HELD_OUT_FONTS, *SYSTEM])), draws))
                page.evaluate("document.fonts.ready")
                box = page.locator("body").bounding_box()
                margin = page.evaluate("parseInt(getComputedStyle(document.body).marginLeft)")
                sides = {"width": box["width"] + 2 * margin, "height": box["height"] + 2 * margin}
                file = folder / f"{layout}_{at:03}.png"
                page.screenshot(path=str(file), clip={"x": 0, "y": 0, **sides})
                page.close()
                problems.append(PicturedPuzzle(layout, file.name, pixels_of(str(file)), puzzle))
        browser.close()
    return problems


def main(arguments: Sequence[str]) -> None:
    """Write the pictures and the results. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    out = Path(given["out"])
    check(not out.exists(), f"{str(out)!r} is there already", "give a new folder")
    check(given["n"] >= 2, f"n={given['n']}", "give at least 2")
    check(shutil.which("chromium") is not None, "no chromium", "apt-get install chromium")
    torch.set_num_threads(1)
    run = load(given["run"])
    out.mkdir(parents=True)
    problems = photographed(given["n"], given["seed"], out)
    rows = []
    for name in SAMPLERS:
        ended = solve(run.model, run.task, load_sampler(name), problems, batch_size=40, seed=given["seed"])
        rows += summarise(name, ended, run.task, run.model)
        print(json.dumps(rows[-1]), flush=True)
    found = {
        "command": "python -m experiments.sudoku.picture.browser " + " ".join(arguments),
        "date": time.strftime("%F"),
        "rows": rows,
    }
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    command(main)
