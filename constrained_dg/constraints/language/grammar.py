"""Context-free grammars in Lark's syntax, as expressions."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from constrained_dg.constraints.language.construction import automaton
from constrained_dg.constraints.language.dfa import Dfa
from constrained_dg.constraints.language.expression import (
    ANY,
    ANYTHING,
    EMPTY,
    MARK,
    NOTHING,
    Chars,
    Expression,
    Lang,
    Rep,
    Seq,
    alt,
    has_places,
)
from constrained_dg.constraints.language.pattern import read, shown
from constrained_dg.errors import InputError, check, needs

#: The options of a rule: symbols, and whether each is a terminal.
_Options = list[list[tuple[str, bool]]]
#: Copies of rules inside each other, before states are counted.
_MOST = 2**18


def read_grammar(grammar: str, start: str, recursion: int) -> Dfa:
    """The automaton of a grammar, whose rules stand at most so often within themselves.

    Repeats, and rules that name themselves only at their begin or only at their end, are exact. A text fits if some
    division into terminals does, as with Lark's `lexer="dynamic_complete"`.

    Raises:
        InputError: not a grammar, no such start rule, too large, a terminal that no automaton here does or that depends
            on the text around it.
    """
    with needs("lark", "a grammar"):
        import lark
    try:
        parser = lark.Lark(grammar, start=start, parser="earley", lexer="dynamic_complete")
    except lark.exceptions.LarkError as error:
        raise InputError(f"the grammar cannot be read ({str(error).splitlines()[0][:200]})", "correct it") from None
    return _Grammar(parser, recursion).whole(start)


def _terminal(name: str, pattern: str) -> Dfa:
    """The texts of a terminal; one with lazy repeats ends where it first may."""
    expression = read(pattern)
    dfa = automaton(expression)
    if has_places(expression):
        # What stands around it in the text must not matter.
        within, alone = (automaton(Seq((ANYTHING, MARK, each, MARK, ANYTHING))) for each in (expression, Lang(dfa)))
        check(
            within.key == alone.key,
            f"what the terminal {name} matches depends on the text around it ({shown(pattern)})",
            "write it without anchors, word boundaries and look-around at its ends",
        )
    if re.search(r"[*+?}]\?", pattern):
        dfa = dfa - automaton(Seq((Lang(dfa), Chars(ANY), ANYTHING)))
    return dfa


class _Grammar:
    def __init__(self, parser: Any, recursion: int) -> None:
        self.recursion = recursion
        self.rules: dict[str, list[list[tuple[str, bool]]]] = {}
        for rule in parser.rules:
            symbols = [(symbol.name, symbol.is_term) for symbol in rule.expansion]
            options = self.rules.setdefault(rule.origin.name, [])
            if symbols not in options:
                options.append(symbols)
        terminals = {each.name: Lang(_terminal(each.name, each.pattern.to_regexp())) for each in parser.terminals}
        ignored = [terminals[name] for name in parser.ignore_tokens]
        #: What may stand between terminals.
        self.between: Expression = Rep(alt(ignored), 0, None) if ignored else EMPTY
        self.terminals: dict[str, Expression] = {
            name: Seq((each, self.between)) if ignored else each for name, each in terminals.items()
        }
        self.within: Counter[str] = Counter()
        self.recursive = {name for name in self.rules if name in self._reached(name)}
        self.known: dict[tuple[str, frozenset[tuple[str, int]]], Expression] = {}

    def _reached(self, name: str) -> set[str]:
        seen: set[str] = set()
        todo = [name]
        while todo:
            for option in self.rules[todo.pop()]:
                new = {symbol for symbol, is_term in option if not is_term} - seen
                seen |= new
                todo += new
        return seen

    def whole(self, start: str) -> Dfa:
        return automaton(Seq((self.between, self.rule(start))))

    def rule(self, name: str) -> Expression:
        """The language of a rule, within those that are open."""
        key = (name, frozenset(self.within.items()))
        if key not in self.known:
            made = self._rule(name)
            if made.size > _MOST:
                raise InputError(
                    f"the grammar needs more than {_MOST:,} states at {name!r}", "give a smaller recursion"
                )
            self.known[key] = Lang(automaton(made))
        return self.known[key]

    def _rule(self, name: str) -> Expression:
        # 1. A rule that names itself only at the begin of options, or only at the end, is a repeat.
        options = [option for option in self.rules[name] if option != [(name, False)]]
        for side in (0, -1):
            again = [option for option in options if option and option[side] == (name, False)]
            bare = [option[1:] if side == 0 else option[:-1] for option in again]
            others = [option for option in options if option not in again]
            if again and not any((name, False) in option for option in [*bare, *others]):
                inner = {symbol for option in [*bare, *others] for symbol, is_term in option if not is_term}
                return self._counted(name, any(name in self._reached(each) for each in inner), others, bare, side)
        # 2. Otherwise it stands within itself so often.
        return self._counted(name, name in self.recursive, options, [], 0)

    def _counted(self, name: str, counts: bool, options: _Options, bare: _Options, side: int) -> Expression:
        """Options, with a repeat of others behind (side 0) or before them, within the rule once more if that counts."""
        if counts and self.within[name] >= self.recursion:
            return NOTHING
        self.within[name] += counts
        made = alt([self.option(option) for option in options])
        if bare:
            more = Rep(alt([self.option(option) for option in bare]), 0, None)
            made = Seq((made, more) if side == 0 else (more, made))
        self.within[name] -= counts
        return made

    def option(self, option: list[tuple[str, bool]]) -> Expression:
        return Seq(tuple(self.terminals[name] if is_term else self.rule(name) for name, is_term in option))
