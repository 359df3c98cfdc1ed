"""Pictures in a prompt: which tokens they take the place of, and what the model reads there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from constrained_dg.errors import check
from constrained_dg.model.footprint import tower_bytes
from constrained_dg.model.masks import with_images
from constrained_dg.model.vision import Patches, VisionTower
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: How the tokens of one picture see each other in a causal pass, see `masks.with_images`.
ATTENTION = ("all_layers", "sliding_layers")


class SoftTokens:
    """The soft tokens of several pictures, one picture behind the other.

    The tower runs when they are first read: by then everything that can be refused has been checked. Copies of a batch
    share them, so that attempts and candidates run it once.

    Attributes:
        size: D.
        count: M, of all pictures together.
        trained: whether the tower gets gradients where they are enabled.
    """

    def __init__(self, tower: VisionTower, pictures: Sequence[Patches], trained: bool = False) -> None:
        self.tower, self.pictures, self.trained = tower, pictures, trained
        self.size = tower.config.text_size
        patches = sum(each.pixels[..., 0].numel() for each in pictures)
        self.count = patches // tower.config.pooling_kernel_size**2

    @property
    def memory_needed(self) -> tuple[int, int]:
        """Bytes that are kept, and those that reading takes at its peak beside them."""
        size = self.tower.projection.weight.element_size()
        kept = self.count * self.size * size
        most = max((each.pixels[..., 0].numel() for each in self.pictures), default=0)
        return kept, max(tower_bytes(self.tower.config, most, size), kept)  # twice when they are joined

    @cached_property
    def features(self) -> FloatTensor:
        """(M, D)."""
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            return torch.cat([self.tower(picture) for picture in self.pictures])


@dataclass(frozen=True)
class Pictures:
    """A picture of one size for each prompt, which the model's own tower reads. All tokens of a prompt stand for it.

    Attributes:
        pixels: (B, rows * columns, 3 p^2) uint8, patch by patch as in `vision.Patches`.
        columns: patches side by side.
    """

    pixels: IntTensor
    columns: int

    def to(self, device: torch.device | str) -> Pictures:
        return replace(self, pixels=self.pixels.to(device))

    def select(self, rows: IntTensor) -> Pictures:
        """The pictures of these rows (N), in this order."""
        return replace(self, pixels=self.pixels[rows])

    def check(self, tower: VisionTower, tokens: int) -> None:
        """Raise InputError unless a tower reads them as this many tokens."""
        p, k = tower.config.patch_size, tower.config.pooling_kernel_size
        wanted = (tokens * k * k, 3 * p * p)
        check(
            tuple(self.pixels.shape[1:]) == wanted,
            f"pictures of shape {tuple(self.pixels.shape[1:])}",
            f"give {wanted}",
        )
        rows = len(self.pixels[0]) // self.columns
        fits = rows * self.columns == wanted[0] and rows % k == self.columns % k == 0
        fits = fits and max(rows, self.columns) <= tower.config.position_embedding_size
        check(
            fits,
            f"pictures of {self.columns} columns and {rows} rows of patches",
            f"give multiples of {k}, at most {tower.config.position_embedding_size}",
        )

    def memory_needed(self, tower: VisionTower) -> tuple[int, int]:
        """Bytes that are kept, and those that reading takes at its peak beside them; all are read at once."""
        config, size, patches = tower.config, tower.projection.weight.element_size(), self.pixels[..., 0].numel()
        kept = patches // config.pooling_kernel_size**2 * config.text_size * size
        numbers = 4 * self.pixels.numel()  # the pixels in fp32
        return kept + numbers, max(tower_bytes(config, patches, size), kept)

    def read(self, tower: VisionTower, length: int) -> Images:
        """Their soft tokens, at positions 0 .. of sequences of a length. With gradients the tower gets some, too."""
        tokens = self.pixels.shape[1] // tower.config.pooling_kernel_size**2
        index = torch.arange(len(self.pixels) * tokens, device=self.pixels.device).view(-1, tokens)
        patches = [Patches(self.pixels / 255, self.columns)]
        soft = SoftTokens(tower, patches, trained=True)
        return Images(torch.nn.functional.pad(index, (0, length - tokens), value=-1), soft)


@dataclass(frozen=True)
class Images:
    """The pictures of a batch of prompts.

    Args:
        index: (B, S) int64, the soft token that stands at a position; -1 at text and padding. Positions next to each
            other belong to one picture: in prompts, special tokens stand between pictures.
        soft: the soft tokens of all rows.
        attention: "all_layers": the tokens of one picture see each other in every layer, however small its window, as
            transformers (5.23) runs DiffusionGemma. "sliding_layers": full layers are causal, and sliding layers show a
            picture to itself within their window, as it runs Gemma 4. What the weights were trained with is not
            published.

    Raises:
        InputError: another attention.
    """

    index: IntTensor
    soft: SoftTokens
    attention: str = ATTENTION[0]

    def __post_init__(self) -> None:
        check(self.attention in ATTENTION, f"attention is {self.attention!r}", f"give one of {', '.join(ATTENTION)}")

    def to(self, device: torch.device | str) -> Images:
        return replace(self, index=self.index.to(device))

    def select(self, rows: IntTensor) -> Images:
        """The pictures of these rows (N), in this order."""
        return replace(self, index=self.index[rows])

    def first(self, length: int) -> Images:
        """Those of the first tokens of each prompt."""
        return replace(self, index=self.index[:, :length])

    @cached_property
    def present(self) -> BoolTensor:
        """(B, S), True at tokens of pictures."""
        return self.index >= 0

    @cached_property
    def blocks(self) -> IntTensor:
        """(B, S) int64, the number of the picture in its row; -1 at text."""
        begins = self.present & ~torch.nn.functional.pad(self.present, (1, 0))[:, :-1]
        return torch.where(self.present, begins.cumsum(1) - 1, -1)

    @cached_property
    def inside(self) -> list[bool]:
        """(S) whether a picture of any row goes on at this position, so that a piece may not end before it."""
        blocks = torch.nn.functional.pad(self.blocks, (1, 0), value=-1)
        return ((blocks[:, 1:] >= 0) & (blocks[:, 1:] == blocks[:, :-1])).any(0).tolist()

    @cached_property
    def anywhere(self) -> list[bool]:
        """(S) whether this position belongs to a picture in any row."""
        return self.present.any(0).tolist()

    def placed(self, x: FloatTensor, at: int) -> FloatTensor:
        """The embeddings (B, N, D) of positions `at` .. with the soft tokens in their places."""
        span = slice(at, at + x.shape[1])
        if not any(self.anywhere[span]):
            return x
        soft = self.soft.features.to(x)[self.index[:, span].clamp(min=0)]
        return torch.where(self.present[:, span, None], soft, x)

    def seen(self, causal: BoolTensor, window: int | None, lo: int, first: int) -> BoolTensor:
        """A causal mask (1, N, M), queries from `lo` and keys from `first` on, with these pictures: (B or 1, N, M)."""
        hi = lo + causal.shape[1]
        if not any(self.anywhere[lo:hi]):
            return causal
        query, key = self.blocks[:, lo:hi], self.blocks[:, first:hi]
        return with_images(causal[0], query, key, window, self.attention, lo, first)
