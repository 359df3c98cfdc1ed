"""Common to all samplers: checks of the input, the first canvas, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.checking import probe
from constrained_dg.constraints.guarded import contradictory, judged
from constrained_dg.constraints.running import TimeIsUpError, time_limit
from constrained_dg.errors import check
from constrained_dg.sampling.base import Denoiser, Generation, Status, StepRecord
from constrained_dg.sampling.checks import check_batch, check_constraint, check_images, check_lengths, check_tokens
from constrained_dg.sampling.class_log_probs import ClassLogProbs
from constrained_dg.sampling.completer import Completer, completed
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.randomness import DRAWS, candidate_seeds
from constrained_dg.sampling.state import Answers, select_rows
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Request:
    """A checked batch, its seeds, and the canvas every row starts from.

    Attributes:
        batch: (B, T) canvas.
        constraint: of B rows or one, or None.
        seeds: (B) int64.
        tokens: (B, T) the pinned tokens, and noise elsewhere.
        refused: (B) bool, rows whose pinned tokens already contradict the constraint.
        canvas_length: C.
        options: of the call.
    """

    batch: Batch
    constraint: Constraint | None
    seeds: IntTensor
    tokens: IntTensor
    refused: BoolTensor
    canvas_length: int
    options: Options

    @classmethod
    def of(
        cls,
        model: Denoiser | None,
        batch: Batch,
        constraint: Constraint | None,
        seeds: IntTensor | int,
        options: Options,
    ) -> Request:
        """Check everything that can be checked before the first pass.

        Args:
            model: or None for a sampler without one; then the constraint gives the vocabulary.

        Raises:
            InputError: an input does not fit; the message names it.
        """
        vocab_size = 0
        if model is not None:
            vocab_size = model.vocab_size
        elif constraint is not None:
            vocab_size = constraint.vocab_size
        rows, length = check_batch(batch, vocab_size)
        if model is not None:
            check_images(model, batch)
        canvas_length = check_lengths(model, batch, options)
        check_tokens(options, vocab_size)
        device = batch.answer.device
        if constraint is not None:
            constraint = constraint.to(device)
            check_constraint(constraint, rows, length, vocab_size)
        kind = type(seeds).__name__  # its text would be read from the device
        check(isinstance(seeds, int | torch.Tensor), f"seeds are a {kind}", "give a number, or one for each row")
        seeds = (rng.row_seeds(seeds, rows) if isinstance(seeds, int) else seeds).to(device)
        check(
            seeds.shape == (rows,) and seeds.dtype == torch.int64,
            f"seeds have shape {tuple(seeds.shape)} and type {seeds.dtype}",
            f"give one number, or ({rows},) of torch.int64",
        )
        tokens = _start(batch, seeds, canvas_length)
        refused = torch.zeros(rows, dtype=torch.bool, device=device)
        if constraint is not None:
            if not options.tried:
                probe(constraint, tokens)
            try:
                with time_limit(options.remaining()):
                    refused = contradictory(constraint, tokens, batch.pinned)
            except TimeIsUpError:  # proves nothing
                pass
        return cls(batch, constraint, seeds, tokens, refused, canvas_length, options)

    def candidates(self) -> Request:
        """The request with each row once for each candidate, neighbours together, with separate seeds."""
        copies = self.options.candidates
        if copies == 1:
            return self
        rows = torch.arange(len(self.tokens), device=self.tokens.device).repeat_interleave(copies)
        batch, seeds = self.batch.select(rows), candidate_seeds(self.seeds, copies)
        return replace(
            self,
            batch=batch,
            constraint=select_rows(self.constraint, rows),
            seeds=seeds,
            tokens=_start(batch, seeds, self.canvas_length),
            refused=self.refused[rows],
        )

    def begin(self, completer: Completer | None) -> Answers:
        """The answers before any pass."""
        score = self.options.class_log_probs if completer is None else completer.score
        if self.constraint is None or not score:
            return Answers.begin(self.tokens, None)
        of_first = score == "first"
        by_class = ClassLogProbs.before_any_pass(self.constraint, len(self.tokens), self.tokens.device, of_first)
        return Answers.begin(self.tokens, by_class)

    def conclude(
        self, answers: Answers, completer: Completer | None = None, trace: Sequence[StepRecord] = ()
    ) -> Generation:
        """Choose among candidates, judge, complete unsolved answers, and count.

        Args:
            answers: of every candidate of every row.
            completer: or None.
        """
        pinned, copies = self.batch.pinned, self.options.candidates
        seeds, passes = self.seeds, answers.passes
        # 1. Of several candidates one that the judge accepts, else the likeliest. Skip those that stopped because
        #    another was accepted: with their seed alone they would have continued.
        if copies > 1:
            seeds = candidate_seeds(seeds, copies)
            score = answers.log_probability(pinned.repeat_interleave(copies, 0)).masked_fill(passes == 0, -torch.inf)
            if self.constraint is not None:
                rules = self.constraint if self.constraint.rows == 1 else self.constraint.repeat(copies)
                score = score.masked_fill(judged(rules, answers.tokens), torch.inf).masked_fill(answers.cut, -torch.inf)
            first = torch.arange(0, len(seeds), copies, device=seeds.device)
            chosen = first + score.view(-1, copies).argmax(-1)
            answers, seeds, passes = answers.select(chosen), seeds[chosen], passes.view(-1, copies).sum(-1)
        # 2. The verdict. The judge decides first: a faulty proof must not hide an accepted answer.
        tokens, padding = answers.tokens, answers.padding
        status: list[Status | None] = [None] * len(tokens)
        if self.constraint is not None:
            pairs = zip(judged(self.constraint, tokens).tolist(), self.refused.tolist(), strict=True)
            status = [Status.SOLVED if s else Status.UNSATISFIABLE if r else Status.UNSOLVED for s, r in pairs]
        generation = Generation(
            tokens=tokens,
            status=status,
            passes=passes,
            free_tokens=(~(pinned | padding)).sum(-1),
            search_nodes=torch.zeros_like(passes),
            seeds=seeds,
            log_probability=answers.log_probability(pinned),
            padding=padding,
            score=torch.full_like(answers.log_best[:, 0], -torch.inf),
            bound=torch.full_like(answers.log_best[:, 0], torch.inf),
            proved=torch.zeros_like(padding[:, 0]),
            trace=list(trace),
            class_log_probs=answers.class_log_probs,
        )
        # 3. The search.
        if completer is not None and self.constraint is not None:
            generation = completed(generation, self.constraint, pinned, completer, self.options)
        return generation if self.options.class_log_probs else replace(generation, class_log_probs=None)


def _start(batch: Batch, seeds: IntTensor, canvas_length: int) -> IntTensor:
    """(B, T) pinned tokens, and noise elsewhere."""
    length, draws = batch.answer.shape[1], DRAWS["counter"]
    starts = range(0, length, canvas_length)
    noise = [draws.canvas(seeds, start, min(canvas_length, length - start), batch.noise) for start in starts]
    return torch.where(batch.pinned, batch.answer, torch.cat(noise, 1))
