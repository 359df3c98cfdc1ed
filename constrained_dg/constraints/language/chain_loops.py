"""Compiled loops that find where an automaton over bytes takes most characters alike."""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled


@compiled
def chains(table, group, stop):
    """Where an automaton goes from each state on a plain character, if it takes most of them alike.

    Args:
        stop: (1) bool, see `running.run_loop`.

    Returns:
        by state: the state after one plain character, -1 if there is none; the ASCII characters that lead there
        (Q, 2) uint64; the first bytes of others that all do (uint64, bit b & 63 for byte b); and how many steps go on
        like this, with the same characters.
    """
    states = len(table)
    one, two = np.full(states, -1, np.int32), np.full(states, -1, np.int32)
    after, wide = np.full(states, -1, np.int32), np.zeros(states, np.uint64)
    goals = np.empty(256, np.int64)
    ascii, run = np.zeros((states, 2), np.uint64), np.zeros(states, np.int32)
    # 1. States from which one, or two, more bytes of a character lead to one state.
    for level in range(2):
        for s in range(states):
            t = table[s, group[0x80]]
            for b in range(0x81, 0xC0):
                if table[s, group[b]] != t:
                    t = -1
                    break
            if level == 0:
                one[s] = t
            elif t >= 0:
                two[s] = one[t]
    for s in range(states):
        if stop[0]:
            break
        # 2. Where all characters of several bytes lead, those of each first byte and of all.
        to = -2
        for b in range(0xC2, 0xF5):
            t = table[s, group[b]]
            low, high = 0x80, 0xBF
            if b == 0xE0:
                low = 0xA0
            elif b == 0xED:
                high = 0x9F
            elif b == 0xF0:
                low = 0x90
            elif b == 0xF4:
                high = 0x8F
            goal = -1
            if t >= 0:
                if b < 0xE0:
                    goal = one[t]
                else:
                    first = table[t, group[low]]
                    for c in range(low, high + 1):
                        if table[t, group[c]] != first:
                            first = -1
                            break
                    if first >= 0:
                        goal = one[first] if b < 0xF0 else two[first]
            goals[b] = goal
            to = goal if to == -2 or goal == to else -1
        # 3. Otherwise where most ASCII characters lead.
        if to < 0:
            most = 0
            for b in range(0x20, 0x7F):
                t = table[s, group[b]]
                if t < 0 or t == to:
                    continue
                count = 0
                for c in range(0x20, 0x7F):
                    if table[s, group[c]] == t:
                        count += 1
                if count > most:
                    most, to = count, t
            if most < 8:
                continue
        after[s] = to
        for b in range(0xC2, 0xF5):
            if goals[b] == to:
                wide[s] |= np.uint64(1) << np.uint64(b & 63)
        for b in range(128):
            if table[s, group[b]] == to:
                ascii[s, b >> 6] |= np.uint64(1) << np.uint64(b & 63)
    # 4. The length of each chain.
    for s in range(states):
        if after[s] < 0 or run[s]:
            continue
        length, at = 0, s
        while True:
            to = after[at]
            if to == at:
                length = 1 << 30
                break
            if to < 0 or ascii[to, 0] != ascii[s, 0] or ascii[to, 1] != ascii[s, 1] or wide[to] != wide[s]:
                length += 1
                break
            if run[to]:
                length += 1 + run[to]
                break
            length += 1
            at = to
            if length > 1 << 20:
                break
        at = s
        while length > 0 and run[at] == 0:
            run[at] = min(length, 1 << 30)
            if length < 1 << 30:
                length -= 1
            at = after[at]
    return after, ascii, wide, run
