"""The tokenizer of records: byte-level BPE (Sennrich et al., 2016; GPT-2, 2019) of 1,024 tokens, made from these notes.

`python -m tasks.text.records_tokens FILE` makes it again. A word, a digit and what stands between words are encoded
apart, so that a value has the same tokens in a note and in an answer. Any text can be encoded, if need be byte by byte.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from constrained_dg.errors import needs
from constrained_dg.text import BOS, EOS, PAD, TURN, TURN_END, Tokenizer

from .records_notes import SCHEMAS, drawn_record

FILE = Path(__file__).with_name("records_tokenizer.json")
VOCABULARY, EXAMPLES, SEED = 1024, 30_000, 0
#: Token ids: of padding, and of what ends an answer.
PAD_ID, ENDS = 0, (1, 4)
_PURPOSE = "task text/records"
_PIECES = r"\p{L}+|[0-9]|[^\p{L}0-9]+"


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer that comes with the task.

    Raises:
        InputError: `tokenizers` is not installed.
    """
    with needs("tokenizers", _PURPOSE):
        import tokenizers
    return Tokenizer(tokenizers.Tokenizer.from_file(str(FILE)), VOCABULARY, str(FILE))


def made() -> Any:
    """A new `tokenizers.Tokenizer`, trained on records that may train."""
    with needs("tokenizers", _PURPOSE):
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_PIECES), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    special = [PAD, EOS, BOS, TURN, TURN_END]
    phrases = _phrases()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(phrases),
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    draws = np.random.default_rng(SEED)
    records = (drawn_record(draws, new_values=False, new_schema=False) for _ in range(EXAMPLES))
    texts = (f"user\n{record.note} {' '.join(record.keys)}\nmodel\n{record.answer}" for record in records)
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return raw


def _phrases() -> list[str]:
    """What all short schemas have in common, each a token, so that prompts are short."""
    kinds = dict.fromkeys(str(schema) for schema in SCHEMAS.values())
    values = [phrase.replace("'", '"') for phrase in kinds]
    around = ['{"type": "object", "properties": {"', '}, "minProperties": ', ', "additionalProperties": false} ']
    return [*around, *(f'": {value}' for value in values), '": {"enum": ["', '"]}']


if __name__ == "__main__":
    made().save(sys.argv[1], pretty=False)
