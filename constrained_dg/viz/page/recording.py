"""Passes as plain values for the page: what each saw and decided, what breaks a rule, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.evaluation import Outcome, solve_batch
from constrained_dg.sampling import Autoregressive
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
        batch, rules: of one problem, on one device.
        row: 0-based; of several candidates, the candidate.
    """

    def __init__(self, task: Task, batch: Batch, rules: Constraint, row: int = 0) -> None:
        self.task, self.rules, self.row, self.device = task, rules, row, batch.answer.device
        self.low = batch.noise[0]
        self.pinned = batch.pinned[0].cpu()
        self.blank = torch.where(self.pinned, batch.answer[0].cpu(), task.blank_id)
        self.best = self.blank
        self.passes = self.attempt = 0

    def see(self, record: StepRecord) -> dict[str, Any] | None:
        """The next pass; None where the row was not live in it.

        Returns:
            "pass" and "attempt", from 1; "canvas", the positions [first, end) that it denoised; "best", the likeliest
            token of each position so far, the blank where nothing was denoised yet; the positions "accepted",
            "renoised" and "conflicts"; what `judged` says; "entropy_nats" of each position, 0 where it is
            given or outside the canvas, and the mean over its other positions; "sets", the living tokens of each
            position or how many there are, None outside the canvas, and None for the whole without sets.
        """
        at = (record.rows == self.row).nonzero().flatten().tolist()
        if not at:
            return None
        start, end = record.start, record.start + record.best.shape[1]
        if record.pass_index == 0:
            self.attempt += start == 0
            # What an earlier attempt wrote behind this canvas is gone.
            self.best = torch.cat([self.best[:start], self.blank[start:]])
        self.passes += 1
        self.best = torch.cat([self.best[:start], record.best[at[0]].cpu(), self.best[end:]])
        free = ~self.pinned[start:end]
        entropies = torch.zeros(len(self.best))
        entropies[start:end] = record.entropy[at[0]].cpu().float() * free
        return {
            "pass": self.passes,
            "attempt": self.attempt,
            "canvas": [start, end],
            "best": self.best.tolist(),
            "accepted": positions(record.accepted[at[0]], start),
            "renoised": positions(record.renoised[at[0]], start),
            "conflicts": positions(record.conflict[at[0]], start),
            **self.judged(self.best, end),
            "mean_entropy_nats": float(entropies[start:end][free].mean()) if free.any() else 0.0,
            "entropy_nats": [round(value, 3) for value in entropies.tolist()],
            "sets": None if record.sets is None else self.living(record.sets[at[0]].cpu(), start),
        }

    def living(self, sets: BoolTensor, start: int) -> list[list[int] | int | None]:
        """The sets (C, K) of a canvas, for each position of the answer."""
        canvas: list[list[int] | int | None] = [living(each, self.low) for each in sets]
        behind = len(self.best) - start - len(canvas)
        return [*([None] * start), *canvas, *([None] * behind)]

    def write(self, at: int, tokens: IntTensor) -> dict[str, Any]:
        """A pass that wrote the token at this position, from left to right: no canvas, no entropy, one attempt."""
        self.passes, self.attempt = self.passes + 1, 1
        self.best = torch.cat([tokens[: at + 1], self.blank[at + 1 :]])
        return {
            "pass": self.passes,
            "attempt": 1,
            "canvas": [at, at + 1],
            "best": self.best.tolist(),
            "accepted": [] if self.pinned[at] else [at],
            "renoised": [],
            "conflicts": [],
            **self.judged(self.best, at + 1),
            "mean_entropy_nats": None,
            "entropy_nats": None,
            "sets": None,
        }

    def judged(self, best: IntTensor, end: int) -> dict[str, Any]:
        """What the rules say of an answer (T): "judged", "violations" (positions) and "sentences" (`explain`).

        An answer is not judged before its last canvas, unless it ends in an earlier one. It is judged with its padding.

        Args:
            end: of the canvas.
        """
        behind, ended = after_end(best[None, :end], self.task.ends)
        if end < len(best) and not ended:
            return {"judged": False, "violations": [], "sentences": []}
        if ended:
            padding = torch.ones_like(self.pinned)
            padding[:end] = behind[0]
            best = best.masked_fill(padding & ~self.pinned, self.task.padding_id)
        answer = best[None].to(self.device)
        broken = positions(self.rules.violations(answer)[0])
        return {"judged": True, "violations": broken, "sentences": self.rules.explain(answer)[0] if broken else []}


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
        "sampler", "kind" ("canvas", "left to right", or "search" without a pass), "picture" (`Task.picture`), "passes"
        (`Recorder`, at most MOST_PASSES) and "answer" (`answer_of`); and the outcome.
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
    if isinstance(sampler, Autoregressive):
        recorder, kind, by = Recorder(task, batch, rules), "left to right", "passes"
        passes = [recorder.write(at, outcome.tokens) for at in range(min(outcome.passes, MOST_PASSES))]
    else:
        row = winner(records, outcome.tokens, task.ends)
        recorder, kind = Recorder(task, batch, rules, row or 0), "canvas" if records else "search"
        passes = [each for record in records[:MOST_PASSES] if (each := recorder.see(record)) is not None]
        by = "passes" if row is not None else author(outcome, passes, "complete" in sampler.rule_uses)
    picture = task.picture(problem, outcome.tokens)
    answer = answer_of(outcome, recorder, "proof" if outcome.status is Status.UNSATISFIABLE else by)
    return {"sampler": name, "kind": kind, "picture": picture, "passes": passes, "answer": answer}, outcome


def winner(records: Sequence[StepRecord], tokens: IntTensor, ends: tuple[int, ...]) -> int | None:
    """The row whose last canvas is part of the answer (T), read up to its end; None where there is none."""
    last: dict[int, StepRecord] = {row: record for record in records for row in record.rows.tolist()}
    for row, record in last.items():
        best = record.best[record.rows == row].cpu()
        same = best[0] == tokens[record.start : record.start + best.shape[1]]
        if bool((same | after_end(best, ends)[0]).all()):
            return row
    return None


def author(outcome: Outcome, passes: Sequence[dict[str, Any]], searches: bool) -> str:
    """Who wrote an answer that is not that of the last pass: see `answer_of`.

    Args:
        searches: whether the sampler may complete an answer by a search.
    """
    if outcome.solved and searches:
        earlier = any(each["judged"] and each["best"] == outcome.tokens.tolist() for each in passes)
        return "earlier attempt" if earlier else "completer"
    return "earlier attempt" if outcome.passes else "noise"


def answer_of(outcome: Outcome, recorder: Recorder, by: str) -> dict[str, Any]:
    """The verdict.

    Args:
        recorder: that saw the passes.
        by: what wrote the answer: the last of the "passes", an "earlier attempt", the "completer" (a search), a "proof"
            that there is none, or the "noise" from which nothing was made.

    Returns:
        "status", "answer" (text; None after a proof), "best" (tokens), the positions of "violations", "sentences",
        "passes" (all, also those of other candidates), "tokens_per_pass", "search_nodes", "by", and "changed": the
        positions that differ from the last pass that is recorded, or from what is given.
    """
    proved = by == "proof"
    said = {"violations": [], "sentences": []} if proved else recorder.judged(outcome.tokens, len(outcome.tokens))
    return {
        "status": str(outcome.status),
        "answer": None if proved else outcome.answer,
        "best": outcome.tokens.tolist(),
        "violations": said["violations"],
        "sentences": said["sentences"],
        "passes": outcome.passes,
        "tokens_per_pass": outcome.tokens_per_pass,
        "search_nodes": outcome.search_nodes,
        "by": by,
        "changed": positions(recorder.best != outcome.tokens),
    }
