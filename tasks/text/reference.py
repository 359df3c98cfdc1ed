"""Reference answers as a judge: exact match of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.text import Tokenizer


@dataclass(frozen=True, eq=False)
class Reference(Constraint):
    """An answer is right if its text, without surrounding space, equals the reference.

    It allows every token: all tokens are in one class.

    Args:
        texts: B references, or None, which no answer matches.
        tokens: (B, T) int64, the references followed by EOS, to find where an answer differs.
        tokenizer: turns answers into text.
    """

    texts: Sequence[str | None]
    tokens: IntTensor
    tokenizer: Tokenizer
    num_classes = 1

    @classmethod
    def of(cls, texts: Sequence[str | None], tokenizer: Tokenizer, length: int) -> Reference:
        """References for answers of `length` tokens; `violations` compares only the first tokens of a longer one."""
        encoded = [tokenizer.encode(text or "")[:length] for text in texts]
        tokens = torch.tensor([tokenizer.fill(answer, length) for answer in encoded])
        return cls(tuple(texts), tokens, tokenizer)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def rows(self) -> int:
        return len(self.texts)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def class_of(self, tokens: IntTensor) -> IntTensor:
        return torch.zeros_like(tokens)

    def of_tokens(self, by_class: torch.Tensor) -> torch.Tensor:
        return by_class.expand(*by_class.shape[:-1], self.vocab_size)

    def is_satisfied(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        texts = self.texts * len(answer) if self.rows == 1 else self.texts
        same = [
            text is not None and self.tokenizer.decode(tokens).strip() == text.strip()
            for tokens, text in zip(answer.tolist(), texts, strict=True)
        ]
        return torch.tensor(same, device=answer.device)

    def violations(self, answer: IntTensor) -> BoolTensor:
        """Where the tokens of a wrong answer differ from the reference; everywhere if they do not."""
        wrong = ~self.is_satisfied(answer)[:, None]
        differs = answer != self.tokens
        return wrong & (differs | ~differs.any(1, keepdim=True))

    def explain(self, answer: IntTensor) -> list[list[str]]:
        texts = self.texts * len(answer) if self.rows == 1 else self.texts
        sentences = ["there is no reference answer" if text is None else f"the reference is {text!r}" for text in texts]
        same = self.is_satisfied(answer).tolist()
        return [[] if fine else [sentence] for fine, sentence in zip(same, sentences, strict=True)]

    def allowed(self, answer: IntTensor, known: BoolTensor, span: slice) -> BoolTensor:
        """Every token: a reference is not a rule."""
        return torch.ones(*answer[:, span].shape, 1, dtype=torch.bool, device=answer.device)

    def select(self, rows: IntTensor) -> Reference:
        return replace(self, texts=tuple(self.texts[row] for row in rows.tolist()), tokens=self.tokens[rows])

    @classmethod
    def stack(cls, constraints: Sequence[Reference]) -> Reference:
        texts = tuple(text for constraint in constraints for text in constraint.texts)
        return replace(constraints[0], texts=texts, tokens=torch.cat([c.tokens for c in constraints]))

    def to(self, device: torch.device | str) -> Reference:
        return replace(self, tokens=self.tokens.to(device))
