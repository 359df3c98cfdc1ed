"""The twenty residues, and the tokens that prompts and canvases of sequences are made of."""

from __future__ import annotations

#: In alphabetical order of their one-letter codes.
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
#: Tokens: padding, what a prompt leaves open, the end of a sequence, residues, kinds of sequences, numbers 0 to 31.
PAD, OPEN, EOS, FIRST_RESIDUE = 0, 1, 2, 3
KINDS = ("protein", "antimicrobial", "other")
FIRST_KIND = FIRST_RESIDUE + len(RESIDUES)
FIRST_NUMBER, NUMBERS = FIRST_KIND + len(KINDS), 32
VOCABULARY = FIRST_NUMBER + NUMBERS
#: Noise: any residue, or the end.
NOISE = (EOS, FIRST_KIND)
#: Residues of the longest sequence, and what canvases are filled up to.
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
    """A token as people write it."""
    return RESIDUES[token - FIRST_RESIDUE] if FIRST_RESIDUE <= token < FIRST_KIND else "end" if token == EOS else "-"


def canvas_length(residues: int) -> int:
    """The canvas that so many residues are written into: a multiple of 32."""
    return -(-residues // STEP) * STEP
