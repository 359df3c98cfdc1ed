"""Samplers on random rule sets, some of which cannot be met; answers are judged by `re` and Biopython alone.

python -m experiments.amino_acid.rule_sets.run run=RUN n=1000 samplers=exact,search out=DIR \\
    prosite=DATA/protein/biopython_tests

A satisfiable set is made from a held-out natural sequence that meets it; for half of the sets with motifs, a match of a
PROSITE record of the folder is first written into the sequence. One set in ten gets a requirement that contradicts the
others by arithmetic.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch

from constrained_dg.cli import ROOT, load_sampler
from constrained_dg.errors import check
from constrained_dg.evaluation import solve
from constrained_dg.intervals import wilson
from constrained_dg.model import Backbone
from constrained_dg.report import new_header, progress
from constrained_dg.runs import load
from constrained_dg.sampling.base import Status
from experiments.amino_acid.rule_sets.contradictions import unsatisfiable
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.amino_acid import rule_sets
from tasks.amino_acid.judge import broken
from tasks.amino_acid.prosite import Pattern, read_prosite
from tasks.amino_acid.residues import RESIDUES
from tasks.amino_acid.task import SequenceProblem

KEYS = {"run": None, "out": None, "prosite": "", "n": 1000, "samplers": "exact", "seed": 0}


def matching(pattern: Pattern, draws: np.random.Generator) -> str:
    """A random match of a pattern."""
    letters = ""
    for residues, least, most in pattern.elements:
        choice = sorted(residues)
        letters += "".join(
            choice[int(at)] for at in draws.integers(len(choice), size=int(draws.integers(least, most + 1)))
        )
    return letters


def problems_of(task, patterns: list[Pattern], n: int, seed: int) -> tuple[list[SequenceProblem], list[bool]]:
    """n problems, and whether each can be met."""
    pool, problems, possible = task.pool(True), [], []
    for number in range(n):
        draws = np.random.default_rng((seed, number))
        sequence, kind = pool[int(draws.integers(len(pool)))]
        rules = rule_sets.RULES[number % len(rule_sets.RULES)]
        written = []
        if patterns and rules in ("motif", "everything") and draws.random() < 0.5:
            written = [patterns[int(draws.integers(len(patterns)))]]
            match = matching(written[0], draws)
            at = int(draws.integers(max(1, len(sequence) - len(match) + 1)))
            sequence = (sequence[:at] + match + sequence[at + len(match) :])[: max(len(sequence), len(match))]
        requirements = rule_sets.planted(sequence, rules, draws, written, kind)
        faults = broken(requirements, sequence)
        check(not faults and set(sequence) <= set(RESIDUES), f"set {number} is not met by its sequence: {faults}")
        possible.append(number % 10 != 9)
        if not possible[-1]:
            requirements, _ = unsatisfiable(requirements, draws)
        problems.append(SequenceProblem.of(rules if possible[-1] else "unsatisfiable", requirements))
    return problems, possible


def main(arguments: list[str]) -> None:
    options = parse(arguments, KEYS)
    torch.set_num_threads(1)
    run, out = load(options["run"]), Path(options["out"])
    check(not out.exists(), f"{out} exists", "reports are never overwritten")
    folder = options["prosite"]
    patterns = [] if not folder else [p for path in sorted(Path(folder).glob("ps*.txt")) for p in read_prosite(path)]
    n, seed = options["n"], options["seed"]
    problems, possible = problems_of(run.task, patterns, n, seed)
    rows = []
    for name in options["samplers"].split(","):
        sampler = load_sampler(name.removesuffix("@untrained"))
        model = run.model if sampler.needs_model else None
        if name.endswith("@untrained"):
            model = Backbone(run.model.config).init_weights(torch.Generator().manual_seed(seed)).eval()
        begun = time.perf_counter()
        with progress(name, len(problems)) as advance:
            outcomes = solve(model, run.task, sampler, problems, batch_size=16, seed=seed, progress=advance)
        seconds = time.perf_counter() - begun
        met = [o.solved and not broken(o.problem.requirements, o.answer) for o in outcomes]
        for tier in [*rule_sets.RULES, "all satisfiable", "unsatisfiable"]:
            chosen = [
                at for at, o in enumerate(outcomes)
                if o.problem.tier == tier or (tier == "all satisfiable" and possible[at])
            ]  # fmt: skip
            if not chosen:
                continue
            good = sum(met[at] if possible[at] else outcomes[at].status is Status.UNSATISFIABLE for at in chosen)
            lies = sum(
                (outcomes[at].solved and not met[at]) or (possible[at] and outcomes[at].status is Status.UNSATISFIABLE)
                for at in chosen
            )
            each = [outcomes[at].seconds for at in chosen]
            row = {"sampler": name, "tier": tier, "n": len(chosen), "right": good / len(chosen)}
            row |= {"ci95": list(wilson(good, len(chosen))), "false_claims": lies, "seconds": float(np.mean(each))}
            rows.append(row)
            low, high = row["ci95"]
            share = f"{100 * row['right']:.1f} ({100 * low:.1f}-{100 * high:.1f})"
            print(f"{name:<18} {tier:<16} {len(chosen):>5} {share:>20} false {lies} {row['seconds']:.2f} s", flush=True)
        print(f"{name}: {seconds:.0f} s in all")
        for at, outcome in enumerate(outcomes):
            right = met[at] if possible[at] else outcome.status is Status.UNSATISFIABLE
            if not right:
                print(f"  {outcome.status} {outcome.problem.text} -> {outcome.answer}")
    header = new_header(ROOT, seed, "cpu", n=n, prosite=[pattern.text for pattern in patterns])
    out.mkdir(parents=True)
    (out / "table.json").write_text(json.dumps({"header": header, "rows": rows}, indent=1))


if __name__ == "__main__":
    command(main)
