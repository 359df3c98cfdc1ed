"""Sudoku as a task: the prompt holds the puzzle, the canvas its solution; clues are pinned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check, is_count
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Moves, Symmetric, Task, normalised
from constrained_dg.text import Tokenizer

from . import drawing, files
from .canonical import canonical
from .codec import (
    BLANK,
    BOX,
    EOS,
    FIRST_SYMBOL,
    PAD,
    SYMBOLS,
    VOCAB_SIZE,
    Puzzle,
    from_text,
    from_tokens,
    to_text,
    to_tokens,
)
from .generator import HELD_OUT, MINIMAL, RESERVED, Generated, generate_puzzles
from .hard import SHIPPED, hard_puzzles
from .pool import is_reserved, make_4x4, training_grids, training_pool
from .rules import rules, rules_of_tokens
from .solver import DECIDED, SolutionCount, count_solutions, solve, units
from .symmetry import apply_symmetry, fingerprint, random_symmetry

#: The relations, in this order, between positions of prompt and canvas by their cells.
RELATIONS = ("row", "column", "box", "cell", "any")
#: Tiers of held-out puzzles: label -> clue counts, uniform within the tier.
TIERS = {
    9: {"minimal": (MINIMAL, MINIMAL), "28-35": (28, 35), "36-46": (36, 46), "47-80": (47, 80)},
    16: {"16x16": (110, 200)},
}

#: A puzzle with one solution (Wikipedia, Sudoku).
EXAMPLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
#: Most base puzzles: 16 GB of memory.
_MOST = 100_000_000


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e300


@lru_cache
def relations(size: int) -> BoolTensor:
    """`RELATIONS` between positions: (1, 5, 2N, 2N) bool over prompt then canvas, N = size * size; "any" is True."""
    of = torch.from_numpy(units(size)[0]).repeat(2, 1)
    cell = torch.arange(size * size).repeat(2)
    same = [of[:, None, k] == of[None, :, k] for k in range(3)]
    same += [cell[:, None] == cell[None, :], torch.ones(len(cell), len(cell), dtype=torch.bool)]
    return torch.stack(same)[None]


class Sudoku(Task):
    """Sizes 4, 9 and 16 on one vocabulary.

    An example is a base puzzle, with random clues of its solution added (not for 4x4). Base puzzles, minimal for 9x9
    and 16x16, are made at the first `train_batch` of their size (48,000 9x9: about 30 s on one core).

    Args:
        sizes: size -> share of the training batches; each batch has one size, the same on every rank.
        puzzles: base puzzles of each size (4x4 and 16x16: at most `pool.MOST`).
        seed: of the base puzzles and of the training batches; not negative.
        minimal: share of the examples without added clues.
        added: most added clues; for 16x16 in proportion to the cells.
        augment: whether each example is moved by a random symmetry.
        prompt: whether the prompt holds the puzzle. Without, the clues in the canvas are all that the model sees, at
            half the cost of attention.
        hard: share of the 9x9 examples that come from `hard.hard_puzzles`, without added clues; or by size, such as
            {9: 0.5, 16: 0.1}.

    Raises:
        InputError: a value out of range.
    """

    name = "sudoku"
    asks: ClassVar = {"kind": "grid", "symbols": SYMBOLS, "example": EXAMPLE}
    vocab_size = VOCAB_SIZE
    blank_id = PAD
    padding_id = EOS
    num_relations = len(RELATIONS)

    def __init__(
        self,
        sizes: Mapping[int, float] | None = None,
        puzzles: int = 48_000,
        seed: int = 0,
        minimal: float = 0.5,
        added: int = 25,
        augment: bool = True,
        prompt: bool = True,
        hard: float | Mapping[int, float] = 0.0,
    ) -> None:
        check(sizes is None or isinstance(sizes, Mapping), f"sizes={sizes!r}", "give shares, such as {9: 1.0}")
        known = {str(size): size for size in BOX}
        shares: dict[int, float] = {}
        for size, share in (sizes or {9: 1.0}).items():
            check(str(size) in known, f"sudoku size {size!r}", "use 4, 9 or 16")
            check(known[str(size)] not in shares, f"sizes={dict(sizes or {})!r}", "name each size once")
            check(_is_share(share), f"sizes={{{size}: {str(share)[:40]}}}", "give shares from 0 up, not all 0")
            shares[known[str(size)]] = float(share)
        check(is_count(puzzles, 1) and puzzles <= _MOST, f"puzzles={puzzles!r}", f"use an integer from 1 to {_MOST:,}")
        check(is_count(seed) and seed < 2**63, f"seed={seed!r}", "use an integer from 0 to 2^63 - 1")
        check(_is_share(minimal) and minimal <= 1, f"minimal={minimal!r}", "use a share from 0 to 1")
        check(is_count(added) and added <= 50, f"added={added!r}", "use 0 to 50 clues")
        for name, value in (("augment", augment), ("prompt", prompt)):
            check(isinstance(value, bool), f"{name}={value!r}", "use true or false")
        self.hard: dict[int, float] = {}
        for size, share in (hard if isinstance(hard, Mapping) else {9: hard}).items():
            check(str(size) in map(str, SHIPPED), f"hard for size {size!r}", "hard puzzles are 9x9 or 16x16")
            check(_is_share(share) and share <= 1, f"hard={hard!r}", "use a share from 0 to 1")
            self.hard[int(size)] = float(share)
        self.sizes = normalised(shares, "sizes")
        for size, share in self.hard.items():
            hint = f"hard puzzles of {size}x{size} need size {size} in sizes"
            check(not share or size in self.sizes, f"hard={hard} for sizes {list(self.sizes)}", hint)
        self.puzzles, self.seed, self.minimal, self.added, self.augment = puzzles, seed, minimal, added, augment
        self.prompt, self.max_canvas = prompt, max(self.sizes) ** 2
        self.max_prompt = self.max_canvas if prompt else 0
        self._pools: dict[int, Generated] = {}

    def training_puzzles(self, size: int) -> Generated:
        """The base puzzles of a size and their solutions, made on first use; a pure function of the seed."""
        if size not in self._pools:
            self._pools[size] = training_pool(size, self.puzzles, self.seed)
        return self._pools[size]

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """The batch of one optimiser step, a pure function of (seed, step, batch_size, rank)."""
        # The size depends on the step alone: ranks that wait for each other should have equal work.
        size = int(np.random.default_rng((self.seed, step)).choice(list(self.sizes), p=list(self.sizes.values())))
        generator = np.random.default_rng((self.seed, step, rank, batch_size))
        pool = self.training_puzzles(size)
        picked = generator.integers(len(pool.puzzles), size=batch_size)
        puzzles, solutions = pool.puzzles[picked].astype(np.int64), pool.solutions[picked].astype(np.int64)
        if size > 4:
            most = self.added * size * size // 81
            extra = generator.integers(most + 1, size=batch_size) * (generator.random(batch_size) >= self.minimal)
            # Ranks of random keys choose the cells; clues have the highest keys, so `extra` counts blanks.
            keys = generator.random(puzzles.shape) + (puzzles > 0)
            revealed = keys.argsort(axis=1).argsort(axis=1) < extra[:, None]
            puzzles = np.where(revealed, solutions, puzzles)
        if share := self.hard.get(size):
            hard = hard_puzzles(size)
            picked = generator.integers(len(hard.puzzles), size=batch_size)
            taken = generator.random((batch_size, 1)) < share
            puzzles = np.where(taken, hard.puzzles[picked], puzzles)
            solutions = np.where(taken, hard.solutions[picked], solutions)
        if self.augment:
            symmetry = random_symmetry(generator, batch_size, size)
            puzzles, solutions = apply_symmetry(puzzles, *symmetry), apply_symmetry(solutions, *symmetry)
        return self._batch(size, puzzles, solutions)

    def solutions(self, puzzle: Puzzle | str, most: int = 2, max_guesses: int = DECIDED) -> SolutionCount:
        """The number of solutions of a puzzle, counted up to `most`; see `solver.count_solutions`.

        Raises:
            InputError: a text that is not a puzzle (see `parse`), or `most` below 1.
        """
        return count_solutions((self.parse(puzzle) if isinstance(puzzle, str) else puzzle).cells, most, max_guesses)

    def remark(self, puzzle: Puzzle, answer: IntTensor | None = None) -> str:
        """The number of solutions: none, one, several, or undecided."""
        return f"the puzzle has {count_solutions(puzzle.cells)}"

    def held_out(self, per_tier: int, seed: int) -> list[Puzzle]:
        """Generated puzzles that never train: `per_tier` for each tier of the trained sizes.

        For tiers see `TIERS`; 4x4 (4 to 12 clues) has one. 4x4 has so few classes that its held-out puzzles recur up to
        symmetry.
        """
        check(per_tier >= 1, f"per_tier={per_tier}", "use at least 1")
        check(seed >= 0, f"seed={seed}", "use a number that is not negative")
        problems: list[Puzzle] = []
        for size in self.sizes:
            for tier, (low, high) in TIERS.get(size, {"4x4": (4, 12)}).items():
                generator = np.random.default_rng((seed, size, low, high))
                clues = generator.integers(low, high + 1, per_tier)
                subseed = int(generator.integers(2**62))
                if size == 4:
                    generated = make_4x4(per_tier, subseed, HELD_OUT)
                else:
                    generated = generate_puzzles(size, clues, subseed, HELD_OUT)
                problems += [
                    Puzzle.of(cells, tier, solution)
                    for cells, solution in zip(generated.puzzles.tolist(), generated.solutions.tolist(), strict=True)
                ]
        return problems

    def overlap(self, puzzles: Sequence[Puzzle]) -> list[int]:
        """Indices of the puzzles that could equal a training puzzle up to symmetry.

        9x9: puzzles whose solution equals that of a base puzzle up to symmetry, which covers all added clues. 16x16:
        the same by fingerprint, perhaps too many, never too few. 4x4: puzzles that equal a base puzzle. A puzzle
        without a unique solution never trains; one that is not decided within `DECIDED` guesses counts. About 4 s for
        150,000 base puzzles.
        """
        overlap: list[int] = []
        for size in sorted({puzzle.size for puzzle in puzzles} & set(self.sizes)):
            here = [at for at, puzzle in enumerate(puzzles) if puzzle.size == size]
            overlap += self._overlap_4x4(puzzles, here) if size == 4 else self._overlap(size, puzzles, here)
        return sorted(overlap)

    def _overlap_4x4(self, puzzles: Sequence[Puzzle], here: Sequence[int]) -> list[int]:
        here = [at for at in here if not is_reserved(np.array(puzzles[at].cells))]
        if not here:
            return []
        known = {canonical(cells) for cells in self.training_puzzles(4).puzzles.tolist()}
        return [at for at in here if canonical(puzzles[at].cells) in known]

    def _overlap(self, size: int, puzzles: Sequence[Puzzle], here: Sequence[int]) -> list[int]:
        # 1. Undecided puzzles count; unique solutions get their fingerprint.
        overlap: list[int] = []
        solutions: dict[int, tuple[tuple[int, ...], int]] = {}
        for at in here:
            solution, count, nodes = solve(puzzles[at].cells, DECIDED)
            if nodes < 0 and count < 2:
                overlap.append(at)
            elif solution is not None and count == 1:
                mark = int(fingerprint(np.array(solution), BOX[size]))
                # The reserved share never trains.
                if mark % RESERVED:
                    solutions[at] = solution, mark
        if not solutions:
            return overlap
        # 2. Solutions of base puzzles with one of these fingerprints, compared up to symmetry.
        marks = np.unique(np.array([mark for _, mark in solutions.values()], np.uint64))
        alike: dict[int, list[list[int]]] = {}
        grids = training_grids(size, self.puzzles, self.seed, marks)
        if self.hard.get(size):
            grids += list(hard_puzzles(size).solutions)
        for grid in grids:
            alike.setdefault(int(fingerprint(grid.astype(np.int64), BOX[size])), []).append(grid.tolist())
        for at, (solution, mark) in solutions.items():
            same = alike.get(mark, [])
            if same and (size == 16 or canonical(solution) in map(canonical, same)):
                overlap.append(at)
        return overlap

    def encode(self, problems: Sequence[Puzzle]) -> Batch:
        """Tokens of puzzles of one size: prompt and canvas (B, N). An unknown solution is filled with symbol 1."""
        size = problems[0].size
        assert all(problem.size == size for problem in problems), "a batch has one size"
        puzzles = np.array([problem.cells for problem in problems])
        answers = np.array([problem.solution or [1] * size * size for problem in problems])
        return self._batch(size, puzzles, np.where(puzzles > 0, puzzles, answers))

    def _batch(self, size: int, puzzles: np.ndarray, answers: np.ndarray) -> Batch:
        clues = torch.from_numpy(to_tokens(puzzles))
        canvas = torch.from_numpy(to_tokens(answers))
        related, noise = relations(size), (FIRST_SYMBOL, FIRST_SYMBOL + size)
        if self.prompt:
            return Batch(clues, canvas, clues != BLANK, related, noise)
        cells = size * size
        return Batch(clues[:, :0], canvas, clues != BLANK, related[:, :, :cells, :cells], noise)

    def shape_of(self, problem: Puzzle) -> tuple[int, int]:
        return len(problem.cells) * self.prompt, len(problem.cells)

    def in_text(self, tokenizer: Tokenizer, canvas_length: int) -> Task:
        """The same puzzles as text; see `tasks.sudoku.text`."""
        from .text import TextSudoku

        return TextSudoku(self, tokenizer, canvas_length)

    def constraint(self, problems: Sequence[Puzzle]) -> Constraint:
        return rules(problems)

    def rules(self, batch: Batch) -> Constraint:
        return rules_of_tokens(batch.answer, batch.pinned)

    def symmetric(self, batch: Batch, seeds: IntTensor) -> Symmetric:
        """Each puzzle moved by `random_symmetry`."""
        size = round(batch.answer.shape[1] ** 0.5)
        drawn = [random_symmetry(np.random.default_rng(seed % 2**63), 1, size) for seed in seeds.tolist()]
        order, relabel = (torch.from_numpy(np.concatenate(part)).to(seeds.device) for part in zip(*drawn, strict=True))
        rename = torch.arange(VOCAB_SIZE, device=seeds.device).repeat(len(seeds), 1)
        rename[:, FIRST_SYMBOL : FIRST_SYMBOL + size] = relabel[:, 1:] + BLANK

        moves = Moves(order, rename)
        prompt = moves.answer(batch.prompt) if batch.prompt.shape[1] else batch.prompt
        pinned = batch.pinned.gather(1, order)
        turned = replace(batch, prompt=prompt, answer=moves.answer(batch.answer), pinned=pinned)
        return Symmetric(turned, self.rules(turned), moves)

    def read(self, path: str) -> list[Puzzle]:
        """Puzzles of a text or CSV file, see `files.read_puzzles`."""
        return files.read_puzzles(path)

    def parse(self, text: str) -> Puzzle:
        """One puzzle from the command line: a line, or a grid with spaces, line breaks and box lines."""
        return Puzzle.of(from_text(files.squeeze(text)))

    def decode(self, problem: Puzzle, answer: IntTensor) -> str:
        return to_text(from_tokens(answer.cpu().numpy()).tolist())

    def draw(self, problem: Puzzle, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        return drawing.draw(problem, answer, violations)

    def token_text(self, token: int) -> str:
        return SYMBOLS[token - FIRST_SYMBOL] if token >= FIRST_SYMBOL else ("pad", "end", "blank")[token]

    def picture(self, problem: Puzzle, answer: IntTensor | None = None) -> dict[str, Any]:
        return {"kind": "grid", "columns": problem.size, "box": BOX[problem.size]}

    def plot(self, axes: Any, problem: Puzzle, answer: IntTensor | None, violations: BoolTensor | None = None) -> None:
        drawing.plot(axes, problem, answer, violations)
