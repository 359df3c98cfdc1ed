"""Regular expressions as rules, over the symbols of a task or the texts of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from constrained_dg.constraints.automaton import Automaton, End
from constrained_dg.constraints.regular_expression import CharacterAutomaton
from constrained_dg.constraints.token_classes import TokenClasses
from constrained_dg.errors import check

#: States times distinct texts of tokens up to which `Regex.over_text` is made (4 bytes each).
_ENTRIES = 2**27


class Regex(Automaton):
    r"""The text of the answer matches a regular expression, as in Python's `re.fullmatch`.

    `\w`, `\d` and `\s` are Unicode, `.` is anything but a newline. `^` and `$` may stand at the ends; backreferences,
    lookaround, `\b`, atomic groups, possessive repeats and flags are refused. A counted repeat is expanded up to the
    length of the answer; a pattern that then needs more than 16,384 states is refused.

    Args:
        pattern: the regular expression.
        symbols: the character that each token writes; None for a token that writes nothing and is not permitted
            before the end.
        length: T.
        end: see `Automaton`.

    Raises:
        InputError: not a valid regular expression or too large a one, a symbol of several characters, or no text of
            this length matches.
    """

    def __init__(self, pattern: str, symbols: Sequence[str | None], length: int, end: End | None = None) -> None:
        odd = [symbol for symbol in symbols if symbol is not None and len(symbol) != 1]
        check(not odd, f"symbols {odd[:5]} are not single characters", "use Regex.over_text for longer ones")
        check(length > 0, f"length is {length}", "give 1 or more")
        automaton = CharacterAutomaton.of(pattern, (symbol for symbol in symbols if symbol is not None), length)
        dead = np.full((len(automaton.table), 1), -1)  # the last column, of tokens that write nothing
        columns = [-1 if symbol is None else automaton.group[symbol] for symbol in symbols]
        table = torch.from_numpy(np.concatenate([automaton.table, dead], 1)[:, columns])
        what = f"the pattern {pattern!r}"
        super().__init__(table, automaton.start, automaton.accepting, length, end, partial(_shown, symbols), what=what)
        self.pattern = pattern

    @classmethod
    def over_text(cls, pattern: str, texts: Sequence[str | None], length: int, end: End | None = None) -> Automaton:
        """The same for tokens of several characters, such as those of a language model.

        Tokens that lead from every state to the same state are one class, so that A stays small whatever V.

        Args:
            texts: what each of the V tokens writes; None for special tokens, which are not permitted before the end.

        Raises:
            InputError: as above, or states times distinct texts exceed 2**27.
        """
        check(length > 0, f"length is {length}", "give 1 or more")
        written = [text for text in texts if text]
        longest = length * max(map(len, written), default=0)
        automaton = CharacterAutomaton.of(pattern, set("".join(written)), longest)
        # 1. Texts whose characters are equivalent are one.
        groups = str.maketrans({character: chr(group) for character, group in automaton.group.items()})
        number: dict[str | None, int] = {}
        which = np.array([number.setdefault(text and text.translate(groups), len(number)) for text in texts])
        dead = len(automaton.table)
        check(
            (dead + 1) * len(number) <= _ENTRIES,
            f"the pattern {pattern!r} needs {dead} states over {len(number)} distinct texts of tokens",
            f"write a pattern of fewer states: at most {_ENTRIES // len(number)}",
        )
        # 2. Where each text leads from each state, one character of all texts at a time.
        following = np.full((dead + 1, automaton.table.shape[1] + 1), dead, dtype=np.int32)
        following[:dead, :-1] = np.where(automaton.table < 0, dead, automaton.table)
        columns = np.tile(np.arange(dead + 1, dtype=np.int32), (len(number), 1))
        coded = list(number)
        columns[[at for at, text in enumerate(coded) if text is None]] = dead
        active = np.array([at for at, text in enumerate(coded) if text], dtype=np.int64)
        place = 0
        while len(active):
            symbols = np.array([ord(coded[at][place]) for at in active], dtype=np.int64)
            columns[active] = following[columns[active], symbols[:, None]]
            place += 1
            active = np.array([at for at in active if len(coded[at]) > place], dtype=np.int64)
        # 3. Equal columns are one class; each token of an end is a separate class.
        _, first, column = np.unique(columns, axis=0, return_index=True, return_inverse=True)
        special = np.full(len(texts), -1)
        if end is not None:
            for k, token in enumerate((*end[0], end[1])):
                special[token] = k
        keyed = np.stack([column.reshape(-1)[which], special], 1)
        kinds, inverse = np.unique(keyed, axis=0, return_inverse=True)
        classes = TokenClasses(torch.from_numpy(inverse.reshape(-1).astype(np.int64)), len(kinds))
        table = torch.from_numpy(columns[first[kinds[:, 0]], :dead].astype(np.int64)).T
        table = torch.where(table == dead, -1, table).contiguous()
        what = f"the pattern {pattern!r}"
        return Automaton(
            table, automaton.start, automaton.accepting, length, end, partial(_shown, texts), classes, what
        )


def _shown(texts: Sequence[str | None], token: int) -> str:
    return f"token {token}" if texts[token] is None else repr(texts[token])
