"""Sudoku as text, as in the fine-tuning recipe of DiffusionGemma (Google, 2026).

The prompt is a chat: instructions, then the cells of the puzzle separated by spaces, 0 for a blank. The answer is the
grid in the same form, then EOS to the end of the canvas. No token is pinned: clues and layout are rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from constrained_dg.constraints import TokenClasses
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.pinned import Pinned
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Task
from constrained_dg.text import Tokenizer, pad_left, padded

from . import drawing
from .codec import BLANK, SYMBOLS, Puzzle, size_of, to_text
from .rules import rules

SYSTEM = (
    "Fill in this Sudoku: 0 stands for an empty cell. "
    "Answer with the numbers of the finished grid and nothing else, row by row, a space between two."
)
#: Random grids on which a layout is tested.
_TRIED = 32


def write(cells: Sequence[int]) -> str:
    """Cells as text: "5 3 0 ..."."""
    return " ".join("0" if cell == 0 else SYMBOLS[cell - 1] for cell in cells)


@dataclass(frozen=True)
class Layout:
    """The places of the cells among the tokens of an answer.

    Attributes:
        positions: (N) int64, the position of each cell.
        symbols: (N, size) int64, the token of each symbol in each cell.
        frame: (C) int64, the tokens between the cells, and EOS after them and at the cells.
        classes: the tokens of each symbol.
    """

    positions: IntTensor
    symbols: IntTensor
    frame: IntTensor
    classes: TokenClasses

    @classmethod
    def of(cls, size: int, tokenizer: Tokenizer, canvas_length: int) -> Layout:
        """The layout of a tokenizer, from grids of one symbol each, then tested on random grids.

        Raises:
            InputError: a symbol is not one token, or its position is not fixed, or the canvas is too short.
        """
        cells = size * size
        grids = [tokenizer.encode(write([value] * cells)) for value in range(1, size + 1)]
        hint = "use a tokenizer that keeps digits apart, as the released one does"
        length = len(grids[0])
        what = f"grids of {size}x{size} symbols take {sorted({len(grid) for grid in grids})} tokens"
        check(all(len(grid) == length for grid in grids), what, hint)
        of_value = torch.tensor(grids)
        positions = (of_value != of_value[0]).any(0).nonzero().flatten()
        symbols = of_value[:, positions].T
        classes = [sorted(set(column.tolist())) for column in symbols.T]
        fixed = len(positions) == cells and len({token for of in classes for token in of}) == sum(map(len, classes))
        frame = of_value[0].clone()
        draw = np.random.default_rng(0)
        for grid in draw.integers(size, size=(_TRIED, cells)) if fixed else ():
            expected = frame.clone()
            expected[positions] = symbols[torch.arange(cells), torch.from_numpy(grid)]
            fixed = fixed and tokenizer.encode(write((grid + 1).tolist())) == expected.tolist()
        check(fixed, f"the cells of a {size}x{size} grid are not one token each at a fixed place", hint)
        what = f"a {size}x{size} grid takes {length} tokens as text, a canvas of this model holds {canvas_length}"
        check(length <= canvas_length, what, "choose smaller sizes")
        frame[positions] = tokenizer.eos_id
        filled = torch.tensor(tokenizer.fill(frame.tolist(), canvas_length))
        return cls(positions, symbols, filled, TokenClasses.of(tokenizer.vocab_size, classes))

    def answer(self, cells: IntTensor) -> IntTensor:
        """Grids (B, N) of values 1 .. size as answers (B, C)."""
        tokens = self.frame.repeat(len(cells), 1)
        tokens[:, self.positions] = self.symbols[torch.arange(len(self.positions)), cells - 1]
        return tokens

    def cells(self, answer: IntTensor) -> list[int]:
        """The values of the cells of an answer (C), 0 where the token is not a symbol."""
        tokens = answer.cpu()[self.positions]
        return ((tokens[:, None] == self.symbols) * torch.arange(1, self.symbols.shape[1] + 1)).sum(1).tolist()


class TextSudoku(Task):
    """The puzzles, training examples and rules of a `Sudoku`, as text; one canvas holds an answer.

    Raises:
        InputError: see `Layout.of`, for every trained size.
    """

    name = "sudoku"
    num_relations = 0

    def __init__(self, puzzles: Any, tokenizer: Tokenizer, canvas_length: int) -> None:
        self.puzzles, self.tokenizer, self.asks = puzzles, tokenizer, puzzles.asks
        self.vocab_size, self.max_canvas = tokenizer.vocab_size, canvas_length
        self.blank_id, self.padding_id, self.ends = tokenizer.pad_id, tokenizer.eos_id, tokenizer.ends
        self._layouts: dict[int, Layout] = {}
        for size in puzzles.sizes:
            self.layout(size)
        self.max_prompt = max(self.shape_of(Puzzle.of([0] * size**2))[0] for size in puzzles.sizes)

    def layout(self, size: int) -> Layout:
        """The layout of a size, made on first use."""
        if size not in self._layouts:
            self._layouts[size] = Layout.of(size, self.tokenizer, self.max_canvas)
        return self._layouts[size]

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """The puzzles of the same step of `Sudoku.train_batch`."""
        batch = self.puzzles.train_batch(step, batch_size, rank)
        return self._batch((batch.prompt - BLANK).tolist(), batch.answer - BLANK)

    def encode(self, problems: Sequence[Puzzle]) -> Batch:
        """Puzzles of one size. An unknown solution is filled with symbol 1."""
        answers = [problem.solution or [1] * len(problem.cells) for problem in problems]
        return self._batch([problem.cells for problem in problems], torch.tensor(answers))

    def _batch(self, puzzles: Sequence[Sequence[int]], answers: IntTensor) -> Batch:
        canvas = self.layout(size_of(answers.shape[1])).answer(answers)
        prompt, mask = pad_left([self._prompt(cells) for cells in puzzles], self.blank_id)
        return Batch(prompt, canvas, torch.zeros_like(canvas, dtype=torch.bool), None, (0, self.vocab_size), mask)

    def _prompt(self, cells: Sequence[int]) -> list[int]:
        return self.tokenizer.chat(write(cells), SYSTEM)

    def shape_of(self, problem: Puzzle) -> tuple[int, int]:
        self.layout(problem.size)
        return padded(len(self._prompt(problem.cells))), self.max_canvas

    def constraint(self, problems: Sequence[Puzzle]) -> Constraint:
        """The rules of `Sudoku` on the cells, and the layout: the tokens between the cells, and EOS after them."""
        layout = self.layout(problems[0].size)
        decode = partial(self.tokenizer.raw.decode, skip_special_tokens=False)
        mask = torch.ones(1, self.max_canvas, dtype=torch.bool)
        mask[:, layout.positions] = False
        frame = Pinned(layout.frame[None], mask, self.vocab_size, show=lambda token: repr(decode([token])))
        return rules(problems, symbols_alone=True).on(layout.positions, layout.classes, self.max_canvas) & frame

    def held_out(self, per_tier: int, seed: int) -> list[Puzzle]:
        return self.puzzles.held_out(per_tier, seed)

    def overlap(self, puzzles: Sequence[Puzzle]) -> list[int]:
        return self.puzzles.overlap(puzzles)

    def remark(self, puzzle: Puzzle, answer: IntTensor | None = None) -> str:
        return self.puzzles.remark(puzzle)

    def read(self, path: str) -> list[Puzzle]:
        return self.puzzles.read(path)

    def parse(self, text: str) -> Puzzle:
        return self.puzzles.parse(text)

    def decode(self, problem: Puzzle, answer: IntTensor) -> str:
        """The grid as from `Sudoku`; an answer without a grid is quoted."""
        cells = self.layout(problem.size).cells(answer)
        return to_text(cells) if all(cells) else f"unreadable: {self.tokenizer.decode(answer)!r}"

    def draw(self, problem: Puzzle, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        """The grid; if some cell has no symbol, also the text of the answer."""
        drawn = drawing.draw(problem, *self._grid(problem, answer, violations))
        readable = answer is None or all(self.layout(problem.size).cells(answer))
        return drawn if readable else f"{drawn}\n{self.decode(problem, answer)}"

    def plot(self, axes: Any, problem: Puzzle, answer: IntTensor | None, violations: BoolTensor | None = None) -> None:
        drawing.plot(axes, problem, *self._grid(problem, answer, violations))

    def _grid(
        self, problem: Puzzle, answer: IntTensor | None, violations: BoolTensor | None
    ) -> tuple[IntTensor | None, BoolTensor | None]:
        """An answer and its violations (C) as those of the cells (N), in the tokens of `Sudoku`."""
        layout = self.layout(problem.size)
        cells = None if answer is None else torch.tensor(layout.cells(answer)) + BLANK
        return cells, None if violations is None else violations.cpu()[layout.positions]
