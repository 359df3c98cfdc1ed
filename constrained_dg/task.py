"""The protocol of tasks: problems, tokens, relations, rules and pictures.

The library uses tasks only through this protocol; `tasks/` implements it.
"""

from __future__ import annotations

import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import InputError, check
from constrained_dg.files import read_text
from constrained_dg.model.images import Images, Pictures
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.text import Tokenizer

Key = TypeVar("Key")
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def without_colors(text: str) -> str:
    """The text without the colors of a terminal."""
    return _COLOR.sub("", text)


@dataclass(frozen=True)
class Batch:
    """Examples of one shape, as tokens.

    Attributes:
        prompt: (B, S) int64, clean tokens of the prompt.
        answer: (B, T) int64, clean. Where the answer is unknown (evaluation) it holds the pinned tokens, and any
            token of the noise range elsewhere.
        pinned: (B, T) bool, positions of the answer that are given: never corrupted, never re-noised, without loss.
        relations: (B or 1, R, S + T, S + T) bool over absolute positions (prompt, then answer), or None.
        noise: (low, high), the half-open range of token ids that noise is drawn from.
        mask: (B, S) bool, False at padding of the prompt; None without padding.
        images: the pictures of the prompts, or None.
    """

    prompt: IntTensor
    answer: IntTensor
    pinned: BoolTensor
    relations: BoolTensor | None
    noise: tuple[int, int]
    mask: BoolTensor | None = None
    images: Images | Pictures | None = None

    def to(self, device: torch.device | str) -> Batch:
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor | Images | Pictures)
        }
        return replace(self, **moved)

    def __len__(self) -> int:
        return self.prompt.shape[0]

    def select(self, rows: IntTensor) -> Batch:
        """The examples of these rows (N) int64, in this order; one row of relations serves them all."""
        relations = self.relations
        if relations is not None and len(relations) > 1:
            relations = relations[rows]
        return replace(
            self,
            prompt=self.prompt[rows],
            answer=self.answer[rows],
            pinned=self.pinned[rows],
            relations=relations,
            mask=None if self.mask is None else self.mask[rows],
            images=None if self.images is None else self.images.select(rows),
        )


@dataclass(frozen=True)
class Moves:
    """A symmetry for each problem of a batch: position i of the moved answer is position order[i], with tokens renamed.

    Attributes:
        order: (B, T) int64, a permutation in each row.
        rename: (B, V) int64, a permutation of the tokens in each row.
    """

    order: IntTensor
    rename: IntTensor

    def answer(self, answer: IntTensor) -> IntTensor:
        """(B, T), moved."""
        return self.rename.gather(1, answer.gather(1, self.order))

    def undo(self, answer: IntTensor) -> IntTensor:
        """(B, T), an answer to the moved problem -> one to the original problem."""
        return self.rename.argsort(1).gather(1, answer).gather(1, self.order.argsort(1))

    def placed_back(self, values: torch.Tensor) -> torch.Tensor:
        """(B, T), values of the positions of a moved answer -> of those of the original one."""
        return values.gather(1, self.order.argsort(1))

    def select(self, rows: IntTensor) -> Moves:
        """The symmetries of these rows (N) int64."""
        return Moves(self.order[rows], self.rename[rows])

    def sets(self, sets: BoolTensor, low: int) -> BoolTensor:
        """(B, T, K) sets of tokens low .. low + K - 1, which must be renamed among themselves, moved."""
        size = sets.shape[-1]
        sets = sets.gather(1, self.order[..., None].expand(-1, -1, size))
        old = self.rename[:, low : low + size].argsort(1)
        return sets.gather(2, old[:, None].expand(-1, sets.shape[1], -1))

    def undo_sets(self, sets: BoolTensor, low: int) -> BoolTensor:
        """(B, T, K), sets of the moved problem -> those of the original problem."""
        size = sets.shape[-1]
        new = self.rename[:, low : low + size] - low
        sets = sets.gather(2, new[:, None].expand(-1, sets.shape[1], -1))
        return sets.gather(1, self.order.argsort(1)[..., None].expand(-1, -1, size))


@dataclass(frozen=True)
class Symmetric:
    """The problems of a batch, each moved by a symmetry.

    Attributes:
        batch: the moved problems.
        constraint: their rules.
        moves: the symmetries.
    """

    batch: Batch
    constraint: Constraint
    moves: Moves


@dataclass(frozen=True)
class Problem:
    """One thing to solve. Tasks subclass it.

    Attributes:
        tier: the group it is reported under (a difficulty level, a clue count).
        text: the problem as one line, as in answers.csv.
    """

    tier: str
    text: str

    @property
    def given(self) -> int | None:
        """How many positions of the answer are given, where solve rates should be drawn against it; or None."""
        return None


def normalised(shares: Mapping[Key, float], name: str) -> dict[Key, float]:
    """Shares that add up to 1, in the order of their keys, without those of 0.

    Args:
        name: the key that a user gives them by.

    Raises:
        InputError: a share that is negative or not finite, or none above 0.
    """
    total = sum(shares.values())
    good = all(isfinite(share) and share >= 0 for share in shares.values()) and total > 0
    check(good, f"{name}={dict(shares)}", "give shares from 0 up, not all 0")
    return {key: share / total for key, share in sorted(shares.items()) if share > 0}


class Task(ABC):
    """A family of problems on the shared backbone.

    Attributes:
        name: as on the command line, `task=<name>`.
        vocab_size: V. `blank_id` and `padding_id` lie in [0, V).
        num_relations: R; 0 when the task has none.
        max_prompt, max_canvas: longest prompt and answer that `encode` returns.
        canvas_length: C where an answer may take several canvases; None where it is one.
        ends: tokens that end an answer; what follows them becomes `padding_id`.
        needs_tokenizer: the task exists only as text, so `in_text` must be called first.
        vision: patch_size and pooling_kernel_size of the pictures in its batches; None without pictures.
        compares: `constraint` holds reference answers to compare with, not rules that a sampler may read.
        tokenizer: of a task whose prompts and answers are text; None for others.
        samplers: what evaluate.py compares unless the user names samplers; the first also solves single problems.
        asks: how the page lets a problem be given, as plain values: "kind" is "line", "grid" (then "symbols" of a
            large grid, in order) or "graph" (then "colors": whether their number is part of it); "example" is one.
    """

    name: str
    vocab_size: int
    blank_id: int
    padding_id: int
    num_relations: int
    max_prompt: int
    max_canvas: int
    canvas_length: int | None = None
    ends: tuple[int, ...] = ()
    needs_tokenizer: bool = False
    vision: Mapping[str, int] | None = None
    compares: bool = False
    tokenizer: Tokenizer | None = None
    samplers: tuple[str, ...] = ("restarts", "plain")
    asks: Mapping[str, Any] = MappingProxyType({"kind": "line"})

    @abstractmethod
    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """The training batch of one optimiser step: a pure function of (task seed, step, batch_size, rank)."""

    @abstractmethod
    def held_out(self, per_tier: int, seed: int) -> list[Problem]:
        """Problems that never equal a training problem up to symmetry; `per_tier` for each tier of the task."""

    @abstractmethod
    def encode(self, problems: Sequence[Problem]) -> Batch:
        """Tokens of problems that share one shape (see `shape_of`)."""

    def shape_of(self, problem: Problem) -> tuple[int, ...]:
        """(S, C) of a problem, and any further key: problems with equal shapes can share a batch. By
        default the shape that `encode` gives it."""
        batch = self.encode([problem])
        return batch.prompt.shape[1], batch.answer.shape[1]

    def constraint(self, problems: Sequence[Problem]) -> Constraint:
        """The rules of these problems, one row each, judged over the answer (T = C for one canvas); by default those
        that `rules` reads from the encoded problems."""
        rules = self.rules(self.encode(problems))
        if rules is None:
            raise NotImplementedError(f"{type(self).__name__} defines neither constraint nor rules")
        return rules

    def overlap(self, problems: Sequence[Problem]) -> list[int] | None:
        """Indices of the problems that could equal a training problem up to symmetry; None where a task cannot say."""
        return None

    def rules(self, batch: Batch) -> Constraint | None:
        """The rules of a batch from its prompt and pinned tokens alone, one row each; None where a task has none.

        Test-time symmetry needs them, since a moved problem exists as tokens only.
        """
        return None

    def symmetric(self, batch: Batch, seeds: IntTensor) -> Symmetric | None:
        """The problems of a batch, each moved by a symmetry drawn with its seed (B); None without symmetries."""
        return None

    def read(self, path: str) -> list[Problem]:
        """Problems from a file; by default a text with one on each line, as `parse` takes it.

        Raises:
            InputError: bad lines, named with the file; or no problems.
        """
        hint = "give a text file with a problem on each line"
        return self.problems_of(path, read_text(path, hint).splitlines())

    def problems_of(self, path: str, lines: Sequence[str]) -> list[Problem]:
        """A problem for each line that is not blank.

        Raises:
            InputError: bad lines, named with the file; or no problems.
        """
        problems: list[Problem] = []
        for number, line in enumerate(lines, 1):
            try:
                problems += [self.parse(line.strip())] if line.strip() else []
            except InputError as error:
                raise InputError(f"{path} line {number}: {error}") from None
        check(bool(problems), f"{path} holds no problems", "give one on each line")
        return problems

    @abstractmethod
    def parse(self, text: str) -> Problem:
        """One problem from the command line. Raises InputError."""

    def parse_sent(self, text: str) -> Problem:
        """One problem that somebody else sent: no file of this machine is opened. By default as `parse`."""
        return self.parse(text)

    @abstractmethod
    def decode(self, problem: Problem, answer: IntTensor) -> str:
        """The answer (T) as one line of text, as in answers.csv."""

    def agrees(self, problems: Sequence[Problem], answers: IntTensor) -> BoolTensor:
        """Whether answers (B, T) that keep the rules also agree with what no sampler is shown: (B) bool.

        Only then do they count as solved; by default all do.
        """
        return torch.ones(len(answers), dtype=torch.bool)

    def remark(self, problem: Problem, answer: IntTensor | None = None) -> str:
        """A sentence about a problem, printed below its answer, such as how many solutions it has; "" for none.

        It should take a second at most.

        Args:
            answer: (T) int64, where the problem is known only as far as the answer tells.
        """
        return ""

    def measure(self, outcomes: Sequence[Any], model: Any = None) -> dict[str, dict[str, Any]]:
        """Further metrics of the outcomes (`evaluation.Outcome`) of one sampler: name -> `intervals.metric`.

        Args:
            model: the one that the sampler used, or None.
        """
        return {}

    def save(  # noqa: B027  (most tasks have no such format)
        self, folder: Path, outcomes: Mapping[str, Sequence[Any]]
    ) -> None:
        """Write the answers of each sampler into the folder of a report in the field's usual format, if any."""

    def in_text(self, tokenizer: Tokenizer, canvas_length: int) -> Task:
        """The same problems as text, for a released checkpoint: tokens of its tokenizer, canvases of its length.

        Raises:
            InputError: the task has no text form, or the tokenizer or the canvas cannot hold it.
        """
        raise InputError(f"task {self.name!r} has no text form", "train it from scratch, without model.pretrained")

    def draw(self, problem: Problem, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        """The problem and its answer (T) for a terminal, with violations (T) marked; by default as in answers.csv, and
        below it the positions that are marked, counted from 1."""
        text = problem.text if answer is None else self.decode(problem, answer)
        marked = [] if violations is None else (violations.nonzero().flatten() + 1).tolist()
        return text + (f"\n! at {', '.join(map(str, marked))}" if marked else "")

    def token_text(self, token: int) -> str:
        """One token of an answer for people, on the page."""
        return str(token) if self.tokenizer is None else self.tokenizer.text_of(token)

    def picture(self, problem: Problem, answer: IntTensor | None = None) -> dict[str, Any]:
        """How the page draws answers to a problem: plain values, see `viz.page.writing`; by default tokens in a row.

        Args:
            answer: (T) int64, the last one, where the places of a drawing depend on it.
        """
        return {"kind": "row"}

    def plot(self, axes: Any, problem: Problem, answer: IntTensor | None, violations: BoolTensor | None = None) -> None:
        """The same on matplotlib axes; by default the text of `draw`, without its colors."""
        lines = without_colors(self.draw(problem, answer, violations)).splitlines()
        text = "\n".join(piece for line in lines for piece in textwrap.wrap(line, 32) or [""])
        # Dollar signs would be read as formulas.
        axes.text(0.5, 0.5, text, ha="center", va="center", ma="left", family="monospace", parse_math=False)
        axes.axis("off")
