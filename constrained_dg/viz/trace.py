"""A canvas settling, pass by pass: step records as frames, plain JSON, text and one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.evaluation import Outcome
from constrained_dg.sampling.base import StepRecord
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor
from constrained_dg.task import Batch, Problem, Task, without_colors
from constrained_dg.viz.pictures import figure, save

LEGEND = "bold: given   . re-noised   ! breaks a rule"


@dataclass(frozen=True, eq=False)
class Frame:
    """One pass of one row, or the answer where it is not that of the last pass.

    Attributes:
        number: of the pass, from 1, over all canvases; None for an answer from a search or an earlier attempt.
        best: (T) int64, the answer so far.
        shown: (T) int64, what is settled: the best tokens of given positions, finished canvases and accepted positions,
            elsewhere the blank. The last frame shows all of the best.
        accepted, renoised, violations: (T) bool; violations are those of the best answer.
        entropy: mean over the free positions of the canvas, nats.
        entropies: (T) of each position of the canvas, nats; 0 where it is given or another canvas.
    """

    number: int | None
    best: IntTensor
    shown: IntTensor
    accepted: BoolTensor
    renoised: BoolTensor
    violations: BoolTensor
    entropy: float
    entropies: FloatTensor

    @property
    def title(self) -> str:
        return "answer" if self.number is None else f"pass {self.number}"


def frames_of(
    records: Sequence[StepRecord],
    batch: Batch,
    constraint: Constraint,
    row: int,
    blank: int,
    final: IntTensor | None = None,
) -> list[Frame]:
    """The frames of a row (0-based) of a batch.

    Args:
        records: of the whole batch, in order; those in which the row was not live are skipped.
        constraint: of the batch, over the whole answer.
        blank: the token that is shown for noise.
        final: (T) int64, the answer; if it differs from that of the last pass, one more frame shows it.
    """
    rules = constraint if constraint.rows == 1 else constraint.select(torch.tensor([row]))
    follower = Follower(batch, row, rules, blank)
    frames = [frame for frame in map(follower.see, records) if frame is not None]
    if frames and final is not None and not torch.equal(final.cpu(), follower.answer):
        final, none = final.cpu(), torch.zeros_like(follower.pinned)
        frames.append(Frame(None, final, final, none, none, follower.blamed(final), 0.0, torch.zeros(len(none))))
    return frames


class Follower:
    """Makes frames of one row of a batch from step records, as they come.

    Args:
        row: 0-based.
        rules: of this row over the whole answer, or None: then nothing is blamed.
        blank: the token that is shown for noise.

    Attributes:
        answer: (T) int64, the answer so far, blank where nothing was denoised yet.
    """

    def __init__(self, batch: Batch, row: int, rules: Constraint | None, blank: int) -> None:
        self.row, self.rules, self.blank, self.device = row, rules, blank, batch.answer.device
        self.pinned = batch.pinned[row].cpu()
        self.answer = torch.where(self.pinned, batch.answer[row].cpu(), blank)
        self.passes = 0

    def blamed(self, answer: IntTensor) -> BoolTensor:
        """(T) bool, positions of an answer (T) that take part in a broken rule."""
        if self.rules is None:
            return torch.zeros_like(self.pinned)
        return self.rules.violations(answer[None].to(self.device))[0].cpu()

    def see(self, record: StepRecord) -> Frame | None:
        """The frame of the next pass; None where the row was not live in it."""
        at = (record.rows == self.row).nonzero().flatten().tolist()
        if not at:
            return None
        span = slice(record.start, record.start + record.best.shape[1])
        best, settled = self.answer.clone(), self.pinned.clone()
        best[span] = record.best[at[0]].cpu()
        settled[: record.start] = True
        masks = []
        for mask in (record.accepted, record.renoised):
            masks.append(torch.zeros_like(self.pinned))
            masks[-1][span] = mask[at[0]].cpu()
        free = ~self.pinned[span]
        entropies = torch.zeros(len(self.pinned))
        entropies[span] = record.entropy[at[0]].cpu().float() * free
        entropy = float(entropies[span][free].mean()) if free.any() else 0.0
        shown = torch.where(settled | masks[0] | bool(record.stopped[at[0]]), best, self.blank)
        self.answer, self.passes = best, self.passes + 1
        return Frame(self.passes, best, shown, masks[0], masks[1], self.blamed(best), entropy, entropies)


def to_json(problem: Problem, outcome: Outcome, frames: Sequence[Frame]) -> dict[str, Any]:
    """Plain values: the problem, its verdict, and for each pass (from 1) tokens and the positions of each kind."""
    return {
        "problem": problem.text,
        "tier": problem.tier,
        "answer": outcome.answer,
        "status": str(outcome.status),
        "seed": outcome.seed,
        "passes": [pass_json(frame) for frame in frames if frame.number is not None],
    }


def pass_json(frame: Frame) -> dict[str, Any]:
    """Plain values of a pass: its number from 1, its tokens, and the positions of each kind."""
    return {
        "pass": frame.number,
        "best": frame.best.tolist(),
        "accepted": frame.accepted.nonzero().flatten().tolist(),
        "renoised": frame.renoised.nonzero().flatten().tolist(),
        "violations": frame.violations.nonzero().flatten().tolist(),
        "mean_entropy_nats": frame.entropy,
    }


def draw_frame(task: Task, problem: Problem, frame: Frame, color: bool) -> str:
    """A frame for a terminal: a line of numbers, the canvas, and the legend; without color, plain characters."""
    head = f"{frame.title}: {int(frame.violations.sum())} positions break a rule"
    if frame.number is not None:
        free = int((frame.accepted | frame.renoised).sum())
        head = (
            f"{frame.title}: {int(frame.accepted.sum())} of {free} accepted, "
            f"{int(frame.violations.sum())} break a rule, mean entropy {frame.entropy:.2f} nats"
        )
    marks = frame.violations & (frame.shown == frame.best)
    text = "\n".join((head, task.draw(problem, frame.shown, marks), LEGEND))
    return text if color else without_colors(text)


def chosen(frames: Sequence[Frame], count: int) -> list[Frame]:
    """At most `count` frames, evenly spread, the first and the last among them."""
    if len(frames) <= count:
        return list(frames)
    return [frames[round(k * (len(frames) - 1) / (count - 1))] for k in range(count)]


def plot_certainty(path: Path, frames: Sequence[Frame]) -> None:
    """A picture of the distribution settling: the entropy of each position (across) in each pass (down)."""
    drawing, [axes] = figure(1, width=8, height=4)
    entropies = torch.stack([frame.entropies for frame in frames if frame.number is not None]).numpy()
    edges = (0.5, entropies.shape[1] + 0.5, entropies.shape[0] + 0.5, 0.5)
    image = axes.imshow(entropies, aspect="auto", cmap="viridis_r", vmin=0, extent=edges)
    axes.set(xlabel="position, from 1", ylabel="pass, from 1")
    drawing.colorbar(image, ax=axes, label="entropy, nats")
    save(drawing, path)


def plot_frames(path: Path, task: Task, problem: Problem, frames: Sequence[Frame], count: int = 7) -> None:
    """A picture of a canvas settling: the problem, then a few of its passes."""
    picked = chosen(frames, count)
    drawing, axes = figure(1 + len(picked), width=3.6)
    task.plot(axes[0], problem, None)
    axes[0].set_title("problem")
    for ax, frame in zip(axes[1:], picked, strict=True):
        task.plot(ax, problem, frame.shown, frame.violations & (frame.shown == frame.best))
        ax.set_title(frame.title)
    save(drawing, path)
