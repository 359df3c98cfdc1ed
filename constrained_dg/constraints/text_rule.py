"""Rules on the text of an answer: what they share whatever they are written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from constrained_dg.constraints.automaton import End
from constrained_dg.constraints.language.cache import over_tokens
from constrained_dg.constraints.language.dfa import Dfa
from constrained_dg.constraints.language.vocabulary import TokenAutomaton
from constrained_dg.constraints.lowering import Lowering
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.sweep import Swept
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.constraints.token_machine import Edges, TokenMachine
from constrained_dg.errors import InputError, check
from constrained_dg.texts import Texts

#: Entries of a table up to which one is made; of a table times positions up to which a solver gets the automaton.
_DENSE, _LOWERED = 2**14, 2**18
#: Tokens up to which each is a class: the symbols of a task.
_SYMBOLS = 512


class TextRule(Swept):
    """An automaton over bytes accepts the text of the answer: the texts of its tokens, joined.

    `allowed`, `propagate` and `most_likely` are exact, and linear in positions and in edges between states.

    Args:
        key: what the automaton depends on, as JSON writes it: its name in the cache.
        make: makes the automaton over bytes.
        texts: what each of the V tokens writes, as str or bytes; None for tokens that are no text. A token may hold
            part of a character. See `Tokenizer.texts`.
        length: T.
        end: see `Automaton`.
        what: the rule's name in sentences.

    Raises:
        InputError: no text fits; the vocabulary lacks a byte; T tokens are too few; the automaton is too large.
    """

    def __init__(
        self,
        key: object,
        make: Callable[[], Dfa],
        texts: Sequence[str | bytes | None],
        length: int,
        end: End | None,
        what: str,
    ) -> None:
        check(length > 0, f"length is {length}", "give 1 or more")
        texts = Texts.of(texts)
        _check_end(end, len(texts))
        over = over_tokens(key, make, texts)
        if over is None:
            raise InputError(f"no text fits {what}", "change the rule")
        self.what, self.length, self.show = what, length, partial(_shown, texts)
        edges, accepting, classes = _with_end(over, end)
        edges, accepting = _on_paths(edges, accepting, length, what, over, make, texts)
        of_token = torch.from_numpy(classes)
        machine = TokenMachine(edges, 0, torch.from_numpy(accepting), length)
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
            check(bool(possible), f"{what} fits no answer of {length} tokens", "change the rule or the length")

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
    # Classes without tokens go: that of tokens that are never permitted, where there are none, and those of ends.
    used, classes = np.unique(classes, return_inverse=True)
    number = np.full(max(int(used.max()), int(members.max(initial=0))) + 1, -1)
    number[used] = np.arange(len(used))
    there = number[members] >= 0
    inside = np.concatenate([[0], np.cumsum(there)])[inside]
    members = number[members][there]
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


def _on_paths(
    edges: Edges,
    accepting: np.ndarray,
    length: int,
    what: str,
    over: TokenAutomaton,
    make: Callable[[], Dfa],
    texts: Texts,
) -> tuple[Edges, np.ndarray]:
    """The states that lie on some accepted path of at most T tokens."""
    near = edges.near(accepting)
    if near[0] < 0:
        there = {byte for text in texts if text for byte in text}
        needed = make().shortest() or b""
        missing = sorted({bytes([byte]) for byte in needed if byte not in there})
        raise InputError(
            f"the tokens write no text that fits {what}" + (f": none writes {missing[0]!r}" if missing else ""),
            "use a vocabulary with byte tokens, or change the rule",
        )
    check(near[0] <= length, f"{what} needs at least {near[0]} tokens, and there are {length}", "give a larger length")
    start = np.zeros(edges.states, bool)
    start[0] = True
    far = edges.far(start)
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
