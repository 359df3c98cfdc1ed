"""Classes of tokens: rules use them where several tokens mean the same, such as "5" and " 5"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from constrained_dg.errors import check
from constrained_dg.shapes import FloatTensor, IntTensor

#: Log-probabilities that `TokenClasses.likeliest` works on at a time: temporary tensors take a few times 16 MiB.
_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class TokenClasses:
    """A map from the tokens of a vocabulary to classes, none of them empty. Compared by value.

    Args:
        table: (V) int64, the class of each token.
        named: number of classes with listed tokens. If `size` is larger, the last class, `other`, holds all other
            tokens.
    """

    table: IntTensor
    named: int

    @classmethod
    def of(cls, vocab_size: int, classes: Sequence[Sequence[int]]) -> TokenClasses:
        """Class k holds the tokens classes[k]; tokens in no class form one more class, `other`.

        Raises:
            InputError: a class is empty, or a token is in two classes or outside [0, vocab_size).
        """
        empty = [k for k, tokens in enumerate(classes) if len(tokens) == 0]
        check(len(classes) > 0 and not empty, f"classes {empty} of {len(classes)} are empty", "give each a token")
        tokens = torch.tensor([int(token) for tokens in classes for token in tokens])
        outside = tokens[(tokens < 0) | (tokens >= vocab_size)].tolist()
        check(not outside, f"tokens {outside[:5]} are out of range", f"they run from 0 to {vocab_size - 1}")
        values, counts = tokens.unique(return_counts=True)
        twice = values[counts > 1].tolist()
        check(not twice, f"tokens {twice[:5]} are in a class twice or in two", "name each token once")
        table = torch.full((vocab_size,), len(classes))
        table[tokens] = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(c) for c in classes]))
        return cls(table, len(classes))

    @classmethod
    def refining(cls, labels: Sequence[IntTensor]) -> TokenClasses:
        """The coarsest classes in which tokens share a class only if they share every label (V) int64."""
        table = labels[0].unique(return_inverse=True)[1]
        for label in labels[1:]:
            table = (table * (label.max() + 1) + label).unique(return_inverse=True)[1]
        return cls(table, int(table.max()) + 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenClasses) or (self.vocab_size, self.named) != (other.vocab_size, other.named):
            return False
        return self.table is other.table or torch.equal(self.table, other.table)

    def __hash__(self) -> int:
        return hash((self.vocab_size, self.named))

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.table)

    @cached_property
    def size(self) -> int:
        """A, the number of classes, `other` included where it has tokens."""
        return int(self.table.max()) + 1

    @cached_property
    def first(self) -> IntTensor:
        """(A) the first token of each class."""
        ids = torch.arange(self.vocab_size, device=self.table.device)
        return ids.new_full((self.size,), self.vocab_size).scatter_reduce(0, self.table, ids, "amin")

    def likeliest(self, log_probs: FloatTensor) -> tuple[FloatTensor, IntTensor]:
        """(..., V) -> (..., A) twice: each class's highest log-probability, and the first token that has it.

        Probabilities may be given instead, which are not all 0 or less; then probabilities are returned.
        """
        vocab, ids = self.vocab_size, torch.arange(self.vocab_size, device=self.table.device)
        blocks = []
        for part in log_probs.reshape(-1, vocab).split(max(1, _AT_ONCE // vocab)):
            table = self.table.expand_as(part)
            best = part.new_full((len(part), self.size), -torch.inf).scatter_reduce(-1, table, part, "amax")
            winners = torch.where(part == best.gather(-1, table), ids, vocab)
            token = winners.new_full(best.shape, vocab).scatter_reduce(-1, table, winners, "amin")
            blocks.append((best, torch.where(token == vocab, self.first, token)))
        best, token = (torch.cat(parts).view(*log_probs.shape[:-1], self.size) for parts in zip(*blocks, strict=True))
        return best, token

    @property
    def device(self) -> torch.device:
        return self.table.device

    def to(self, device: torch.device | str) -> TokenClasses:
        return self if self.table.device == torch.device(device) else type(self)(self.table.to(device), self.named)
