"""Set states: a position holds the tokens still alive. All alive is pure noise, one alive is a clean token.

The canvas shows a uniform draw from each set, so noise is drawn from living tokens only. The sets reach the denoiser as
a distribution, uniform over each set, through self-conditioning: a model without any addition can be trained on them.
The state is that of Lattice Deduction Transformers (2026), where it is the input of a network of its own.
"""

from __future__ import annotations

import torch

from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Most tokens of a noise range: each position holds a flag for each of them.
MOST_TOKENS = 4096


def full_sets(canvas: IntTensor, pinned: BoolTensor, noise: tuple[int, int]) -> BoolTensor:
    """(B, C, K): every token of the noise range [low, low + K); at a pinned position its token alone, or nothing where
    that lies outside the range.

    Raises:
        InputError: the range is too wide, so that the task has no symbols of its own.
    """
    size = noise[1] - noise[0]
    hint = f"sets take at most {MOST_TOKENS}: use a task with a range of symbols, and another sampler or objective here"
    check(size <= MOST_TOKENS, f"noise is drawn from {size} tokens", hint)
    tokens = torch.arange(*noise, device=canvas.device)
    return torch.where(pinned[..., None], canvas[..., None] == tokens, True)


def eliminated(
    sets: BoolTensor, probabilities: FloatTensor, pinned: BoolTensor, below: float | FloatTensor
) -> BoolTensor:
    """(B, C, K): the sets without tokens of less probability than `below`; a set may become empty.

    Args:
        probabilities: (B, C, K) of the tokens of the range, dead ones included: living ones need not add up to 1.
        pinned: (B, C) bool, positions that never change.
        below: one for all, or (B, 1, 1).
    """
    return sets & ((probabilities >= below) | pinned[..., None])


def undecided(sets: BoolTensor, pinned: BoolTensor) -> BoolTensor:
    """(B, C) free positions with several living tokens."""
    return (sets.sum(-1) > 1) & ~pinned


def most_certain(sets: BoolTensor, probabilities: FloatTensor, pinned: BoolTensor) -> tuple[IntTensor, BoolTensor]:
    """(B) the undecided position whose likeliest living token is likelier than those of the others, and (B) whether
    there is one.

    Args:
        probabilities: (B, C, K), as `eliminated` takes them.
    """
    open_ = undecided(sets, pinned)
    certainty = probabilities.masked_fill(~sets, 0).amax(-1).masked_fill(~open_, -1.0)
    return certainty.argmax(-1), open_.any(-1)


def within_range(probabilities: FloatTensor, noise: tuple[int, int]) -> tuple[FloatTensor, FloatTensor]:
    """Of (B, C, V): the probabilities (B, C, K) of the tokens of the noise range, scaled so that they add up to 1, and
    what all other tokens have together (B, C)."""
    inside = probabilities[..., slice(*noise)]
    total = inside.sum(-1, keepdim=True)
    return inside / total.clamp(min=1e-9), 1 - total[..., 0]


def doubt(outside: FloatTensor, pinned: BoolTensor) -> FloatTensor:
    """(B) the mean over free positions of what tokens outside the noise range have (B, C), see `within_range`.

    A model that was trained to (`objective.conflict`) says by this how surely a state has no answer.
    """
    free = (~pinned).float()
    return (outside * free).sum(1) / free.sum(1).clamp(min=1)


def pure_noise(sets: BoolTensor, pinned: BoolTensor) -> BoolTensor:
    """(B) rows whose free positions are all full."""
    return (sets.all(-1) | pinned).all(-1)


def without_unlikeliest(sets: BoolTensor, probabilities: FloatTensor, pinned: BoolTensor) -> BoolTensor:
    """(B, C, K): the sets without the living token of least probability at a free position, one token of each row.

    Args:
        probabilities: (B, C, K), as `eliminated` takes them.
    """
    lowest = probabilities.masked_fill(~sets | pinned[..., None], torch.inf).flatten(1)
    dead = torch.nn.functional.one_hot(lowest.argmin(1), lowest.shape[1]).bool() & lowest.isfinite().any(1)[:, None]
    return sets & ~dead.view_as(sets)


def unless_noise(before: BoolTensor, after: BoolTensor, probabilities: FloatTensor, pinned: BoolTensor) -> BoolTensor:
    """(B, C, K) the sets after a pass: in rows that were pure noise before it, only the unlikeliest token is gone.

    There the model saw no sets, so that it could not tell clues from noise in the canvas.
    """
    first = without_unlikeliest(before, probabilities, pinned)
    return torch.where(pure_noise(before, pinned)[:, None, None], first, after)


def pinned_at(sets: BoolTensor, at: IntTensor, token: IntTensor, which: BoolTensor) -> BoolTensor:
    """(B, C, K): in the rows `which` (B) bool, position `at` (B) holds `token` (B), an index into the range, alone."""
    alone = torch.arange(sets.shape[-1], device=sets.device) == token[:, None]
    here = (torch.arange(sets.shape[1], device=sets.device) == at[:, None]) & which[:, None]
    return torch.where(here[..., None], alone[:, None], sets)


def draw_canvas(sets: BoolTensor, canvas: IntTensor, pinned: BoolTensor, low: int, uniform: FloatTensor) -> IntTensor:
    """(B, C) int64: a uniform draw from each set, by `uniform` (B, C) in [0, 1); pinned positions keep their token.

    At an empty set the first token of the range.
    """
    counts = sets.cumsum(-1)
    rank = (uniform * counts[..., -1]).long()  # 0 .. size - 1
    index = (counts <= rank[..., None]).sum(-1).clamp(max=sets.shape[-1] - 1)
    return torch.where(pinned, canvas, low + index * (counts[..., -1] > 0))


def as_distribution(
    sets: BoolTensor, canvas: IntTensor, pinned: BoolTensor, low: int, vocab_size: int
) -> tuple[FloatTensor, BoolTensor]:
    """The sets as self-conditioning takes them.

    Returns:
        (B, C, V) float32, uniform over each set, one token at a pinned position; and (B) bool, False in rows whose free
        positions are all full: pure noise, which gets no self-conditioning.
    """
    rows, length, size = sets.shape
    distribution = torch.zeros(rows, length, vocab_size, device=sets.device)
    distribution[..., low : low + size] = sets / sets.sum(-1, keepdim=True).clamp(min=1)
    distribution = torch.where(pinned[..., None], torch.nn.functional.one_hot(canvas, vocab_size), distribution)
    return distribution.float(), ~pure_noise(sets, pinned)
