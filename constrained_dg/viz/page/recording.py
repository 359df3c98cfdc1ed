"""Passes as plain values for the page: what each saw and decided, what breaks a rule, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.evaluation import Outcome, solve_batch
from constrained_dg.sampling import Autoregressive, Candidates
from constrained_dg.sampling.base import Denoiser, Status, StepRecord
from constrained_dg.sampling.ending import after_end
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.shapes import BoolTensor, IntTensor
from constrained_dg.task import Batch, Problem, Task

#: Most passes of a run that are kept; the answer follows them.
MOST_PASSES = 512
#: Living tokens of a position that are listed; of larger sets only the size is kept.
MOST_LIVING = 16


class Recorder:
    """Makes plain values of the passes of one row from step records, as they come.

    Args:
        batch: of problems of one shape.
        rules: of this row over the whole answer, or None: then nothing is judged.
        row: of the batch, 0-based.
        followed: its row in the records, which count candidates; by default the same.
    """

    def __init__(
        self, task: Task, batch: Batch, rules: Constraint | None, row: int = 0, followed: int | None = None
    ) -> None:
        self.task, self.rules, self.device = task, rules, batch.answer.device
        self.followed = row if followed is None else followed
        self.low = batch.noise[0]
        self.pinned = batch.pinned[row].cpu()
        self.blank = torch.where(self.pinned, batch.answer[row].cpu(), task.blank_id)
        self.best = self.blank
        self.passes = self.attempt = 0
        self.start = len(self.blank)
        #: Judged drafts that broke nothing.
        self.right: set[tuple[int, ...]] = set()

    def opening(self) -> dict[str, Any]:
        """What is there before any pass: the positions "given", and "best", their tokens and blanks elsewhere."""
        return {"given": positions(self.pinned), "best": self.blank.tolist()}

    def see(self, record: StepRecord) -> dict[str, Any] | None:
        """The next pass; None where the row was not live in it.

        Returns:
            "pass" and "attempt", from 1; "canvas", the positions [first, end) that it denoised; "best", the likeliest
            token of each position so far, the blank where nothing was denoised yet; the positions "accepted",
            "renoised" and "conflicts"; what `judged` says; "entropy_nats" of each position, 0 where it is
            given or outside the canvas, and the mean over its other positions; "sets", the living tokens of each
            position or how many there are, None outside the canvas, and None for the whole without sets.
        """
        at = (record.rows == self.followed).nonzero().flatten().tolist()
        if not at:
            return None
        start, end = record.start, record.start + record.best.shape[1]
        if record.pass_index == 0:
            self.attempt += start <= self.start
            self.start = start
            # What an earlier attempt wrote behind this canvas is gone.
            self.best = torch.cat([self.best[:start], self.blank[start:]])
        self.passes += 1
        self.best = torch.cat([self.best[:start], record.best[at[0]].cpu(), self.best[end:]])
        free = ~self.pinned[start:end]
        entropies = torch.zeros(len(self.best))
        entropies[start:end] = record.entropy[at[0]].cpu().float() * free
        said = self.judged(self.best, end)
        if said["judged"] and not said["violations"]:
            self.right.add(tuple(self.padded(self.best, end).tolist()))
        return {
            "pass": self.passes,
            "attempt": self.attempt,
            "canvas": [start, end],
            "best": self.best.tolist(),
            "accepted": positions(record.accepted[at[0]], start),
            "renoised": positions(record.renoised[at[0]], start),
            "conflicts": positions(record.conflict[at[0]], start),
            **said,
            "mean_entropy_nats": float(entropies[start:end][free].mean()) if free.any() else 0.0,
            "entropy_nats": [round(value, 3) for value in entropies.tolist()],
            "sets": None if record.sets is None else self.living(record.sets[at[0]].cpu(), start),
        }

    def living(self, sets: BoolTensor, start: int) -> list[list[int] | int | None]:
        """The sets (C, K) of a canvas, for each position of the answer."""
        canvas: list[list[int] | int | None] = [living(each, self.low) for each in sets]
        behind = len(self.best) - start - len(canvas)
        return [*([None] * start), *canvas, *([None] * behind)]

    def padded(self, best: IntTensor, end: int) -> IntTensor:
        """An answer (T) with padding behind its end, which is looked for before position `end`."""
        behind, ended = after_end(best[None, :end], self.task.ends)
        padding = torch.ones_like(self.pinned) & ended
        padding[:end] = behind[0]
        return best.masked_fill(padding & ~self.pinned, self.task.padding_id)

    def judged(self, best: IntTensor, end: int) -> dict[str, Any]:
        """What the rules say of an answer (T): "judged", "violations" (positions) and "sentences" (`explain`).

        An answer is not judged before its last canvas, unless it ends in an earlier one. It is judged with its padding.
        "judged" is None where there are no rules.

        Args:
            end: of the canvas.
        """
        complete = end == len(best) or bool(after_end(best[None, :end], self.task.ends)[1])
        if self.rules is None or not complete:
            return {"judged": None if self.rules is None else False, "violations": [], "sentences": []}
        answer = self.padded(best, end)[None].to(self.device)
        broken = positions(self.rules.violations(answer)[0])
        return {"judged": True, "violations": broken, "sentences": self.rules.explain(answer)[0] if broken else []}

    def author(self, status: Status | None, tokens: IntTensor, searches: bool, candidates: int = 1) -> str:
        """What wrote an answer (T): the last of the "passes", an "earlier attempt", another "candidate", the
        "completer" (a search), a "proof" that there is none, or the "noise" from which nothing was made.

        Args:
            searches: whether the sampler may complete an answer by a search.
        """
        if status is Status.UNSATISFIABLE:
            return "proof"
        behind = after_end(self.best[None], self.task.ends)[0][0]
        if self.passes and bool(((self.best == tokens) | behind).all()):
            return "passes"
        if status is Status.SOLVED and searches:
            return "earlier attempt" if tuple(tokens.tolist()) in self.right else "completer"
        if candidates > 1:
            return "candidate"
        return "earlier attempt" if self.passes else "noise"

    def verdict(self, outcome: Outcome) -> dict[str, Any]:
        """An outcome as plain values.

        Returns:
            "status", "answer" (text; None after a proof), the positions of "violations" (after a proof those given ones
            that clash), "sentences", "passes" (all, also those of other candidates), "tokens_per_pass", "search_nodes".
        """
        proved = outcome.status is Status.UNSATISFIABLE
        said: dict[str, Any] = {"violations": [], "sentences": []}
        if proved and self.rules is not None:
            clashes = self.rules.violations(self.blank[None].to(self.device))[0].cpu() & self.pinned
            said["violations"] = positions(clashes)
        elif not outcome.solved:
            said = self.judged(outcome.tokens, len(outcome.tokens))
        return {
            "status": str(outcome.status),
            "answer": None if proved else outcome.answer,
            "violations": said["violations"],
            "sentences": said["sentences"],
            "passes": outcome.passes,
            "tokens_per_pass": outcome.tokens_per_pass,
            "search_nodes": outcome.search_nodes,
        }

    def ending(self, tokens: IntTensor, by: str) -> dict[str, Any]:
        """What the page needs of an answer (T) beside its verdict: "best" (tokens), "by" (see `author`), and "changed":
        the positions that differ from the last pass that was seen, or from what is given."""
        return {"best": tokens.tolist(), "by": by, "changed": positions(self.best != tokens)}


def tokens_of(passed: dict[str, Any]) -> set[int]:
    """The tokens of a pass or of an answer."""
    sets = [alive for alive in passed.get("sets") or [] if isinstance(alive, list)]
    return {*passed["best"], *(token for alive in sets for token in alive)}


def labels(task: Task, tokens: Iterable[int]) -> dict[int, str]:
    """Tokens as people read them."""
    return {token: task.token_text(token) for token in sorted(tokens)}


def candidates_of(sampler: Sampler) -> int:
    """Rows of its records for each prompt."""
    return sampler.candidates if isinstance(sampler, Candidates) else 1


def kind_of(sampler: Sampler) -> str:
    """How a sampler makes an answer: "canvas", "left to right", or "search" without a pass."""
    if not sampler.needs_model:
        return "search"
    return "left to right" if isinstance(sampler, Autoregressive) else "canvas"


def positions(mask: BoolTensor, start: int = 0) -> list[int]:
    """Where a mask (C) is True, counted from the start of the answer."""
    return (mask.nonzero().flatten() + start).tolist()


def living(alive: BoolTensor, low: int) -> list[int] | int:
    """The tokens of a set (K) bool over tokens low .. low + K - 1, or how many they are."""
    tokens = positions(alive, low)
    return tokens if len(tokens) <= MOST_LIVING else len(tokens)


def record_run(
    model: Denoiser | None,
    task: Task,
    name: str,
    sampler: Sampler,
    problem: Problem,
    seed: int,
    max_passes: int | None = None,
    device: str = "cpu",
) -> tuple[dict[str, Any], Outcome]:
    """Solve one problem alone with a sampler, and keep its passes.

    Args:
        name: of the sampler on the page.
        seed: of the row.
        max_passes: instead of the sampler's.

    Returns:
        "sampler", "kind" (`kind_of`), "picture" (`Task.picture`), "passes" (`Recorder.see`, at most MOST_PASSES) and
        "answer" (`Recorder.verdict` and `ending`); and the outcome.
    """
    batch, rules = task.encode([problem]).to(device), task.constraint([problem]).to(device)
    records: list[StepRecord] = []

    def keep(record: StepRecord) -> None:
        # Of many passes the last ones are kept too: they tell which candidate won.
        records.append(record)
        if len(records) > 2 * MOST_PASSES:
            del records[MOST_PASSES]

    seeds = torch.tensor([seed])
    [outcome] = solve_batch(model, task, sampler, [problem], batch, rules, seeds, max_passes, keep)
    row = winner(records, outcome.tokens, task.ends)
    recorder = Recorder(task, batch, rules, followed=row or 0)
    passes = [each for record in records[:MOST_PASSES] if (each := recorder.see(record)) is not None]
    by = recorder.author(outcome.status, outcome.tokens, "complete" in sampler.rule_uses)
    by = "passes" if row is not None and by != "proof" else by
    answer = recorder.verdict(outcome) | recorder.ending(outcome.tokens, by)
    picture = task.picture(problem, outcome.tokens)
    run = {"sampler": name, "kind": kind_of(sampler), "picture": picture, "passes": passes, "answer": answer}
    return run, outcome


def winner(records: Sequence[StepRecord], tokens: IntTensor, ends: tuple[int, ...]) -> int | None:
    """The row whose last canvas is part of the answer (T), read up to its end; None where there is none."""
    last: dict[int, StepRecord] = {row: record for record in records for row in record.rows.tolist()}
    for row, record in last.items():
        best = record.best[record.rows == row].cpu()
        same = best[0] == tokens[record.start : record.start + best.shape[1]]
        if bool((same | after_end(best, ends)[0]).all()):
            return row
    return None
