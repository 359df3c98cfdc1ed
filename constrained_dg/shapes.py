"""Axis letters used in every signature, docstring and comment.

| letter | axis |
|---|---|
| B | rows of a batch (one puzzle, prompt or candidate each) |
| S | committed tokens: the prompt and the canvases already finished |
| C | tokens of the current canvas |
| T | tokens of the whole answer: all canvases joined |
| V | vocabulary |
| A | the token classes that rules speak about (A = V for puzzle codecs) |
| R | relations between positions |
| L | layers |
| H, G | query heads, key/value heads |
| D, K | hidden size, size of one head |
| E | experts |
"""

from __future__ import annotations

from typing import Any

import torch

from constrained_dg.errors import InputError, check

#: Tensor aliases; the shape stands in the docstring of the function that uses them.
IntTensor = torch.Tensor
FloatTensor = torch.Tensor
BoolTensor = torch.Tensor


def tensor_of(name: str, value: Any, dtype: torch.dtype) -> Any:
    """Lists and arrays of numbers as a tensor of this type; tensors and None stay as they are.

    Args:
        name: what the message calls the value.

    Raises:
        InputError: not numbers, rows of unequal length, or numbers of another type (0 and 1 may stand for bools).
    """
    if value is None or isinstance(value, torch.Tensor):
        return value
    try:
        tensor = torch.as_tensor(value, dtype=dtype if dtype.is_floating_point else None)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} is not a table of numbers ({error})", "give rows of equal length") from None
    fits = tensor.dtype == dtype or (dtype is torch.bool and not tensor.is_floating_point()) or tensor.numel() == 0
    check(fits, f"the type of {name} is {tensor.dtype}", f"give {dtype}")
    return tensor.to(dtype)
