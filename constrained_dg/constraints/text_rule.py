"""Rules on the text of an answer: what they share whatever they are written in."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, Self

import numpy as np
import torch

from constrained_dg.constraints.automaton import End
from constrained_dg.constraints.language.cache import over_tokens
from constrained_dg.constraints.language.dfa import Dfa, TooLargeError
from constrained_dg.constraints.language.vocabulary import TokenAutomaton
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.running import interruptible
from constrained_dg.constraints.sweep import Swept
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.constraints.token_machine import Edges, TokenMachine
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.texts import Texts

#: Entries of a table up to which one is made; of a table times positions up to which a solver gets the automaton.
_DENSE, _LOWERED = 2**14, 2**18
#: Tokens up to which each is a class: the symbols of a task.
_SYMBOLS = 1024

#: A name of an automaton in the cache, as JSON writes it; and what makes the automaton.
Language = tuple[object, Callable[[], Dfa]]


class TextRule(Swept):
    """An automaton over bytes accepts the text of the answer: the texts of its tokens, joined.

    `allowed`, `propagate` and `most_likely` are exact, and linear in positions and in edges between states. A subclass
    says which `language` it is.

    Args:
        what: the rule's name in sentences.
        texts: what each of the V tokens writes, as str or bytes; None for tokens that are no text. A token may hold
            part of a character. See `Tokenizer.texts`. Without texts and length the rule waits for them: `over` gives
            them, and `generate` does so where it has a tokenizer.
        length: T.
        end: see `Automaton`.

    Raises:
        InputError: no text fits; the vocabulary lacks a byte; T tokens are too few; the automaton is too large.
    """

    num_classes = 0
    _length: int | None = None

    def __init__(
        self, what: str, texts: Sequence[str | bytes | None] | None, length: int | None, end: End | None
    ) -> None:
        self.what = what
        check((texts is None) == (length is None), "texts and length go together", "give both, or neither")
        if texts is not None and length is not None:
            self._bind(Texts.of(texts), length, end)

    @abstractmethod
    def language(self, longest: int | None) -> Language:
        """The texts that fit; those of more than `longest` bytes need not be right."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} that waits for texts>" if self.waits else super().__repr__()

    @property
    def waits(self) -> bool:
        """Whether it has no texts and no length yet."""
        return self._length is None

    @property
    def length(self) -> int:
        """T; InputError while the rule waits: whatever joins, solves or judges asks for it first."""
        if self._length is None:
            hint = "give texts and length, or hand it to generate with a tokenizer"
            raise InputError(f"{type(self).__name__} has no texts yet", hint)
        return self._length

    def over(self, texts: Sequence[str | bytes | None], length: int, end: End | None = None) -> Self:
        """The same rule over the tokens of a vocabulary."""
        bound = copy.copy(self)
        bound._bind(Texts.of(texts), length, end)
        return bound

    def _bind(self, texts: Texts, length: int, end: End | None) -> None:
        check(len(texts) > 0, "there are no texts", "give one for each token")
        check(is_count(length, 1), f"length is {length!r}", "give 1 or more")
        _check_end(end, len(texts))
        interruptible(partial(self._build, texts, length, end))

    def _build(self, texts: Texts, length: int, end: End | None) -> None:
        key, make = self.language(length * texts.longest)
        over = over_tokens(key, make, texts)
        if over is None:
            self._refuse_empty(texts, length)
        self._length, self.show = length, partial(_shown, texts)
        edges, accepting, classes = _with_end(over, end)
        _check_reach(edges, accepting, length, self.what, make, texts)
        edges, accepting = _on_paths(edges, accepting, length)
        of_token = torch.from_numpy(classes)
        machine: Machine = TokenMachine(edges, 0, torch.from_numpy(accepting), length)
        self.num_classes, self.classes = edges.effects, TokenClasses(of_token, edges.effects)
        if len(texts) <= _SYMBOLS:
            machine = machine.over(of_token)
            self.num_classes, self.classes = len(texts), None
        if machine.entries <= _DENSE:
            zero = torch.zeros(length, dtype=torch.int64)
            tables = torch.where(machine.step == machine.states, -1, machine.step)[..., machine.effect[0]]
            machine = Machine.of(tables, zero, 0, machine.accepting)
        self.machine = machine
        if end is None:
            possible = self.most_likely(torch.zeros(1, length, self.num_classes))[1]
            check(bool(possible), f"{self.what} fits no answer of {length} tokens", "change the rule or the length")

    def _refuse_empty(self, texts: Texts, length: int) -> NoReturn:
        """Say whether texts are too long for the answer, or there is none."""
        try:
            shortest = self.language(None)[1]().shortest()
        except TooLargeError:
            raise InputError(f"no text fits {self.what} within {length} tokens", "give a larger length") from None
        check(shortest is not None, f"no text fits {self.what}", "change the rule")
        least = -(-len(shortest or b"") // max(texts.longest, 1))
        raise InputError(f"{self.what} needs at least {least} tokens, and there are {length}", "give a larger length")

    def lower(self, into: Lowering) -> None:
        if self.machine.entries * self.length > _LOWERED:
            into.defer(self)
        else:
            super().lower(into)


def _check_end(end: End | None, vocab: int) -> None:
    if end is not None:
        tokens, pad = end
        outside = [token for token in (*tokens, pad) if not 0 <= token < vocab]
        check(not outside and len(tokens) > 0, f"end is {end}", f"give tokens from 0 to {vocab - 1}, and pad")


def _with_end(over: TokenAutomaton, end: End | None) -> tuple[Edges, np.ndarray, np.ndarray]:
    """Edges with a state for what follows the end of an answer, its accepting states, and the class of each token."""
    classes, states = over.classes.astype(np.int64), len(over.accepting)
    source, target, label = over.source, over.target, over.label
    inside, members, accepting = over.begin, over.members, over.accepting
    if end is not None:
        tokens, pad = list(end[0]), end[1]
        last = int(classes.max())
        classes[pad] = last + 2
        classes[tokens] = last + 1
        ends = np.unique(classes[[*tokens, pad]])
        before, labels = np.flatnonzero(accepting), len(inside) - 1
        source = np.concatenate([source, before, [states]])
        target = np.concatenate([target, np.full(len(before) + 1, states)])
        label = np.concatenate([label, np.full(len(before), labels), [labels + 1]])
        members = np.concatenate([members, [last + 1], ends])
        inside = np.concatenate([inside, [inside[-1] + 1, inside[-1] + 1 + len(ends)]])
        accepting, states = np.append(accepting, True), states + 1
    # Drop classes that hold no token.
    used, classes = np.unique(classes, return_inverse=True)
    number = np.full(max(int(used.max()), int(members.max(initial=0))) + 1, -1)
    number[used] = np.arange(len(used))
    there = number[members] >= 0
    inside = np.concatenate([[0], np.cumsum(there)])[inside]
    members = number[members][there]
    # An edge whose tokens all end or pad leads nowhere.
    kept = np.diff(inside)[label] > 0
    source, target, label = source[kept], target[kept], label[kept]
    # Members in order within each label.
    order = np.lexsort((members, np.repeat(np.arange(len(inside) - 1), np.diff(inside))))
    by_source = np.argsort(source, kind="stable")
    begin = np.searchsorted(source[by_source], np.arange(states + 1))
    edges = Edges(
        begin,
        target[by_source].astype(np.int32),
        label[by_source].astype(np.int32),
        inside,
        members[order].astype(np.int32),
        len(used),
    )
    return edges, accepting, classes.reshape(-1)


def _check_reach(
    edges: Edges, accepting: np.ndarray, length: int, what: str, make: Callable[[], Dfa], texts: Texts
) -> None:
    """Raise InputError where no text of so many tokens fits."""
    least = int(edges.near(accepting)[0])
    if least < 0:
        there = {byte for text in texts if text for byte in text}
        missing = [bytes([byte]) for byte in make().shortest() or b"" if byte not in there]
        raise InputError(
            f"the tokens write no text that fits {what}" + (f": none writes {missing[0]!r}" if missing else ""),
            "use a vocabulary with byte tokens, or change the rule",
        )
    check(least <= length, f"{what} needs at least {least} tokens, and there are {length}", "give a larger length")


def _on_paths(edges: Edges, accepting: np.ndarray, length: int) -> tuple[Edges, np.ndarray]:
    """The states that lie on some accepted path of at most T tokens."""
    start = np.zeros(edges.states, bool)
    start[0] = True
    near, far = edges.near(accepting), edges.far(start)
    kept = (near >= 0) & (far >= 0) & (far + near <= length)
    return edges.within(kept), accepting[kept]


def _shown(texts: Texts, token: int) -> str:
    text = texts[token]
    if text is None:
        return f"token {token}"
    try:
        return repr(text.decode())
    except UnicodeDecodeError:
        return repr(text)
