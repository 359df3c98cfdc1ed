"""Compiled loops that make a finite automaton minimal."""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled


@compiled
def _mark(e, elements, location, block, first, marked, touched, count):
    s = block[e]
    i, j = location[e], first[s] + marked[s]
    elements[i] = elements[j]
    location[elements[i]] = i
    elements[j] = e
    location[e] = j
    if marked[s] == 0:
        touched[count] = s
        count += 1
    marked[s] += 1
    return count


@compiled
def _split(elements, block, first, past, marked, touched, count, blocks):
    while count:
        count -= 1
        s = touched[count]
        j = first[s] + marked[s]
        if j == past[s]:
            marked[s] = 0
            continue
        if marked[s] <= past[s] - j:
            first[blocks], past[blocks] = first[s], j
            first[s] = j
        else:
            past[blocks], first[blocks] = past[s], j
            past[s] = j
        for i in range(first[blocks], past[blocks]):
            block[elements[i]] = blocks
        marked[s] = marked[blocks] = 0
        blocks += 1
    return blocks


@compiled
def smallest(states, tail, label, head, accepting, stop):
    """(Q) the block of each state of the minimal automaton (Valmari, 2012: after Hopcroft, for partial automata).

    Args:
        tail, label, head: (M) the moves, sorted by label.
        accepting: (Q) bool. All states are useful.
        stop: (1) bool, see `running.run_loop`.
    """
    moves = len(tail)
    size = max(states, moves) + 1
    touched, marked = np.empty(size, np.int64), np.zeros(size, np.int64)
    # 1. Blocks of states: accepting ones and others.
    b_elements, b_location = np.arange(states), np.arange(states)
    b_block, b_first, b_past = (
        np.zeros(states, np.int64),
        np.zeros(states + 1, np.int64),
        np.zeros(states + 1, np.int64),
    )
    b_past[0] = states
    blocks, count = 1, 0
    for s in range(states):
        if accepting[s]:
            count = _mark(s, b_elements, b_location, b_block, b_first, marked, touched, count)
    blocks = _split(b_elements, b_block, b_first, b_past, marked, touched, count, blocks)
    # 2. Blocks of moves: one for each label.
    c_elements, c_location = np.arange(moves), np.arange(moves)
    c_block, c_first, c_past = np.zeros(moves, np.int64), np.zeros(moves + 1, np.int64), np.zeros(moves + 1, np.int64)
    cords = 0
    for m in range(moves):
        if m and label[m] != label[m - 1]:
            c_past[cords] = m
            cords += 1
            c_first[cords] = m
        c_block[m] = cords
    if moves:
        c_past[cords] = moves
        cords += 1
    # 3. The moves into each state.
    begin = np.zeros(states + 1, np.int64)
    for m in range(moves):
        begin[head[m] + 1] += 1
    for s in range(states):
        begin[s + 1] += begin[s]
    into, place = np.empty(moves, np.int64), begin.copy()
    for m in range(moves):
        into[place[head[m]]] = m
        place[head[m]] += 1
    # 4. Split blocks by blocks until nothing splits.
    c_marked = np.zeros(size, np.int64)
    b, c = 1, 0
    while c < cords and not stop[0]:
        count = 0
        for i in range(c_first[c], c_past[c]):
            count = _mark(tail[c_elements[i]], b_elements, b_location, b_block, b_first, marked, touched, count)
        blocks = _split(b_elements, b_block, b_first, b_past, marked, touched, count, blocks)
        c += 1
        while b < blocks:
            count = 0
            for i in range(b_first[b], b_past[b]):
                for j in range(begin[b_elements[i]], begin[b_elements[i] + 1]):
                    count = _mark(into[j], c_elements, c_location, c_block, c_first, c_marked, touched, count)
            cords = _split(c_elements, c_block, c_first, c_past, c_marked, touched, count, cords)
            b += 1
    return b_block
