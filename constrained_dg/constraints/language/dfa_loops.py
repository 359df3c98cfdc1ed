"""Compiled loops over finite automata: subset construction, useful states, products."""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled, mix

#: What `subsets` returns where the automaton becomes too large.
TOO_LARGE = -1


@compiled
def grown(array, size):
    """A copy with room for twice as many entries, or `size`."""
    larger = np.empty((max(size, 2 * len(array)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


@compiled
def subsets(eps_begin, eps_to, begin, low, high, to, start, final, groups, most_states, most_work, stop):
    """Subset construction (Rabin and Scott, 1959) with empty moves.

    Args:
        eps_begin, eps_to: the empty moves of each state, as CSR.
        begin, low, high, to: the moves of each state: on the groups of bytes low to high (inclusive), to a state.
        start: state.
        final: (N) bool.
        groups: G.
        most_states, most_work: bounds on the states and on the moves that are looked at.
        stop: (1) bool, see `running.run_loop`.

    Returns:
        (Q, G) int32 transitions, -1 for none; (Q) bool accepting; and Q, or TOO_LARGE.
    """
    n = len(begin) - 1
    keeps = np.empty(n, np.bool_)
    for i in range(n):
        keeps[i] = final[i] or begin[i + 1] > begin[i]
    stamp, tick = np.zeros(n, np.int64), 0
    seen, seen_tick = np.zeros(n, np.int64), 0
    stack = np.empty(n + 1, np.int32)
    pool, used = np.empty(4096, np.int32), 0
    first, states = np.zeros(1025, np.int64), 0
    hashes = np.zeros(1024, np.uint64)
    table = np.empty((1024, groups), np.int32)
    accepting = np.zeros(1024, np.bool_)
    slots = np.full(4096, -1, np.int64)
    head, last = np.empty(groups, np.int64), np.empty(groups, np.int64)
    digest = np.empty(groups, np.uint64)
    follow, value = np.empty(1024, np.int64), np.empty(1024, np.int32)
    alike = np.empty(groups, np.int64)
    work = 0
    at = -1  # the state whose row is filled; -1: the start state is made
    group, distinct, cells = groups, 0, 0
    while True:
        # 1. The next set to look up: the start's, or the moves of state `at` on a group.
        top = 0
        if states == 0:
            stack[0] = start
            top = 1
            seen_tick += 1
            seen[start] = seen_tick
        else:
            if group == groups:
                at += 1
                group = 0
                if at == states or stop[0]:
                    break
                for g in range(groups):
                    head[g] = -1
                    digest[g] = np.uint64(0)
                cells, distinct = 0, 0
                for k in range(first[at], first[at + 1]):
                    s = pool[k]
                    for m in range(begin[s], begin[s + 1]):
                        work += high[m] - low[m] + 1
                        for g in range(low[m], high[m] + 1):
                            if cells == len(value):
                                follow, value = grown(follow, 0), grown(value, 0)
                            value[cells], follow[cells] = to[m], -1
                            if head[g] < 0:
                                head[g] = cells
                            else:
                                follow[last[g]] = cells
                            last[g] = cells
                            digest[g] = mix(digest[g] ^ np.uint64(to[m] + 1))
                            cells += 1
                if work > most_work:
                    return table[:states], accepting[:states], TOO_LARGE
            # 2. Groups with the moves of an earlier group lead to the same set.
            if head[group] < 0:
                table[at, group] = -1
                group += 1
                continue
            same = -1
            for k in range(distinct):
                if digest[alike[k]] == digest[group]:
                    same = alike[k]
                    break
            if same >= 0:
                table[at, group] = table[at, same]
                group += 1
                continue
            alike[distinct] = group
            distinct += 1
            seen_tick += 1
            cell = head[group]
            while cell >= 0:
                s = value[cell]
                if seen[s] != seen_tick:
                    seen[s] = seen_tick
                    stack[top] = s
                    top += 1
                cell = follow[cell]
        # 3. What empty moves reach, without states that only have empty moves.
        tick += 1
        size, code, ends = 0, np.uint64(0), False
        while top:
            top -= 1
            s = stack[top]
            if keeps[s]:
                if used + size == len(pool):
                    pool = grown(pool, 0)
                pool[used + size] = s
                size += 1
                stamp[s] = tick
                code += mix(np.uint64(s))
                ends = ends or final[s]
            for m in range(eps_begin[s], eps_begin[s + 1]):
                if seen[eps_to[m]] != seen_tick:
                    seen[eps_to[m]] = seen_tick
                    stack[top] = eps_to[m]
                    top += 1
            work += eps_begin[s + 1] - eps_begin[s]
        # 4. The state of this set, a new one if there is none.
        slot = np.int64(code % np.uint64(len(slots)))
        number = -1
        while slots[slot] >= 0:
            other = slots[slot]
            if hashes[other] == code and first[other + 1] - first[other] == size:
                equal = True
                for k in range(first[other], first[other + 1]):
                    if stamp[pool[k]] != tick:
                        equal = False
                        break
                if equal:
                    number = other
                    break
            slot = (slot + 1) % len(slots)
        if number < 0:
            if states >= most_states:
                return table[:states], accepting[:states], TOO_LARGE
            number = states
            if states + 1 == len(table):
                first, table, hashes = grown(first, 0), grown(table, 0), grown(hashes, 0)
                accepting = grown(accepting, 0)
            first[number + 1] = used + size
            hashes[number], accepting[number] = code, ends
            used += size
            states += 1
            slots[slot] = number
            if 3 * states > len(slots):
                slots = np.full(4 * len(slots), -1, np.int64)
                for k in range(states):
                    slot = np.int64(hashes[k] % np.uint64(len(slots)))
                    while slots[slot] >= 0:
                        slot = (slot + 1) % len(slots)
                    slots[slot] = k
        if at >= 0:
            table[at, group] = number
            group += 1
    return table[:states], accepting[:states], states


@compiled
def useful(table, accepting):
    """(Q) bool: states that are reached from state 0 and lead to an accepting one."""
    states, groups = table.shape
    # 1. Forward.
    reached = np.zeros(states, np.bool_)
    stack = np.empty(states + 1, np.int64)
    stack[0], top = 0, 1
    reached[0] = True
    degree = np.zeros(states + 1, np.int64)
    while top:
        top -= 1
        s = stack[top]
        for g in range(groups):
            t = table[s, g]
            if t >= 0:
                degree[t + 1] += 1
                if not reached[t]:
                    reached[t] = True
                    stack[top] = t
                    top += 1
    # 2. Backward, over the moves of reached states.
    for s in range(states):
        degree[s + 1] += degree[s]
    before = np.empty(degree[states], np.int32)
    place = degree.copy()
    for s in range(states):
        if reached[s]:
            for g in range(groups):
                t = table[s, g]
                if t >= 0:
                    before[place[t]] = s
                    place[t] += 1
    good = np.zeros(states, np.bool_)
    for s in range(states):
        if reached[s] and accepting[s]:
            good[s] = True
            stack[top] = s
            top += 1
    while top:
        top -= 1
        s = stack[top]
        for k in range(degree[s], degree[s + 1]):
            t = before[k]
            if not good[t]:
                good[t] = True
                stack[top] = t
                top += 1
    return good


@compiled
def pairs(one, other, without, most_states, stop):
    """The reachable part of the product of two automata over the same groups, from their states 0.

    Args:
        one, other: (Q, G) transitions, -1 for none.
        without: whether the other may be lost: then its state is -1, and stays so.
        stop: (1) bool, see `running.run_loop`.

    Returns:
        (P, G) transitions; the two states of each pair (P, 2); and P, or TOO_LARGE.
    """
    groups, width = one.shape[1], other.shape[0] + 1
    table = np.full((1024, groups), -1, np.int32)
    of = np.empty((1024, 2), np.int32)
    slots = np.full(4096, -1, np.int64)
    of[0, 0] = of[0, 1] = 0
    states, at = 1, 0
    slots[np.int64(mix(np.uint64(1)) % np.uint64(len(slots)))] = 0
    while at < states and not stop[0]:
        for g in range(groups):
            a = one[of[at, 0], g]
            b = other[of[at, 1], g] if of[at, 1] >= 0 else -1
            if a < 0 or (b < 0 and not without):
                continue
            slot = np.int64(mix(np.uint64(a * width + b + 1)) % np.uint64(len(slots)))
            while slots[slot] >= 0 and (of[slots[slot], 0] != a or of[slots[slot], 1] != b):
                slot = (slot + 1) % len(slots)
            if slots[slot] < 0:
                if states >= most_states:
                    return table[:states], of[:states], TOO_LARGE
                if states == len(table):
                    table, of = grown(table, 0), grown(of, 0)
                    table[states:] = -1
                of[states, 0], of[states, 1] = a, b
                slots[slot] = states
                states += 1
                if 3 * states > len(slots):
                    slots = np.full(4 * len(slots), -1, np.int64)
                    for k in range(states):
                        code = np.uint64(np.int64(of[k, 0]) * width + of[k, 1] + 1)
                        again = np.int64(mix(code) % np.uint64(len(slots)))
                        while slots[again] >= 0:
                            again = (again + 1) % len(slots)
                        slots[again] = k
                    slot = np.int64(mix(np.uint64(a * width + b + 1)) % np.uint64(len(slots)))
                    while of[slots[slot], 0] != a or of[slots[slot], 1] != b:
                        slot = (slot + 1) % len(slots)
            table[at, g] = slots[slot]
        at += 1
    return table[:states], of[:states], states
