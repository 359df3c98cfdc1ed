"""Records: JSON under the schema in the prompt, with the values that a note in plain English tells.

Prompt and answer are made by the project. A prompt is the schema and the note; the answer is the record in the spelling
of `json_text`. Words, numbers and whole schemas are held out by hashes, see `records_values` and `records_notes`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch

from constrained_dg.constraints import Json
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.by_row import ByRow
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.intervals import share
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Problem, Task
from constrained_dg.text import Tokenizer, pad_left, padded

from .records_notes import NEW, Record, drawn_record
from .records_tokens import ENDS, PAD_ID, VOCABULARY, tokenizer

#: Longest prompt, and the answer with its EOS, in tokens; longer ones are not made.
PROMPT, CANVAS = 80, 32
#: Longest prompt of a user.
MOST_PROMPT = 256
#: A prompt for the page.
EXAMPLE = (
    '{"type": "object", "properties": {"day": {"type": "string"}, "price": {"type": "number"}}, "minProperties": 2, '
    '"additionalProperties": false} New order. It leaves on Friday. The price is 9.58 euros. The town is Paipeton.'
)
#: Tier -> whether its schemas never train. Words and numbers never train in either.
TIERS = {"known": False, "held_out_schema": True}


@dataclass(frozen=True)
class Note(Problem):
    """A prompt.

    Attributes:
        schema: JSON as text.
        record: with the right answer, or None where a user wrote the prompt.
    """

    schema: str
    record: Record | None = None

    @classmethod
    def of(cls, tier: str, record: Record) -> Note:
        return cls(tier, record.prompt, json.dumps(record.schema), record)


class Records(Task):
    """Notes and their records.

    Args:
        seed: of the training batches.

    Raises:
        InputError: a value out of range.
    """

    name = "text/records"
    vocab_size, blank_id, padding_id, ends = VOCABULARY, PAD_ID, ENDS[0], ENDS
    num_relations = 0
    max_prompt, max_canvas, canvas_length = MOST_PROMPT, CANVAS, CANVAS
    samplers = ("completed", "plain")
    asks: ClassVar = {"kind": "line", "example": EXAMPLE}

    def __init__(self, seed: int = 0) -> None:
        check(is_count(seed) and seed < 2**63, f"task.seed is {seed!r}", "use an integer from 0 to 2^63 - 1")
        self.seed = seed

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises InputError where `tokenizers` is not installed."""
        return tokenizer()

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """Records of words, numbers and schemas that may train; EOS fills the canvas and is learned."""
        draws = np.random.default_rng((self.seed, step, rank, batch_size))
        rows = [self._fitting(draws, False, False)[1:] for _ in range(batch_size)]
        prompt, mask = pad_left([prompt for prompt, _ in rows], self.blank_id, PROMPT)
        answer = torch.tensor([self.tokenizer.fill(answer, CANVAS) for _, answer in rows])
        return self._batch(prompt, mask, answer)

    def _fitting(
        self, draws: np.random.Generator, new_values: bool, new_schema: bool
    ) -> tuple[Record, list[int], list[int]]:
        """A record that is short enough, and the tokens of its prompt and of its answer."""
        while True:
            record = drawn_record(draws, new_values, new_schema)
            prompt, answer = self.tokenizer.chat(record.prompt), self.tokenizer.encode(record.answer)
            if len(prompt) <= PROMPT and len(answer) < CANVAS:
                return record, prompt, answer

    def _batch(self, prompt: IntTensor, mask: BoolTensor, answer: IntTensor) -> Batch:
        return Batch(prompt, answer, torch.zeros_like(answer, dtype=torch.bool), None, (0, self.vocab_size), mask)

    def held_out(self, per_tier: int, seed: int) -> list[Note]:
        """Notes with words and numbers that never train; of the tier held_out_schema the schemas do not either."""
        check(per_tier >= 1, f"per_tier={per_tier}", "use at least 1")
        notes = []
        for index, (tier, new_schema) in enumerate(TIERS.items()):
            draws = np.random.default_rng((seed, index))
            notes += [Note.of(tier, self._fitting(draws, True, new_schema)[0]) for _ in range(per_tier)]
        return notes

    def encode(self, problems: Sequence[Note]) -> Batch:
        """Prompts padded to one length, and empty canvases (EOS)."""
        prompts = [self.tokenizer.chat(problem.text) for problem in problems]
        return self._batch(*pad_left(prompts, self.blank_id), torch.full((len(problems), CANVAS), self.padding_id))

    def shape_of(self, problem: Note) -> tuple[int, int]:
        return padded(len(self.tokenizer.chat(problem.text))), CANVAS

    def constraint(self, problems: Sequence[Note]) -> Constraint:
        """The schema of each prompt."""
        return ByRow([_rule(problem.schema) for problem in problems])

    def parse(self, text: str) -> Note:
        """A prompt: a schema in JSON, and a note behind it.

        Raises:
            InputError: it does not begin with JSON or has no note; `Json` refuses the schema; it is too long, or no
                record under the schema fits the canvas.
        """
        hint = 'write a schema and a note: {"type": "object", ...} New order. ...'
        text = text.strip()
        try:
            schema, end = json.JSONDecoder().raw_decode(text)
        except ValueError as error:
            raise InputError(f"the prompt {text[:40]!r} does not begin with JSON ({error})", hint) from None
        check(text[end:].strip() != "", f"there is no note behind the schema {text[:40]!r}", hint)
        length = len(self.tokenizer.chat(text))
        check(length <= MOST_PROMPT, f"the prompt has {length} tokens", f"write at most {MOST_PROMPT}")
        note = Note("own", text, json.dumps(schema))
        _rule(note.schema)
        return note

    def decode(self, problem: Note, answer: IntTensor) -> str:
        return self.tokenizer.decode(answer).replace("\n", "\\n")

    def draw(self, problem: Note, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        return problem.text if answer is None else self.tokenizer.decode(answer)

    def measure(self, outcomes: Sequence[Any], model: Any = None) -> dict[str, dict[str, Any]]:
        """Shares of fields that are right, of those of kinds that never train, and of records without a mistake."""
        judged = [(o.problem.record, right_fields(o.problem.record, o.answer)) for o in outcomes if o.problem.record]
        fields = [(key, right) for _, each in judged for key, right in each.items()]
        counts = {
            "fields_right": [right for _, right in fields],
            "new_fields_right": [right for key, right in fields if key in NEW],
            "records_right": [all(each.values()) for _, each in judged],
        }
        return {name: share(sum(values), len(values)) for name, values in counts.items() if values}


def right_fields(record: Record, answer: str) -> dict[str, bool]:
    """For each field of a record, whether an answer has its value, with its type; none where it is not JSON."""
    try:
        got = json.loads(answer)
    except ValueError:
        got = None
    got = got if isinstance(got, dict) else {}
    return {key: _same(got.get(key), value) for key, value in record.fields.items()}


def _same(got: object, value: object) -> bool:
    return isinstance(got, bool) == isinstance(value, bool) and got == value


@lru_cache(maxsize=4096)
def _rule(schema: str) -> Json:
    known = tokenizer()
    return Json(schema, known.texts(), CANVAS, (known.ends, known.eos_id))
