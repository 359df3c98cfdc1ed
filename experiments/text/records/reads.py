"""Whether reads of records are calibrated: of values with a confidence near p, is a share of p right?

    python -m experiments.text.records.reads run=text/records out=FOLDER notes=150 passes=8
    python -m experiments.text.records.reads run=text/records out=FOLDER notes=150 passes=8 together=true

Of each held-out note each field is read, the rest of the record given. The labels of a field are what the note could
fill in under its schema (its words and times, its numbers, the words of an `enum`, false and true), as far as they have
as many tokens as the right one, so that all given text stands still. With `together` all fields are read at once, from
labels of any length; the keys are given. FOLDER gets reads.json and reads.png, the reliability curve.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import constrained_dg
from constrained_dg.errors import InputError, check
from experiments.arguments import parse, run
from experiments.text.reads import draw, summary, table

_NUMBERS = r"(?<![0-9:])[0-9]+(?:\.[0-9]+)?(?![0-9:])"
_WORDS = r"[0-9]{2}:[0-9]{2}|[A-Z][a-z]+(?: [A-Z][a-z]+)*"


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments, {"run": None, "out": None, "notes": 150, "passes": 1, "together": False, "seed": 1000})
    out = Path(given["out"])
    check(not (out / "reads.json").exists(), f"{out}/reads.json exists", "give another folder")
    loaded = constrained_dg.load(given["run"])
    kind = loaded.task.tokenizer
    reads: dict[str, list[tuple[float, bool]]] = {}
    too_long = 0
    for number, problem in enumerate(loaded.task.held_out(given["notes"], given["seed"])):
        right = {key: json.dumps(value) for key, value in problem.record.fields.items()}
        labels = {key: labels_of(problem.record, key) for key in right}
        if not given["together"]:
            alike = {key: len(kind.encode(value)) for key, value in right.items()}
            labels = {key: [each for each in labels[key] if len(kind.encode(each)) == alike[key]] for key in right}
        labels = {key: each for key, each in labels.items() if len(each) > 1}
        for asked in [list(labels)] if given["together"] else [[key] for key in labels]:
            slots: list[Any] = []
            for at, key in enumerate(right):
                slots.append(("{" if at == 0 else ", ") + json.dumps(key) + ": ")
                slots.append(labels[key] if key in asked else right[key])
            try:
                reading = constrained_dg.read(
                    loaded.model, problem.text, [*slots, "}"], tokenizer=kind, passes=given["passes"], seeds=number
                )
            except InputError:  # beside slots the given text has more tokens, and here too many
                too_long += len(asked)
                continue
            for key, confidence, label in zip(asked, reading.confidence[0].tolist(), reading.answers[0], strict=True):
                reads.setdefault(problem.tier, []).append((confidence, label == right[key]))
    out.mkdir(parents=True, exist_ok=True)
    reports = {tier: summary(each) for tier, each in reads.items()}
    reports["all"] = summary([pair for each in reads.values() for pair in each])
    (out / "reads.json").write_text(json.dumps({"arguments": given, "too_long": too_long, **reports}, indent=1) + "\n")
    draw(out / "reads.png", reports["all"])
    print(f"{too_long} more are too long for a canvas\n")
    for tier, report in reports.items():
        print(f"{tier}\n\n{table(report)}\n")


def labels_of(record: Any, key: str) -> list[str]:
    """What the note of a record could fill in for a field, as JSON, the right value among it."""
    schema, note = record.schema["properties"][key], record.note
    if "enum" in schema:
        found = schema["enum"]
    elif schema["type"] == "boolean":
        found = [False, True]
    elif schema["type"] == "string":
        found = re.findall(_WORDS, note)
    else:
        numbers = [json.loads(each) for each in re.findall(_NUMBERS, note)]
        found = [each for each in numbers if schema["type"] == "number" or isinstance(each, int)]
    return list(dict.fromkeys(json.dumps(each) for each in [*found, record.fields[key]]))


if __name__ == "__main__":
    run(main)
