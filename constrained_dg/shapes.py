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

import torch

#: Tensor aliases; the shape stands in the docstring of the function that uses them.
IntTensor = torch.Tensor
FloatTensor = torch.Tensor
BoolTensor = torch.Tensor
