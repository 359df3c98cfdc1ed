"""Sudoku from a picture: the prompt is the picture, the canvas says what each cell holds and whether it was given.

| token | meaning |
|---|---|
| 0, 1, 2 | pad, end of sequence, blank: as in `codec` |
| 3 .. 11 | 1 .. 9, filled in by the model |
| 12 .. 20 | 1 .. 9, a clue in the picture |

So an answer is both: how the picture was read, and the solution. The rules bind the symbols, whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.errors import check
from constrained_dg.files import read_text
from constrained_dg.intervals import mean, share
from constrained_dg.model.images import Pictures
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch, Problem, Task
from constrained_dg.vision.pictures import pixels_of, pixels_of_url, url_of
from constrained_dg.vision.processor import cut_patches

from . import drawing
from .codec import BLANK, BOX, EOS, FIRST_SYMBOL, PAD, SYMBOLS, Puzzle, to_text
from .generator import HELD_OUT, generate_puzzles
from .pictures import HELD_OUT_STYLES, TRAINING_STYLES, draw
from .pictures.drawing import render
from .pictures.fonts import DEBIAN_FONTS, TRAINING_FONTS, path_of
from .pictures.straighten import straightened
from .pictures.styles import look
from .pictures.variations import varied
from .rules import all_different
from .solver import count_solutions
from .task import RELATIONS, Sudoku, relations

SIZE, CELLS = 9, 81
#: The first token of a clue.
FIRST_CLUE = FIRST_SYMBOL + SIZE
VOCAB_SIZE = FIRST_CLUE + SIZE
#: Pixels on a side of a patch; 2 x 2 patches become one soft token, and there is one for each cell.
PATCH, POOL = 12, 2
SIDE = SIZE * PATCH * POOL
#: Standard deviation of the corners of training pictures, in sides of the picture: about 2 pixels.
ERROR = 0.009
#: Pixels of a picture that somebody sent, and pixels on a side of any: eight for each cell.
MOST_SENT, LEAST_SIDE = 2**24, 72
#: Weight of guesses in empty cells, and the least log-probability of one.
GUESS, LEAST = 0.02, -14.0
#: Clues of held-out puzzles, uniform.
CLUES = (26, 40)


@dataclass(frozen=True, eq=False)
class PicturedPuzzle(Problem):
    """A picture of a Sudoku.

    Attributes:
        pixels: (H, W, 3) uint8.
        puzzle: what was drawn; None for a picture from elsewhere. Only the judge reads it.
    """

    pixels: np.ndarray
    puzzle: Puzzle | None = None

    @cached_property
    def straight(self) -> np.ndarray:
        """(SIDE, SIDE, 3) uint8: the grid alone, see `straightened`."""
        return straightened(self.pixels, SIDE)

    @property
    def given(self) -> int | None:
        """Number of clues, where known."""
        return None if self.puzzle is None else self.puzzle.given


class Readings(TokenClasses):
    """The tokens of a cell by their symbol, as a clue or filled in.

    A cell is empty with the probability of all filled-in symbols together, whichever of them the rules put there. So
    the completer seeks the likeliest reading that has a solution; guesses decide between equals alone.
    """

    def likeliest(self, log_probs: FloatTensor) -> tuple[FloatTensor, IntTensor]:
        logs = log_probs if bool((log_probs <= 0).all()) else log_probs.log()
        filled, clue = logs[..., FIRST_SYMBOL:FIRST_CLUE], logs[..., FIRST_CLUE:VOCAB_SIZE]
        blank = filled.logsumexp(-1, keepdim=True)
        empty = blank + GUESS * (filled - blank).nan_to_num(nan=0.0).clamp(min=LEAST)
        symbol = torch.arange(SIZE, device=logs.device)
        token = torch.where(clue > empty, FIRST_CLUE + symbol, FIRST_SYMBOL + symbol)
        rest, at = logs[..., :FIRST_SYMBOL].max(-1, keepdim=True)
        best = torch.cat([torch.maximum(clue, empty), rest], dim=-1)
        return (best if logs is log_probs else best.exp()), torch.cat([token, at], dim=-1)


@lru_cache
def _rule() -> Constraint:
    """Rows, columns and boxes hold each symbol once, clues and filled cells alike."""
    symbols = [[FIRST_SYMBOL + value, FIRST_CLUE + value] for value in range(SIZE)]
    return all_different(SIZE, symbols_alone=True).on(torch.arange(CELLS), Readings.of(VOCAB_SIZE, symbols), CELLS)


def values_of(answer: IntTensor) -> IntTensor:
    """Tokens (...) as symbols 1 .. 9; tokens that are no symbols become 0."""
    return torch.where(answer >= FIRST_SYMBOL, (answer - FIRST_SYMBOL) % SIZE + 1, 0)


def reading_of(answer: IntTensor) -> IntTensor:
    """Tokens (...) as the cells of the puzzle that was read: 0 is a blank, 1 .. 9 a clue."""
    return torch.where(answer >= FIRST_CLUE, values_of(answer), 0)


class PictureSudoku(Task):
    """Pictures of 9x9 puzzles, drawn as they are needed.

    Args:
        puzzles, seed, minimal, added: of the puzzles, see `Sudoku`.
        debian_fonts: train on `DEBIAN_FONTS`, too, which look written by hand.

    Raises:
        InputError: a value out of range; in `train_batch`, fonts that are not installed.
    """

    name = "sudoku/picture"
    asks: ClassVar = {"kind": "picture", "example": ""}
    vocab_size = VOCAB_SIZE
    blank_id = PAD
    padding_id = EOS
    num_relations = len(RELATIONS)
    max_prompt = max_canvas = CELLS
    vision: ClassVar = {"patch_size": PATCH, "pooling_kernel_size": POOL}
    samplers = ("sets_restarts", "one_pass", "one_pass_completed", "views")

    def __init__(
        self, puzzles: int = 24_000, seed: int = 0, minimal: float = 0.3, added: int = 25, debian_fonts: bool = False
    ) -> None:
        check(isinstance(debian_fonts, bool), f"debian_fonts={debian_fonts!r}", "use true or false")
        self.debian_fonts = debian_fonts
        self.numbers = Sudoku({SIZE: 1.0}, puzzles, seed, minimal, added, prompt=False)
        self.seed = seed

    @cached_property
    def _fonts(self) -> tuple[str, ...]:
        """Those of training pictures; only training needs them."""
        names = TRAINING_FONTS + DEBIAN_FONTS * self.debian_fonts
        for name in names:
            path_of(name)
        return names

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """Fresh puzzles, each drawn in a random training style: a pure function of (seed, step, batch_size, rank).

        The prompt holds the cells of the puzzle, which the model never sees: soft tokens stand in their places.
        """
        fonts = self._fonts  # where one is missing, it is said before puzzles are generated
        batch = self.numbers.train_batch(step, batch_size, rank)
        generator = np.random.default_rng((self.seed, step, rank, batch_size, 1))
        styles = generator.choice(list(TRAINING_STYLES), batch_size)
        cells = torch.where(batch.pinned, batch.answer - FIRST_SYMBOL + 1, 0).tolist()
        pixels = [_straight(each, style, generator, fonts) for each, style in zip(cells, styles, strict=True)]
        clues = batch.answer + SIZE
        return self._batch(
            pixels, torch.where(batch.pinned, clues, batch.answer), torch.where(batch.pinned, clues, BLANK)
        )

    def held_out(self, per_tier: int, seed: int) -> list[PicturedPuzzle]:
        """Puzzles that never train, `per_tier` in each style: those of training, and those with held-out fonts."""
        check(per_tier >= 1, f"per_tier={per_tier}", "use at least 1")
        check(seed >= 0, f"seed={seed}", "use a number that is not negative")
        problems = []
        for number, style in enumerate((*TRAINING_STYLES, *HELD_OUT_STYLES)):
            generator = np.random.default_rng((seed, number))
            problems += [pictured(puzzle, style, generator) for puzzle in held_out_puzzles(style, per_tier, generator)]
        return problems

    def overlap(self, problems: Sequence[PicturedPuzzle]) -> list[int]:
        """Indices of the pictures whose puzzle could equal a training puzzle up to symmetry; see `Sudoku.overlap`."""
        known = [at for at, problem in enumerate(problems) if problem.puzzle is not None]
        puzzles = [problem.puzzle for problem in problems if problem.puzzle is not None]
        return [known[at] for at in self.numbers.overlap(puzzles)]

    def encode(self, problems: Sequence[PicturedPuzzle]) -> Batch:
        """The picture in place of the prompt (B, 81); nothing of the canvas (B, 81) is known."""
        pixels, unknown = [problem.straight for problem in problems], torch.full((len(problems), CELLS), BLANK)
        return self._batch(pixels, unknown + 1, unknown)

    def _batch(self, pictures: Sequence[np.ndarray], answer: IntTensor, prompt: IntTensor) -> Batch:
        patches = torch.stack([cut_patches(torch.tensor(each).permute(2, 0, 1), PATCH) for each in pictures])
        return Batch(
            prompt=prompt,
            answer=answer,
            pinned=torch.zeros_like(answer, dtype=torch.bool),
            relations=relations(SIZE),
            noise=(FIRST_SYMBOL, VOCAB_SIZE),
            images=Pictures(patches, SIDE // PATCH),
        )

    def shape_of(self, problem: Problem) -> tuple[int, int]:
        return CELLS, CELLS

    def rules(self, batch: Batch) -> Constraint:
        return _rule().to(batch.answer.device)

    def constraint(self, problems: Sequence[Problem]) -> Constraint:
        return _rule()

    def agrees(self, problems: Sequence[Problem], answers: IntTensor) -> BoolTensor:
        """Whether the answer keeps every clue that was drawn, where that is known."""
        values = values_of(answers)
        kept = [
            problem.puzzle is None or bool(((clues == 0) | (clues == row)).all())
            for problem, row in zip(problems, values, strict=True)
            for clues in [torch.tensor(problem.puzzle.cells if problem.puzzle else [0] * CELLS)]
        ]
        return torch.tensor(kept)

    def measure(self, outcomes: Sequence[Any], model: Any = None) -> dict[str, dict[str, Any]]:
        """Where the drawn puzzle is known: "cells_read", the mean share of the 81 cells read right (with the normal
        interval over pictures, since cells of a picture are alike), and "pictures_read", without a wrong cell."""
        right = [
            (reading_of(o.tokens) == torch.tensor(o.problem.puzzle.cells)).float().mean().item()
            for o in outcomes
            if o.problem.puzzle is not None
        ]
        if len(right) < 2:
            return {}
        return {"cells_read": mean(right), "pictures_read": share(sum(each == 1 for each in right), len(right))}

    def read(self, path: str) -> list[Problem]:
        """A picture; or a text file with the path of one on each line, as seen from the folder of that file.

        Raises:
            InputError: a file that is neither, or bad lines, named with the file.
        """
        file = Path(path)
        if file.suffix.lower() not in (".txt", ".csv", ".list"):
            return [self.parse(path)]
        lines = read_text(path, "give a picture, or a text file with the path of one on each line").splitlines()
        return self.problems_of(path, [str(file.parent / line.strip()) if line.strip() else "" for line in lines])

    def parse(self, text: str) -> PicturedPuzzle:
        """A picture by the path of its file (PNG, JPEG, WEBP or BMP), or as `parse_sent` takes it."""
        if text.startswith("data:"):
            return self.parse_sent(text)
        return _sent(text, pixels_of(text, "the picture"))

    def parse_sent(self, text: str) -> PicturedPuzzle:
        """A picture as a `data:image/png;base64,...` URL."""
        return _sent("a picture", pixels_of_url(text.strip(), "the picture", MOST_SENT))

    def decode(self, problem: Problem, answer: IntTensor) -> str:
        """The puzzle as it was read, then the solution."""
        return f"{to_text(reading_of(answer).tolist())} {to_text(values_of(answer).tolist())}"

    def remark(self, problem: Problem, answer: IntTensor | None = None) -> str:
        """The number of solutions of the puzzle that was read: with another than one, it was perhaps misread."""
        if answer is None:
            return ""
        found = count_solutions(reading_of(answer).tolist())
        sure = found.complete and found.count == 1
        return f"the puzzle, as it was read, has {found}" + ("" if sure else ": compare its clues with the picture")

    def draw(self, problem: Problem, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        return problem.text if answer is None else drawing.draw(*_as_numbers(answer), violations)

    def plot(self, axes: Any, problem: Any, answer: IntTensor | None, violations: BoolTensor | None = None) -> None:
        """The answer, clues as they were read in black; or the picture itself where there is none."""
        if answer is None:
            axes.imshow(problem.pixels)
            axes.axis("off")
        else:
            drawing.plot(axes, *_as_numbers(answer), violations)

    def token_text(self, token: int) -> str:
        if token < FIRST_SYMBOL:
            return ("pad", "end", "blank")[token]
        return SYMBOLS[(token - FIRST_SYMBOL) % SIZE]

    def picture(self, problem: Any, answer: IntTensor | None = None) -> dict[str, Any]:
        """A grid; tokens from "clues" on are clues, and "photo" is what was read."""
        return {"kind": "grid", "columns": SIZE, "box": BOX[SIZE], "clues": FIRST_CLUE, "photo": url_of(problem.pixels)}


def _sent(text: str, pixels: np.ndarray) -> PicturedPuzzle:
    height, width = pixels.shape[:2]
    hint = f"a puzzle can be read from {LEAST_SIDE} pixels on each side"
    check(min(height, width) >= LEAST_SIDE, f"the picture has {width} x {height} pixels", hint)
    return PicturedPuzzle("picture", text, pixels)


def _straight(cells: Sequence[int], style: str, generator: np.random.Generator, fonts: Sequence[str]) -> np.ndarray:
    """A drawing for training, as `straightened` leaves it: the grid fills the picture, but for small errors."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + generator.normal(0, ERROR, (4, 2))
    chosen = varied(look(style, generator, fonts), generator, fonts)
    return render(cells, replace(chosen, corners=corners), generator, SIDE)


def held_out_puzzles(tier: str, count: int, generator: np.random.Generator) -> list[Puzzle]:
    """Puzzles that never train, with the clues of `CLUES`."""
    clues = generator.integers(CLUES[0], CLUES[1] + 1, count)
    made = generate_puzzles(SIZE, clues, int(generator.integers(2**62)), HELD_OUT)
    pairs = zip(made.puzzles.tolist(), made.solutions.tolist(), strict=True)
    return [Puzzle.of(cells, tier, solution) for cells, solution in pairs]


def pictured(
    puzzle: Puzzle, style: str, generator: np.random.Generator, fonts: Sequence[str] | None = None
) -> PicturedPuzzle:
    """A puzzle, drawn; in one of these fonts, or of those of the style."""
    return PicturedPuzzle(puzzle.tier, puzzle.text, draw(puzzle.cells, style, generator, fonts=fonts), puzzle)


def _as_numbers(answer: IntTensor) -> tuple[Puzzle, IntTensor]:
    """An answer as the puzzle that was read, and its solution in the tokens of `codec`."""
    return Puzzle.of(reading_of(answer).tolist()), values_of(answer) + FIRST_SYMBOL - 1
