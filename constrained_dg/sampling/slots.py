"""The slots of a reading: positions of a canvas, or places in a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.checking import probe
from constrained_dg.constraints.marginals import Layers, flows, log_sums
from constrained_dg.constraints.vocabulary import Vocabulary
from constrained_dg.errors import check
from constrained_dg.sampling.request import Request
from constrained_dg.sampling.template import Template, Written
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.text import Tokenizer

Label = str | int
#: Given texts and slots, each with its labels; or, without a tokenizer, positions with the tokens to choose from.
Slots = Sequence[str | Sequence[Label]] | Mapping[int, Sequence[int]]


@dataclass(frozen=True, eq=False)
class Positions:
    """Slots that are positions of the canvas."""

    positions: list[int]
    labels: Sequence[Sequence[Label]]
    layers: Layers
    may: BoolTensor

    @cached_property
    def tokens(self) -> IntTensor:
        """(F) all tokens that are labels."""
        return torch.tensor(sorted({token for labels in self.labels for token in labels}))

    @classmethod
    def of(
        cls,
        slots: Slots,
        labels: Sequence[Sequence[Label]],
        layers: Layers,
        may: BoolTensor,
        pinned: BoolTensor,
        vocab_size: int,
    ) -> Positions:
        """Raises InputError where a position is pinned or outside, or nothing keeps the rule.

        Args:
            pinned: (B, T) bool.
        """
        made = cls([at for at in slots if isinstance(at, int)], labels, layers, may)
        outside = [token for token in made.tokens.tolist() if not 0 <= token < vocab_size]
        check(not outside, f"a slot has the tokens {outside[:5]}", f"give tokens from 0 to {vocab_size - 1}")
        length = pinned.shape[1]
        free = (~pinned.any(0)).nonzero().flatten().tolist()
        odd = [at for at in slots if at not in free]
        check(not odd, f"slots stand at {odd[:5]}", f"give positions below {length} that are not pinned")
        total = made.read(torch.zeros(1, length, len(made.tokens), dtype=torch.float64))[1]
        check(bool(total.isfinite()), "no choice of labels keeps the rule", "change the rule or the labels")
        return made

    def masked(self, log_probs: FloatTensor) -> FloatTensor:
        """(B, T, F) -> (B, S, K), -inf where a slot has no such label."""
        scores = torch.full((len(log_probs), *self.may.shape), -torch.inf, dtype=log_probs.dtype)
        for slot, (at, labels) in enumerate(zip(self.positions, self.labels, strict=True)):
            scores[:, slot, : len(labels)] = log_probs[:, at, torch.searchsorted(self.tokens, torch.tensor(labels))]
        return scores

    def read(self, log_probs: FloatTensor) -> tuple[FloatTensor, FloatTensor]:
        return self.layers.marginals(self.masked(log_probs))


@dataclass(frozen=True, eq=False)
class InText:
    """Slots in a text."""

    written: Written
    slots: int
    labels: int

    @classmethod
    def of(cls, template: Template, tokenizer: Tokenizer, request: Request) -> InText:
        written = Written.of(template, tokenizer.texts(), tokenizer.ends, tokenizer.pad_id)
        made = cls(written, len(template.slots), max(len(template.parts[part]) for part in template.slots))
        # Does any text fit? All tokens are possible where none is pinned.
        pinned, tokens = request.batch.pinned[:1].cpu(), request.batch.answer[:1].cpu()
        possible = ~pinned[..., None] | (tokens[..., None] == written.tokens)
        total = made.read(torch.where(possible, 0.0, -torch.inf).double())[1]
        hint = "give fewer or shorter labels, a longer canvas, or another rule"
        check(
            bool(total.isfinite()), f"no text of {request.canvas_length} tokens fits the slots and keeps the rule", hint
        )
        return made

    @property
    def tokens(self) -> IntTensor:
        return self.written.tokens

    def read(self, log_probs: FloatTensor) -> tuple[FloatTensor, FloatTensor]:
        written, (rows, length) = self.written, log_probs.shape[:2]
        scores = [log_sums(log_probs[:, at], written.column, written.columns) for at in range(length)]
        total, shares = flows([written.edges] * length, written.accepting, scores)
        of_edge = sum((share for _, share in shares), torch.zeros(1, dtype=torch.float64))
        found = torch.zeros(rows, self.slots * self.labels, dtype=torch.float64)
        found.index_add_(1, written.slot * self.labels + written.label, of_edge[:, written.edge])
        return found.view(rows, self.slots, self.labels), total


# -- what is given ----------------------------------------------------------------------------------------------------


def parts_of(slots: Slots, tokenizer: Tokenizer | None) -> tuple[list[Sequence[Label]], list[int]]:
    """Given texts and slots as lists of choices, and the numbers of those that are slots."""
    if tokenizer is None:
        check(
            isinstance(slots, Mapping), "the slots are text and there is no tokenizer", "give a tokenizer or positions"
        )
        parts: list[Sequence[Label]] = (
            [tuple(tokens) for tokens in slots.values()] if isinstance(slots, Mapping) else []
        )
        at = list(range(len(parts)))
        kind: type = int
    else:
        check(
            not isinstance(slots, Mapping | str),
            f"slots are {slots!r}",
            'give a list, such as ["Answer:", [" yes", " no"]]',
        )
        # Without a tokenizer slots are a Mapping; mypy does not know that here they are not.
        given = [part for part in slots if part != ""]
        parts = [(part,) if isinstance(part, str) else tuple(part) for part in given]  # type: ignore[arg-type]
        at = [number for number, part in enumerate(given) if not isinstance(part, str)]
        kind = str
    check(len(at) > 0, "there are no slots", "give one or more, each as its labels")
    for part in at:
        labels = parts[part]
        whole = all(isinstance(each, int) and not isinstance(each, bool) for each in labels)
        texts = kind is str and all(isinstance(each, str) and each for each in labels)
        good = len(labels) > 0 and (whole or texts) and len(set(labels)) == len(labels)
        check(
            good,
            f"a slot has the labels {list(labels)[:8]}",
            "give different texts that are not empty, or whole numbers",
        )
    return parts, at


def present(labels: Sequence[Sequence[Label]]) -> BoolTensor:
    """(S, K) which labels a slot has."""
    most = max(map(len, labels))
    return torch.tensor([[number < len(each) for number in range(most)] for each in labels])


def layers_of(rule: Constraint | None, may: BoolTensor) -> Layers:
    if rule is None:
        return Layers.of(Vocabulary(may[None]), may)
    check(isinstance(rule, Constraint) and rule.classes is None, f"the rule is {rule!r}", "give a rule over labels")
    shape = (rule.length, rule.num_classes)
    hint = f"its positions are the {len(may)} slots, its classes the {may.shape[1]} labels"
    check(shape == tuple(may.shape), f"the rule is over {shape[0]} positions and {shape[1]} classes", hint)
    probe(rule, torch.zeros(1, len(may), dtype=torch.int64))
    return Layers.of(rule, may)
