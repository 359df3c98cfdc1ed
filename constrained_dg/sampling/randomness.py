"""The random draws of a sampler."""

from __future__ import annotations

from typing import Protocol

import torch

from constrained_dg import rng
from constrained_dg.errors import check
from constrained_dg.sampling.distribution import Distribution, settle, settle_by_softmax
from constrained_dg.shapes import FloatTensor, IntTensor

#: Purposes of random draws: the last of the counters (start of the canvas, pass, purpose). 4 is no longer drawn.
INITIAL, SAMPLE, NOISE, CANDIDATE, ATTEMPT = 0, 1, 2, 3, 5


class Draws(Protocol):
    """The random choices of a canvas. `start` is its position in the answer, `noise` a half-open range of tokens.

    Attributes:
        rows_leave: whether rows that are finished may leave the batch; False where draws depend on the batch.
    """

    rows_leave: bool

    def canvas(self, seeds: IntTensor, start: int, count: int, noise: tuple[int, int]) -> IntTensor:
        """(N) -> (N, count), the start of a canvas."""

    def settle(
        self, logits: FloatTensor, temperature: FloatTensor, seeds: IntTensor, start: int, index: int
    ) -> Distribution:
        """The processed distribution of pass `index` and a sample from it; the logits (N, C, V) may be overwritten."""

    def fresh(self, seeds: IntTensor, start: int, index: int, count: int, noise: tuple[int, int]) -> IntTensor:
        """(N) -> (N, count), what positions without a kept sample get after pass `index`."""


class ByCounter:
    """Every draw is a function of the row's seed, the position and the pass: see `constrained_dg.rng`."""

    rows_leave = True

    def canvas(self, seeds: IntTensor, start: int, count: int, noise: tuple[int, int]) -> IntTensor:
        return rng.integers(seeds, start, 0, INITIAL, count=count, low=noise[0], high=noise[1])

    def settle(
        self, logits: FloatTensor, temperature: FloatTensor, seeds: IntTensor, start: int, index: int
    ) -> Distribution:
        return settle(logits, temperature, rng.uniform(seeds, start, index, SAMPLE, count=logits.shape[1]))

    def fresh(self, seeds: IntTensor, start: int, index: int, count: int, noise: tuple[int, int]) -> IntTensor:
        return rng.integers(seeds, start, index, NOISE, count=count, low=noise[0], high=noise[1])


class ByTransformers:
    """The draws of `DiffusionGemmaForBlockDiffusion.generate` (transformers 5.23) from torch's global generator.

    Per canvas one `randint`; per pass one `multinomial` over all positions, then one `randint`. They depend on the
    batch, so rows that are finished stay in it and keep drawing; seeds are not read.
    """

    rows_leave = False

    def canvas(self, seeds: IntTensor, start: int, count: int, noise: tuple[int, int]) -> IntTensor:
        return torch.randint(*noise, (len(seeds), count), device=seeds.device)

    def settle(
        self, logits: FloatTensor, temperature: FloatTensor, seeds: IntTensor, start: int, index: int
    ) -> Distribution:
        # The error of multinomial names neither the model nor the pass.
        finite = bool((logits < torch.inf).all())  # False for NaN
        check(finite, f"the model returned NaN or inf in pass {index}", "check its weights and its precision")
        return settle_by_softmax(logits, temperature)

    def fresh(self, seeds: IntTensor, start: int, index: int, count: int, noise: tuple[int, int]) -> IntTensor:
        return self.canvas(seeds, start, count, noise)


#: What `rng=` may name.
DRAWS: dict[str, Draws] = {"counter": ByCounter(), "transformers": ByTransformers()}


def candidate_seeds(seeds: IntTensor, candidates: int) -> IntTensor:
    """(B) -> (B * candidates), neighbours together; the first candidate of a prompt has the prompt's seed."""
    more = rng.random_bits(seeds, CANDIDATE, count=candidates)
    more[:, 0] = seeds
    return more.flatten()
