"""A sampler that looks at each picture several times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.model.images import Images, Pictures
from constrained_dg.sampling.base import Cache, Denoiser, Generation
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch
from constrained_dg.vision.processor import cut_patches

#: Standard deviations of a view: turn and slant in radians, stretch as a factor, shift in sides of the picture.
TURN, SLANT, STRETCH, SHIFT = 0.02, 0.015, 0.012, 0.007
#: Most views: as many copies of the cache are made.
MOST = 64


@dataclass(frozen=True)
class Views(Sampler):
    """Makes each pass on several views of the same picture, and goes on with the mean of their log-probabilities.

    A view is the picture a little turned, slanted, stretched and shifted; the first one is the picture as it is. What
    is read wrongly in one of them is often read rightly in the others (test-time augmentation, as in Krizhevsky et al.,
    ImageNet classification, 2012). The views are the same for every picture, so that a row does not depend on others.

    A pass on each view counts: `Generation.passes`, and the option `max_passes`, are of all views together. What
    `on_step` and the trace receive is one record for a pass on all of them.

    Args:
        name: as on the command line.
        sampler: gives the answers; any sampler that asks a model about `Pictures`.
        count: views.
    """

    name: str
    uses_pictures: ClassVar[bool] = True
    sampler: Sampler
    count: int = 16

    def __post_init__(self) -> None:
        good = is_count(self.count, 1) and self.count <= MOST
        check(good, f"count is {self.count!r}", f"give a number of views from 1 to {MOST}")
        good = isinstance(self.sampler, Sampler) and self.sampler.needs_model and not isinstance(self.sampler, Views)
        check(good, f"sampler is {self.sampler!r}", "give a sampler with a model, and no views of its own")

    @property
    def rule_uses(self) -> tuple[str, ...]:
        return self.sampler.rule_uses

    @property
    def inner(self) -> Sampler | None:
        return self.sampler.inner

    def with_search(self) -> Views:
        return replace(self, sampler=self.sampler.with_search())

    def answer(
        self,
        model: Denoiser | None,
        batch: Batch,
        constraint: Constraint | None,
        seeds: IntTensor | int,
        options: Options,
    ) -> Generation:
        """See `Sampler.run`.

        Raises:
            InputError: as there; the prompts are no `Pictures`, or fewer passes are allowed than there are views.
        """
        check(isinstance(batch.images, Pictures), f"{self.name!r} without pictures", "use it on a task with pictures")
        assert model is not None
        if options.max_passes is not None:
            enough = options.max_passes >= self.count
            check(enough, f"max_passes={options.max_passes} for {self.count} views", f"give {self.count} or more")
            options = replace(options, max_passes=options.max_passes // self.count)
        several = SeveralViews(model, self.count)
        generation = self.sampler.answer(several, batch, constraint, seeds, options)
        return replace(generation, passes=generation.passes * self.count)


class SeveralViews(Denoiser):
    """A model that sees several views of each picture; its logits are the mean of their log-probabilities.

    Args:
        model: reads `Pictures`.
        count: views, K. Row i of a batch becomes rows i * K .. i * K + K - 1 of the model.
    """

    def __init__(self, model: Denoiser, count: int) -> None:
        self.model, self.count = model, count
        self.vocab_size, self.canvas_length, self.max_context = model.vocab_size, model.canvas_length, model.max_context
        self.eos_token_ids, self.pad_token_id = model.eos_token_ids, model.pad_token_id
        self.image_token_ids, self.makes_room = model.image_token_ids, model.makes_room
        self.image_width, self.vision = model.image_width, model.vision

    def memory_needed(self, rows: int, committed: int, canvas: int, pictures: tuple[int, int] = (0, 0)) -> int | None:
        kept, reading = pictures
        return self.model.memory_needed(rows * self.count, committed, canvas, (kept * self.count, reading * self.count))

    def prefill(
        self,
        prompt: IntTensor,
        mask: BoolTensor | None = None,
        relations: BoolTensor | None = None,
        *,
        images: Images | Pictures | None = None,
        **room: Any,
    ) -> Cache:
        if not isinstance(images, Pictures):
            raise InputError("views of a prompt without pictures", "use a task with pictures")
        mask = None if mask is None else self._copies(mask)
        seen = views(images, self.count)
        cache = self.model.prefill(self._copies(prompt), mask, self._relations(relations), images=seen, **room)
        return _Copies(cache, torch.arange(len(prompt), device=prompt.device), self.count)

    def denoise(
        self, canvas: IntTensor, cache: Any, signal: Any = None, relations: BoolTensor | None = None
    ) -> FloatTensor:
        signal = None if signal is None else self._copies(signal)
        logits = self.model.denoise(self._copies(canvas), cache.inside, signal, self._relations(relations))
        return self._mean(logits)

    def self_condition(self, probabilities: FloatTensor, mask: BoolTensor | None = None) -> Any:
        return self.model.self_condition(probabilities, mask)

    def commit(self, canvas: IntTensor, cache: Any, relations: BoolTensor | None = None) -> Cache:
        inside = self.model.commit(self._copies(canvas), cache.inside, self._relations(relations))
        return replace(cache, inside=inside)

    def next_token(self, tokens: IntTensor, cache: Any, relations: BoolTensor | None = None) -> FloatTensor:
        return self._mean(self.model.next_token(self._copies(tokens), cache.inside, self._relations(relations)))

    def _copies(self, tensor: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B * K, ...), those of a row together."""
        return tensor.repeat_interleave(self.count, 0)

    def _relations(self, relations: BoolTensor | None) -> BoolTensor | None:
        return relations if relations is None or len(relations) == 1 else self._copies(relations)

    def _mean(self, logits: FloatTensor) -> FloatTensor:
        """(B * K, ..., V) logits -> (B, ..., V)."""
        return logits.float().log_softmax(-1).unflatten(0, (-1, self.count)).mean(1)


@dataclass
class _Copies(Cache):
    """The cache of all views.

    Attributes:
        inside: of B * K rows.
        rows: (B) 0 .. B - 1.
        count: K.
    """

    inside: Cache
    rows: IntTensor
    count: int

    @property
    def length(self) -> int:  # type: ignore[override]  # read only: the cache inside knows it
        return self.inside.length

    def select(self, rows: IntTensor) -> Cache:
        all_views = rows[:, None] * self.count + torch.arange(self.count, device=rows.device)
        inside = self.inside.select(all_views.flatten())
        return _Copies(inside, torch.arange(len(rows), device=rows.device), self.count)

    def fork(self, copies: int) -> Cache:
        return self.select(self.rows.repeat_interleave(copies))

    def reserve(self, tokens: int) -> None:
        self.inside.reserve(tokens)


def views(pictures: Pictures, count: int) -> Pictures:
    """(B) pictures -> (B * count): of each one as it is, then slightly changed ones, the same changes for all."""
    side = int((pictures.pixels.shape[-1] // 3) ** 0.5)
    columns = pictures.columns
    pixels = pictures.pixels.unflatten(-1, (side, side, 3)).unflatten(1, (-1, columns))
    image = pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # (B, 3, H, W)
    image = image.float().repeat_interleave(count, 0)
    at = torch.nn.functional.affine_grid(
        _changes(count).to(image.device).repeat(len(pictures.pixels), 1, 1), list(image.shape), align_corners=False
    )
    changed = torch.nn.functional.grid_sample(image, at, mode="bicubic", padding_mode="border", align_corners=False)
    changed = changed.round().clamp(0, 255).to(pictures.pixels.dtype)
    return replace(pictures, pixels=cut_patches(changed, side))


def _changes(count: int) -> FloatTensor:
    """(count, 2, 3) affine maps from places in a view to those in the picture, both from -1 to 1."""
    draws = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    draws[0] = 0
    turn, slant = TURN * draws[:, 0], SLANT * draws[:, 1]
    stretch, shift = (STRETCH * draws[:, 2:4]).exp(), 2 * SHIFT * draws[:, 4:6]
    cos, sin = turn.cos(), turn.sin()
    turned = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    nothing = torch.zeros_like(slant)
    shaped = torch.stack([torch.stack([stretch[:, 0], slant], 1), torch.stack([nothing, stretch[:, 1]], 1)], 1)
    return torch.cat([turned @ shaped, shift[..., None]], 2)
