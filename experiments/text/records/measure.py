"""Records, diffusion beside its autoregressive twin: valid, fields right, passes, seconds; with and without rules.

    python -m experiments.text.records.measure run=RUN twin=RUN out=FOLDER

Other keys: n=200 (notes of each tier), few=40 (of each tier for untrained models and for batches of one),
batches=1,8,32. Each finished cell is saved, so the same command continues an interrupted run. Validity is judged twice,
by the rule and by the package `jsonschema`; where they differ, the table says so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import torch

from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.evaluation import Outcome, solve
from constrained_dg.files import write_whole
from constrained_dg.intervals import mean, share
from constrained_dg.model import Backbone
from constrained_dg.report import new_header
from constrained_dg.runs import Run, load
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.text.records import TIERS, Note, right_fields
from tasks.text.records_notes import NEW

KEYS: dict[str, Any] = {"run": None, "twin": None, "out": None, "n": 200, "few": 40, "batches": "1,8,32"}
#: Model -> its samplers, with rules and without.
SAMPLERS = {"diffusion": ("completed", "plain"), "twin": ("autoregressive_rules", "autoregressive")}
#: Most passes without rules, as many as `completed` takes.
PASSES = 12
#: Seed of the notes: training and its final table use others.
SEED = 1000


def main(arguments: Sequence[str]) -> None:
    """Solve missing cells, then write records.json. Raises InputError before any work."""
    given = parse(arguments, KEYS)
    torch.set_num_threads(1)
    runs, out = {"diffusion": load(given["run"]), "twin": load(given["twin"])}, Path(given["out"])
    rows = []
    for model, trained, sampler, batch in cells([int(size) for size in given["batches"].split(",")]):
        n = given["few"] if not trained or batch == 1 else given["n"]
        name = f"{model}, {sampler}{'' if trained else '@untrained'}, batch {batch}"
        cell = out / "cells" / f"{name.replace(', ', '_').replace(' ', '_')}_{n}.json"
        if not cell.exists():
            cell.parent.mkdir(parents=True, exist_ok=True)
            write_whole(cell, json.dumps(measured(runs[model], trained, sampler, batch, n)))
        for tier, values in json.loads(cell.read_text()).items():
            rows.append({"sampler": name, "tier": tier, **values})
        print(name, file=sys.stderr, flush=True)
    header = new_header(ROOT, SEED, "cpu", **{key: str(value) for key, value in given.items() if key != "out"})
    write_whole(out / "records.json", json.dumps({"header": header, "rows": rows}, indent=0) + "\n")
    print(markdown(rows))


def cells(batches: Sequence[int]) -> Iterator[tuple[str, bool, str, int]]:
    """(model, trained, sampler, batch); untrained models in the largest batch alone."""
    for batch in sorted(batches, reverse=True):
        for model, samplers in SAMPLERS.items():
            for trained in (True, False) if batch == max(batches) else (True,):
                for sampler in samplers:
                    yield model, trained, sampler, batch


def measured(run: Run, trained: bool, sampler: str, batch: int, n: int) -> dict[str, dict[str, Any]]:
    """The values of each tier."""
    model = run.model if trained else Backbone(run.model.config).init_weights(torch.Generator().manual_seed(0)).eval()
    notes = run.task.held_out(n, SEED)
    run.task.constraint(notes)  # rules are built once for each schema, and are not part of the time
    changes = [f"max_passes={PASSES}"] if sampler == "plain" else []
    outcomes = solve(model, run.task, load_sampler(sampler, changes), notes, batch_size=batch, seed=SEED)
    return {tier: values_of([each for each in outcomes if each.problem.tier == tier]) for tier in TIERS}


def values_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Shares with Wilson's interval, and means, of the answers of a tier."""
    notes = [outcome.problem for outcome in outcomes if isinstance(outcome.problem, Note) and outcome.problem.record]
    judged = [right_fields(note.record, outcome.answer) for note, outcome in zip(notes, outcomes, strict=True)]
    fields = [(key, right) for each in judged for key, right in each.items()]
    new = [right for key, right in fields if key in NEW]
    valid = [outcome.solved for outcome in outcomes]
    second = [fits(outcome.answer, note.schema) for note, outcome in zip(notes, outcomes, strict=True)]
    passes = sum(outcome.passes for outcome in outcomes)
    return {
        "n": len(outcomes),
        "metrics": {
            "valid": share(sum(valid), len(valid)),
            "fields_right": share(sum(right for _, right in fields), len(fields)),
            "records_right": share(sum(all(each.values()) for each in judged), len(judged)),
            "passes": mean([outcome.passes for outcome in outcomes]),
            **({"new_fields_right": share(sum(new), len(new))} if new else {}),
        },
        "judges_differ": sum(a != b for a, b in zip(valid, second, strict=True)),
        "most_passes": max(outcome.passes for outcome in outcomes),
        "tokens_per_pass": sum(o.tokens_per_pass * o.passes for o in outcomes) / passes,
        "seconds": mean([outcome.seconds for outcome in outcomes]),
        "answers": [outcome.answer for outcome in outcomes[:5]],
    }


def fits(answer: str, schema: str) -> bool:
    """Whether an answer is JSON that the package `jsonschema` accepts."""
    try:
        jsonschema.validate(json.loads(answer), json.loads(schema))
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each cell and tier: shares in % with 95 % intervals."""
    lines = ["| model, sampler, batch | tier | n | valid | fields right | passes | tokens a pass | seconds |"]
    lines.append("|---" * 8 + "|")
    for row in rows:
        metrics = row["metrics"]
        shown = [_percent(metrics["valid"]), _percent(metrics["fields_right"]), f"{metrics['passes']['value']:.1f}"]
        shown += [f"{row['tokens_per_pass']:.1f}", f"{row['seconds']['value']:.3f}"]
        lines.append(f"| {row['sampler']} | {row['tier']} | {row['n']} | {' | '.join(shown)} |")
    differ = sum(row["judges_differ"] for row in rows)
    return "\n".join([*lines, "", f"answers on which the two judges of validity differ: {differ}"])


def _percent(metric: dict[str, Any]) -> str:
    low, high = metric["ci95"]
    return f"{100 * metric['value']:.1f} ({100 * low:.1f}-{100 * high:.1f})"


if __name__ == "__main__":
    command(main)
