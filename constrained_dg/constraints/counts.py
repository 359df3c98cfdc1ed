"""Counts of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from constrained_dg.constraints.counter import Counter
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.sweep import Swept
from constrained_dg.constraints.words import places
from constrained_dg.errors import check, is_count
from constrained_dg.shapes import BoolTensor, IntTensor


def mask_of(positions: Sequence[int] | None, length: int) -> IntTensor:
    """(T) bool, True at these positions; None means all."""
    check(is_count(length, 1), f"length is {length!r}", "give an integer of at least 1")
    chosen = list(range(length)) if positions is None else [int(at) for at in positions]
    outside = [at for at in chosen if not 0 <= at < length]
    check(not outside, f"positions {outside[:5]} are out of range", f"they run from 0 to {length - 1}")
    check(len(set(chosen)) == len(chosen) > 0, "positions are empty or repeated", "give each once")
    mask = torch.zeros(length, dtype=torch.bool)
    mask[chosen] = True
    return mask


class Count(Swept):
    """Between `low` and `high` of the positions hold one of the tokens. `allowed` is exact.

    Args:
        tokens: the tokens that count.
        low, high: bounds, both inclusive; high None means no upper bound.
        length: T.
        num_classes: A.
        positions: where it counts; None means the whole answer.
        show: a token as people write it.
        name: its name in sentences, such as "column 3".

    Raises:
        InputError: bounds that no answer meets, positions or tokens that do not fit.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        low: int,
        high: int | None,
        length: int,
        num_classes: int,
        positions: Sequence[int] | None = None,
        show: Callable[[int], str] = str,
        name: str = "",
    ) -> None:
        self.mask, chosen = mask_of(positions, length), sorted({int(token) for token in tokens})
        outside = [token for token in chosen if not 0 <= token < num_classes]
        check(
            bool(chosen) and not outside,
            f"tokens {outside or chosen} do not fit",
            f"give some of 0 to {num_classes - 1}",
        )
        size = int(self.mask.sum())
        high = size if high is None else high
        check(is_count(low) and is_count(high), f"bounds are {low!r} and {high!r}", "give integers of at least 0")
        check(low <= size, f"{size} positions cannot hold at least {low}", f"require at most {size}")
        check(low <= high, f"low {low} lies above high {high}", "give low <= high")
        check(
            len(chosen) < num_classes or high >= size,
            f"every token counts, so that all {size} positions do and not at most {high}",
            f"raise high to {size}, or count fewer tokens",
        )
        self.tokens, self.low, self.high = torch.tensor(chosen), low, high
        self.length, self.num_classes, self.show, self.name = length, num_classes, show, name
        # Without an upper bound, counts above low are one state.
        states = (low if high >= size else high) + 1
        count = torch.arange(states)
        more = torch.where(count + 1 < states, count + 1, count if high >= size else -1)
        tables = count[:, None].expand(-1, num_classes).repeat(2, 1, 1)
        tables[1][:, chosen] = more[:, None]
        self.machine = Machine.of(tables, self.mask.long(), 0, count >= low)

    def _counted(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        return torch.isin(answer, self.tokens) & self.mask

    def violations(self, answer: IntTensor) -> BoolTensor:
        """Too many: the positions that count. Too few: the others."""
        counted = self._counted(answer)
        count = counted.sum(-1, keepdim=True)
        return (counted & (count > self.high)) | (~counted & self.mask & (count < self.low))

    def explain(self, answer: IntTensor) -> list[list[str]]:
        names = [self.show(token) for token in self.tokens.tolist()]
        what = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
        sentences = []
        for row in self._counted(answer):
            at = row.nonzero().flatten().tolist()
            where = f", at {places(at)}" if at else ""
            wanted = f"at most {self.high} may" if len(at) > self.high else f"at least {self.low} must"
            right = self.low <= len(at) <= self.high
            prefix = f"{self.name}: " if self.name else ""
            sentences.append([] if right else [f"{prefix}{len(at)} positions hold {what}{where}; {wanted}"])
        return sentences

    @property
    def counter(self) -> Counter:
        counts = torch.isin(torch.arange(self.num_classes), self.tokens.cpu())
        return Counter((counts & self.mask[:, None].cpu()).long(), self.low, self.high)
