"""Graphs as tokens: the upper triangle on the canvas, `width` pairs in each token, and the family in the prompt.

With eight pairs in a token, the 2,016 pairs of 64 nodes fit one canvas of 256 tokens, in which every pair sees every
other in every pass; and a token holds the joint distribution of its pairs. Single bits would need eight canvases.

Tokens go row by row. Columns are cut into blocks of `width`; a token of row i holds the pairs of i with the nodes of
one earlier block. In the block of row i itself, row r of the block has r pairs, so rows r and width - 1 - r share one.
With width 4 and 8 nodes (letters are tokens, rows from the top):

    1 A              a token of row 1 and 2: A = (1,0) (2,0) (2,1)
    2 A A
    3 B B B          row 3 alone fills its token; with row 0, which has no pair
    4 C C C C
    5 D D D D F      E: row 6, F: its pairs in the block with those of row 5
    6 E E E E F F
    7 G G G G H H H

Bit k of a pattern is the pair of rank k in its token. Width 1 is the plain upper triangle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor

#: The largest graph: its upper triangle fills one canvas of 256 tokens, 8 pairs each.
MOST_NODES = 64
FAMILIES = ("planar", "tree", "regular", "degrees", "bipartite", "connected")
PAD, EOS, FIRST_FAMILY = 0, 1, 2
FIRST_NUMBER = FIRST_FAMILY + len(FAMILIES)
FIRST_NODE = FIRST_NUMBER + MOST_NODES
FIRST_PATTERN = FIRST_NODE + MOST_NODES
#: The relations between two positions, in this order; see `relations`.
RELATIONS = ("row", "columns", "crossing", "any")
#: Tokens of a prompt before its nodes: the family, then two numbers of two digits each.
_HEAD = 5


@dataclass(frozen=True)
class Coding:
    """The places of the pairs of a graph on its canvas.

    Attributes:
        nodes: n, at least 2.
        width: most pairs in a token, 1 to 8.
        first: the token of the empty pattern; pattern p is token first + p.
    """

    nodes: int
    width: int = 8
    first: int = FIRST_PATTERN

    @cached_property
    def pairs(self) -> list[list[tuple[int, int]]]:
        """The pairs (row, column) of each token, row > column."""
        tokens = []
        for row in range(self.nodes):
            block_start = row - row % self.width
            for block in range(0, block_start, self.width):
                tokens.append([(row, block + k) for k in range(self.width)])
            partner = block_start + self.width - 1 - row % self.width
            if partner > row and partner < self.nodes:
                continue  # the later row of the two holds them
            rows = [row] if partner >= row else [partner, row]
            tokens.append([(one, column) for one in rows for column in range(block_start, one)])
        return [token for token in tokens if token]

    @property
    def length(self) -> int:
        """T, the tokens of a graph."""
        return len(self.pairs)

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token, bit, and pair as row * n + column, of every pair: three (P) int64."""
        places = [
            (token, bit, row * self.nodes + column)
            for token, pairs in enumerate(self.pairs)
            for bit, (row, column) in enumerate(pairs)
        ]
        token, bit, pair = np.array(places).T
        return token, bit, pair

    @cached_property
    def patterns(self) -> np.ndarray:
        """(2^width, width) bool, the bits of each pattern."""
        return (np.arange(2**self.width)[:, None] >> np.arange(self.width)) & 1 == 1

    @cached_property
    def permitted(self) -> np.ndarray:
        """(T, 2^width) bool: a token with fewer pairs than bits has fewer patterns."""
        sizes = np.array([len(pairs) for pairs in self.pairs])
        return np.arange(2**self.width) < 2 ** sizes[:, None]

    def matrix_of(self, bits: np.ndarray) -> np.ndarray:
        """Values of the bits (B, T, width) as symmetric matrices (B, n, n) with a diagonal of zeros."""
        token, bit, pair = self._places
        flat = np.zeros((len(bits), self.nodes**2), bits.dtype)
        flat[:, pair] = bits[:, token, bit]
        square = flat.reshape(-1, self.nodes, self.nodes)
        return square + square.swapaxes(1, 2)

    def bits_of(self, matrices: np.ndarray) -> np.ndarray:
        """The inverse: symmetric (B, n, n) -> (B, T, width), zeros for bits without a pair."""
        token, bit, pair = self._places
        bits = np.zeros((len(matrices), self.length, self.width), matrices.dtype)
        bits[:, token, bit] = matrices.reshape(len(matrices), -1)[:, pair]
        return bits

    def to_tokens(self, joined: np.ndarray) -> np.ndarray:
        """Adjacency (B, n, n) bool -> (B, T) int64."""
        return self.first + (self.bits_of(joined) @ (1 << np.arange(self.width)))

    def from_tokens(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, T) int64 -> adjacency (B, n, n) bool, and which tokens are not patterns (B, T); they give no edges."""
        pattern = tokens - self.first
        inside = (pattern >= 0) & (pattern < 2**self.width)
        pattern = np.where(inside, pattern, 0)
        fits = inside & self.permitted[np.arange(self.length), pattern]
        return self.matrix_of(self.patterns[pattern] & fits[..., None]), ~fits


@lru_cache
def coding_of(nodes: int, width: int) -> Coding:
    """The coding of this size, made once."""
    return Coding(nodes, width)


def prompt_length(nodes: int, degrees: bool) -> int:
    """S: the family and its numbers, a token for each node, and for each degree if the family has degrees."""
    return _HEAD + nodes * (2 if degrees else 1)


def to_prompt(family: str, nodes: int, numbers: tuple[int, ...]) -> list[int]:
    """Tokens of a family: its name, n and the last number in two digits each, the nodes, and their degrees."""
    degrees = numbers if family == "degrees" else ()
    pair = (nodes, 0 if degrees else numbers[-1])
    digits = [FIRST_NUMBER + digit for number in pair for digit in divmod(number, MOST_NODES)]
    names = [FIRST_NODE + node for node in range(nodes)]
    return [FIRST_FAMILY + FAMILIES.index(family), *digits, *names, *(FIRST_NUMBER + degree for degree in degrees)]


def from_prompt(tokens: list[int]) -> tuple[str, int, tuple[int, ...]]:
    """The inverse of `to_prompt`: family, nodes, and the last number or the degrees."""
    family = FAMILIES[tokens[0] - FIRST_FAMILY]
    digits = [token - FIRST_NUMBER for token in tokens[1:_HEAD]]
    nodes, number = (high * MOST_NODES + low for high, low in (digits[:2], digits[2:]))
    degrees = tuple(token - FIRST_NUMBER for token in tokens[_HEAD + nodes :])
    return family, nodes, degrees if family == "degrees" else (number,)


@lru_cache
def relations(coding: Coding, degrees: bool) -> BoolTensor:
    """The relations between positions, prompt then canvas: (1, 4, S + T, S + T) bool.

    A canvas token has the rows and columns of its pairs; the tokens of a node and its degree have that node as row and
    as column. "row": a row in common; "columns": a column in common; "crossing": a row of one is a column of the other,
    so that a node reaches all its pairs through "row" and "crossing"; "any": always True.
    """
    nodes, names = coding.nodes, prompt_length(coding.nodes, degrees)
    rows, columns = (np.zeros((names + coding.length, nodes), np.int64) for _ in range(2))
    for table in (rows, columns):
        table[np.arange(_HEAD, names), np.arange(names - _HEAD) % nodes] = 1
    for token, pairs in enumerate(coding.pairs, names):
        for row, column in pairs:
            rows[token, row] = columns[token, column] = 1
    crossing = rows @ columns.T
    related = [rows @ rows.T, columns @ columns.T, crossing + crossing.T, np.ones((len(rows), len(rows)))]
    return torch.from_numpy(np.stack(related)[None] > 0)


def check_width(width: int, nodes: int) -> None:
    """Raise InputError unless graphs of this size fit one canvas with `width` pairs in a token."""
    check(width in (1, 8), f"width={width!r}", "use 8 pairs in a token, or 1")
    length = Coding(nodes, width).length
    what = f"{nodes} nodes with {width} pairs in a token need {length} tokens"
    check(length <= 256, what, "one canvas holds 256: use 8")
