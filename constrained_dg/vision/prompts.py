"""Pictures and videos in prompts: a placeholder becomes as many tokens as the picture has soft tokens.

<|image|>   ->   <|image> <|image|> <|image|> ... <image|>          begin, soft tokens, end
<|video|>   ->   00:00 <|image> <|video|> ... <image|> 00:01 ...    each frame behind the time when it is seen
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from constrained_dg.errors import InputError, check
from constrained_dg.model.images import ATTENTION, Images, SoftTokens
from constrained_dg.model.released.vision import VisionFile, load_tower
from constrained_dg.model.vision import Patches, VisionTower
from constrained_dg.shapes import IntTensor
from constrained_dg.text import IMAGE, VIDEO, Tokenizer
from constrained_dg.vision.pictures import MOST_PIXELS, Picture, pixels_of
from constrained_dg.vision.processor import OF_FRAME, USUAL, Processor, check_budget
from constrained_dg.vision.video import Video


@dataclass(frozen=True)
class Pictured:
    """A prompt with its pictures.

    Attributes:
        tokens: with every placeholder expanded.
        index: for each token, the soft token of this prompt in its place; -1 at text.
        pictures: as the tower takes them, in the order of their tokens.
    """

    tokens: list[int]
    index: list[int]
    pictures: list[Patches]


class Vision:
    """What reads the pictures of prompts: a vision tower, and the tokens that mark its soft tokens.

    Args:
        tower: of the model that reads the prompts.
        tokens: the tokens <|image|>, begin of an image, end of an image, and <|video|> (None: it is not known).
        soft_tokens: most tokens that an image takes: 70, 140, 280, 560 or 1120.
        frame_tokens: the same for a frame of a video.
        attention: "all_layers" or "sliding_layers", see `model.images.Images`.

    Raises:
        InputError: another number of soft tokens or another attention.
    """

    def __init__(
        self,
        tower: VisionTower,
        tokens: tuple[int, int, int, int | None],
        soft_tokens: int = USUAL,
        frame_tokens: int = OF_FRAME,
        attention: str = ATTENTION[0],
    ) -> None:
        check_budget(soft_tokens)
        check_budget(frame_tokens, "frame_tokens")
        check(attention in ATTENTION, f"attention is {attention!r}", f"give one of {', '.join(ATTENTION)}")
        self.tower, self.processor = tower, Processor(tower.config)
        self.image, self.begin, self.end, self.video = tokens
        self.soft_tokens, self.frame_tokens, self.attention = soft_tokens, frame_tokens, attention

    @classmethod
    def load(
        cls,
        folder: Path | str,
        tokenizer: Tokenizer | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        soft_tokens: int | None = None,
        frame_tokens: int = OF_FRAME,
        attention: str = ATTENTION[0],
    ) -> Vision:
        """The vision tower of a checkpoint in the released format.

        Args:
            tokenizer: of the checkpoint; it says which token <|video|> is.
            dtype: of the weights; None means the one config.json names, or else the stored one.
            soft_tokens: None means what the checkpoint's processor_config.json says, or else 280.

        Raises:
            InputError: a folder that is not a checkpoint; no vision tower, or one of another architecture; tensors that
                are missing, misshapen or cut short.
        """
        file = VisionFile.of(Path(folder))
        budget = file.soft_tokens or USUAL if soft_tokens is None else soft_tokens
        video = None if tokenizer is None else tokenizer.raw.token_to_id(VIDEO)
        return cls(load_tower(file, device, dtype), (*file.tokens, video), budget, frame_tokens, attention)

    def stamped(self, text: str, pictures: Sequence[Picture | Video]) -> str:
        """A text with a <|video|> for each frame of its videos, behind the time when it is seen.

        Raises:
            InputError: more videos than placeholders, or fewer; or the tokenizer has no <|video|>.
        """
        videos = [each for each in pictures if isinstance(each, Video)]
        parts = text.split(VIDEO)
        _check_count(VIDEO, "videos", len(parts) - 1, len(videos))
        check(not videos or self.video is not None, f"no tokenizer with {VIDEO} was given", "give frames as images")
        out = parts[0]
        for video, behind in zip(videos, parts[1:], strict=True):
            out += " ".join(f"{time} {VIDEO}" for time in video.times()) + behind
        return out

    def expand(self, tokens: Sequence[int], pictures: Sequence[Picture | Video], most: int = MOST_PIXELS) -> Pictured:
        """A prompt in tokens with the soft tokens of its pictures in the places of placeholders.

        Args:
            tokens: with one <|image|> for each picture and one <|video|> for each frame (see `stamped`).
            pictures: in the order of their placeholders.
            most: pixels that each picture may have.

        Raises:
            InputError: more pictures than placeholders, or fewer; or something that is not a picture.
        """
        # 1. Counts first: decoding takes longer.
        images = [each for each in pictures if not isinstance(each, Video)]
        videos = [each for each in pictures if isinstance(each, Video)]
        _check_count(IMAGE, "images", tokens.count(self.image), len(images))
        if self.video is not None:
            _check_count(VIDEO, "frames", tokens.count(self.video), sum(len(each.chosen()) for each in videos))
        # 2. Pictures become patches.
        queues = {self.image: deque(self._patches(each, n, most) for n, each in enumerate(images, 1))}
        if self.video is not None:
            queues[self.video] = deque(
                each for n, video in enumerate(videos, 1) for each in self._frames(video, n, most)
            )
        # 3. Placeholders become tokens.
        written: list[int] = []
        index: list[int] = []
        found: list[Patches] = []
        soft = 0
        for token in tokens:
            if token not in queues:
                written.append(token)
                index.append(-1)
                continue
            picture = queues[token].popleft()
            count = len(picture.pixels) // self.tower.config.pooling_kernel_size**2
            written += [self.begin, *[token] * count, self.end]
            index += [-1, *range(soft, soft + count), -1]
            found.append(picture)
            soft += count
        return Pictured(written, index, found)

    def images(self, prompts: Sequence[Pictured], length: int) -> Images | None:
        """The pictures of prompts that stand side by side, padded on the left to a length; None without pictures.

        The pictures of a prompt that is given several times (the same object) are read once.
        """
        index: IntTensor = torch.full((len(prompts), length), -1)
        begins: dict[int, int] = {}
        pictures: list[Patches] = []
        count = 0
        for row, prompt in enumerate(prompts):
            of_row = torch.tensor(prompt.index)
            if id(prompt) not in begins:
                begins[id(prompt)] = count
                pictures += prompt.pictures
                count += int(of_row.max()) + 1
            index[row, length - len(of_row) :] = torch.where(of_row >= 0, of_row + begins[id(prompt)], -1)
        return Images(index, SoftTokens(self.tower, pictures), self.attention) if pictures else None

    def _patches(self, picture: Picture, number: int, most: int) -> Patches:
        name = f"image {number}"
        return self.processor.patches(pixels_of(picture, name, most), self.soft_tokens, name)

    def _frames(self, video: Video, number: int, most: int) -> list[Patches]:
        name = f"a frame of video {number}"
        frames = [pixels_of(video.frames[index], name, most) for index in video.chosen()]
        shapes = {frame.shape for frame in frames}
        if len(shapes) > 1:
            sizes = sorted(f"{width} x {height}" for height, width, _ in shapes)
            raise InputError(f"the frames of video {number} are {' and '.join(sizes[:4])} pixels", "give one size")
        return [self.processor.patches(frame, self.frame_tokens, name) for frame in frames]


def _check_count(placeholder: str, what: str, places: int, given: int) -> None:
    hint = f"write {placeholder} once where each belongs"
    check(places == given, f"the prompt has {places} {placeholder} and {given} {what} were given", hint)
