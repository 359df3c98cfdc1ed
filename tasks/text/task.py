"""Pairs of a prompt and an answer from a file, for fine-tuning without writing a task.

Each line of the file is a JSON object {"prompt": ..., "answer": ...}, optionally with "system", all texts. A tenth of
the prompts, chosen by a hash, never trains; equal prompts stay together.
"""

from __future__ import annotations

import copy
import hashlib
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.files import read_text
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Problem, Task
from constrained_dg.text import Tokenizer, pad_left, padded

from .reference import Reference

#: One prompt in this many is held out.
HELD_OUT = 10
TIER = "text"


@dataclass(frozen=True)
class Pair(Problem):
    """A prompt, and its answer if it is known."""

    prompt: str
    answer: str | None = None
    system: str | None = None

    @classmethod
    def of(cls, prompt: str, answer: str | None = None, system: str | None = None) -> Pair:
        return cls(tier=TIER, text=one_line(prompt), prompt=prompt, answer=answer, system=system)

    @property
    def held_out(self) -> bool:
        """Whether this prompt never trains: a function of the prompt alone."""
        digest = hashlib.sha256(self.prompt.encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


def one_line(text: str) -> str:
    """The text with line breaks and other control characters escaped as in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"')


def read_pairs(path: str) -> list[tuple[int, Pair]]:
    """The pairs of a file, optionally .gz, and their line numbers; empty lines are skipped.

    Raises:
        InputError: naming file, line and key; or a file without pairs.
    """
    pairs = []
    for number, line in enumerate(read_text(path, "give data=FILE.jsonl").split("\n"), 1):
        if not line.strip():
            continue
        where, hint = f"{path} line {number}", 'a line is {"prompt": "...", "answer": "..."}, optionally with "system"'
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and deep nesting
            raise InputError(f"{where} is not JSON that can be read ({str(error)[:100]})", hint) from None
        check(isinstance(values, dict), f"{where} is {line[:40]!r}", hint)
        for key in ("prompt", "answer"):
            check(key in values, f"{where} has no {key!r}", hint)
        for key, value in values.items():
            check(key in ("prompt", "answer", "system"), f"{where} has an unknown key {key[:40]!r}", hint)
            check(isinstance(value, str), f"{where}: {key!r} is {str(value)[:40]}", "give a text")
            check_text(value, f"{where}: {key!r}", "give a text, or leave the line out")
        pairs.append((number, Pair.of(**values)))
    check(bool(pairs), f"{path} holds no pairs", 'give lines of {"prompt": "...", "answer": "..."}')
    return pairs


def check_text(text: str, where: str, hint: str) -> None:
    """Raise InputError if a text is empty, or holds half a surrogate pair, which cannot be encoded."""
    check(text.strip() != "", f"{where} is empty", hint)
    half = next((letter for letter in text if "\ud800" <= letter <= "\udfff"), None)
    check(half is None, f"{where} holds {half!r}, half of a surrogate pair", "write whole characters, in UTF-8")


class Text(Task):
    """Fine-tuning on a file of pairs. It needs the tokenizer of a checkpoint: see `in_text`.

    Args:
        data: the file; read on first use, so that a trained model can be used without it.
        prompt_length: longest prompt in tokens, chat format included.
        canvases: most canvases of an answer with its EOS.
        seed: of the training batches.

    Raises:
        InputError: a value out of range.
    """

    name = "text"
    num_relations = 0
    needs_tokenizer = True
    compares = True
    samplers = ("plain",)
    tokenizer: Tokenizer

    def __init__(self, data: str | None = None, prompt_length: int = 1024, canvases: int = 4, seed: int = 0) -> None:
        for key, value in (("prompt_length", prompt_length), ("canvases", canvases)):
            check(is_count(value, 1) and value <= 2**20, f"task.{key} is {value!r}", "use an integer from 1 to 2^20")
        check(is_count(seed) and seed < 2**63, f"task.seed is {seed!r}", "use an integer from 0 to 2^63 - 1")
        check(data is None or (isinstance(data, str) and data != ""), f"task.data is {data!r}", "give data=FILE.jsonl")
        self.data, self.prompt_length, self.canvases, self.seed = data, prompt_length, canvases, seed

    def in_text(self, tokenizer: Tokenizer, canvas_length: int) -> Text:
        """The task on the tokens of this tokenizer."""
        task = copy.copy(self)
        task.tokenizer, task.canvas_length, task.needs_tokenizer = tokenizer, canvas_length, False
        task.vocab_size, task.blank_id, task.padding_id = tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id
        task.ends = tokenizer.ends
        task.max_prompt, task.max_canvas = padded(self.prompt_length), self.canvases * canvas_length
        return task

    @cached_property
    def pairs(self) -> list[tuple[Pair, list[int], list[int]]]:
        """Pairs of the data file, each with the tokens of its prompt and of its answer.

        Raises:
            InputError: see `read_pairs`; a prompt or answer is too long; no pair to train on, or none held out.
        """
        check(self.data is not None, "task text has no data", "give data=FILE.jsonl")
        pairs = [(pair, *self._tokens(pair, f"{self.data} line {number}")) for number, pair in read_pairs(self.data)]
        count_held_out = sum(pair.held_out for pair, *_ in pairs)
        for count, what in ((count_held_out, "held out"), (len(pairs) - count_held_out, "left to train on")):
            hint = f"each prompt is held out with chance 1 in {HELD_OUT}, by a hash of it: give more pairs"
            check(count > 0, f"none of the {len(pairs)} pairs of {self.data} is {what}", hint)
        return pairs

    def _tokens(self, pair: Pair, where: str) -> tuple[list[int], list[int]]:
        """Tokens of prompt and answer, without EOS. Raises InputError if they are too long."""
        prompt = self.tokenizer.chat(pair.prompt, pair.system)
        hint = f"task.prompt_length is {self.prompt_length}: shorten the prompt, or raise it"
        check(len(prompt) <= self.prompt_length, f"{where}: the prompt has {len(prompt)} tokens", hint)
        answer = [] if pair.answer is None else self.tokenizer.encode(pair.answer)
        hint = f"{self.canvases} canvases hold {self.max_canvas}: shorten it, or raise task.canvases"
        what = f"{where}: the answer has {len(answer)} tokens and needs one more for EOS"
        check(len(answer) < self.max_canvas, what, hint)
        return prompt, answer

    @cached_property
    def _training(self) -> list[tuple[list[int], list[int]]]:
        return [(prompt, answer) for pair, prompt, answer in self.pairs if not pair.held_out]

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """Random pairs, each with one of its canvases, drawn uniformly. Earlier canvases belong to the prompt; EOS
        fills the last one and is learned."""
        generator = np.random.default_rng((self.seed, step, rank, batch_size))
        prompts, canvases, size = [], [], self.canvas_length
        for pair in generator.integers(len(self._training), size=batch_size).tolist():
            prompt, answer = self._training[pair]
            count = len(answer) // size + 1  # the last one ends with EOS
            first = size * int(generator.integers(count))
            filled = self.tokenizer.fill(answer, count * size)
            prompts.append([*prompt, *filled[:first]])
            canvases.append(filled[first : first + size])
        return self._batch(*pad_left(prompts, self.blank_id), torch.tensor(canvases))

    def encode(self, problems: Sequence[Pair]) -> Batch:
        """Prompts padded to one length, and empty canvases (EOS)."""
        prompts = [self.tokenizer.chat(problem.prompt, problem.system) for problem in problems]
        canvas = torch.full((len(problems), self.max_canvas), self.padding_id)
        return self._batch(*pad_left(prompts, self.blank_id), canvas)

    def _batch(self, prompt: IntTensor, mask: BoolTensor, canvas: IntTensor) -> Batch:
        return Batch(prompt, canvas, torch.zeros_like(canvas, dtype=torch.bool), None, (0, self.vocab_size), mask)

    def shape_of(self, problem: Pair) -> tuple[int, int]:
        return padded(len(self.tokenizer.chat(problem.prompt, problem.system))), self.max_canvas

    def held_out(self, per_tier: int, seed: int) -> list[Pair]:
        """At most `per_tier` held-out pairs of the data file, drawn with the seed."""
        check(per_tier >= 1, f"per_tier={per_tier}", "use at least 1")
        pairs = [pair for pair, *_ in self.pairs if pair.held_out]
        order = np.random.default_rng(seed).permutation(len(pairs))[:per_tier]
        return [pairs[index] for index in sorted(order.tolist())]

    def constraint(self, problems: Sequence[Pair]) -> Constraint:
        """The reference answers, which are not a rule."""
        return Reference.of([problem.answer for problem in problems], self.tokenizer, self.max_canvas)

    def read(self, path: str) -> list[Pair]:
        """All pairs of a file, see `read_pairs`."""
        numbered = read_pairs(path)
        for number, pair in numbered:
            self._tokens(pair, f"{path} line {number}")
        return [pair for _, pair in numbered]

    def parse(self, text: str) -> Pair:
        """A prompt without a reference."""
        check_text(text, "the prompt", "give a text")
        pair = Pair.of(text)
        self._tokens(pair, "the command line")
        return pair

    def decode(self, problem: Pair, answer: IntTensor) -> str:
        return one_line(self.tokenizer.decode(answer))

    def draw(self, problem: Pair, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        return problem.prompt if answer is None else self.tokenizer.decode(answer)

    def plot(self, axes: Any, problem: Pair, answer: IntTensor | None, violations: BoolTensor | None = None) -> None:
        """The first lines of the text, wrapped."""
        shown = textwrap.wrap(self.draw(problem, answer), 32)[:12]
        # Dollar signs would be read as formulas.
        axes.text(0.02, 0.98, "\n".join(shown).replace("$", r"\$"), va="top", family="monospace", fontsize=6)
        axes.axis("off")
