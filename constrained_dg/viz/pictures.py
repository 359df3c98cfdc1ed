"""Pictures of a report. Matplotlib is imported when the first one is drawn, and never opens a window."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from constrained_dg.errors import needs
from constrained_dg.evaluation import Outcome, tiers_of
from constrained_dg.files import write_whole
from constrained_dg.intervals import share
from constrained_dg.task import Task

#: More panels than this do not fit a page; tiers beyond are drawn together.
_PANELS = 12
#: Groups of numbers of given positions, at most.
_GROUPS = 12


def figure(panels: int, width: float = 3.2, height: float | None = None) -> tuple[Any, list[Any]]:
    """A figure with this many axes, up to four in a row, each `width` by `height` inches (square
    without a height); and the axes."""
    with needs("matplotlib", "a picture"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    across = min(panels, 4)
    down = math.ceil(panels / across)
    drawing = Figure(figsize=(width * across, (height or width) * down), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(down, across, squeeze=False).flatten().tolist()
    for unused in axes[panels:]:
        unused.set_axis_off()
    return drawing, axes[:panels]


def save(drawing: Any, path: Path) -> None:
    """Write a figure as PNG, completely or not at all."""
    data = io.BytesIO()
    drawing.savefig(data, format="png", dpi=110)
    write_whole(path, data.getvalue())


def solve_rate_by_passes(path: Path, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    """Share of each tier solved within p passes, one panel a tier, one line a sampler.

    A row counts from the pass it stopped at, which for a sampler that never asks the judge comes after the pass that
    found the answer. What search alone solves is drawn at 0 passes.
    """
    tiers = tiers_of([o for solved in outcomes.values() for o in solved])
    panels = tiers if len(tiers) <= _PANELS else ["all"]
    drawing, axes = figure(len(panels))
    for ax, tier in zip(axes, panels, strict=True):
        # Every line runs to the end of the panel, so that one that needs few passes is still seen.
        last = max(o.passes for solved in outcomes.values() for o in solved if tier in ("all", o.problem.tier))
        for sampler, solved in outcomes.items():
            rows = [o for o in solved if tier in ("all", o.problem.tier)]
            if not rows:
                continue
            used = sorted(o.passes for o in rows if o.solved)
            shares = [(k + 1) / len(rows) for k in range(len(used))]
            ax.step([0, *used, last], [0, *shares, shares[-1] if shares else 0], where="post", label=sampler)
        ax.set(title=f"{tier} (n={len(rows)})", xlabel="passes", ylabel="solved within", ylim=(-0.02, 1.02))
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    save(drawing, path)


def solve_rate_by_given(path: Path, outcomes: Mapping[str, Sequence[Outcome]]) -> bool:
    """Share solved against the number of given positions, with 95 % intervals; False where problems have no `given`."""
    counted = {name: [(o.problem.given, o.solved) for o in solved] for name, solved in outcomes.items()}
    known = {name: [(n, solved) for n, solved in rows if n is not None] for name, rows in counted.items()}
    counts = sorted({n for rows in known.values() for n, _ in rows})
    if not counts:
        return False
    size = math.ceil(len(counts) / _GROUPS)
    drawing, (ax,) = figure(1, width=6, height=4)
    for number, (sampler, pairs) in enumerate(known.items()):
        points = []
        for first in range(0, len(counts), size):
            group = [(n, solved) for n, solved in pairs if n in counts[first : first + size]]
            if group:
                rate = share(sum(solved for _, solved in group), len(group))
                low, high = rate["ci95"]
                # Samplers are drawn a little apart, so that their intervals do not hide each other.
                at = sum(n for n, _ in group) / len(group) + 0.15 * number
                points.append((at, rate["value"], rate["value"] - low, high - rate["value"]))
        if points:
            at_all, shares, below, above = zip(*points, strict=True)
            ax.errorbar(at_all, shares, yerr=[below, above], marker="o", capsize=3, label=sampler)
    ax.set(xlabel="given positions (groups drawn at their mean)", ylabel="solved", ylim=(-0.02, 1.02))
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    save(drawing, path)
    return True


def answers(path: Path, task: Task, outcomes: Mapping[str, Sequence[Outcome]], count: int = 8) -> None:
    """A few answers with their violations marked: for each sampler unsolved and solved ones by turns."""
    picked: list[tuple[str, Outcome]] = []
    for sampler, solved in outcomes.items():
        kinds = [[o for o in solved if not o.solved], [o for o in solved if o.solved]]
        each = max(1, count // len(outcomes))
        # From everywhere in the list, so that different tiers are seen.
        shown = [min(each, len(kind)) for kind in kinds]
        kinds = [[kind[k * len(kind) // n] for k in range(n)] for kind, n in zip(kinds, shown, strict=True)]
        turns = [kind[k] for k in range(each) for kind in kinds if k < len(kind)]
        picked += [(sampler, o) for o in turns[:each]]
    drawing, axes = figure(len(picked))
    for ax, (sampler, o) in zip(axes, picked, strict=True):
        blamed = task.constraint([o.problem]).violations(o.tokens[None])[0]
        task.plot(ax, o.problem, o.tokens, blamed)
        ax.set_title(f"{sampler}, {o.problem.tier}: {o.status}", fontsize="small")
    save(drawing, path)
