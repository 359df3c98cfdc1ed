"""Finite automata of PROSITE patterns, read letter by letter."""

from tasks.amino_acid.prosite import Dfa
from tasks.amino_acid.residues import RESIDUES


def accepts(dfa: Dfa, text: str) -> bool:
    """Whether the automaton accepts all of a sequence of residues."""
    state = dfa.start
    for letter in text:
        state = -1 if state < 0 else int(dfa.table[state, RESIDUES.index(letter)])
    return state in dfa.accepting
