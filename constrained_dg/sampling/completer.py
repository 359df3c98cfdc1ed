"""The likeliest answer that keeps the rules, for what the passes leave unsolved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.search import BUDGET, complete
from constrained_dg.errors import check, is_number
from constrained_dg.sampling.base import Generation, Status
from constrained_dg.sampling.class_log_probs import ClassLogProbs
from constrained_dg.sampling.ending import Ended, after_end
from constrained_dg.sampling.options import Options
from constrained_dg.shapes import BoolTensor

#: The passes whose log-probabilities may be summed.
SCORES = ("last", "first")


@dataclass(frozen=True)
class Completer:
    """Hands rows that are not solved to a constraint solver, which seeks the answer of the highest score.

    The score of an answer is the sum of its log-probabilities in one pass (at its temperature, under its masks), over
    the positions that are neither pinned nor free of rules. The answer is the likeliest under that pass, not under the
    whole process: passes see canvases that differ. It is proved the likeliest only if the budget suffices;
    `Generation.bound` says how far it may be.

    Args:
        budget: deterministic time of the solver for a row, about seconds; 0: only what needs no solver.
        score: "last", the pass after which the sampler hands over, or "first", on pure noise; of each canvas.
        improve: whether a likelier answer is also sought than one that the passes, or a rule's own `repair`, found.
    """

    budget: float = BUDGET
    score: str = "last"
    improve: bool = False

    def __post_init__(self) -> None:
        check(self.budget == 0 or is_number(self.budget, above=0), f"budget is {self.budget!r}", "give 0 or more")
        check(self.score in SCORES, f"score is {self.score!r}", f"give one of {', '.join(SCORES)}")


def completed(
    generation: Generation, constraint: Constraint, pinned: BoolTensor, completer: Completer, options: Options
) -> Generation:
    """Complete row by row: each ends solved, unsatisfiable (proved) or unsolved (the budget or the time is spent).

    Args:
        generation: with its `class_log_probs`, or the search takes all tokens as equally likely.
        constraint: of the rows of `generation`, or one.
        pinned: (B, T) bool.
        options: of the call, whose time limit and end tokens hold here too.
    """
    names = ("tokens", "padding", "log_probability", "search_nodes", "score", "bound", "proved")
    values = {name: getattr(generation, name).clone() for name in names}
    status, by_class = list(generation.status), generation.class_log_probs
    if by_class is None:
        rows, device = generation.tokens.shape[0], generation.tokens.device
        by_class = ClassLogProbs.before_any_pass(constraint, rows, device)
    for row, known in enumerate(pinned):
        wanted = status[row] is Status.UNSOLVED or (completer.improve and status[row] is Status.SOLVED)
        if not wanted or options.expired() or bool(options.given_up(torch.tensor([row]))):
            continue
        # 1. One row, on the CPU.
        tokens = values["tokens"][row]
        rule = constraint if constraint.rows == 1 else constraint.select(torch.tensor([row], device=tokens.device))
        rule = rule.to("cpu")
        draft, fixed = tokens.cpu(), known.cpu()
        log_probs, table = by_class.log_probs[row].cpu(), by_class.tokens[row].cpu()
        if options.eos:
            rule = Ended(rule, options.eos, options.pad, draft, fixed)
            draft, table = rule.reopened(draft, log_probs, table)
        # 2. Search.
        result = complete(
            rule,
            draft,
            fixed,
            log_probs=log_probs,
            tokens=table,
            budget=completer.budget,
            time_limit=options.remaining(),
            improve=completer.improve,
        )
        values["search_nodes"][row] += result.nodes
        if result.exhausted and status[row] is Status.UNSOLVED:
            status[row] = Status.UNSATISFIABLE
        # 3. What is returned is what the judge of `complete` has accepted: padded after its end.
        if result.answer is not None:
            status[row], answer = Status.SOLVED, result.answer
            for name in ("score", "bound", "proved"):
                values[name][row] = getattr(result, name)
            answer = rule.padded(answer[None])[0] if isinstance(rule, Ended) else answer
            tokens.copy_(answer.to(tokens.device))
            values["padding"][row] = after_end(tokens[None], options.eos)[0][0]
            best = by_class.log_probs[row].gather(-1, constraint.class_of(tokens)[:, None])[:, 0]
            values["log_probability"][row] = best.masked_fill(known | values["padding"][row], 0).sum()
    free = (~(pinned | values["padding"])).sum(-1)
    return replace(generation, **values, status=status, free_tokens=free)
