"""Videos as frames with time stamps. Files of videos are not decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from constrained_dg.errors import check, is_count, is_number
from constrained_dg.vision.pictures import Picture

#: Frames of a video that a model reads.
MOST_FRAMES = 32


@dataclass(frozen=True)
class Video:
    """A video, of which at most `most` frames are read, equally far apart.

    Args:
        frames: its pictures in order, all of one size.
        fps: frames a second, which says when each is seen; or
        stamps: the seconds of each frame.
        most: frames that are read.

    Raises:
        InputError: no frames, neither or both of `fps` and `stamps`, or numbers that do not fit.
    """

    frames: Sequence[Picture] | np.ndarray
    fps: float | None = None
    stamps: Sequence[float] | None = None
    most: int = MOST_FRAMES

    def __post_init__(self) -> None:
        some = isinstance(self.frames, Sequence | np.ndarray) and len(self.frames) > 0
        check(some and not isinstance(self.frames, str | bytes), "the video has no frames", "give a list of pictures")
        check((self.fps is None) != (self.stamps is None), "a video needs either fps or stamps", "give one of them")
        check(self.fps is None or is_number(self.fps, above=0), f"fps is {self.fps!r}", "give a number above 0")
        if self.stamps is not None:
            count, given = len(self.frames), len(self.stamps)
            check(given == count, f"the video has {count} frames and {given} stamps", "give one for each")
            odd = next((each for each in self.stamps if not is_number(each, above=-1e-9)), None)
            check(odd is None, f"a stamp is {odd!r}", "give seconds from 0 up")
        check(is_count(self.most, 1), f"most is {self.most!r}", "give an integer of at least 1")

    def chosen(self) -> list[int]:
        """The indices of the frames that are read: all, or `most` equally far apart."""
        total, count = len(self.frames), min(self.most, len(self.frames))
        return [index * total // count for index in range(count)]

    def times(self) -> list[str]:
        """When these frames are seen, as minutes and seconds: 01:05."""
        stamps = self.stamps if self.fps is None else [index / self.fps for index in range(len(self.frames))]
        assert stamps is not None
        seconds = [stamps[index] for index in self.chosen()]
        return [f"{int(each // 60):02d}:{int(each % 60):02d}" for each in seconds]
