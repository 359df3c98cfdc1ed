"""Two models at equal arithmetic: puzzles solved within so many operations, from two files of `samplers/passes`.

    python -m experiments.sudoku.sets.equal run=RUN passes=FILE.json other=RUN other_passes=FILE.json out=FILE.json

Each tier's puzzles are the first ones that both files have. A pass counts the multiplications and additions of its
matrix products, one operation each; a pass after which a puzzle was solved counts in full.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from constrained_dg.cli import ROOT
from constrained_dg.files import write_whole
from constrained_dg.intervals import share
from constrained_dg.model import ModelConfig
from constrained_dg.report import new_header
from constrained_dg.runs import load
from experiments.arguments import parse
from experiments.arguments import run as command

KEYS: dict[str, Any] = {"run": None, "passes": None, "other": None, "other_passes": None, "out": None}
#: Operations for a puzzle, in units of 1e9.
BUDGETS = (4, 16, 64, 256, 1024)


def operations(config: ModelConfig, canvas: int, prompt: int) -> int:
    """Operations of one pass over a canvas that also sees the keys of a prompt. Reading the prompt is not counted."""
    size, heads = config.hidden_size, config.num_attention_heads
    applications = 0
    for index in range(config.num_hidden_layers):
        full = config.is_full(index)
        head = config.global_head_dim if full else config.head_dim
        groups = config.num_global_key_value_heads if full else config.num_key_value_heads
        # Keys and values of full layers are one projection.
        weights = size * head * (2 * heads + groups * (1 if full else 2))
        weights += size * (3 * config.intermediate_size + config.num_experts)
        weights += 3 * config.top_k_experts * size * config.moe_intermediate_size
        seen = canvas + (prompt if full else min(prompt, config.sliding_window - 1))
        applications += 2 * weights + 4 * heads * head * seen
    # Self-conditioning and the logits, once a pass.
    once = 2 * (2 * config.vocab_size * size + 3 * size * config.intermediate_size)
    return canvas * (config.loops * applications + once)


def main(arguments: Sequence[str]) -> None:
    """Print the table, and write it to `out`. Raises InputError for a run that does not load."""
    given = parse(arguments, KEYS)
    sides = {}
    for name, file in (("run", "passes"), ("other", "other_passes")):
        run = load(given[name])
        cells = run.task.max_canvas if len(run.task.sizes) == 1 else 81
        cost = operations(run.model.config, cells, cells * run.task.prompt)
        table = json.loads(Path(given[file]).read_text())["rows"]
        sides[name] = cost, {row["tier"]: row for row in table if not row["sampler"].endswith("@untrained")}
    rows = []
    for tier in sides["run"][1]:
        n = min(len(found[tier]["solved_after"]) for _, found in sides.values())
        for name, (cost, found) in sides.items():
            after = [None if each is None else each * cost / 1e9 for each in found[tier]["solved_after"][:n]]
            most = max(int(p) for p in found[tier]["solved_within"]) * cost / 1e9
            within = {
                str(b): share(sum(each is not None and each <= b for each in after), n) for b in BUDGETS if b <= most
            }
            rows.append({"tier": tier, "model": given[name], "sampler": found[tier]["sampler"], "n": n})
            rows[-1] |= {"operations_of_a_pass": cost, "solved_within": within}
    header = new_header(ROOT, 0, "cpu", **{key: str(value) for key, value in given.items() if key != "out"})
    write_whole(Path(given["out"]), json.dumps({"header": header, "rows": rows}, indent=0) + "\n")
    print(f"| tier | n | sampler | 1e9 operations a pass | {' | '.join(map(str, BUDGETS))} |")
    print("|---" * (len(BUDGETS) + 4) + "|")
    for row in rows:
        cells = [row["solved_within"].get(str(b)) for b in BUDGETS]
        shown = [c and f"{100 * c['value']:.1f} ({100 * c['ci95'][0]:.1f}-{100 * c['ci95'][1]:.1f})" for c in cells]
        cost = f"{row['operations_of_a_pass'] / 1e9:.2f}"
        print(f"| {row['tier']} | {row['n']} | {row['sampler']} | {cost} | {' | '.join(c or '' for c in shown)} |")


if __name__ == "__main__":
    command(main)
