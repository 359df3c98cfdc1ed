"""Finite automata, and words that must or must not occur."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch

from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.sweep import Swept
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.constraints.words import places
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, IntTensor

#: Tokens that end an answer, and the token that fills it up behind them.
End = tuple[Sequence[int], int]


class Automaton(Swept):
    """The answer, read from left to right, leads from the start state to an accepting one.

    Args:
        transitions: (Q, A) int64, the state after each token in each state; -1 where the token is not permitted.
        start: state.
        accepting: states in which the answer may end.
        length: T.
        end: None, or (tokens that end an answer, pad). Tokens before the first end token are judged; only end tokens
            and pad may follow it. An answer without an end token is judged completely.
        show: a token as people write it.
        classes: None, or the classes of tokens in the columns of the transitions.
        what: the rule's name in sentences.

    Raises:
        InputError: shapes, states or tokens do not fit, or no answer of this length is accepted.
    """

    def __init__(
        self,
        transitions: IntTensor,
        start: int,
        accepting: Sequence[int],
        length: int,
        end: End | None = None,
        show: Callable[[int], str] = str,
        classes: TokenClasses | None = None,
        what: str = "the automaton",
    ) -> None:
        check(
            transitions.dim() == 2 and transitions.dtype == torch.int64 and transitions.numel() > 0,
            f"transitions have shape {tuple(transitions.shape)} and type {transitions.dtype}",
            "give (states, tokens) of torch.int64",
        )
        states, num_classes = transitions.shape
        check(length > 0, f"length is {length}", "give 1 or more")
        low, high = int(transitions.min()), int(transitions.max())
        check(low >= -1 and high < states, f"transitions lead to states {low} to {high}", f"give -1 to {states - 1}")
        named = [start, *accepting]
        outside = [state for state in named if not 0 <= state < states]
        check(not outside, f"states {outside} are out of range", f"they run from 0 to {states - 1}")
        check(
            classes is None or classes.size == num_classes,
            f"{num_classes} columns for {classes and classes.size} classes",
        )
        accepts = torch.zeros(states, dtype=torch.bool)
        accepts[list(accepting)] = True
        if end is not None:
            transitions, accepts = _with_end(transitions, accepts, end, classes)
        self.length, self.num_classes, self.show, self.classes, self.what = length, num_classes, show, classes, what
        self.machine = Machine.of(transitions[None], torch.zeros(length, dtype=torch.int64), start, accepts)
        check(
            bool(self.most_likely(torch.zeros(1, length, num_classes))[1]),
            f"{what} fits no answer of {length} tokens",
            "change the rule or the length",
        )


def _with_end(
    transitions: IntTensor, accepts: BoolTensor, end: End, classes: TokenClasses | None
) -> tuple[IntTensor, BoolTensor]:
    """Add a state for what follows the end of an answer."""
    tokens, pad = end
    states, num_classes = transitions.shape
    vocab = num_classes if classes is None else classes.vocab_size
    outside = [token for token in (*tokens, pad) if not 0 <= token < vocab]
    check(not outside and len(tokens) > 0, f"end is {end}", f"give tokens from 0 to {vocab - 1}, and pad")
    if classes is not None:
        tokens, pad = [int(classes.table[token]) for token in tokens], int(classes.table[pad])
    extended = torch.full((states + 1, num_classes), -1)
    extended[:states] = transitions
    extended[:states, [*tokens, pad]] = -1
    extended[:states, list(tokens)] = torch.where(accepts, states, -1)[:, None]
    extended[states, [*tokens, pad]] = states
    return extended, torch.cat([accepts, torch.tensor([True])])


def _checked_words(words: Sequence[Sequence[int]], num_classes: int) -> list[tuple[int, ...]]:
    checked = [tuple(int(token) for token in word) for word in words]
    check(bool(checked) and all(checked), f"words are {checked}", "give one or more, none of them empty")
    outside = sorted({token for word in checked for token in word if not 0 <= token < num_classes})
    check(not outside, f"tokens {outside} lie outside the alphabet of {num_classes}", f"use 0 to {num_classes - 1}")
    return checked


def _search_tree(words: Sequence[tuple[int, ...]], num_classes: int) -> tuple[list[list[int]], list[int]]:
    """Where each token leads from each prefix, and the words that end there as bits (Aho and Corasick, 1975)."""
    children: list[dict[int, int]] = [{}]
    ends = [0]
    for bit, word in enumerate(words):
        node = 0
        for token in word:
            if token not in children[node]:
                children[node][token] = len(children)
                children.append({})
                ends.append(0)
            node = children[node][token]
        ends[node] |= 1 << bit
    following = [[0] * num_classes for _ in children]
    back = [0] * len(children)
    queue = deque([0])
    while queue:
        node = queue.popleft()
        for token in range(num_classes):
            child = children[node].get(token)
            behind = following[back[node]][token] if node else 0
            following[node][token] = behind if child is None else child
            if child is not None:
                back[child] = behind
                ends[child] |= ends[behind]
                queue.append(child)
    return following, ends


class Forbidden(Automaton):
    """None of the words occurs in the answer.

    Args:
        words: as tokens, such as [[3, 4], [5]].
        length: T.
        num_classes: A.
        show: a token as people write it.

    Raises:
        InputError: an empty word, a token outside the alphabet, or every answer contains a word.
    """

    def __init__(
        self, words: Sequence[Sequence[int]], length: int, num_classes: int, show: Callable[[int], str] = str
    ) -> None:
        self.words = _checked_words(words, num_classes)
        following, ends = _search_tree(self.words, num_classes)
        table = [[-1 if ends[to] else to for to in row] for row in following]
        super().__init__(torch.tensor(table), 0, range(len(table)), length, show=show, what="a rule of forbidden words")

    def _found(self, row: list[int]) -> list[tuple[int, tuple[int, ...]]]:
        return [(at, w) for w in self.words for at in range(len(row)) if tuple(row[at : at + len(w)]) == w]

    def violations(self, answer: IntTensor) -> BoolTensor:
        self.check_answer(answer)
        blamed = torch.zeros_like(answer, dtype=torch.bool)
        for word in self.words:
            width = len(word)
            if width <= self.length:
                pieces = answer.unfold(1, width, 1)
                here = (pieces == torch.tensor(word, device=answer.device)).all(-1)
                for offset in range(width):
                    blamed[:, offset : offset + here.shape[1]] |= here
        return blamed

    def explain(self, answer: IntTensor) -> list[list[str]]:
        self.check_answer(answer)
        return [
            [
                f"the forbidden {' '.join(map(self.show, word))} stands at {places(range(at, at + len(word)))}"
                for at, word in sorted(self._found(row))
            ]
            for row in answer.tolist()
        ]


class Required(Automaton):
    """Each of the words occurs in the answer; they may overlap.

    Args:
        words: as tokens, such as [[3, 4], [5]]; at most 12, since the number of states doubles with each.
        length: T.
        num_classes: A.
        show: a token as people write it.

    Raises:
        InputError: an empty word, a token outside the alphabet, too many words, or they do not fit the length.
    """

    def __init__(
        self, words: Sequence[Sequence[int]], length: int, num_classes: int, show: Callable[[int], str] = str
    ) -> None:
        self.words = _checked_words(words, num_classes)
        check(len(self.words) <= 12, f"{len(self.words)} required words", "give at most 12, or join rules with &")
        following, ends = _search_tree(self.words, num_classes)
        seen_all = (1 << len(self.words)) - 1
        number: dict[tuple[int, int], int] = {(0, 0): 0}
        table: list[list[int]] = []
        for node, seen in (order := list(number)):  # grows as states are found
            row = []
            for to in following[node]:
                state = (0, seen_all) if (after := seen | ends[to]) == seen_all else (to, after)
                if state not in number:
                    number[state] = len(number)
                    order.append(state)
                row.append(number[state])
            table.append([number[(0, seen_all)]] * num_classes if seen == seen_all else row)
        done = [state for (_, seen), state in number.items() if seen == seen_all]
        super().__init__(torch.tensor(table), 0, done, length, show=show, what="a rule of required words")

    def explain(self, answer: IntTensor) -> list[list[str]]:
        self.check_answer(answer)
        sentences = []
        for row, near in zip(answer.tolist(), self.nearest(answer).tolist(), strict=True):
            missing = [w for w in self.words if all(tuple(row[at : at + len(w)]) != w for at in range(len(row)))]
            changed = [at for at in range(len(row)) if row[at] != near[at]]
            place = f"; the nearest answer changes {places(changed)}" if changed else ""
            sentences.append(
                [f"the required {' '.join(map(self.show, word))} does not occur{place}" for word in missing]
            )
        return sentences
