"""The rules of Sudoku as constraints, with sentences that name rows, columns and symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch

from constrained_dg.constraints.all_different import AllDifferent
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.pinned import Pinned
from constrained_dg.constraints.words import listing
from constrained_dg.shapes import BoolTensor, IntTensor

from .codec import BLANK, FIRST_SYMBOL, SYMBOLS, VOCAB_SIZE, Puzzle
from .solver import units


def show(token: int) -> str:
    """A token for people: a symbol, or the name of another token."""
    return SYMBOLS[token - FIRST_SYMBOL] if token >= FIRST_SYMBOL else ("pad", "end", "blank")[token]


@lru_cache
def _cell_name(size: int) -> Callable[[int], str]:
    return lambda at: f"row {at // size + 1} column {at % size + 1}"


def show_symbol(token: int, size: int) -> str:
    """A token of a vocabulary of symbols alone."""
    return SYMBOLS[token] if token < size else "no symbol"


@lru_cache
def all_different(size: int, symbols_alone: bool = False) -> AllDifferent:
    """Each row, column and box holds every symbol of this size once.

    Args:
        symbols_alone: over tokens 0 .. size - 1 for the symbols, instead of the tokens of `codec`.
    """
    members = units(size)[1]
    name = _cell_name(size)

    def where(group: int, inside: list[int]) -> str:
        if group < 2 * size:
            return listing("column" if group < size else "row", [member + 1 for member in inside])
        *most, last = (name(int(members[group, member])) for member in inside)
        return f"{', '.join(most)} and {last}" if most else last

    return AllDifferent(
        groups=torch.from_numpy(members),
        names=[f"{kind} {k + 1}" for kind in ("row", "column", "box") for k in range(size)],
        tokens=(0, size) if symbols_alone else (FIRST_SYMBOL, FIRST_SYMBOL + size),
        length=size * size,
        num_classes=size if symbols_alone else VOCAB_SIZE,
        show=partial(show_symbol, size=size) if symbols_alone else show,
        where=where,
    )


def rules(problems: Sequence[Puzzle], symbols_alone: bool = False) -> Constraint:
    """All different, and the clues; one row for each puzzle, all of one size. No stored solution is read.

    Args:
        symbols_alone: see `all_different`; for `Constraint.on`.
    """
    size = problems[0].size
    assert all(problem.size == size for problem in problems), "a batch has one size"
    clues = torch.tensor([problem.cells for problem in problems])
    rule = all_different(size, symbols_alone)
    tokens = clues - 1 if symbols_alone else clues + BLANK
    return rule & Pinned(tokens, clues > 0, rule.num_classes, show=rule.show, where=_cell_name(size))


def rules_of_tokens(canvas: IntTensor, pinned: BoolTensor) -> Constraint:
    """The rules of canvases (B, N) in tokens of `codec`, with clues where `pinned` (B, N) bool."""
    size = round(canvas.shape[1] ** 0.5)
    rule = all_different(size).to(canvas.device)
    return rule & Pinned(canvas, pinned, rule.num_classes, show=rule.show, where=_cell_name(size))
