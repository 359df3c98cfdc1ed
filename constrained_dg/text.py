"""Text for a released checkpoint: its tokenizer, its chat format, and prompts of unequal length side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from constrained_dg.chat import TEMPLATE, ChatTemplate, Message, check_messages
from constrained_dg.errors import InputError, check, needs
from constrained_dg.files import read_text
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.texts import Texts

TOKENIZER = "tokenizer.json"
BOS, EOS, PAD, TURN, TURN_END = "<bos>", "<eos>", "<pad>", "<|turn>", "<turn|>"
#: Placeholders of a picture and of a video in a text.
IMAGE, VIDEO = "<|image|>", "<|video|>"
#: Prompts are padded to a multiple of this, so that shapes are few and no row's padding depends on its neighbours.
MULTIPLE = 32


class Tokenizer:
    """The tokenizer of a checkpoint, and the chat format of DiffusionGemma (its chat template; Google, 2026).

    Args:
        raw: a `tokenizers.Tokenizer`, which knows `<bos>`, `<eos>`, `<pad>`, `<|turn>` and `<turn|>` as single tokens.
        vocab_size: V of the model; it may have room for more tokens than the tokenizer knows.
        source: named in errors.
        template: of the checkpoint; None: the chat format without tools and thinking.

    Attributes:
        eos_id, pad_id: token ids.
        ends: the tokens that end an answer: `<eos>` and `<turn|>`.

    Raises:
        InputError: a special token is missing, or ids reach beyond the model's vocabulary.
    """

    def __init__(
        self, raw: Any, vocab_size: int, source: str = "the tokenizer", template: ChatTemplate | None = None
    ) -> None:
        self.raw, self.vocab_size, self.template = raw, vocab_size, template
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
        """FOLDER/tokenizer.json, and FOLDER/chat_template.jinja where there is one.

        Raises:
            InputError: the tokenizer is missing or does not fit the model, a file is unreadable, or `tokenizers` is not
                installed.
        """
        path = Path(folder) / TOKENIZER
        check(path.is_file(), f"no {TOKENIZER} in {str(folder)!r}", "copy it from where the checkpoint came from")
        with needs("tokenizers", "a checkpoint in the released format"):
            import tokenizers
        try:
            raw = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing more special
            raise InputError(f"{path} cannot be read ({error})", "it may be cut short") from None
        template, written = Path(folder) / TEMPLATE, None
        if template.is_file():
            tokens = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
            written = ChatTemplate(read_text(template, "copy it again"), str(template), tokens)
        return cls(raw, vocab_size, str(path), written)

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
        return self.messages([{"role": _ROLES.get(role, role), "content": content} for role, content in turns])

    def messages(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> list[int]:
        """The tokens of a chat with the model's turn opened, as the checkpoint's template writes it.

        Without a template: BOS, then each message as a turn. A picture is one <|image|>, a video one <|video|>, which
        `vision.Vision` expands.

        Args:
            messages: each with `role` (system, developer, user, assistant or tool) and `content`: a text, or a list of
                {"type": "text", "text": ...}, {"type": "image"} and {"type": "video"}. Templates may read further keys.
            tools: functions that the model may call, as JSON Schema.
            thinking: whether the model thinks before it answers; None leaves that to the template.

        Raises:
            InputError: something else than that, a template that refuses it, or tools, calls or thinking without one.
        """
        return self.encode(self.written(messages, tools, thinking))

    def written(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> str:
        """The text of which `messages` gives the tokens."""
        check_messages(messages)
        if self.template is not None:
            return self.template.render(messages, tools, thinking)
        more = "tools" if tools else "thinking" if thinking else None
        more = more or next((key for each in messages for key in each if key not in ("role", "content")), None)
        more = more or next(("the role tool" for each in messages if each["role"] == "tool"), None)
        check(more is None, f"{more} without a chat template", f"copy the checkpoint's {TEMPLATE} beside {TOKENIZER}")
        turns = [(_MODEL.get(each["role"], each["role"]), _text_of(each.get("content"))) for each in messages]
        written = "".join(f"{TURN}{role}\n{text}{TURN_END}\n" for role, text in turns)
        return f"{BOS}{written}{TURN}model\n"

    def fill(self, answer: Sequence[int], length: int) -> list[int]:
        """An answer with EOS behind it up to `length` tokens, all of which a model learns to write."""
        return [*answer, *[self.eos_id] * (length - len(answer))]


#: The names of roles: of ours in messages, and of messages in the chat format.
_ROLES, _MODEL = {"model": "assistant"}, {"assistant": "model", "developer": "system"}


def _text_of(content: Any) -> str:
    if content is None or isinstance(content, str):
        return (content or "").strip()
    marks = {"image": IMAGE, "video": VIDEO}
    return "".join(marks[part["type"]] if part["type"] in marks else part["text"].strip() for part in content)


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
