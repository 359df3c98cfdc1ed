"""JSON Schema as rules over a real vocabulary: what compiles, what is judged rightly, how long it takes.

    python -m experiments.text.schemas data=DATA out=FILE.jsonl            # a line for each schema, as it is done
    python -m experiments.text.schemas data=DATA out=FILE.jsonl every=8    # tokens, times and answers for each 8th
    python -m experiments.text.schemas data=DATA out=FILE.jsonl tokens=262144
    python -m experiments.text.schemas table=FILE.jsonl                    # the tables of README.md

DATA is a folder of fetched files with json/maskbench_dev.jsonl.gz and json/official_suite_dev.jsonl.gz. Times are
seconds of one core (CPU time of the process). The same command continues where it stopped.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg.constraints import Json, json_text
from constrained_dg.constraints.language.schema.nodes import Document, Refused
from constrained_dg.constraints.text_rule import TextRule
from constrained_dg.errors import InputError, check
from constrained_dg.files import read_text
from constrained_dg.intervals import wilson
from constrained_dg.texts import Texts
from experiments.arguments import parse, run
from experiments.text.vocabulary import END, PAD, TOKENS, tekken

#: T of the rules that are timed.
LENGTH = 256


def main(arguments: Sequence[str]) -> None:
    given = parse(
        arguments,
        {"data": "", "out": "", "table": "", "tokens": TOKENS, "set": "maskbench_dev", "answers": 2, "every": 1},
    )
    if given["table"]:
        print(tables(Path(given["table"])))
        return
    check(bool(given["data"] and given["out"]), "data or out missing", "give data=DATA out=FILE.jsonl, or table=FILE")
    path = Path(given["data"]) / "json" / f"{given['set']}.jsonl.gz"
    cases = [json.loads(line) for line in read_text(path, "give a folder with json/").splitlines()]
    out = Path(given["out"])
    known = (
        {(row["source"], row["name"]) for row in map(json.loads, out.read_text().splitlines())}
        if out.exists()
        else set()
    )
    texts = tekken(given["tokens"])
    with tempfile.TemporaryDirectory() as cache, out.open("a") as file:
        os.environ["CONSTRAINED_DG_CACHE"] = cache
        Json({"type": "integer"}, texts, LENGTH, ([END], PAD))  # the trie, and what is compiled once
        for number, case in enumerate(cases):
            if (case["source"], case["name"]) not in known:
                row = {"source": case["source"], "name": case["name"], "tokens": given["tokens"]}
                # The official suite leaves `format` off but for the groups that are about it.
                formats = given["set"].startswith("maskbench") or "/format/" in case["source"]
                row |= judged(case, formats, None if number % given["every"] else texts, given["answers"], number)
                file.write(json.dumps(row) + "\n")
                file.flush()


def judged(case: dict[str, Any], formats: bool, texts: Texts | None, answers: int, seed: int) -> dict[str, Any]:
    """One schema: its verdicts, and over the texts its times and answers."""
    schema = case["schema"]
    try:
        rule = Json(schema, formats=formats)
        taken, made = timed(lambda: rule.compiled)
    except InputError as error:
        return {
            "refused": error.keyword if isinstance(error, Refused) else type(error).__name__,
            "why": str(error)[:200],
        }
    row: dict[str, Any] = {"compile": taken, "bytes": made.dfa.states, "narrowed": sorted(made.narrowed)}
    row |= {
        "depth": made.bounds.depth,
        "verdicts": Counter(verdict(rule, schema, test, formats) for test in case["tests"]),
    }
    if texts is None:
        return row
    try:
        row["build"], bound = timed(lambda: Json(schema, texts, LENGTH, ([END], PAD), formats=formats))
        row["cached"], _ = timed(lambda: Json(schema, texts, LENGTH, ([END], PAD), formats=formats))
    except InputError as error:
        return row | {"unbound": str(error)[:200]}
    nothing = torch.zeros(1, LENGTH, dtype=torch.int64)
    bound.allowed(nothing, nothing.bool(), slice(0, 1))
    row["mask"], _ = timed(lambda: bound.allowed(nothing, nothing.bool(), slice(0, LENGTH)))
    row |= {"states": bound.machine.states, "classes": bound.num_classes}
    draws = torch.Generator().manual_seed(seed)
    row["answers"] = []
    for _ in range(answers):
        scores = 3 * torch.randn(1, LENGTH, bound.num_classes, generator=draws)
        row["best"], (classes, exists) = timed(lambda s=scores: bound.most_likely(s))
        row["answers"].append(bool(exists) and valid(rule, texts, bound, classes))
    return row | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


def verdict(rule: Json, schema: Any, test: dict[str, Any], formats: bool) -> str:
    """What happened to an instance: "right", "wrong", or what a convention lost."""
    document: Document = rule.compiled.place.document
    try:
        text = json_text(test["data"], schema, formats=formats)
    except InputError:
        return "no text, since checkers disagree on a string"
    accepted = rule.compiled.dfa.accepts(text.encode())
    if accepted == test["valid"]:
        return "right"
    if document.accepts(document.root, json.loads(text)) == accepted:
        same = document.accepts(document.root, test["data"]) == accepted
        return "as the judge, against the data" if same else "rewriting changes it (1.0 is written 1)"
    if accepted:
        return "wrongly accepted"
    lost = sorted(rule.compiled.narrowed) + ["depth"] * (nesting(test["data"]) > rule.compiled.bounds.depth)
    return f"lost: {', '.join(lost)}" if lost else "wrongly refused"


def nesting(value: Any) -> int:
    """Arrays and objects inside each other."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(nesting, inner), default=0)


def valid(rule: Json, texts: Texts, bound: TextRule, classes: torch.Tensor) -> bool:
    """Whether an answer is JSON that the judge accepts."""
    tokens = bound.tokens_of(classes)[0].tolist()
    document = rule.compiled.place.document
    return document.accepts(document.root, json.loads(texts.decode(tokens)))


# -- tables -----------------------------------------------------------------------------------------------------------


def tables(path: Path) -> str:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = ["| source | schemas | compile | instances | judged rightly |", "|---|---|---|---|---|"]
    groups = defaultdict(list)
    for row in rows:
        groups[row["source"]].append(row)
    for name, group in [*sorted(groups.items()), ("all", rows)]:
        there = [row for row in group if "refused" not in row]
        verdicts = sum((Counter(row["verdicts"]) for row in there), Counter())
        share = f"{len(there)} ({100 * len(there) / len(group):.0f} %)"
        lines.append(f"| {name} | {len(group)} | {share} | {verdicts.total()} | {verdicts['right']} |")
    there = [row for row in rows if "refused" not in row]
    verdicts = sum((Counter(row["verdicts"]) for row in there), Counter())
    over = sum("build" in row for row in there)
    lines += [
        "",
        f"Rules over tokens: {over} (compile, of all)",
        "Instances: " + ", ".join(f"{many} {what}" for what, many in verdicts.most_common()),
    ]
    refused = Counter(row["refused"] for row in rows if "refused" in row)
    lines += ["Refused: " + ", ".join(f"{name} {many}" for name, many in refused.most_common())]
    unbound = [row for row in there if "unbound" in row]
    lines += [f"More than {LENGTH} tokens needed, or another reason why no rule was made: {len(unbound)}"]
    answers = [each for row in there for each in row.get("answers", ())]
    low, high = wilson(sum(answers), len(answers))
    lines += [
        f"Answers of most_likely that the judge accepts: {sum(answers)} of {len(answers)} ({low:.4f} to {high:.4f})"
    ]
    lines += ["", "| seconds of one core | median | 95 % | most |", "|---|---|---|---|"]
    for key, what in (
        ("compile", "schema to bytes"),
        ("build", "the whole rule"),
        ("cached", "the rule from the cache"),
        ("mask", f"allowed tokens of {LENGTH} positions"),
        ("best", f"most likely answer of {LENGTH} positions"),
    ):
        values = [row[key] for row in there if key in row]
        if values:
            middle, most = np.percentile(values, [50, 95])
            lines.append(f"| {what} | {middle:.3f} | {most:.3f} | {max(values):.3f} |")
    memory = max((row["memory"] for row in there if "memory" in row), default=0.0)
    return "\n".join([*lines, "", f"Memory at most: {memory:.2f} GB"])


if __name__ == "__main__":
    run(main)
