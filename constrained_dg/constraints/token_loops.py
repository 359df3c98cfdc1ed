"""Compiled sweeps over the edges of a `token_machine.TokenMachine`.

All take `begin` (Q + 1), where the edges of each state begin, `target` and `label` (E) of each edge, `inside` (L + 1)
and `members`, the effects of each label, and `early`, `late` (Q): a state lies on an accepted path only at the
positions early[q] to late[q].
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled


@compiled
def distances(begin, target, sources):
    """(Q) the fewest edges from the source states (Q, bool) to each state, -1 where no way leads."""
    states = len(begin) - 1
    far = np.full(states, -1, np.int32)
    queue, top = np.empty(states, np.int32), 0
    for q in range(states):
        if sources[q]:
            far[q], queue[top] = 0, q
            top += 1
    at = 0
    while at < top:
        q = queue[at]
        for e in range(begin[q], begin[q + 1]):
            if far[target[e]] < 0:
                far[target[e]], queue[top] = far[q] + 1, target[e]
                top += 1
        at += 1
    return far


@compiled
def most(values, effect_of, effects, empty):
    """(T, A) values of classes -> (T, K), the largest of each effect, `empty` where no class has it."""
    of_effect = np.full((len(values), effects), empty, values.dtype)
    for t in range(len(values)):
        for a in range(values.shape[1]):
            of_effect[t, effect_of[a]] = max(of_effect[t, effect_of[a]], values[t, a])
    return of_effect


@compiled
def accepted(begin, target, label, inside, members, start, accepting, effects):
    """(B) bool for answers (B, T) of effects: whether each leads from the start to an accepting state."""
    rows, length = effects.shape
    verdict = np.zeros(rows, np.bool_)
    for row in range(rows):
        q = start
        for t in range(length):
            effect, to = effects[row, t], -1
            for e in range(begin[q], begin[q + 1]):
                low, high = inside[label[e]], inside[label[e] + 1]
                while low < high:
                    middle = (low + high) // 2
                    if members[middle] < effect:
                        low = middle + 1
                    else:
                        high = middle
                if low < inside[label[e] + 1] and members[low] == effect:
                    to = target[e]
                    break
            q = to
            if q < 0:
                break
        verdict[row] = q >= 0 and accepting[q]
    return verdict


@compiled
def shrunk(begin, target, label, inside, members, start, accepting, early, late, may):
    """(T, K) bool, which of the effects that may be chosen lie on an accepted path."""
    length, states, labels = len(may), len(begin) - 1, len(inside) - 1
    open_ = np.zeros((length, labels), np.bool_)
    for t in range(length):
        for x in range(labels):
            for k in range(inside[x], inside[x + 1]):
                if may[t, members[k]]:
                    open_[t, x] = True
                    break
    alive = np.zeros((length + 1, states), np.bool_)
    alive[length] = accepting
    for t in range(length - 1, -1, -1):
        for q in range(states):
            if early[q] <= t <= late[q]:
                for e in range(begin[q], begin[q + 1]):
                    if open_[t, label[e]] and alive[t + 1, target[e]]:
                        alive[t, q] = True
                        break
    left = np.zeros_like(may)
    reached, after = np.zeros(states, np.bool_), np.zeros(states, np.bool_)
    reached[start] = alive[0, start]
    used = np.zeros(labels, np.bool_)
    for t in range(length):
        used[:] = False
        after[:] = False
        for q in range(states):
            if reached[q]:
                for e in range(begin[q], begin[q + 1]):
                    if open_[t, label[e]] and alive[t + 1, target[e]]:
                        after[target[e]] = True
                        used[label[e]] = True
        for x in range(labels):
            if used[x]:
                for k in range(inside[x], inside[x + 1]):
                    left[t, members[k]] = may[t, members[k]]
        reached, after = after, reached
    return left


@compiled
def best(begin, target, label, inside, members, start, accepting, early, late, scores):
    """(T, K) float64 scores of effects -> the effects of the highest sum (T), and that sum, -inf if there is none."""
    length, states, labels = len(scores), len(begin) - 1, len(inside) - 1
    of_label = np.full((length, labels), -np.inf)
    for t in range(length):
        for x in range(labels):
            top = -np.inf
            for k in range(inside[x], inside[x + 1]):
                top = max(top, scores[t, members[k]])
            of_label[t, x] = top
    value = np.full((length + 1, states), -np.inf)
    for q in range(states):
        if accepting[q]:
            value[length, q] = 0.0
    for t in range(length - 1, -1, -1):
        for q in range(states):
            if early[q] <= t <= late[q]:
                top = -np.inf
                for e in range(begin[q], begin[q + 1]):
                    top = max(top, value[t + 1, target[e]] + of_label[t, label[e]])
                value[t, q] = top
    chosen = np.zeros(length, np.int64)
    total = value[0, start]
    if total == -np.inf:
        return chosen, total
    q = start
    for t in range(length):
        edge, highest = -1, -np.inf
        for e in range(begin[q], begin[q + 1]):
            here = value[t + 1, target[e]] + of_label[t, label[e]]
            if here > highest:
                edge, highest = e, here
        top = -np.inf
        for k in range(inside[label[edge]], inside[label[edge] + 1]):
            if scores[t, members[k]] > top:
                chosen[t], top = members[k], scores[t, members[k]]
        q = target[edge]
    return chosen, total
