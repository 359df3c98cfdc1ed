"""Text for a released checkpoint: its tokenizer, its chat format, and prompts of unequal length side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from constrained_dg.errors import InputError, check, needs
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.texts import Texts

TOKENIZER = "tokenizer.json"
BOS, EOS, PAD, TURN, TURN_END = "<bos>", "<eos>", "<pad>", "<|turn>", "<turn|>"
#: Prompts are padded to a multiple of this, so that shapes are few and no row's padding depends on its neighbours.
MULTIPLE = 32


class Tokenizer:
    """The tokenizer of a checkpoint, and the chat format of DiffusionGemma (its chat template; Google, 2026).

    Args:
        raw: a `tokenizers.Tokenizer`, which knows `<bos>`, `<eos>`, `<pad>`, `<|turn>` and `<turn|>` as single tokens.
        vocab_size: V of the model; it may have room for more tokens than the tokenizer knows.
        source: named in errors.

    Attributes:
        eos_id, pad_id: token ids.
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
        self.eos_id, self.pad_id = (raw.token_to_id(token) for token in (EOS, PAD))
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

    def text_of(self, token: int) -> str:
        """The text of one token, also of one that ends an answer."""
        return self.raw.decode([token], skip_special_tokens=False)

    @cached_property
    def _texts(self) -> Texts:
        described = json.loads(self.raw.to_str())
        to_bytes = _bytes_of(described["decoder"])
        texts: list[bytes | None] = [None] * self.vocab_size
        for token, index in self.raw.get_vocab(with_added_tokens=False).items():
            texts[index] = to_bytes(token)
        # Added tokens are written unchanged, without the decoder; special ones are not text.
        for index, added in self.raw.get_added_tokens_decoder().items():
            texts[index] = None if added.special else added.content.encode()
        unknown = described["model"].get("unk_token")
        if unknown is not None and (index := self.raw.token_to_id(unknown)) is not None:
            texts[index] = None
        return Texts(texts)

    def texts(self) -> Texts:
        """The bytes that each token of the model's vocabulary writes, V entries, for rules on text.

        The bytes of the tokens of `encode(text)`, joined, are those of the text. None stands for special tokens, which
        are not text, and for ids that the tokenizer does not know. A token may hold part of a character.

        Raises:
            InputError: the tokenizer joins tokens in a way other than byte-level BPE and byte fallback.
        """
        return self._texts

    def chat(self, user: str, system: str | None = None) -> list[int]:
        """The tokens of a prompt: BOS, a system turn where one is given, the user's turn, the model's turn opened."""
        return self.conversation(([] if system is None else [("system", system)]) + [("user", user)])

    def conversation(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        """The same for any turns, each a role ("system", "user" or "model") and a text."""
        written = "".join(f"{TURN}{role}\n{content.strip()}{TURN_END}\n" for role, content in turns)
        return self.encode(f"{BOS}{written}{TURN}model\n")

    def fill(self, answer: Sequence[int], length: int) -> list[int]:
        """An answer with EOS behind it up to `length` tokens, all of which a model learns to write."""
        return [*answer, *[self.eos_id] * (length - len(answer))]


def _bytes_of(decoder: dict[str, Any] | None) -> Callable[[str], bytes]:
    """What turns one entry of a vocabulary into bytes, given the decoder of its tokenizer.json."""
    steps = [decoder or {"type": "none"}]
    if steps[0]["type"] == "Sequence":
        steps = steps[0]["decoders"]
    names = [step["type"] for step in steps]
    replaced: list[tuple[str, str]] = []
    for step in steps:
        if step["type"] == "Replace" and "String" in step["pattern"]:
            replaced.append((step["pattern"]["String"], step["content"]))
        elif step["type"] == "Metaspace":
            replaced.append((step["replacement"], " "))
        else:
            # Strip takes spaces from the ends of a whole text, Fuse only joins.
            known = step["type"] in ("ByteLevel", "ByteFallback", "Fuse") or names[-2:] == ["Fuse", "Strip"]
            check(
                known, f"the tokenizer's decoder has the step {step['type']!r}", "use byte-level BPE or byte fallback"
            )
    alphabet = _byte_letters() if "ByteLevel" in names else {}

    def to_bytes(token: str) -> bytes:
        if "ByteFallback" in names and re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
            return bytes([int(token[3:5], 16)])
        if alphabet and all(letter in alphabet for letter in token):
            return bytes(alphabet[letter] for letter in token)
        for old, new in replaced:
            token = token.replace(old, new)
        return token.encode()

    return to_bytes


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with (GPT-2, 2019): printable ones as themselves, the other 68 as
    the letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


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
