"""Every token exactly once: orders, assignments, tours."""

from __future__ import annotations

from collections.abc import Callable

import torch

from constrained_dg.constraints.all_different import AllDifferent
from constrained_dg.constraints.words import members_at
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, IntTensor

#: Positions up to which `propagate` is domain consistent: its matching is slow, plain Python.
_MATCHED = 64


class Permutation(AllDifferent):
    """The positions hold each of the tokens exactly once.

    Strength of `propagate`: domain consistent up to 64 positions (Régin 1994: a matching and its strongly connected
    components): every candidate left belongs to some permutation of candidates. Above 64, naked and hidden singles.

    Args:
        length: T.
        tokens: (low, high), the half-open range of tokens; as many as there are positions.
        num_classes: A.
        positions: (n) int64, the positions of the permutation; None means all.
        name: its name in sentences.
        show: a token as people write it.
        where: (0, members) -> where they are, such as "positions 2 and 8".

    Raises:
        InputError: the tokens are not as many as the positions, or see `AllDifferent`.
    """

    strength = "exact, where some permutation agrees with the known tokens: no token that another position holds"

    def __init__(
        self,
        length: int,
        tokens: tuple[int, int],
        num_classes: int,
        positions: IntTensor | None = None,
        name: str = "the answer",
        show: Callable[[int], str] = str,
        where: Callable[[int, list[int]], str] = members_at,
    ) -> None:
        positions = torch.arange(length) if positions is None else positions
        low, high = tokens
        check(
            len(positions) == high - low,
            f"{len(positions)} positions cannot hold a permutation of {high - low} tokens",
            "make them equal",
        )
        super().__init__(positions[None], [name], tokens, length, num_classes, show, where)

    def explain(self, answer: IntTensor) -> list[list[str]]:
        explained = super().explain(answer)
        for sentences, row in zip(explained, answer[:, self.groups[0]].tolist(), strict=True):
            missing = sorted(set(range(*self.tokens)) - set(row))
            sentences += [f"{self.names[0]} holds {self.show(token)} nowhere" for token in missing]
        return explained

    def propagate(self, candidates: BoolTensor) -> BoolTensor:
        if self.groups.shape[1] > _MATCHED:
            return super().propagate(candidates)
        (low, high), at = self.tokens, self.groups[0]
        candidates = candidates & self._permitted
        sets = candidates[:, at, low:high]
        candidates[:, at, low:high] = sets & _in_a_matching(sets)
        return candidates


def _in_a_matching(sets: BoolTensor) -> BoolTensor:
    """(B, n, n) -> (B, n, n), True where a position holds a token in some perfect matching.

    Given one matching, these are the edges within a strongly connected component of the graph that leads from each
    position to the holders of its candidates.
    """
    n = sets.shape[-1]
    matchings = [_matching(row) for row in sets.tolist()]
    exists = torch.tensor([matching is not None for matching in matchings], device=sets.device)
    holder = torch.tensor([matching or list(range(n)) for matching in matchings], device=sets.device)
    holder = holder[:, None].expand_as(sets)
    steps = torch.zeros_like(sets).scatter_(2, holder, sets)
    reach = (steps | torch.eye(n, dtype=torch.bool, device=sets.device)).float()
    for _ in range((n - 1).bit_length()):  # paths of up to 1, 2, 4, ... steps
        reach = (reach @ reach).clamp_(max=1)
    both = (reach > 0) & (reach > 0).mT
    return both.gather(2, holder) & exists[:, None, None]


def _matching(sets: list[list[bool]]) -> list[int] | None:
    """The position that holds each token, in some perfect matching; None where there is none."""
    options = [[token for token, may in enumerate(row) if may] for row in sets]
    holder: dict[int, int] = {}

    def place(position: int, tried: set[int]) -> bool:
        for token in options[position]:
            if token not in tried:
                tried.add(token)
                if token not in holder or place(holder[token], tried):
                    holder[token] = position
                    return True
        return False

    # Narrow positions first: fewer have to move again.
    if not all(place(position, set()) for position in sorted(range(len(options)), key=lambda at: len(options[at]))):
        return None
    return [holder[token] for token in range(len(options))]
