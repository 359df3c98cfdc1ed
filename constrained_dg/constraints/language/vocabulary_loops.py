"""Compiled loops that carry an automaton over bytes to the tokens of a vocabulary, with a trie of their texts."""

from __future__ import annotations

import numpy as np

from constrained_dg.constraints.language.dfa_loops import TOO_LARGE, grown
from constrained_dg.numba_jit import compiled


@compiled
def _led(state, code, total, touched, met, targets):
    """Add the code (2) of texts that lead to a state to its sum, and the state to those met; returns their number."""
    total[state, 0] += code[0]
    total[state, 1] += code[1]
    if not touched[state]:
        touched[state] = True
        met[targets] = state
        targets += 1
    return targets


@compiled
def _slot(slots, label_code, code):
    """The slot of the label with a code (2), or the empty slot where it belongs."""
    slot = np.int64(code[0] % np.uint64(len(slots)))
    while slots[slot] >= 0:
        other = slots[slot]
        if label_code[other, 0] == code[0] and label_code[other, 1] == code[1]:
            break
        slot = (slot + 1) % len(slots)
    return slot


@compiled
def tokens(
    table, group, byte, depth, past, first, ends, code, ascii, wide, plain, height, missing, lowest, begin, sums,
    split, after, chars, takes_wide, run, image, shift, before, far, twin, base, place_of, member, most, stop,
):  # fmt: skip
    """Walk the trie once from each state that tokens reach, from state 0 on. The edges of a state that is the image of
    another follow from the other's, where `shift_loops` shows it, and those on plain texts, the nodes before `split`,
    where it is the copy of another, as `copy_loops` shows.

    Two states are joined by an edge if some text leads from one to the other; the texts that do so are its label. Plain
    texts and others have an edge each.
    Equal labels, found by sums of random codes of 128 bits, are one.

    Args:
        most: edges, and members of labels, at most.
        stop: (1) bool, see `running.run_loop`.

    Returns:
        source, target, label of each edge; where the members of each label begin; the members, numbers of texts;
        the states by their numbers as sources; and how many were walked from, or TOO_LARGE. Edges are in no order.
    """
    states = len(table)
    number = np.full(states, -1, np.int32)
    order = np.empty(states, np.int32)
    number[0], order[0], count = 0, 0, 1
    source, target, label = np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024, np.int32)
    edges, labels = 0, 0
    label_code = np.zeros((1024, 2), np.uint64)
    label_begin = np.zeros(1025, np.int64)
    members, used = np.empty(4096, np.int32), 0
    slots = np.full(4096, -1, np.int64)
    # What a walk finds: texts that lead to a state: the one of a node (0), those k characters below it (k), or all
    # below it (-1).
    to, node, below = np.empty(4096, np.int32), np.empty(4096, np.int32), np.empty(4096, np.int32)
    total = np.zeros((states, 2), np.uint64)
    is_new, met = np.full(states, -1, np.int64), np.empty(states, np.int32)
    touched = np.zeros(states, np.bool_)
    here = np.zeros(depth.max() + 2, np.int32)
    deep = np.zeros(depth.max() + 2, np.int32)
    nodes = len(byte)
    # By half of the trie and by state, once it is done: its edges, and the greatest depth at which a walk from it was
    # alive; and the first of equal copies that was done.
    edge_begin, edge_end = np.zeros((2, states), np.int64), np.zeros((2, states), np.int64)
    reach, leader = np.full((2, states), -1, np.int32), np.full(states, -1, np.int32)
    waits = np.zeros(states, np.bool_)
    waits[0] = True
    walked, start, first_waits = 0, 0, 0
    half = 1
    while not stop[0]:
        if half == 0:
            half = 1
        else:
            # The first state that waits: images lie behind the states that they are images of.
            start = first_waits
            while start < states and not waits[start]:
                start += 1
            if start == states:
                break
            waits[start] = False
            first_waits, half = start, 0
        found, targets, alive = 0, 0, 0
        r, copied = before[start], half == 0 and leader[twin[start]] >= 0
        if copied:
            r = leader[twin[start]]
        derived = copied or (r >= 0 and reach[half, r] >= 0 and far[r] > reach[half, r])
        if derived:
            alive = reach[half, r]
            for e in range(edge_begin[half, r], edge_end[half, r]):
                t = order[target[e]]
                if copied:
                    t = member[base[start] + place_of[t]]
                elif shift[t] == shift[r]:
                    t = image[t]
                targets = _led(t, label_code[label[e]], total, touched, met, targets)
            for k in range(targets):
                if slots[_slot(slots, label_code, total[met[k]])] < 0:
                    derived = False  # what two targets share is no label yet: a walk lists its members
            if not derived:
                for k in range(targets):
                    t = met[k]
                    touched[t] = False
                    total[t, 0] = total[t, 1] = np.uint64(0)
                targets, alive = 0, 0
        if half == 0 and leader[twin[start]] < 0:
            leader[twin[start]] = start
        walked += 0 if derived else 1
        here[0] = start
        i, last = (0, split) if half == 0 else (split, nodes)
        if derived:
            i = last
        while i < last:
            if i:
                s = table[here[depth[i] - 1], group[byte[i]]]
                if s < 0:
                    i = past[i]
                    continue
                here[depth[i]] = s
            else:
                s = here[0]
            alive = max(alive, depth[i])
            if found + 256 > len(to):
                to, node, below = grown(to, 0), grown(node, 0), grown(below, 0)
            if ends[i]:
                to[found], node[found], below[found] = s, i, 0
                found += 1
                targets = _led(s, code[i], total, touched, met, targets)
            high = height[i]
            if (
                i > 0
                and high > 0
                and high < 200
                and plain[i]
                and after[s] >= 0
                and high <= run[s]
                and wide[i] & ~takes_wide[s] == 0
                and ascii[i, 0] & ~chars[s, 0] == 0
                and ascii[i, 1] & ~chars[s, 1] == 0
            ):
                # Every text behind goes from state to state of the chain, or stays where it is.
                alive = max(alive, lowest[i])
                if after[s] == s:
                    to[found], node[found], below[found] = s, i, -1
                    found += 1
                    for k in range(high):
                        targets = _led(s, sums[begin[i] + k], total, touched, met, targets)
                    i = past[i]
                    continue
                t = s
                for k in range(high):
                    t = after[t]
                    if sums[begin[i] + k, 0] == 0 and sums[begin[i] + k, 1] == 0:
                        continue
                    to[found], node[found], below[found] = t, i, k + 1
                    found += 1
                    targets = _led(t, sums[begin[i] + k], total, touched, met, targets)
                i = past[i]
                continue
            i += 1
        # The edges of this state.
        fresh = 0
        edge_begin[half, start], reach[half, start] = edges, alive
        for k in range(targets):
            t = met[k]
            touched[t] = False
            if number[t] < 0:
                number[t] = count
                order[count] = t
                count += 1
                waits[t] = True
                first_waits = min(first_waits, t)
            slot = _slot(slots, label_code, total[t])
            which = slots[slot]
            if which < 0:
                which = labels
                if labels + 2 >= len(label_begin):
                    label_code, label_begin = grown(label_code, 0), grown(label_begin, 0)
                label_code[which, 0], label_code[which, 1] = total[t, 0], total[t, 1]
                slots[slot] = which
                is_new[t] = which
                labels += 1
                fresh += 1
                if 3 * labels > len(slots):
                    slots = np.full(4 * len(slots), -1, np.int64)
                    for x in range(labels):
                        slots[_slot(slots, label_code, label_code[x])] = x
            if edges == len(source):
                source, target, label = grown(source, 0), grown(target, 0), grown(label, 0)
            source[edges], target[edges], label[edges] = number[start], number[t], which
            edges += 1
        # The members of new labels: count, then fill.
        if fresh:
            size, place = np.zeros(fresh, np.int64), np.zeros(fresh, np.int64)
            for step in range(2):
                for k in range(found):
                    f = is_new[to[k]] - (labels - fresh)
                    if is_new[to[k]] < 0:
                        continue
                    x, beyond = node[k], node[k] + 1
                    if below[k]:
                        x, beyond = node[k] + 1, past[node[k]]
                        deep[depth[node[k]]] = 0
                    if below[k] == -1:  # all texts behind the node
                        low = first[node[k]] + (1 if ends[node[k]] else 0)
                        for u in range(low, first[beyond]):
                            if step:
                                members[place[f]] = u
                                place[f] += 1
                            else:
                                size[f] += 1
                        continue
                    while x < beyond:
                        if below[k]:
                            deep[depth[x]] = deep[depth[x] - 1] + (1 if missing[x] == 0 else 0)
                            if missing[x] != 0 or deep[depth[x]] < below[k]:
                                x += 1
                                continue
                        if ends[x]:
                            if step:
                                members[place[f]] = first[x]
                                place[f] += 1
                            else:
                                size[f] += 1
                        x = past[x]
                if step == 0:
                    for f in range(fresh):
                        place[f] = label_begin[labels - fresh + f] = used
                        used += size[f]
                    if used > len(members):
                        members = grown(members, used)
            label_begin[labels] = used
        for k in range(targets):
            t = met[k]
            total[t, 0] = total[t, 1] = np.uint64(0)
            is_new[t] = -1
        edge_end[half, start] = edges
        if max(edges, used) > most:
            walked = TOO_LARGE
            break
    return (
        source[:edges], target[:edges], label[:edges], label_begin[: labels + 1], members[:used], order[:count], walked,
    )  # fmt: skip


@compiled
def classes(texts, label_begin, members, code):
    """Texts that are in the same labels are one class.

    Args:
        texts: U.
        label_begin, members: the texts of each label.
        code: (L, 2) uint64, random numbers of the labels.

    Returns:
        (U) the class of each text, 0 for those in no label; the number of classes; and the labels with classes as
        members, as CSR.
    """
    labels = len(label_begin) - 1
    total = np.zeros((texts, 2), np.uint64)
    for x in range(labels):
        for k in range(label_begin[x], label_begin[x + 1]):
            total[members[k], 0] += code[x, 0]
            total[members[k], 1] += code[x, 1]
    slots = np.full(4 * texts + 16, -1, np.int64)
    of, leads = np.zeros(texts, np.int32), np.zeros(texts, np.bool_)
    count = 1
    for u in range(texts):
        if total[u, 0] == 0 and total[u, 1] == 0:
            continue
        slot = np.int64(total[u, 0] % np.uint64(len(slots)))
        while slots[slot] >= 0:
            other = slots[slot]
            if total[other, 0] == total[u, 0] and total[other, 1] == total[u, 1]:
                break
            slot = (slot + 1) % len(slots)
        if slots[slot] < 0:
            slots[slot] = u
            leads[u] = True
            of[u] = count
            count += 1
        else:
            of[u] = of[slots[slot]]
    begin = np.zeros(labels + 1, np.int64)
    for x in range(labels):
        size = 0
        for k in range(label_begin[x], label_begin[x + 1]):
            if leads[members[k]]:
                size += 1
        begin[x + 1] = begin[x] + size
    inside, place = np.empty(begin[labels], np.int32), 0
    for x in range(labels):
        for k in range(label_begin[x], label_begin[x + 1]):
            if leads[members[k]]:
                inside[place] = of[members[k]]
                place += 1
    return of, count, begin, inside
