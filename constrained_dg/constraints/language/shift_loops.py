"""Compiled loops that find where an automaton repeats itself one step later: a pattern beside a counter of characters.

A shift maps the states of a domain to states, and each other state to itself. It holds at a state if every byte leads
from the state's image to the image of where it leads from the state. If it holds at all states that a text of n bytes
can meet from r, the texts of up to n bytes lead from the image of r to the images of where they lead from r: a walk
of the vocabulary from r says what a walk from its image would find.
"""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled

#: Shifts that are kept, those of the largest domains.
_MOST = 32


@compiled
def shifts(table, longest):
    """Guess shifts from a state to one that it leads to, and find where they hold.

    Args:
        table: (Q, G), -1 where none may follow.
        longest: bytes of the longest text of the vocabulary.

    Returns:
        by state, int32: its image, -1 in no domain; the number of its shift, -1 for none; a state whose image it is, -1
        for none; and the fewest bytes to a state where its shift does not hold, `longest` + 2 if that is more.
    """
    states, groups = table.shape
    image, shift = np.full(states, -1, np.int32), np.full(states, -1, np.int32)
    before, far = np.full(states, -1, np.int32), np.zeros(states, np.int32)
    domain, begin = np.empty(states, np.int32), np.zeros(states + 1, np.int64)
    # 1. A state and the first one that it leads to on which the same bytes may follow; then what both lead to.
    count = 0
    for x in range(states):
        if shift[x] >= 0:
            continue
        for g in range(groups):
            y = table[x, g]
            if y < 0 or y == x or shift[y] >= 0:
                continue
            alike = True
            for h in range(groups):
                if (table[x, h] < 0) != (table[y, h] < 0):
                    alike = False
                    break
            if not alike:
                continue
            image[x], shift[x] = y, count
            at = begin[count]
            top = at + 1
            domain[at] = x
            while at < top:
                s = domain[at]
                for h in range(groups):
                    t, u = table[s, h], table[image[s], h]
                    if t >= 0 and u >= 0 and t != u and shift[t] < 0:
                        image[t], shift[t] = u, count
                        domain[top] = t
                        top += 1
                at += 1
            count += 1
            begin[count] = top
            break
    # 2. What leads to each state.
    into = np.zeros(states + 1, np.int64)
    for s in range(states):
        for g in range(groups):
            t = table[s, g]
            if t >= 0 and not (g and table[s, g - 1] == t):
                into[t] += 1
    for t in range(states):
        into[t + 1] += into[t]
    sources = np.empty(into[states], np.int32)
    for s in range(states):
        for g in range(groups):
            t = table[s, g]
            if t >= 0 and not (g and table[s, g - 1] == t):
                into[t] -= 1
                sources[into[t]] = s
    # 3. How far each state of a large domain is from where its shift does not hold.
    sizes = begin[1 : count + 1] - begin[:count]
    distance, queue = np.full(states, -1, np.int32), np.empty(states, np.int32)
    for j in np.argsort(-sizes, kind="mergesort")[:_MOST]:
        top = 0
        for k in range(begin[j], begin[j + 1]):
            x = domain[k]
            before[image[x]] = x
            holds = True
            for g in range(groups):
                t, u = table[x, g], table[image[x], g]
                if t >= 0 and shift[t] == j:
                    t = image[t]
                if t != u:
                    holds = False
                    break
            if not holds and distance[x] < 0:
                distance[x], queue[top] = 0, x
                top += 1
            for e in range(into[x], into[x + 1]):  # outside, each state is its own image
                s = sources[e]
                if shift[s] != j and distance[s] < 0:
                    distance[s], queue[top] = 0, s
                    top += 1
        at = 0
        while at < top:
            t = queue[at]
            at += 1
            if distance[t] > longest:
                continue
            for e in range(into[t], into[t + 1]):
                s = sources[e]
                if distance[s] < 0:
                    distance[s], queue[top] = distance[t] + 1, s
                    top += 1
        for k in range(begin[j], begin[j + 1]):
            x = domain[k]
            far[x] = distance[x] if distance[x] >= 0 else longest + 2
        for k in range(top):
            distance[queue[k]] = -1
    return image, shift, before, far
