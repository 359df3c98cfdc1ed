"""From pixels to patches: the size that fits a budget of soft tokens, resizing and cutting, as for Gemma 4 (2026)."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, sqrt

import numpy as np
import torch
import torch.nn.functional as F

from constrained_dg.errors import check
from constrained_dg.model.config import VisionConfig
from constrained_dg.model.vision import Patches
from constrained_dg.shapes import IntTensor

#: Soft tokens that a picture may take; the tower was trained with these.
BUDGETS = (70, 140, 280, 560, 1120)
#: The usual budget of a picture, and of one frame of a video.
USUAL, OF_FRAME = 280, 70


def check_budget(budget: object, name: str = "soft_tokens") -> None:
    check(budget in BUDGETS, f"{name} is {budget!r}", f"give one of {', '.join(map(str, BUDGETS))}")


@dataclass(frozen=True)
class Processor:
    """Resizes pictures to whole soft tokens of side x side pixels, keeping their shape as far as that allows.

    Args:
        config: of the tower.
    """

    config: VisionConfig

    @property
    def side(self) -> int:
        """Pixels on one side of a soft token."""
        return self.config.patch_size * self.config.pooling_kernel_size

    def size(self, height: int, width: int, budget: int) -> tuple[int, int]:
        """The height and width that a picture is resized to: the largest of its shape within the budget, rounded down
        to whole soft tokens. A side that would vanish becomes one soft token."""
        scale, side = sqrt(budget * self.side**2 / (height * width)), self.side
        rows, columns = floor(scale * height / side), floor(scale * width / side)
        if rows == 0:
            rows, columns = 1, min(width // height, budget)
        elif columns == 0:
            rows, columns = min(height // width, budget), 1
        return rows * side, columns * side

    def patches(self, pixels: np.ndarray, budget: int, name: str = "the image") -> Patches:
        """The patches of pixels (H, W, 3) uint8.

        Raises:
            InputError: the tower has no position for a patch of so long a picture.
        """
        (height, width), p = self.size(pixels.shape[0], pixels.shape[1], budget), self.config.patch_size
        most = self.config.position_embedding_size
        check(
            max(height, width) // p <= most, f"{name} is resized to {width} x {height} pixels", f"give {most} patches"
        )
        return Patches(cut_patches(resized(pixels, height, width), p) * (1 / 255), width // p)


def resized(pixels: np.ndarray, height: int, width: int) -> IntTensor:
    """Pixels (H, W, 3) uint8 -> (3, height, width) uint8, bicubic."""
    image = torch.tensor(pixels).permute(2, 0, 1)
    if (height, width) == pixels.shape[:2]:
        return image
    # On bytes, as torchvision does: the rounding of a kernel for floats moves pixels by up to 24 of 255.
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]


def cut_patches(image: IntTensor, side: int) -> IntTensor:
    """(..., 3, H, W) -> (..., H / side * W / side, 3 side^2), patch by patch from the top left, channels innermost."""
    grid = image.unflatten(-2, (-1, side)).unflatten(-1, (-1, side)).movedim(-5, -1).transpose(-4, -3)
    return grid.flatten(-3).flatten(-3, -2)
