"""The twenty residues, and the tokens of prompts and canvases."""

from __future__ import annotations

#: In alphabetical order of their one-letter codes.
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
#: Tokens: padding, open values of a prompt, the end of a sequence, residues, kinds of sequences, numbers 0 to 31.
PAD, OPEN, EOS, FIRST_RESIDUE = 0, 1, 2, 3
KINDS = ("protein", "antimicrobial", "other")
FIRST_KIND = FIRST_RESIDUE + len(RESIDUES)
FIRST_NUMBER, NUMBERS = FIRST_KIND + len(KINDS), 32
VOCABULARY = FIRST_NUMBER + NUMBERS
#: Noise: any residue, or the end.
NOISE = (EOS, FIRST_KIND)
#: Residues of the longest sequence; canvas lengths are multiples of STEP.
LONGEST, STEP = 250, 32


def tokens_of(sequence: str, length: int) -> list[int]:
    """The tokens of a sequence of residues, filled up with EOS."""
    return [FIRST_RESIDUE + RESIDUES.index(letter) for letter in sequence] + [EOS] * (length - len(sequence))


def sequence_of(tokens: list[int]) -> str:
    """The residues before the first token that is not a residue."""
    letters = ""
    for token in tokens:
        if not FIRST_RESIDUE <= token < FIRST_KIND:
            break
        letters += RESIDUES[token - FIRST_RESIDUE]
    return letters


def show(token: int) -> str:
    """A token for people."""
    return RESIDUES[token - FIRST_RESIDUE] if FIRST_RESIDUE <= token < FIRST_KIND else "end" if token == EOS else "-"


def canvas_length(residues: int) -> int:
    """The canvas length for this many residues: a multiple of 32."""
    return -(-residues // STEP) * STEP
