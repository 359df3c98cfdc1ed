"""The completer: a bounded depth-first search that returns an answer, a proof that none exists, or neither."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from constrained_dg.constraints.base import Constraint, judged, propagated
from constrained_dg.constraints.candidates import candidates_of, one_hot
from constrained_dg.constraints.running import TimeIsUpError, check_time, listening, report_fault
from constrained_dg.constraints.running import time_limit as within
from constrained_dg.errors import InputError, check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completion:
    """How a search ended.

    Attributes:
        answer: (T) int64, the tokens that the judge accepts, or None.
        exhausted: the whole space was searched without an answer: a proof that none exists. Never if a judge raised
            during the search, since its verdict is unknown.
        nodes: branches opened, and moves of `repair`; propagation alone costs none.
    """

    answer: IntTensor | None
    exhausted: bool
    nodes: int


def complete(
    constraint: Constraint,
    answer: IntTensor,
    known: BoolTensor,
    *,
    log_probs: FloatTensor | None = None,
    tokens: IntTensor | None = None,
    node_budget: int = 10_000,
    time_limit: float | None = None,
) -> Completion:
    """Find a satisfying answer that keeps the known tokens.

    Positions that the rule does not bind keep their tokens too. The search uses classes; a token whose class does not
    change stays.

    A rule with an exact `most_likely` needs no branch. For others `repair` is tried once on the draft. Then the search
    branches on the position with the fewest candidates (of equals, where the model is most certain), on its tokens in
    the order of the model's log-probabilities; `propagate` prunes every branch and the judge checks each answer.

    Args:
        constraint: of one row. Use one on the CPU: nodes are many and small.
        answer: (T) int64, the draft: all of it must be tokens of the vocabulary.
        known: (T) bool, positions to keep.
        log_probs: (T, A) of the model; None means all equal.
        tokens: (T, A) int64, the token to write for each class; None means the first. `Constraint.likeliest` computes
            both from the model's (T, V).
        node_budget: branches that may be opened; `repair` has separate bounds.
        time_limit: seconds, or None. With a limit the outcome depends on the machine. It is checked between branches
            and wherever rules call `running.check_time`.

    Raises:
        InputError: shapes do not fit, or a negative budget.
    """
    length, num_classes = constraint.length, constraint.num_classes
    check(constraint.rows == 1, f"search got a constraint of {constraint.rows} rows", "select one row")
    check(node_budget >= 0, f"node_budget is {node_budget}", "give 0 or more")
    constraint.check_answer(answer[None])
    check(known.shape == answer.shape, f"known has shape {tuple(known.shape)}", f"give ({length})")
    log_probs = torch.zeros(length, num_classes) if log_probs is None else log_probs
    tokens = constraint.tokens_of(torch.arange(num_classes)).expand(length, -1) if tokens is None else tokens
    for name, values in (("log_probs", log_probs), ("tokens", tokens)):
        got = tuple(values.shape)
        check(got == (length, num_classes), f"{name} have shape {got}", f"give ({length}, {num_classes})")
    # What the model rules out comes last but stays possible: only rules can prove that no answer exists.
    log_probs = log_probs.float().clamp(min=-1e6)

    def written(classes: IntTensor) -> IntTensor:
        """(T) tokens of (T) classes; a token of the draft stays if its class is the same."""
        return torch.where(classes == draft, answer, tokens.gather(-1, classes[:, None])[:, 0])

    draft = constraint.class_of(answer)
    branches = [candidates_of(draft[None], (known | ~constraint.bound)[None], num_classes)]  # last in, first out
    nodes, moves, swept = -1, 0, constraint.has_most_likely  # the root is not a branch
    with within(time_limit), listening() as faults:
        try:
            while branches:
                if nodes == node_budget:
                    return Completion(None, exhausted=False, nodes=max(nodes, 0) + moves)
                check_time()
                # 1. Prune: by propagation, or to the best answer where the rule can say which that is.
                candidates = propagated(constraint, branches.pop())
                nodes += 1
                if swept:  # no need to branch
                    scores = log_probs[None].masked_fill(~candidates, -torch.inf)
                    best = _tried(constraint, "most_likely", scores)
                    swept = best is not None
                    if best is not None:
                        candidates = one_hot(best[0], num_classes) & best[1][:, None, None]
                sizes = candidates[0].sum(-1)
                smallest, largest = torch.aminmax(sizes)
                # 2. Nothing left, or one answer left: the judge decides, and a branch has ended.
                if smallest == 0:
                    continue
                if largest == 1:
                    completed = written(candidates[0].to(torch.uint8).argmax(-1))
                    if judged(constraint, completed[None]):
                        return Completion(completed, exhausted=False, nodes=nodes + moves)
                    continue
                # 3. At the root, try the rule's repair of the draft.
                if nodes == 0:
                    classes, moves = _tried(constraint, "repair", draft, candidates[0], log_probs) or (None, 0)
                    if classes is not None and bool(candidates[0].gather(-1, classes[:, None]).all()):
                        completed = written(classes)
                        if judged(constraint, completed[None]):
                            return Completion(completed, exhausted=False, nodes=moves)
                # 4. Branch.
                branches += _branch(candidates, sizes, log_probs)
        except TimeIsUpError:
            return Completion(None, exhausted=False, nodes=max(nodes, 0) + moves)
    return Completion(None, exhausted=not faults, nodes=nodes + moves)


def _tried(constraint: Constraint, method: str, *arguments: torch.Tensor) -> Any:
    """The method's result; None and a warning where it raises: the search goes on without it."""
    try:
        return getattr(constraint, method)(*arguments)
    except (InputError, TimeIsUpError):
        raise
    except Exception as error:  # a user's code: anything
        what = f"{type(constraint).__name__}.{method} raised {type(error).__name__}: {error}"
        report_fault(what)
        log.warning("%s; the search goes on without it", what)
        return None


def _branch(candidates: BoolTensor, sizes: IntTensor, log_probs: FloatTensor) -> list[BoolTensor]:
    """One set of candidates for each token of the chosen position, the likeliest last."""
    open_sizes = sizes.masked_fill(sizes == 1, candidates.shape[-1] + 1)
    narrow = open_sizes == open_sizes.min()
    scores = log_probs.masked_fill(~candidates[0], -torch.inf)
    at = int(scores.amax(-1).masked_fill(~narrow, -torch.inf).argmax())
    tokens = scores[at].sort(stable=True).indices[-int(sizes[at]) :]
    branched = []
    for token in tokens:
        branch = candidates.clone()
        branch[0, at] = False
        branch[0, at, token] = True
        branched.append(branch)
    return branched
