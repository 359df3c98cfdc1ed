"""Samplers around a sampler: several tries at what the judge does not accept."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.guarded import judged
from constrained_dg.errors import InputError, check, is_count
from constrained_dg.sampling.base import Generation, Status, StepRecord
from constrained_dg.sampling.completer import Completer, completed
from constrained_dg.sampling.diffusion import Diffusion
from constrained_dg.sampling.lessons import Lessons
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.randomness import ATTEMPT
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.sampling.state import select_rows
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Moves, Symmetric

#: Attempts of a sampler of sets after which one starts from noise again, in case that its start had lost the answer.
FRESH = 8


@dataclass(frozen=True)
class Restarts(Sampler):
    """Rows that the judge does not accept start again from fresh noise, each attempt with another seed.

    A run either settles soon or wanders, so that several short ones solve more than a long one. Where none is accepted,
    the answer with the highest `log_probability` is kept. It is the hint of a search, whose log-probabilities are those
    of the last attempt, or of the first pass of the first. A sampler that denoises sets learns from failed attempts,
    see `Sets.fade`.

    Args:
        name: as on the command line.
        sampler: makes each attempt; `max_passes` of it are those of one attempt. It does not search itself.
        attempts: at most.
        max_passes: passes of all attempts together, if less; the option `max_passes` replaces it.
        complete: search for what the attempts left unsolved, or None.
    """

    name: str
    sampler: Diffusion
    attempts: int = 8
    complete: Completer | None = None
    max_passes: int | None = None

    def __post_init__(self) -> None:
        check(is_count(self.attempts, 1), f"attempts is {self.attempts!r}", "give an integer of at least 1")
        passes = self.max_passes
        check(passes is None or is_count(passes, 1), f"max_passes is {passes!r}", "give an integer of at least 1")
        check(isinstance(self.sampler, Diffusion), f"sampler is {self.sampler!r}", "give a diffusion sampler")
        searches = self.sampler.complete
        check(searches is None, f"each attempt of {self.name!r} would search", "give `complete` to the whole")
        check(isinstance(self.complete, Completer | None), f"complete is {self.complete!r}", "give a Completer")

    @property
    def rule_uses(self) -> tuple[str, ...]:
        return (*self.sampler.rule_uses, "attempts", *(["complete"] if self.complete is not None else []))

    @property
    def inner(self) -> Diffusion:
        return self.sampler

    def with_search(self) -> Restarts:
        return self if self.complete is not None else replace(self, complete=Completer())

    def answer(
        self, model: Any, batch: Batch, constraint: Constraint | None, seeds: IntTensor | int, options: Options
    ) -> Generation:
        """See `Sampler.run`.

        Raises:
            InputError: as there; the sampler needs symmetries, and the task has none.
        """
        seeds = rng.row_seeds(seeds, len(batch)).to(batch.answer.device) if isinstance(seeds, int) else seeds
        constraint = None if constraint is None else constraint.to(batch.answer.device)  # rows of it are selected below
        left = torch.full_like(seeds, options.max_passes or self.max_passes or self.attempts * self.sampler.max_passes)
        attempt = torch.zeros_like(seeds)
        best: Generation | None = None
        lessons = None if self.sampler.sets is None or self.sampler.sets.fade == 1 else Lessons.none(batch)
        while best is None or (constraint is not None and not options.expired()):
            # 1. The rows that are still unsolved, each with a seed for its attempt. Attempts may end early, so rows
            #    differ in the passes they have left; those with fewer wait until the others have as few.
            going = (attempt < self.attempts) & (left > 0)
            if best is not None:
                going &= _unsolved(best) & ~options.given_up(torch.arange(len(seeds), device=seeds.device))
            passes = min(self.sampler.max_passes, int(left.masked_fill(~going, 0).max()))
            if passes == 0:
                break
            rows = (going & (left >= passes)).nonzero().flatten()
            attempt_seeds = seeds[rows]
            if best is not None:
                attempt_seeds = rng.random_bits(attempt_seeds, ATTEMPT, attempt[rows], count=1)[:, 0]
            # 2. Their problems, unchanged or moved by a symmetry.
            rules, moves = select_rows(constraint, rows), None
            part = batch if len(rows) == len(batch) else batch.select(rows)
            if self.uses_symmetry and (best is not None or options.symmetric is None):
                moved = self._moved(part, attempt_seeds, options)
                part, rules, moves = moved.batch, moved.constraint, moved.moves
            low, fresh = batch.noise[0], attempt[rows] % FRESH == 0
            learning = lessons and lessons.of_attempt(rows, fresh, moves, low, options.candidates)
            # 3. One attempt, and the better of the two answers of each row.
            limits = replace(
                options,
                max_passes=passes,
                time_limit=options.time_limit and max(options.remaining() or 0, 1e-6),
                on_step=_for_rows(options, rows, moves, batch.noise[0]),
                leave=_leaving(options, rows),
                class_log_probs=options.class_log_probs or (self.complete is not None and self.complete.score),
                tried=options.tried or best is not None,
                lessons=learning,
            )
            tried = self.sampler.answer(model, part, rules, attempt_seeds, limits)
            if moves is not None:
                tried = _undone(tried, moves.undo, select_rows(constraint, rows))
            if lessons is not None and learning is not None:
                lessons.learn(learning, rows, moves, low, _unsolved(tried))
            best = tried if best is None else _better(best, tried, rows)
            attempt[rows] += 1
            left[rows] -= tried.passes.clamp(1, passes)
        assert best is not None  # at least one attempt, of at least one pass
        if self.complete is None or constraint is None:
            return best
        best = completed(best, constraint, batch.pinned, self.complete, options)
        return best if options.class_log_probs else replace(best, class_log_probs=None)

    def _moved(self, batch: Batch, seeds: IntTensor, options: Options) -> Symmetric:
        moved = None if options.symmetric is None else options.symmetric(batch, seeds)
        if moved is None:
            hint = "give symmetric=run.task.symmetric of a task that has some, or use restarts"
            raise InputError(f"sampler {self.name!r} was given no symmetries", hint)
        return moved


@dataclass(frozen=True)
class Symmetry(Restarts):
    """As `Restarts`; from the second attempt on a row is solved in a version moved by a random symmetry of the task.

    A network's answer depends on the orientation of a problem, its rules do not (test-time symmetry). A search that
    follows is ordered by the last distribution of the unmoved problem.
    """

    uses_symmetry: ClassVar[bool] = True


@dataclass(frozen=True)
class Candidates(Sampler):
    """Several answers to each prompt from one prefill; the first that the judge accepts ends the others.

    Passes are those of all candidates.

    Args:
        name: as on the command line.
        sampler: makes each of them.
        candidates: how many, unless the option of that name says otherwise.
    """

    name: str
    sampler: Diffusion
    candidates: int = 16

    def __post_init__(self) -> None:
        check(is_count(self.candidates, 1), f"candidates is {self.candidates!r}", "give an integer of at least 1")
        check(isinstance(self.sampler, Diffusion), f"sampler is {self.sampler!r}", "give a diffusion sampler")

    @property
    def rule_uses(self) -> tuple[str, ...]:
        return (*self.sampler.rule_uses, "candidates")

    @property
    def inner(self) -> Diffusion:
        return self.sampler

    def with_search(self) -> Candidates:
        return replace(self, sampler=self.sampler.with_search())

    def answer(
        self, model: Any, batch: Batch, constraint: Constraint | None, seeds: IntTensor | int, options: Options
    ) -> Generation:
        """See `Sampler.run`."""
        several = self.candidates if options.candidates == 1 else options.candidates
        return self.sampler.answer(model, batch, constraint, seeds, replace(options, candidates=several))


def _unsolved(generation: Generation) -> BoolTensor:
    """(B) rows whose status is unsolved."""
    values = [status is Status.UNSOLVED for status in generation.status]
    return torch.tensor(values, device=generation.tokens.device)


def _for_rows(options: Options, rows: IntTensor, moves: Moves | None, low: int) -> Callable[[StepRecord], None] | None:
    """The caller's listener, which gets the caller's row numbers, and records of the problems as they were given."""
    copies, listener = options.candidates, options.on_step
    if listener is None:
        return None

    def hear(record: StepRecord) -> None:
        prompts = record.rows // copies
        record = record if moves is None else _moved_back(record, moves.select(prompts), low)
        listener(replace(record, rows=rows[prompts] * copies + record.rows % copies))

    return hear


def _moved_back(record: StepRecord, moves: Moves, low: int) -> StepRecord:
    """A record of moved problems, whose canvas is the whole answer, as one of the problems themselves.

    Args:
        low: the first token of the noise range.
    """
    return replace(
        record,
        canvas=moves.undo(record.canvas),
        best=moves.undo(record.best),
        entropy=moves.placed_back(record.entropy),
        accepted=moves.placed_back(record.accepted),
        renoised=moves.placed_back(record.renoised),
        conflict=moves.placed_back(record.conflict),
        sets=None if record.sets is None else moves.undo_sets(record.sets, low),
    )


def _leaving(options: Options, rows: IntTensor) -> Callable[[], Collection[int]] | None:
    """The caller's `leave` for a call with these of its rows."""
    leave = options.leave
    if leave is None:
        return None
    at = {row: index for index, row in enumerate(rows.tolist())}
    return lambda: [at[row] for row in leave() if row in at]


def _undone(moved: Generation, undo: Callable[[IntTensor], IntTensor], constraint: Constraint | None) -> Generation:
    """Answers of moved problems, moved back; the judge of the original problems decides."""
    tokens = undo(moved.tokens)
    solved = [False] * len(tokens) if constraint is None else judged(constraint, tokens).tolist()
    status: list[Status | None] = [
        Status.SOLVED if good else Status.UNSOLVED if was is Status.SOLVED else was
        for good, was in zip(solved, moved.status, strict=True)
    ]
    # Step records and distributions belong to the moved problem, so they are dropped.
    return replace(moved, tokens=tokens, status=status, trace=[], class_log_probs=None)


def _better(best: Generation, tried: Generation, rows: IntTensor) -> Generation:
    """The better answer of each row: an accepted one, or the likelier.

    Args:
        best: of all rows, after the attempts before.
        tried: the next attempt, at some `rows` (N), none of which has an accepted answer yet.
    """
    solved = torch.tensor([status is Status.SOLVED for status in tried.status], device=rows.device)
    take = solved | (tried.log_probability > best.log_probability[rows])
    to, of = rows[take], take.nonzero().flatten()
    values = {}
    for name in ("tokens", "free_tokens", "seeds", "log_probability", "padding"):
        values[name] = getattr(best, name).clone()
        values[name][to] = getattr(tried, name)[of]
    for name in ("passes", "search_nodes"):
        values[name] = getattr(best, name).clone()
        values[name][rows] += getattr(tried, name)
    status = list(best.status)
    for row, new in zip(rows.tolist(), tried.status, strict=True):
        status[row] = new
    trace = best.trace + [replace(record, rows=rows[record.rows]) for record in tried.trace]
    by_class = best.class_log_probs
    if by_class is not None and tried.class_log_probs is not None:
        by_class = by_class.updated(tried.class_log_probs, rows)
    return replace(best, **values, status=status, trace=trace, class_log_probs=by_class)
