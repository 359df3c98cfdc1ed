"""A small tokenizer, and a small released checkpoint that goes with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from constrained_dg.text import BOS, EOS, IMAGE, PAD, TURN, TURN_END, VIDEO, Tokenizer
from tasks.sudoku.text import SYSTEM

tokenizers = pytest.importorskip("tokenizers")

#: Of the model; the tokenizer knows fewer tokens.
VOCAB = 448
SPECIAL = [PAD, EOS, BOS, "<unk>", TURN, TURN_END]
#: Of a tokenizer that also knows pictures: their placeholder, their begin and end, and the placeholder of videos.
PICTURES = [IMAGE, "<|image>", "<image|>", VIDEO]


def raw_tokenizer(special: Sequence[str] = SPECIAL, split_digits: bool = True) -> tokenizers.Tokenizer:
    """Byte-level pairs, learned from what Sudoku's prompts say; single digits and spaces between them, as Gemma has."""
    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    bytes_alone = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split_digits)
    digits = [tokenizers.pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([*digits, bytes_alone])
    raw.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [SYSTEM, "system\n", "user\n", "model\n"] * 4 if split_digits else ["1 1 1 2 1 2 3 4"] * 9
    raw.train_from_iterator(texts, trainer)
    return raw


def tokenizer() -> Tokenizer:
    return Tokenizer(raw_tokenizer(), VOCAB)


def save_checkpoint(folder: Path, canvas: int = 40, seed: int = 0, spread: float = 1.0, pictures: bool = False) -> Path:
    """A random two-layer DiffusionGemma, written by transformers, with the tokenizer.

    Args:
        pictures: the tokenizer knows the tokens of pictures.
    """
    from tests.released import released

    model = released(seed, layers=2, spread=spread, vocab_size=VOCAB)
    model.config.canvas_length = canvas
    raw = raw_tokenizer([*SPECIAL, *PICTURES] if pictures else SPECIAL)
    for number, name in enumerate(("image_token_id", "boi_token_id", "eoi_token_id")):
        setattr(model.config, name, raw.token_to_id(PICTURES[number]) if pictures else VOCAB - 1 - number)
    model.save_pretrained(folder)
    raw.save(str(folder / "tokenizer.json"))
    return folder


def write_pairs(path: Path, count: int = 60) -> Path:
    """Pairs of a kind a tiny model could learn: a word, and the same word backwards."""
    words = [f"word {number} of {count}" for number in range(count)]
    pairs = [{"prompt": word, "answer": word[::-1]} for word in words]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return path
