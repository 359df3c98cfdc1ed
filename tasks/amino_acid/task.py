"""The common base of the tasks on amino-acid sequences under rules.

The prompt names the kind of sequence, and optionally the number of residues, net charge and hydropathy. For infilling,
the kept residues follow, and a relation joins each of them to its position on the canvas, so that the model can
distinguish them from noise. The canvas holds residues, then EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from constrained_dg.constraints import ByRow, Constraint
from constrained_dg.errors import check, is_count
from constrained_dg.evaluation import Outcome
from constrained_dg.files import read_text
from constrained_dg.intervals import mean, share
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Problem, Task

from . import distances, drawing, natural, properties
from .files import write_fasta
from .judge import broken
from .masking import mask_for_training
from .prompts import PROMPT, prompt_for, prompt_of
from .residues import EOS, KINDS, LONGEST, NOISE, OPEN, PAD, VOCABULARY, canvas_length, sequence_of, show, tokens_of
from .rules import rule_of
from .specification import Requirements, parse_requirements

#: Number of sequences that are compared with the training sequences, at 40 ms each.
_ALIGNED = 100


@dataclass(frozen=True)
class SequenceProblem(Problem):
    """A sequence to write.

    Attributes:
        requirements: of the sequence.
        reference: the natural sequence of a template, never shown to the model; or None.
    """

    requirements: Requirements
    reference: str | None = None

    @classmethod
    def of(cls, tier: str, requirements: Requirements, reference: str | None = None) -> SequenceProblem:
        return cls(tier, requirements.text, requirements, reference)


class Sequences(Task):
    """Base of `Design`, `Peptides` and `Infill`.

    Args:
        seed: of the batches; not negative.

    Raises:
        InputError: a value out of range.
    """

    vocab_size = VOCABULARY
    blank_id = PAD
    padding_id = EOS
    num_relations = 0
    samplers = ("exact",)
    asks: ClassVar = {"kind": "line", "example": "length=30..40 contains=N-{P}-[ST]-{P} charge=2..5@7.4"}
    longest: ClassVar[int] = LONGEST
    #: Whether stretches of sequences are restored: the rest is given on the canvas and in the prompt.
    restores: ClassVar[bool] = False

    def __init__(self, seed: int = 0) -> None:
        check(is_count(seed) and seed < 2**63, f"seed={seed!r}", "use an integer from 0 to 2^63 - 1")
        self.seed = seed
        self.max_canvas = canvas_length(self.longest)
        self.max_prompt = PROMPT + self.restores * self.max_canvas
        self._nearest: dict[str, float] = {}

    def pool(self, held_out: bool) -> Sequence[tuple[str, str]]:
        """Natural sequences with their kind."""
        return [(sequence, KINDS[0]) for sequence in natural.uniprot(held_out)]

    @cached_property
    def _training(self) -> dict[int, list[tuple[str, str]]]:
        """Training sequences by canvas length."""
        groups: dict[int, list[tuple[str, str]]] = {}
        for sequence, kind in self.pool(False):
            groups.setdefault(canvas_length(len(sequence)), []).append((sequence, kind))
        return dict(sorted(groups.items()))

    def train_batch(self, step: int, batch_size: int, rank: int = 0) -> Batch:
        """The batch of one optimiser step, a pure function of (seed, step, batch_size, rank)."""
        # 1. The canvas, by the step alone: ranks that wait for each other should have equal work.
        sizes = np.array([len(group) for group in self._training.values()])
        drawn = np.random.default_rng((self.seed, step)).choice(len(sizes), p=sizes / sizes.sum())
        canvas, group = list(self._training.items())[drawn]
        draws = np.random.default_rng((self.seed, step, rank, batch_size))
        prompts, canvases, pinned = [], [], []
        for at in draws.integers(len(group), size=batch_size):
            sequence, kind = group[at]
            # 2. The prompt: without the length for one in five new sequences.
            has_length = self.restores or draws.random() < 0.8
            numbers = properties.charge(sequence), properties.hydropathy(sequence)
            named = [value if draws.random() < 0.5 and not self.restores else None for value in numbers]
            prompts.append(prompt_of(kind, len(sequence) if has_length else None, *named))
            # 3. The given tokens of the canvas.
            canvases.append(tokens_of(sequence, canvas))
            given = np.arange(canvas) >= len(sequence) if has_length else np.zeros(canvas, bool)
            if self.restores:
                given[: len(sequence)] = [letter != "?" for letter in mask_for_training(sequence, draws)]
            pinned.append(given)
        return self._batch(torch.tensor(prompts), torch.tensor(canvases), torch.from_numpy(np.stack(pinned)))

    def _batch(self, prompt: IntTensor, canvas: IntTensor, pinned: BoolTensor) -> Batch:
        if not self.restores:
            return Batch(prompt, canvas, pinned, None, NOISE)
        prompt = torch.cat([prompt, torch.where(pinned, canvas, OPEN)], 1)
        at = torch.cat([torch.full((PROMPT,), -1), torch.arange(canvas.shape[1]).repeat(2)])
        same_place = (at[:, None] == at) & (at >= 0)
        return Batch(prompt, canvas, pinned, same_place[None, None], NOISE)

    def encode(self, problems: Sequence[SequenceProblem]) -> Batch:
        """Prompts (B, 5), or (B, 5 + T) with the kept residues, and canvases (B, T) with EOS where nothing is given."""
        given = [problem.requirements.pinned() for problem in problems]
        tokens, pinned = (torch.tensor([each[k] for each in given]) for k in (0, 1))
        prompt = torch.tensor([prompt_for(problem.requirements) for problem in problems])
        return self._batch(prompt, tokens, pinned)

    def shape_of(self, problem: SequenceProblem) -> tuple[int, int]:
        canvas = problem.requirements.canvas
        return PROMPT + self.restores * canvas, canvas

    def constraint(self, problems: Sequence[SequenceProblem]) -> Constraint:
        return ByRow([rule_of(problem.requirements) for problem in problems])

    def parse(self, text: str) -> SequenceProblem:
        """One problem from the command line; see `specification`."""
        requirements = parse_requirements(text)
        high = requirements.length[1]
        check(high <= self.longest, f"{high} residues", f"task {self.name} was trained on at most {self.longest}")
        return SequenceProblem.of("given", requirements)

    def read(self, path: str) -> list[SequenceProblem]:
        """Problems of a text file, requirements on each line; # begins a comment line. The tier is the file's name.

        Raises:
            InputError: naming the file and the line.
        """
        lines = read_text(path, "give a text file with requirements on each line").splitlines()
        lines = ["" if line.startswith("#") else line for line in lines]
        return [replace(problem, tier=Path(path).stem) for problem in self.problems_of(path, lines)]

    def decode(self, problem: SequenceProblem, answer: IntTensor) -> str:
        return sequence_of(answer.tolist())

    def save(self, folder: Path, outcomes: dict[str, Sequence[Outcome]]) -> None:
        """The solved sequences of each sampler as FASTA, named by their problem's number."""
        for sampler, of_sampler in outcomes.items():
            path = folder / f"{sampler}.fasta"
            path.unlink(missing_ok=True)  # an earlier version of the same report
            solved = [(f"{at} {o.problem.text}", o.answer) for at, o in enumerate(of_sampler, 1) if o.solved]
            solved = [(name, answer) for name, answer in solved if answer]
            if solved:
                write_fasta(path, solved)

    def measure(self, outcomes: Sequence[Outcome], model: Any = None) -> dict[str, dict[str, Any]]:
        """Validity by `re` and Biopython alone ("independent_valid": share of answers called solved,
        "independent_share": of all), and how natural, diverse and novel the answers are; see `distances`."""
        metrics, sequences = self.checked(outcomes), [o.answer for o in outcomes if o.answer]
        if len(sequences) < 4:
            return metrics
        kinds = {o.problem.requirements.kind for o in outcomes}
        training = [sequence for sequence, kind in self.pool(False) if kind in kinds]
        few = sequences[:_ALIGNED]
        fresh = [sequence for sequence in few if sequence not in self._nearest]
        if fresh:
            self._nearest |= zip(fresh, natural.nearest(fresh, training).tolist(), strict=True)
        return metrics | {
            "residue_divergence": distances.residue_divergence(sequences, training),
            "pair_divergence": distances.pair_divergence(sequences, training),
            "diversity": distances.diversity(sequences),
            "unique": share(len(set(sequences)), len(sequences)),
            "novelty": mean([1 - self._nearest[sequence] for sequence in few]),
        }

    @staticmethod
    def checked(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
        """Shares of answers that keep all rules by `re` and Biopython: of all, and of those called solved."""
        fine = [bool(o.answer) and not broken(o.problem.requirements, o.answer) for o in outcomes]
        solved = [good for o, good in zip(outcomes, fine, strict=True) if o.solved]
        metrics = {"independent_share": share(sum(fine), len(fine))}
        return metrics | ({"independent_valid": share(sum(solved), len(solved))} if solved else {})

    def draw(self, problem: SequenceProblem, answer: IntTensor | None, violations: BoolTensor | None = None) -> str:
        """See `drawing.draw`."""
        return problem.text if answer is None else drawing.draw(problem.requirements, answer, violations)

    def token_text(self, token: int) -> str:
        return show(token)

    def plot(
        self, axes: Any, problem: SequenceProblem, answer: IntTensor | None, violations: BoolTensor | None = None
    ) -> None:
        """See `drawing.plot`."""
        if answer is None:
            drawing.plot_text(axes, problem.text)
        else:
            drawing.plot(axes, problem.requirements, answer, violations)
