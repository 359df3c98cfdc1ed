"""Pictures in requests: in the body itself, since nothing is fetched."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from constrained_dg.errors import InputError, check
from constrained_dg.runs import Run
from constrained_dg.serving.refusals import Refused
from constrained_dg.text import IMAGE, Tokenizer
from constrained_dg.vision import Vision
from constrained_dg.vision.pictures import pixels_of_url

log = logging.getLogger(__name__)

#: Pixels that the pictures of one request may have together, 48 MiB once decoded; some kilobytes of a file may do.
MOST_PIXELS = 2**24


def picture_of(url: str, field: str, others: Sequence[np.ndarray]) -> np.ndarray:
    """The pixels (H, W, 3) uint8 of a `data:` URL.

    Args:
        others: pictures of the same request.

    Raises:
        Refused: another kind of URL, or a picture that is damaged or too large.
    """
    left = MOST_PIXELS - sum(other.shape[0] * other.shape[1] for other in others)
    try:
        return pixels_of_url(url, most=max(left, 1))
    except InputError as error:
        raise Refused(400, f"{field}.url: {error}", f"{field}.url", "image") from None


def vision_of(run: Run, tokenizer: Tokenizer) -> Vision | None:
    """What reads pictures for the model of a run; None where its checkpoint has no vision tower."""
    origin, weight = run.model.origin, next(run.model.parameters())
    if origin is None or not origin.vision:
        return None
    try:
        vision = Vision.load(origin.folder, tokenizer, weight.device, weight.dtype)
        known = tokenizer.raw.token_to_id(IMAGE)
        check(known == vision.image, f"the tokenizer's {IMAGE} is {known}, the model's {vision.image}")
        return vision
    except InputError as error:
        log.warning("images are refused: %s", error)
        return None
