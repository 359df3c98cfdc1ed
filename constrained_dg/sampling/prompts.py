"""Prompts as callers give them: text, lists of tokens, or tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from constrained_dg.errors import InputError, check
from constrained_dg.model.images import Images, Pictures
from constrained_dg.shapes import BoolTensor, IntTensor, tensor_of
from constrained_dg.text import Tokenizer, pad_left
from constrained_dg.vision import Vision

Rows = Sequence[Sequence[int]]


def pictured_prompt(
    prompt: Any, mask: Any, tokenizer: Tokenizer | None, pad: int, pictures: Any, vision: Vision
) -> tuple[IntTensor, BoolTensor | None, Images | None]:
    """`prompt_tensors` with the pictures of each prompt in the places of their placeholders.

    Args:
        pictures: of each prompt, in the order of its placeholders; of a single text these alone.

    Raises:
        InputError: as there; pictures for another number of prompts; or see `Vision.expand`.
    """
    # 1. The tokens of each prompt, with placeholders.
    single = isinstance(prompt, str)
    prompts = [prompt] if single else prompt
    pictures = [pictures] if single else pictures
    check(isinstance(vision, Vision), f"vision is {vision!r}", "give vision.Vision.load(FOLDER)")
    lists = isinstance(pictures, Sequence) and all(isinstance(each, list | tuple) for each in pictures)
    check(lists, "images is not a list for each prompt", "give one list of pictures for each, empty where it has none")
    check(
        len(prompts) == len(pictures), f"{len(prompts)} prompts, and images for {len(pictures)}", "give one list each"
    )
    if all(isinstance(each, str) for each in prompts):
        if tokenizer is None:
            raise InputError(f"the prompt is the text {prompts[0][:40]!r}", "give a tokenizer, or tokens")
        written = zip(prompts, pictures, strict=True)
        rows = [tokenizer.chat(vision.stamped(text, of_prompt)) for text, of_prompt in written]
        device, length = torch.device("cpu"), None
    else:
        prompt, mask = prompt_tensors(prompt, mask, tokenizer, pad)
        device, length = prompt.device, 0
        rows = prompt.tolist() if mask is None else [row[seen].tolist() for row, seen in zip(prompt, mask, strict=True)]
    # 2. Placeholders become as many tokens as the pictures need.
    check(min(map(len, rows), default=0) > 0, "a prompt is empty", "give each at least one token")
    expanded = [vision.expand(row, of_prompt) for row, of_prompt in zip(rows, pictures, strict=True)]
    together = [each.tokens for each in expanded]
    tokens, seen = pad_left(together, pad, length if length is None else max(map(len, together)))
    images = vision.images(expanded, tokens.shape[1])
    mask = None if bool(seen.all()) else seen.to(device)
    return tokens.to(device), mask, images if images is None else images.to(device)


def placed_prompt(
    prompt: Any, mask: Any, tokenizer: Tokenizer | None, pad: int, images: Any, vision: Vision | None
) -> tuple[IntTensor, BoolTensor | None, Images | Pictures | None]:
    """`pictured_prompt` with `vision`; without, `prompt_tensors` and images that are placed already.

    Raises:
        InputError: as these; pictures without `vision`.
    """
    if vision is not None:
        return pictured_prompt(prompt, mask, tokenizer, pad, images, vision)
    if not isinstance(images, Images | Pictures | None):
        raise InputError("images were given without vision", "give vision as well")
    return (*prompt_tensors(prompt, mask, tokenizer, pad), images)


def prompt_tensors(
    prompt: Any, mask: Any, tokenizer: Tokenizer | None, pad: int
) -> tuple[IntTensor, BoolTensor | None]:
    """Prompts as tokens (B, S), and their mask (B, S), False at padding; None where all are of one length.

    Args:
        prompt, mask: see `generate`.
        pad: the token that lists of several lengths are padded with.

    Raises:
        InputError: text without a tokenizer, text beside tokens, an empty prompt, or a shape that does not fit.
    """
    if mask is None:
        prompt, mask = _in_tokens(prompt, tokenizer)
    if not isinstance(prompt, torch.Tensor) and mask is None:
        prompt, mask = _left_padded(prompt, pad)
    prompt, mask = tensor_of("prompt", prompt, torch.int64), tensor_of("mask", mask, torch.bool)
    check(prompt.dim() == 2, f"the prompt has shape {tuple(prompt.shape)}", "give (B, S)")
    return prompt, mask


def _in_tokens(prompt: Any, tokenizer: Tokenizer | None) -> tuple[Any, BoolTensor | None]:
    """Texts as padded tokens of the chat format, with their mask; all else as it is."""
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(texts, list | tuple) or not any(isinstance(each, str) for each in texts):
        return prompt, None
    check(all(isinstance(each, str) for each in texts), "the prompts are text and tokens", "give either alone")
    if tokenizer is None:
        raise InputError(f"the prompt is the text {texts[0][:40]!r}", "give a tokenizer, or tokens")
    return pad_left([tokenizer.chat(each) for each in texts], tokenizer.pad_id)


def _left_padded(rows: Any, pad: int) -> tuple[Any, Any]:
    """Pad lists of several lengths and give their mask; return anything else unchanged, with None."""
    lists = isinstance(rows, list | tuple) and all(isinstance(row, list | tuple) for row in rows)
    lengths = {len(row) for row in rows} if lists else set()
    if len(lengths) < 2:
        return rows, None
    check(min(lengths) > 0, "a prompt is empty", "give each at least one token")
    longest = max(lengths)
    padded = [[pad] * (longest - len(row)) + list(row) for row in rows]
    return padded, [[False] * (longest - len(row)) + [True] * len(row) for row in rows]
