"""Denoisers with exact behaviour, and a 4x4 Sudoku to run them on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from constrained_dg.constraints import All, AllDifferent, Constraint, Pinned, listing
from constrained_dg.sampling import Denoiser
from constrained_dg.task import Batch

LOW, HIGH, VOCAB = 1, 5, 7  # tokens of the digits 1 to 4; 0, 5 and 6 are foreign
GRIDS = torch.tensor(
    [
        [1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1],
        [2, 1, 4, 3, 4, 3, 2, 1, 1, 2, 3, 4, 3, 4, 1, 2],
        [4, 3, 1, 2, 2, 1, 3, 4, 3, 4, 2, 1, 1, 2, 4, 3],
    ]
)


def sudoku4() -> AllDifferent:
    """Rows, columns and boxes of a 4x4 grid."""
    cells = torch.arange(16).view(4, 4)
    boxes = cells.view(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
    names = [f"{kind} {n}" for kind in ("row", "column", "box") for n in range(1, 5)]
    across = ("column", "row", "place")
    return AllDifferent(
        torch.cat([cells, cells.T, boxes]),
        names,
        (LOW, HIGH),
        16,
        VOCAB,
        where=lambda group, members: listing(across[group // 4], [member + 1 for member in members]),
    )


def sudoku_batch(rows: list[int], clues: torch.Tensor) -> tuple[Batch, All]:
    """Puzzles made of GRIDS by keeping the clues (B, 16); the first prompt token names the grid."""
    grids = GRIDS[torch.tensor(rows) % 3]
    prompt = torch.stack([torch.tensor(rows) % 3, torch.full((len(rows),), 6)], 1)
    batch = Batch(prompt, torch.where(clues, grids, LOW), clues, None, (LOW, HIGH))
    return batch, sudoku4() & Pinned(grids, clues, VOCAB)


@dataclass(frozen=True)
class FakeCache:
    """Remembers one number for each row: the first token of its prompt."""

    row: torch.Tensor
    length: int

    def select(self, rows: torch.Tensor) -> FakeCache:
        return FakeCache(self.row[rows], self.length)

    def fork(self, copies: int) -> FakeCache:
        return FakeCache(self.row.repeat_interleave(copies), self.length)

    def reserve(self, tokens: int) -> None:
        pass


class Fake(Denoiser):
    """Uniform logits, and everything else a denoiser has. Counts its calls."""

    vocab_size = VOCAB

    def __init__(self) -> None:
        self.calls = 0

    def prefill(self, prompt, mask=None, relations=None):
        return FakeCache(prompt[:, 0], prompt.shape[1])

    def denoise(self, canvas, cache, signal=None, relations=None):
        assert len(canvas) == len(cache.row) and (relations is None or len(relations) in (1, len(canvas)))
        self.calls += 1
        return self.logits(canvas, cache, signal)

    def logits(self, canvas, cache, signal):
        return torch.zeros(*canvas.shape, self.vocab_size)

    def self_condition(self, probabilities, mask=None):
        assert not probabilities.isnan().any()
        return probabilities.clone()  # its memory is used again

    def commit(self, canvas, cache, relations=None):
        return FakeCache(cache.row, cache.length + canvas.shape[1])

    def next_token(self, tokens, cache, relations=None):
        self.calls += 1
        return torch.zeros(len(tokens), self.vocab_size)


class Oracle(Fake):
    """Knows the solution of every row, but for the positions where it lies: there it is sure of the next token."""

    def __init__(self, solutions: torch.Tensor = GRIDS, lies: tuple[int, ...] = (), certainty: float = 40.0) -> None:
        super().__init__()
        self.predicted = solutions.clone()
        self.predicted[:, list(lies)] = LOW + (self.predicted[:, list(lies)] - LOW + 1) % (HIGH - LOW)
        self.certainty = certainty

    def logits(self, canvas, cache, signal):
        return self.certainty * torch.nn.functional.one_hot(self.predicted[cache.row], self.vocab_size).float()


class Restless(Fake):
    """Depends on everything a pass is given, by integer arithmetic, so that equal inputs give equal bits."""

    def __init__(self, certainty: int = 0, solutions: torch.Tensor = GRIDS) -> None:
        super().__init__()
        self.certainty, self.solutions = certainty, solutions

    def logits(self, canvas, cache, signal):
        length = canvas.shape[1]
        state = canvas * 31 + canvas.roll(1, -1) * 17 + torch.arange(length) * 7 + cache.row[:, None] * 5 + cache.length
        if signal is not None:
            state = state + signal.argmax(-1) * 13 + (signal == 0).sum(-1)
        logits = (state[..., None] * torch.tensor([3, 5, 11, 2, 7, 19, 23]) % 29).float() / 4
        predicted = self.solutions[cache.row % len(self.solutions)][:, :length]
        return logits + self.certainty * torch.nn.functional.one_hot(predicted, self.vocab_size)


class Anything(Constraint):
    """Accepts and allows everything, or allows nothing at some positions."""

    rows, num_classes = 1, VOCAB

    def __init__(self, length: int = 16, accepts: bool = True, forbidden: tuple[int, ...] = ()) -> None:
        self.length, self.accepts, self.forbidden = length, accepts, forbidden

    def is_satisfied(self, answer):
        return torch.full((len(answer),), self.accepts)

    def violations(self, answer):
        return torch.full(answer.shape, not self.accepts)

    def explain(self, answer):
        return [[] for _ in answer]

    def allowed(self, answer, known, span):
        may = torch.ones(*answer.shape, VOCAB, dtype=torch.bool)
        may[:, list(self.forbidden)] = False
        return may[:, span]

    def propagate(self, candidates):
        return candidates

    def select(self, rows):
        return self

    @classmethod
    def stack(cls, constraints):
        return constraints[0]

    def to(self, device):
        return self
