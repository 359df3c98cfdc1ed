"""Baselines for masked residues: k-mer counts, and a stronger mix of near neighbours and composition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from constrained_dg.errors import check
from constrained_dg.intervals import resampled

from .natural import clusters
from .residues import RESIDUES

MASK = "?"
#: Symbols after the 20 residues: outside the sequence, and a masked residue.
_END, _UNKNOWN, _SYMBOLS = 20, 21, 22
_REACH = 6
_SINGLES = (*range(-_REACH, 0), *range(1, _REACH + 1))
_PAIRS = ((-2, -1), (-1, 1), (1, 2))
#: Weight of the training frequencies in the frequencies of a text, in residues.
_PRIOR = 200
_RESAMPLES = 500


class Kmer:
    """p(residue | the neighbours on both sides), from counts of k-mers with k = 3: the plain baseline.

    Smoothed (Witten and Bell 1991) towards p(residue | left neighbour), and that towards p(residue). A masked neighbour
    is ignored; the outside of a sequence counts as a neighbour.

    Args:
        sequences: of the 20 residues.

    Raises:
        InputError: no sequences, or other letters.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        _check_complete(sequences)
        residue, neighbour = _counted(sequences)
        alone = _frequency(residue)
        left = _smoothed(_tally(neighbour[-1], residue), alone)
        both = _smoothed(_tally(neighbour[-1], neighbour[1], residue), left[:, None])
        self._table = both  # (22, 22, 20)
        self._table[_UNKNOWN] = _smoothed(_tally(neighbour[1], residue), alone)
        self._table[:, _UNKNOWN] = left
        self._table[_UNKNOWN, _UNKNOWN] = alone

    def log_probs(self, text: str) -> np.ndarray:
        """As `Context.log_probs`."""
        symbols = _symbols(text)
        neighbour = dict(zip(_SINGLES, _neighbours(symbols).T, strict=True))
        return _with_known(symbols, self._table[neighbour[-1], neighbour[1]])


class Context:
    """p(residue | the known residues of its text), a log-linear model.

    To the log frequency p(a) of a residue in training it adds weighted log ratios:

    - p(a | neighbour) / p(a) for each neighbour at a distance of at most 6;
    - p(a | pair) / q(a) for the pairs of neighbours (-2, -1), (-1, 1) and (1, 2), with q(a) proportional to
      p(a | one) p(a | other) / p(a);
    - the frequency among the known residues of the text, divided by p(a).

    Frequencies given neighbours are smoothed (Witten and Bell 1991): (c + t q) / (n + t), t kinds of residues among n.
    A masked neighbour adds nothing; the outside of a sequence is a symbol of its kind. Weights maximise the likelihood
    (Newton's method, normal prior with mean 1/2 and deviation 1) of masked residues in every fifth cluster of the
    training sequences (`natural.clusters`), with counts of the others; then all sequences are counted.

    Args:
        sequences: of the 20 residues. The 5,000 that ship take five to ten seconds.

    Attributes:
        weights: (16) of the ratios, in the order above.

    Raises:
        InputError: no sequences, or other letters.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        _check_complete(sequences)
        _, cluster = np.unique(clusters(sequences), return_inverse=True)
        self.weights = np.full(len(_SINGLES) + len(_PAIRS) + 1, 0.5)
        weighed = [sequence for sequence, at in zip(sequences, cluster, strict=True) if sequence and at % 5 == 4]
        if weighed:
            self._count([sequence for sequence, at in zip(sequences, cluster, strict=True) if at % 5 != 4])
            self._weigh(weighed)
        self._count(sequences)

    def log_probs(self, text: str) -> np.ndarray:
        """(L, 20) float64 natural logs for a text of L residues, some masked as "?"; known residues have 0.

        Raises:
            InputError: a letter that is neither a residue nor "?".
        """
        symbols, log_prob = _symbols(text), np.zeros((len(text), 20))
        log_prob[symbols == _UNKNOWN] = _normalised(self._frequency + self._ratios(text) @ self.weights)
        return _with_known(symbols, log_prob)

    def _count(self, sequences: Sequence[str]) -> None:
        residue, neighbour = _counted(sequences)
        self._frequency = _frequency(residue)
        self._single, self._pair = {}, {}
        for at in _SINGLES:
            self._single[at] = _smoothed(_tally(neighbour[at], residue), self._frequency) - self._frequency
        for one, other in _PAIRS:
            apart = _normalised(self._frequency + self._single[one][:, None] + self._single[other])
            self._pair[one, other] = _smoothed(_tally(neighbour[one], neighbour[other], residue), apart) - apart

    def _ratios(self, text: str) -> np.ndarray:
        """(M, 20, 16) log ratios for the M masked residues of a text."""
        symbols = _symbols(text)
        neighbour = dict(zip(_SINGLES, _neighbours(symbols)[symbols == _UNKNOWN].T, strict=True))
        prior = _PRIOR * np.exp(self._frequency)
        among = np.log((np.bincount(symbols, minlength=_SYMBOLS)[:20] + prior) / (np.sum(symbols < _UNKNOWN) + _PRIOR))
        ratios = [table[neighbour[at]] for at, table in self._single.items()]
        ratios += [table[neighbour[one], neighbour[other]] for (one, other), table in self._pair.items()]
        return np.stack([*ratios, np.broadcast_to(among - self._frequency, ratios[0].shape)], -1)

    def _weigh(self, sequences: Sequence[str]) -> None:
        draws = np.random.default_rng(0)
        texts = [mask(sequence, draws) for sequence in sequences for mask in (mask_singles, mask_stretch)]
        ratios = np.concatenate([self._ratios(text) for text in texts])
        true = np.concatenate([_masked(sequences[at // 2], text) for at, text in enumerate(texts)])
        prior, rows = self.weights, np.arange(len(true))
        for _ in range(10):
            share = np.exp(_normalised(self._frequency + ratios @ self.weights))
            mean = np.einsum("ma,mar->mr", share, ratios)
            slope = (ratios[rows, true] - mean).sum(0) - (self.weights - prior)
            weighted = (ratios * share[..., None]).reshape(-1, len(prior))
            bend = weighted.T @ ratios.reshape(-1, len(prior)) - mean.T @ mean + np.eye(len(prior))
            self.weights = self.weights + np.linalg.solve(bend, slope)


def mask_singles(sequence: str, draws: np.random.Generator, share: float = 0.15) -> str:
    """A share of the residues, at least one, at random places, as "?"."""
    letters = np.array(list(sequence))
    letters[draws.choice(len(letters), max(1, round(share * len(letters))), replace=False)] = MASK
    return "".join(letters)


def mask_stretch(sequence: str, draws: np.random.Generator, shortest: int = 5, longest: int = 20) -> str:
    """One stretch of `shortest` to `longest` residues, or all of a shorter sequence, at a random place, as "?"."""
    length = min(int(draws.integers(shortest, longest + 1)), len(sequence))
    first = int(draws.integers(len(sequence) - length + 1))
    return sequence[:first] + MASK * length + sequence[first + length :]


def measure(
    sequences: Sequence[str], texts: Sequence[str], log_probs: Callable[[str], np.ndarray], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """How well masked residues are predicted: "perplexity" and "recovery", each {"value", "n", "ci95"}; n is residues.

    Perplexity is exp of the mean of -log p of the true residue (20 for equal probabilities), recovery the share of true
    residues that are likeliest. Intervals are the value -+ 1.96 standard deviations over resamples of the sequences
    (bootstrap, Efron 1979), since residues of one sequence depend on each other.

    Args:
        sequences, texts: the same, complete and masked.
        log_probs: text of L residues -> (L, 20), see `Context.log_probs`.

    Raises:
        InputError: no masked residue.
    """
    rows = []
    for sequence, text in zip(sequences, texts, strict=True):
        true, log_prob = _masked(sequence, text), log_probs(text)[_symbols(text) == _UNKNOWN]
        lost = -log_prob[np.arange(len(true)), true].sum()
        rows.append((len(true), lost, np.sum(log_prob.argmax(1) == true)))
    table = np.array(rows, float).reshape(-1, 3)
    check(table[:, 0].sum() > 0, "no residue is masked", f"mark some as {MASK}")
    draws = np.random.default_rng(seed)
    times = draws.multinomial(len(table), np.ones(len(table)) / len(table), _RESAMPLES)

    def metric(value: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        sums = times @ table
        return resampled(float(value(table.sum(0))), int(table[:, 0].sum()), value(sums[sums[:, 0] > 0].T))

    return {
        "perplexity": metric(lambda sums: np.exp(sums[1] / sums[0])),
        "recovery": metric(lambda sums: sums[2] / sums[0]),
    }


def _check_complete(sequences: Sequence[str]) -> None:
    check(any(sequences), "there are no sequences to count in", "give training sequences")
    check(MASK not in "".join(sequences), "a training sequence has a masked residue", "give complete sequences")


def _counted(sequences: Sequence[str]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """All residues (N) int64, and the symbols next to them (N) by distance."""
    symbols = [_symbols(sequence) for sequence in sequences]
    neighbours = np.concatenate([_neighbours(each) for each in symbols])
    return np.concatenate(symbols), dict(zip(_SINGLES, neighbours.T, strict=True))


def _frequency(residue: np.ndarray) -> np.ndarray:
    """(20) logs of the shares."""
    counts = np.bincount(residue, minlength=20) + 1.0  # so that every residue is possible
    return np.log(counts / counts.sum())


def _with_known(symbols: np.ndarray, log_prob: np.ndarray) -> np.ndarray:
    """(L, 20) log-probabilities, with 0 and -inf at known symbols."""
    certain = np.where(np.arange(20) == symbols[:, None], 0.0, -np.inf)
    return np.where((symbols == _UNKNOWN)[:, None], log_prob, certain)


def _symbols(text: str) -> np.ndarray:
    """(L) int64 numbers of the residues in RESIDUES; 21 where masked."""
    numbers = {letter: at for at, letter in enumerate(RESIDUES)} | {MASK: _UNKNOWN}
    strange = sorted(set(text) - set(numbers))
    check(not strange, f"{''.join(strange)[:20]!r} are not residues", f"write {RESIDUES}, or {MASK} for a masked one")
    return np.array([numbers[letter] for letter in text], np.int64)


def _masked(sequence: str, text: str) -> np.ndarray:
    """(M) int64 the true residues at masked places."""
    return _symbols(sequence)[_symbols(text) == _UNKNOWN]


def _neighbours(symbols: np.ndarray) -> np.ndarray:
    """(L, 12) int64 symbols at the distances of _SINGLES from each."""
    ended = np.pad(symbols, _REACH, constant_values=_END)
    return np.stack([ended[_REACH + at : len(ended) - _REACH + at] for at in _SINGLES], 1)


def _tally(*symbols: np.ndarray) -> np.ndarray:
    """(22, ..., 20) int64 how often symbols, residues last, occur together."""
    shape = (_SYMBOLS,) * (len(symbols) - 1) + (20,)
    return np.bincount(np.ravel_multi_index(symbols, shape), minlength=np.prod(shape)).reshape(shape)


def _normalised(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _smoothed(seen: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Logs of (c + t q) / (n + t) from counts (..., 20) and the logs of q; log q where n is 0."""
    kinds = np.maximum((seen > 0).sum(-1, keepdims=True), 1)
    return np.log((seen + kinds * np.exp(towards)) / (seen.sum(-1, keepdims=True) + kinds))
