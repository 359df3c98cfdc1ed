"""The rules of Sudoku as constraints, with sentences that name rows, columns and symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.different import AllDifferent, listing
from constrained_dg.constraints.pinned import Pinned
from tasks.sudoku.codec import BLANK, FIRST_SYMBOL, SYMBOLS, VOCAB_SIZE, Puzzle
from tasks.sudoku.solver import units


def show(token: int) -> str:
    """A token as people write it: a symbol, or the name of a token that is none."""
    return SYMBOLS[token - FIRST_SYMBOL] if token >= FIRST_SYMBOL else ("pad", "end", "blank")[token]


@lru_cache
def _cell_name(size: int) -> Callable[[int], str]:
    return lambda at: f"row {at // size + 1} column {at % size + 1}"


@lru_cache
def all_different(size: int) -> AllDifferent:
    """Each row, column and box holds every symbol of this size once; a member is named by where it crosses."""
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
        tokens=(FIRST_SYMBOL, FIRST_SYMBOL + size),
        length=size * size,
        alphabet=VOCAB_SIZE,
        show=show,
        where=where,
    )


def rules(problems: Sequence[Puzzle]) -> Constraint:
    """All different, and the clues as they stand; puzzles of one size, a row each. No stored solution is read."""
    size = problems[0].size
    assert all(problem.size == size for problem in problems), "one size to a batch"
    clues = torch.tensor([problem.cells for problem in problems])
    pinned = Pinned(clues + BLANK, clues > 0, VOCAB_SIZE, show=show, where=_cell_name(size))
    return all_different(size) & pinned
