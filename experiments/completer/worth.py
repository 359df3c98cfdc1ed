"""What a model adds to the constraint solver.

    python -m experiments.completer.worth part=PART run=RUN [scorer=RUN] [data=FILE] n=40 out=FILE.json

part=one: puzzles with one answer (data: dev_mixed). Is the solver faster with the model's draft as a hint, and with its
log-probabilities as an objective?

part=sequences, colorings, cycles, planar or many (data: puzzles with many answers): which answer does a second model,
the scorer, find likelier: that of the solver alone, the sampler's first that keeps the rules, or the completer's
likeliest, by the last pass or by the first? The score of an answer is the mean log-probability of a token, in nats,
that noise replaced: at noise levels .25, .5 and .75, with the same noise for all answers of a problem.
"""

from __future__ import annotations

import csv
import gzip
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from constrained_dg.constraints import complete
from constrained_dg.errors import check
from constrained_dg.evaluation import solve_batch
from constrained_dg.runs import Run, load
from constrained_dg.sampling import Completer, Search
from constrained_dg.task import Batch, Problem
from experiments.arguments import parse
from experiments.arguments import run as command
from tasks.amino_acid import rule_sets
from tasks.amino_acid.residues import FIRST_RESIDUE, RESIDUES
from tasks.amino_acid.task import SequenceProblem

KEYS = {"part": None, "run": None, "scorer": "", "data": "", "n": 40, "seed": 0, "out": None}
LEVELS, REPEATS = (0.25, 0.5, 0.75), 4


@torch.no_grad()
def token_scores(model: Any, batch: Batch, answers: Sequence[torch.Tensor], seed: int) -> list[float]:
    """The score of each answer (T) to a batch of one problem."""
    draws = torch.Generator().manual_seed(seed)
    rows, (low, high) = len(LEVELS) * REPEATS, batch.noise
    share = torch.tensor(LEVELS).repeat_interleave(REPEATS)[:, None]
    noised = (torch.rand(rows, batch.answer.shape[1], generator=draws) < share) & ~batch.pinned
    noise = torch.randint(low, high, noised.shape, generator=draws)
    cache = model.prefill(batch.prompt.expand(rows, -1), None, batch.relations)
    scores = []
    for answer in answers:
        canvas = torch.where(noised, noise, answer)
        log_probs = model.denoise(canvas, cache, None, batch.relations).log_softmax(-1)
        each = log_probs.gather(-1, answer.expand(rows, -1)[..., None])[..., 0]
        counts = noised.sum(1)
        scores.append(float(((each * noised).sum(1)[counts > 0] / counts[counts > 0]).mean()))
    return scores


def sequences(run: Run, n: int, seed: int, data: str) -> list[tuple[Problem, torch.Tensor | None]]:
    """Rule sets of a stated length around held-out natural sequences, which are the references."""
    pool, made = [each for each in run.task.pool(True) if len(each[0]) >= 20], []
    for number in range(n):
        draws = np.random.default_rng((seed, number))
        sequence, kind = pool[int(draws.integers(len(pool)))]
        wanted = rule_sets.planted(sequence, rule_sets.RULES[number % len(rule_sets.RULES)], draws, (), kind)
        problem = SequenceProblem.of("sequences", replace(wanted, length=(len(sequence), len(sequence))))
        tokens = run.task.encode([problem]).answer[0].clone()
        tokens[: len(sequence)] = torch.tensor([FIRST_RESIDUE + RESIDUES.index(letter) for letter in sequence])
        made.append((problem, tokens))
    return made


def colorings(run: Run, n: int, seed: int, data: str) -> list[tuple[Problem, torch.Tensor | None]]:
    return [(problem, None) for problem in run.task.held_out(-(-n // 2), 100 + seed)[:n]]


def cycles(run: Run, n: int, seed: int, data: str) -> list[tuple[Problem, torch.Tensor | None]]:
    return [(each, None) for each in run.task.held_out(n, 100 + seed) if getattr(each, "hamiltonian", True)][:n]


def planar(run: Run, n: int, seed: int, data: str) -> list[tuple[Problem, torch.Tensor | None]]:
    return [(run.task.parse("planar:64"), None)] * n


def many(run: Run, n: int, seed: int, data: str) -> list[tuple[Problem, torch.Tensor | None]]:
    """The first puzzles of a file, with the one solution that it gives."""
    with gzip.open(data, "rt") as file:
        lines = [line for line, _ in zip(csv.DictReader(file), range(n), strict=False)]
    made = []
    for line in lines:
        solution = run.task.encode([run.task.parse(line["one_solution"])]).answer[0]
        made.append((run.task.parse(line["puzzle"]), solution))
    return made


MANY: dict[str, Callable[..., list[tuple[Problem, torch.Tensor | None]]]] = {
    each.__name__: each for each in (sequences, colorings, cycles, planar, many)
}


def answered(run: Run, problem: Problem, reference: torch.Tensor | None, seed: int) -> tuple[dict[str, Any], Batch]:
    """The answers to a problem by name, those that keep its rules; and its batch."""
    batch, rule = run.task.encode([problem]), run.task.constraint([problem])
    seeds = torch.tensor([seed])
    samplers = {
        "solver alone": Search(),
        "sampler": run.sampler,
        "likeliest, last pass": replace(run.sampler, complete=Completer(score="last", improve=True)),
        "likeliest, first pass": replace(run.sampler, complete=Completer(score="first", improve=True)),
    }
    answers = {} if reference is None else {"reference": reference}
    for name, sampler in samplers.items():
        model = run.model if sampler.needs_model else None
        [ended] = solve_batch(model, run.task, sampler, [problem], batch, rule, seeds)
        if ended.solved:
            answers[name] = ended.tokens
    return answers, batch


def compared(options: dict[str, Any]) -> list[dict[str, Any]]:
    run, scorer = load(options["run"]), load(options["scorer"])
    check(run.model.config.vocab_size == scorer.model.config.vocab_size, "the scorer has other tokens", "give another")
    rows, seed = [], options["seed"]
    for at, (problem, reference) in enumerate(MANY[options["part"]](run, options["n"], seed, options["data"])):
        answers, batch = answered(run, problem, reference, at)
        scores = token_scores(scorer.model, batch, list(answers.values()), at)
        rows.append({"problem": problem.text, **dict(zip(answers, scores, strict=True))})
        print(rows[-1], flush=True)
    return rows


def one_answer(options: dict[str, Any]) -> list[dict[str, Any]]:
    """n puzzles of each source: seconds of the processor and branches of the solver, without a model, with its draft as
    a hint, and with the likeliest answer as its objective too."""
    run = load(options["run"])
    with gzip.open(options["data"], "rt") as file:
        lines = list(csv.DictReader(file))
    rows: list[dict[str, Any]] = []
    for source in dict.fromkeys(line["source"] for line in lines):
        chosen = [line["puzzle"] for line in lines if line["source"] == source][: options["n"]]
        for at, text in enumerate(chosen):
            problem = run.task.parse(text)
            batch, rule = run.task.encode([problem]), run.task.constraint([problem])
            drawn = run.sampler.inner.run(run.model, batch, rule, torch.tensor([at]), class_log_probs="last")
            draft, known = drawn.tokens[0], batch.pinned[0]
            row: dict[str, Any] = {"source": source, "solved by the passes": drawn.status[0] == "solved"}
            zeros, log_probs = torch.where(known, draft, batch.noise[0]), drawn.class_log_probs.log_probs[0]
            for name, start, scores in (
                ("alone", zeros, None), ("hint", draft, None), ("hint and objective", draft, log_probs)
            ):  # fmt: skip
                began = time.process_time()
                ended = complete(rule, start, known, log_probs=scores, improve=True)
                spent = time.process_time() - began
                row[name] = {"seconds": round(spent, 5), "work": ended.work, "branches": ended.nodes}
                row[name]["found"] = ended.answer is not None
            rows.append(row)
        print(source, len(chosen), flush=True)
    return rows


def summary_of_many(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, and differences from the solver alone over the problems that both answered: mean, 95 % interval, n."""
    names = dict.fromkeys(name for row in rows for name in row if name != "problem")
    out: dict[str, Any] = {}
    for name in names:
        values = np.array([row[name] for row in rows if name in row])
        out[name] = {"n": len(values), "mean": round(float(values.mean()), 4)}
        pairs = np.array([row[name] - row["solver alone"] for row in rows if name in row and "solver alone" in row])
        if name != "solver alone" and len(pairs) > 1:
            half = 1.96 * pairs.std(ddof=1) / len(pairs) ** 0.5
            out[name] |= {"more than the solver": [round(float(pairs.mean() + k * half), 4) for k in (0, -1, 1)]}
    return out


def summary_of_one(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By source, over the puzzles that propagation does not decide."""
    out: dict[str, Any] = {}
    for source in dict.fromkeys(row["source"] for row in rows):
        every = [row for row in rows if row["source"] == source]
        some = [row for row in every if row["alone"]["work"] > 0]
        out[source] = {"n": len(every), "solver needed": len(some)}
        for name in ("alone", "hint", "hint and objective") if some else ():
            each = {key: np.array([row[name][key] for row in some]) for key in ("seconds", "work", "branches")}
            half = 1.96 * each["seconds"].std() / len(some) ** 0.5
            out[source][name] = {key: round(float(values.mean()), 5) for key, values in each.items()}
            out[source][name] |= {"seconds +-": round(float(half), 5), "found": sum(row[name]["found"] for row in some)}
    return out


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, KEYS)
    torch.set_num_threads(1)
    part = options["part"]
    check(part == "one" or part in MANY, f"part is {part!r}", f"give one of one, {', '.join(MANY)}")
    began = time.process_time()
    rows = one_answer(options) if part == "one" else compared(options)
    out = {
        "command": "python -m experiments.completer.worth " + " ".join(arguments),
        "hardware": f"one core of {platform.processor() or platform.machine()}",
        "date": time.strftime("%F"),
        "processor seconds": round(time.process_time() - began, 1),
        "summary": summary_of_one(rows) if part == "one" else summary_of_many(rows),
        "rows": rows if part != "one" else [],
    }
    print(json.dumps(out["summary"], indent=1))
    Path(options["out"]).write_text(json.dumps(out, indent=0) + "\n")


if __name__ == "__main__":
    command(main)
