"""Exact probabilities of answers that keep a rule, where a model gives each position probabilities of its own.

Sweeps forward and backward over an automaton (Baum and others, 1970) sum over all answers that it accepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

from constrained_dg.constraints.base import Constraint
from constrained_dg.constraints.combine import All, over_finer
from constrained_dg.constraints.machine import Machine
from constrained_dg.constraints.pinned import Pinned
from constrained_dg.constraints.vocabulary import Vocabulary
from constrained_dg.errors import check
from constrained_dg.shapes import BoolTensor, FloatTensor, IntTensor

#: Answers that are judged one by one where no automaton decides a rule.
MOST_ANSWERS = 2**16

#: Edges at one position, (E) int64 each: the state before it, the state behind it, and a column of the scores.
Edges = tuple[IntTensor, IntTensor, IntTensor]


@dataclass(frozen=True, eq=False)
class Layers:
    """What a rule of one row accepts, position by position, from state 0 on.

    Attributes:
        step: at each position (Q, K) int64, the state behind it after effect k, -1 where there is none.
        effect: at each position (A) int64, the effect of each class.
        accepting: (Q) bool.
    """

    step: Sequence[IntTensor]
    effect: Sequence[IntTensor]
    accepting: BoolTensor

    @classmethod
    def of(cls, rule: Constraint, may: BoolTensor) -> Layers:
        """By its automaton, or else by its judge.

        Args:
            may: (T, A) bool, the classes that can be chosen.

        Raises:
            InputError: several rows; or no automaton, and too many answers to judge each.
        """
        check(rule.rows == 1, f"the rule has {rule.rows} rows", "give a rule of one row")
        machine = _machine(rule)
        if machine is None:
            return cls._of_judge(rule, may)
        # The start becomes state 0.
        order = torch.arange(machine.states)
        order[[0, machine.start]] = order[[machine.start, 0]]
        number = torch.cat([order, torch.tensor([-1])])
        steps, kinds = [number[table[order]] for table in machine.step], machine.kind.tolist()
        return cls([steps[kind] for kind in kinds], [machine.effect[kind] for kind in kinds], machine.accepting[order])

    @classmethod
    def _of_judge(cls, rule: Constraint, may: BoolTensor) -> Layers:
        many = prod(may.sum(-1).tolist())
        check(
            many <= MOST_ANSWERS,
            f"{rule!r} is no automaton, and {many:,} answers are too many to judge each",
            f"read fewer positions at once (up to {MOST_ANSWERS:,} answers), or give a rule that an automaton decides",
        )
        grid = torch.meshgrid(*(row.nonzero().flatten() for row in may), indexing="ij")
        answers = torch.stack([each.flatten() for each in grid], 1)
        answers = answers[rule.is_satisfied(rule.tokens_of(answers))]
        if not len(answers):
            nothing = torch.full((1, may.shape[1]), -1)
            return cls([nothing] * len(may), [torch.arange(may.shape[1])] * len(may), torch.ones(1, dtype=torch.bool))
        # A state is what was chosen up to here.
        begun = [torch.zeros(len(answers), dtype=torch.int64)]
        pairs = []
        for chosen in answers.T:
            distinct, after = torch.stack([begun[-1], chosen]).unique(dim=1, return_inverse=True)
            pairs.append(distinct)
            begun.append(after)
        states = max(1, *(each.shape[1] for each in pairs))
        steps = []
        for before, chosen in pairs:
            steps.append(torch.full((states, may.shape[1]), -1))
            steps[-1][before, chosen] = torch.arange(len(before))
        return cls(steps, [torch.arange(may.shape[1])] * len(steps), torch.ones(states, dtype=torch.bool))

    def edges(self, at: int) -> Edges:
        """Those of one position; the columns are effects."""
        source, effect = (self.step[at] >= 0).nonzero().unbind(1)
        return source, self.step[at][source, effect], effect

    def marginals(self, log_probs: FloatTensor) -> tuple[FloatTensor, FloatTensor]:
        """See the function `marginals`; (B, T, A) float64."""
        positions = range(len(self.step))
        edges = [self.edges(at) for at in positions]
        scores = [log_sums(log_probs[:, at], self.effect[at], self.step[at].shape[1]) for at in positions]
        total, shares = flows(edges, self.accepting, scores)
        found = torch.zeros_like(log_probs)
        for at, share in shares:
            effect = self.effect[at]
            of_effect = torch.zeros_like(scores[at]).index_add_(1, edges[at][2], share)[:, effect]
            within = (log_probs[:, at] - scores[at][:, effect]).exp()
            found[:, at] = torch.where(of_effect > 0, of_effect * within, 0.0)
        return found, total

    def best(self, values: FloatTensor) -> IntTensor:
        """(B, T, A) -> (B, T), the accepted classes of the highest sum; -inf where a class cannot be chosen."""
        after = torch.where(torch.cat([self.accepting, torch.tensor([False])]), 0.0, -torch.inf)
        after, tables, sums = after.to(values).expand(len(values), -1), [], []
        for at in reversed(range(len(self.step))):
            tables.append(self.step[at][:, self.effect[at]])  # (Q, A), the dead state -1 is the last
            sums.append(after[:, tables[-1]] + values[:, at, None])
            after = torch.nn.functional.pad(sums[-1].amax(-1), (0, 1), value=-torch.inf)
        state, chosen = torch.zeros(len(values), dtype=torch.int64), []
        for table, of_state in zip(reversed(tables), reversed(sums), strict=True):
            chosen.append(of_state[torch.arange(len(values)), state].argmax(-1))
            state = table[state, chosen[-1]]
        return torch.stack(chosen, 1)


def _machine(rule: Constraint) -> Machine | None:
    """The automaton that decides a rule, but for permitted tokens of single positions."""
    if not isinstance(rule, All):
        return Machine.anything(rule.length, rule.num_classes) if _alone(rule) else rule.machine
    joined: Machine | None = Machine.anything(rule.length, rule.num_classes)
    for part, coarser in rule.by_class:
        if not _alone(part):
            machine = part.machine if part.machine is None or coarser is None else part.machine.over(coarser)
            joined = None if joined is None or machine is None else joined.with_(machine)
    return joined


def _alone(rule: Constraint) -> bool:
    return isinstance(rule, Pinned | Vocabulary)


def _permitted(rule: Constraint, log_probs: FloatTensor) -> FloatTensor:
    """The log-probabilities, -inf where a rule of single positions forbids a class."""
    may = torch.ones_like(log_probs[:1], dtype=torch.bool)
    for part, coarser in rule.by_class if isinstance(rule, All) else [(rule, None)]:
        may = over_finer(part, coarser, may) if _alone(part) and part.rows == 1 else may
    return log_probs.masked_fill(~may, -torch.inf)


def marginals(rule: Constraint, log_probs: FloatTensor) -> tuple[FloatTensor, FloatTensor]:
    """The probabilities of each position, given that the answer keeps the rule. Exact.

    An answer has the product of the probabilities of its positions, divided by the sum of those of all answers that the
    rule accepts.

    Args:
        rule: of one row. One that automata, counts of tokens and permitted tokens decide, joined by `&`; any other has
            its answers judged one by one, at most 65,536.
        log_probs: (B, T, A) of the classes; a class has the probabilities of its tokens together.

    Returns:
        (B, T, A) float64 probabilities, all 0 in a row where no answer of finite log-probability keeps the rule; and
        (B) float64, the log-probability that an answer keeps it, -inf there.

    Raises:
        InputError: another shape, a rule of several rows, or one that is too large.
    """
    shape, expected = tuple(log_probs.shape), (rule.length, rule.num_classes)
    check(len(shape) == 3 and shape[1:] == expected, f"log_probs have shape {shape}", f"give (rows, {expected})")
    log_probs = _permitted(rule, log_probs.double())
    return Layers.of(rule, log_probs.isfinite().any(0)).marginals(log_probs)


def flows(
    edges: Sequence[Edges], accepting: BoolTensor, scores: Sequence[FloatTensor]
) -> tuple[FloatTensor, Iterator[tuple[int, FloatTensor]]]:
    """The probability of each edge, among all ways from state 0 to an accepting state.

    Args:
        edges: those of each of T positions.
        accepting: (Q) bool.
        scores: at each position (B, K) float64, log-probabilities of the columns.

    Returns:
        (B) the log-probability of all ways together; and from the last position to the first its number and (B, E), 0
        in rows without a way.
    """
    rows, states = len(scores[0]), len(accepting)
    begin = torch.full((rows, states), -torch.inf, dtype=torch.float64)
    begin[:, 0] = 0
    ahead = [begin]
    for at, of_column in enumerate(scores):
        source, target, column = edges[at]
        ahead.append(log_sums(ahead[-1][:, source] + of_column[:, column], target, states))
    behind = torch.where(accepting, 0.0, -torch.inf).double().expand(rows, -1)
    total = (ahead[-1] + behind).logsumexp(-1)

    def back() -> Iterator[tuple[int, FloatTensor]]:
        after, none = behind, total.isinf()[:, None]
        for at in reversed(range(len(scores))):
            source, target, column = edges[at]
            onward = scores[at][:, column] + after[:, target]
            share = (ahead[at][:, source] + onward - total.masked_fill(total.isinf(), 0)[:, None]).exp()
            yield at, share.masked_fill(none, 0)
            after = log_sums(onward, source, states)

    return total, back()


def log_sums(values: FloatTensor, group: IntTensor, groups: int) -> FloatTensor:
    """Sums of probabilities by group, as logarithms: (B, E), (E) -> (B, groups), -inf for an empty group."""
    most = torch.full((len(values), groups), -torch.inf, dtype=values.dtype)
    most = most.scatter_reduce(1, group.expand(len(values), -1), values, "amax")
    safe = most.masked_fill(most.isinf(), 0)
    return torch.zeros_like(most).index_add_(1, group, (values - safe[:, group]).exp()).log() + safe
