"""Text for a released checkpoint: its tokenizer, its chat format, and prompts of unequal length side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import InputError, check, needs
from constrained_dg.shapes import BoolTensor, IntTensor

TOKENIZER = "tokenizer.json"
BOS, EOS, PAD, TURN, TURN_END = "<bos>", "<eos>", "<pad>", "<|turn>", "<turn|>"
#: Prompts are padded to a multiple of this, so that shapes are few and no row's padding depends on its neighbours.
MULTIPLE = 32


class Tokenizer:
    """The tokenizer of a checkpoint and the chat format of DiffusionGemma (section 6.7 of its fact sheet).

    Args:
        raw: a `tokenizers.Tokenizer`, which knows `<bos>`, `<eos>`, `<pad>`, `<|turn>` and `<turn|>` as single tokens.
        vocab_size: V of the model; it may have room for more tokens than the tokenizer knows.
        source: named in errors.

    Attributes:
        bos_id, eos_id, pad_id: token ids.
        ends: the tokens that end an answer: `<eos>` and `<turn|>`.

    Raises:
        InputError: a special token is missing, or ids reach beyond the model's vocabulary.
    """

    def __init__(self, raw: Any, vocab_size: int, source: str = "the tokenizer") -> None:
        self.raw, self.vocab_size = raw, vocab_size
        # A file may carry settings that cut or pad what is encoded.
        raw.no_truncation()
        raw.no_padding()
        missing = [token for token in (BOS, EOS, PAD, TURN, TURN_END) if raw.token_to_id(token) is None]
        check(not missing, f"{source} has no {', '.join(missing)}", "use the tokenizer.json of a DiffusionGemma")
        largest = max(raw.get_vocab().values())
        check(
            largest < vocab_size,
            f"{source} has token ids up to {largest}, the model a vocabulary of {vocab_size}",
            "use the tokenizer that belongs to the model",
        )
        self.bos_id, self.eos_id, self.pad_id = (raw.token_to_id(token) for token in (BOS, EOS, PAD))
        self.ends = (self.eos_id, raw.token_to_id(TURN_END))

    @classmethod
    def load(cls, folder: Path | str, vocab_size: int) -> Tokenizer:
        """FOLDER/tokenizer.json.

        Raises:
            InputError: it is missing or unreadable, does not fit the model, or `tokenizers` is not installed.
        """
        path = Path(folder) / TOKENIZER
        check(path.is_file(), f"no {TOKENIZER} in {str(folder)!r}", "copy it from where the checkpoint came from")
        with needs("tokenizers", "a checkpoint in the released format"):
            import tokenizers
        try:
            raw = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing more special
            raise InputError(f"{path} cannot be read ({error})", "it may be cut short") from None
        return cls(raw, vocab_size, str(path))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text. Special tokens written in it count as such, as in the released chat template."""
        return self.raw.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int] | IntTensor) -> str:
        """The text of tokens (T), up to the first that ends an answer."""
        tokens = tokens.tolist() if isinstance(tokens, torch.Tensor) else list(tokens)
        end = next((at for at, token in enumerate(tokens) if token in self.ends), len(tokens))
        return self.raw.decode(tokens[:end], skip_special_tokens=False)

    def chat(self, user: str, system: str | None = None) -> list[int]:
        """The tokens of a prompt: BOS, a system turn where one is given, the user's turn, the model's turn opened."""
        turns = ([] if system is None else [("system", system)]) + [("user", user)]
        written = "".join(f"{TURN}{role}\n{content.strip()}{TURN_END}\n" for role, content in turns)
        return self.encode(f"{BOS}{written}{TURN}model\n")

    def fill(self, answer: Sequence[int], length: int) -> list[int]:
        """An answer with EOS behind it up to `length` tokens, all of which a model learns to write."""
        return [*answer, *[self.eos_id] * (length - len(answer))]


def padded(length: int) -> int:
    """The length that prompts of this length are padded to."""
    return -(-length // MULTIPLE) * MULTIPLE


def pad_left(prompts: Sequence[Sequence[int]], pad: int, length: int | None = None) -> tuple[IntTensor, BoolTensor]:
    """Prompts side by side: tokens (B, S) and a mask (B, S) that is False at padding.

    Args:
        length: S; by default the padded length of the longest.
    """
    length = padded(max(map(len, prompts))) if length is None else length
    tokens = torch.full((len(prompts), length), pad)
    mask = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = True
    return tokens, mask
