"""A text with slots, in tokens: every way to write it, and what each way says in each slot."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from constrained_dg.constraints.marginals import Edges, Layers
from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.text import Tokenizer
from constrained_dg.texts import Texts

#: Edges between places of a template.
MOST_EDGES = 2**20

#: A place in a template: the part, which of its texts (-1 before it is chosen), bytes of it that are written, and the
#: state of the rule over the slots.
Place = tuple[int, int, int, int]
#: The number of a slot, and of a label.
Choice = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Template:
    """Texts one after the other: given ones, and slots with labels to choose from.

    Args:
        parts: of each its texts in bytes; several are the labels of a slot. None is empty.
        slots: the numbers of the parts that are slots.
        layers: what a rule over the labels of the slots accepts.

    Raises:
        InputError: two choices of labels write the same text.
    """

    parts: Sequence[Sequence[bytes]]
    slots: Sequence[int]
    layers: Layers

    def __post_init__(self) -> None:
        self._check_unambiguous()

    @property
    def start(self) -> Place:
        return 0, -1, 0, 0

    def ends(self, place: Place) -> bool:
        return place[0] == len(self.parts) and bool(self.layers.accepting[place[3]])

    def moves(self, place: Place) -> Iterator[tuple[int, Place, Choice | None]]:
        """The bytes that may follow, where each leads, and the label that it chooses."""
        part, which, written, state = place
        if part == len(self.parts):
            return
        if which >= 0:
            yield self.parts[part][which][written], self._after(part, which, written, state), None
            return
        slot = self.slots.index(part) if part in self.slots else None
        for number, text in enumerate(self.parts[part]):
            if slot is None:
                yield text[0], self._after(part, number, 0, state), None
                continue
            after = int(self.layers.step[slot][state, self.layers.effect[slot][number]])
            if after >= 0:
                yield text[0], self._after(part, number, 0, after), (slot, number)

    def _after(self, part: int, which: int, written: int, state: int) -> Place:
        last = written + 1 == len(self.parts[part][which])
        return (part + 1, -1, 0, state) if last else (part, which, written + 1, state)

    def _check_unambiguous(self) -> None:
        """Follow two ways with the same text from where their labels differ."""
        seen_places, pairs = {self.start}, []
        for place in (order := [self.start]):  # grows
            moves = list(self.moves(place))
            pairs += [(a, b) for i, (x, a, _) in enumerate(moves) for y, b, _ in moves[:i] if x == y]
            for _, to, _ in moves:
                if to not in seen_places:
                    seen_places.add(to)
                    order.append(to)
        seen = set(pairs)
        while pairs:
            one, other = pairs.pop()
            clear = one != other and not (self.ends(one) and self.ends(other))
            check(clear, "two choices of labels write the same text", "give labels that the text tells apart")
            met = [(a, b) for x, a, _ in self.moves(one) for y, b, _ in self.moves(other) if x == y]
            pairs += [pair for pair in met if pair not in seen]
            seen.update(met)


@dataclass(frozen=True, eq=False)
class Written:
    """A template in tokens, as edges for `constraints.marginals.flows`; the same at every position.

    Attributes:
        edges: (E) each.
        accepting: (Q) bool.
        tokens, column: (F) int64, tokens and the column of scores that each belongs to.
        columns: K.
        edge, slot, label: (N) int64, the label that an edge chooses in a slot.
    """

    edges: Edges
    accepting: BoolTensor
    tokens: IntTensor
    column: IntTensor
    columns: int
    edge: IntTensor
    slot: IntTensor
    label: IntTensor

    @classmethod
    def of(cls, template: Template, texts: Texts, ends: Sequence[int], pad: int) -> Written:
        """Over the tokens of a vocabulary; an end token and then ends or padding follow the text.

        Raises:
            InputError: the vocabulary cannot write it, or there are too many edges.
        """
        vocabulary = _Vocabulary(texts)
        number: dict[Place, int] = {template.start: 0}
        edges: list[tuple[int, int, int]] = []
        choices: list[tuple[int, int, int]] = []
        for place in (order := [template.start]):  # grows
            for token_text, to, chosen in vocabulary.from_(template, place):
                if to not in number:
                    number[to] = len(number)
                    order.append(to)
                choices += [(len(edges), *choice) for choice in chosen]
                edges.append((number[place], number[to], vocabulary.column(token_text)))
                check(len(edges) <= MOST_EDGES, "the text has too many ways to be written", "read fewer slots at once")
        final = [number[place] for place in order if template.ends(place)]
        if not final:
            raise InputError("the tokens write no text that fits", "use a vocabulary with byte tokens, or other labels")
        columns, last = vocabulary.columns, len(number)
        edges += [(at, last, len(columns)) for at in final] + [(last, last, len(columns) + 1)]
        columns = [*columns, list(ends), sorted({*ends, pad})]
        accepting = torch.zeros(last + 1, dtype=torch.bool)
        accepting[[*final, last]] = True
        return cls(
            tuple(torch.tensor(edges).T),
            accepting,
            torch.tensor([token for tokens in columns for token in tokens]),
            torch.tensor([at for at, tokens in enumerate(columns) for _ in tokens]),
            len(columns),
            *torch.tensor(choices).T,
        )


class _Vocabulary:
    """The distinct texts of tokens, in order, and those that are used."""

    def __init__(self, texts: Texts) -> None:
        self._tokens: dict[bytes, list[int]] = {}
        for token, text in enumerate(texts):
            if text:
                self._tokens.setdefault(text, []).append(token)
        self._texts = sorted(self._tokens)
        self._column: dict[bytes, int] = {}

    def column(self, text: bytes) -> int:
        return self._column.setdefault(text, len(self._column))

    @property
    def columns(self) -> list[list[int]]:
        """The tokens of each text that was used."""
        return [self._tokens[text] for text in self._column]

    def from_(self, template: Template, place: Place) -> Iterator[tuple[bytes, Place, tuple[Choice, ...]]]:
        """The texts of tokens that may follow, where each leads, and the labels that it chooses."""
        stack: list[tuple[bytes, Place, tuple[Choice, ...]]] = [(b"", place, ())]
        while stack:
            written, at, chosen = stack.pop()
            for byte, to, choice in template.moves(at):
                text = written + bytes([byte])
                first = bisect_left(self._texts, text)
                if first == len(self._texts) or not self._texts[first].startswith(text):
                    continue
                now = chosen if choice is None else (*chosen, choice)
                stack.append((text, to, now))
                if self._texts[first] == text:
                    yield text, to, now


def layout(
    parts: Sequence[Sequence[str]], slots: Sequence[int], tokenizer: Tokenizer, length: int
) -> tuple[IntTensor, BoolTensor]:
    """The tokens of a canvas (T) that are sure before anything is read, and where they stand (T) bool.

    Given text stands still up to the first slot whose labels differ in their number of tokens; if there is none, all of
    it does, and ends fill up the canvas.

    Raises:
        InputError: the text that is sure needs more than T tokens.
    """
    texts, tokens, pinned = tokenizer.texts(), [], []
    for part, choices in enumerate(parts):
        written = [tokenizer.encode(each) for each in choices]
        if len({len(each) for each in written}) > 1 or any(
            texts.decode(ids) != text.encode() for ids, text in zip(written, choices, strict=True)
        ):
            break
        tokens += written[0]
        pinned += [part not in slots] * len(written[0])
    else:
        tokens, pinned = tokenizer.fill(tokens, length), pinned + [True] * (length - len(pinned))
    check(len(tokens) <= length, f"the text needs {len(tokens)} tokens, the canvas has {length}", "shorten it")
    more = length - len(tokens)
    return torch.tensor(tokens + [0] * more), torch.tensor(pinned + [False] * more)
