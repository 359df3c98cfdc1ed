"""Compiled loops that find where an automaton holds copies of itself: the items of an array, which differ in how many
may follow.

Without some bytes (those that end a string of JSON) the states of an automaton fall into parts that do not lead to
each other. Two parts are copies if the moves between their states, numbered in order, are the same. A text without
these bytes then leads from a state to the copy of where it leads from the state's copy.
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled, mix


@compiled
def _root(part, s):
    while part[s] != s:
        part[s] = part[part[s]]
        s = part[s]
    return s


@compiled
def copies(table, plain, stop):
    """Parts that moves on `plain` groups (G) bool join, and which of them are alike.

    Args:
        table: (Q, G), -1 where none may follow.
        stop: (1) bool, see `running.run_loop`.

    Returns:
        by state, int32: the state in its place in the first part that is like its own; where its part begins in the
        list of members; its place in its part; and that list, part by part.
    """
    states, groups = table.shape
    # 1. The parts, by their first states.
    part = np.arange(states)
    for s in range(states):
        for g in range(groups):
            if plain[g] and table[s, g] >= 0:
                one, other = _root(part, s), _root(part, table[s, g])
                part[max(one, other)] = min(one, other)
    size = np.zeros(states, np.int32)
    place = np.empty(states, np.int32)
    for s in range(states):
        part[s] = _root(part, s)
        place[s] = size[part[s]]
        size[part[s]] += 1
    base, member, used = np.empty(states, np.int32), np.empty(states, np.int32), 0
    for s in range(states):
        if part[s] == s:
            base[s] = used
            used += size[s]
        base[s] = base[part[s]]
        member[base[s] + place[s]] = s
    # 2. The first part with the same moves.
    twin = np.empty(states, np.int32)
    slots = np.full(2 * states + 16, -1, np.int64)
    for s in range(states):
        if part[s] != s or stop[0]:
            continue
        code = np.uint64(size[s])
        for k in range(base[s], base[s] + size[s]):
            for g in range(groups):
                if plain[g]:
                    t = table[member[k], g]
                    code = mix(code ^ np.uint64(place[t] + 1 if t >= 0 else 0))
        slot = np.int64(code % np.uint64(len(slots)))
        while slots[slot] >= 0:
            like, same = slots[slot], size[slots[slot]] == size[s]
            for k in range(size[s] if same else 0):
                for g in range(groups):
                    if plain[g]:
                        t, u = table[member[base[s] + k], g], table[member[base[like] + k], g]
                        if (t < 0) != (u < 0) or (t >= 0 and place[t] != place[u]):
                            same = False
                            break
                if not same:
                    break
            if same:
                break
            slot = (slot + 1) % len(slots)
        if slots[slot] < 0:
            slots[slot] = s
        for k in range(size[s]):
            twin[member[base[s] + k]] = member[base[slots[slot]] + k]
    return twin, base, place, member
