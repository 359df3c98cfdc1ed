"""Compiled loops that make the trie of a vocabulary's texts, and measure its subtrees."""

from __future__ import annotations

import numpy as np

from constrained_dg.numba_jit import compiled


@compiled
def trie(data, begin, apart):
    """The trie of distinct texts, in an order in which neighbours share beginnings.

    Args:
        data: (N) uint8, the bytes of all texts, one text after the other.
        begin: (U + 1) where each begins.
        apart: the number of texts that share no node but the root with the later ones.

    Returns:
        by node, in the order of a walk in depth, node 0 the root: its byte (uint8), its depth, the node behind its
        subtree, the first text at or behind it (the texts of a subtree follow each other), and whether a text ends
        here.
    """
    texts = len(begin) - 1
    nodes = 1
    longest = 0
    for u in range(texts):
        longest = max(longest, begin[u + 1] - begin[u])
        shared = 0
        if u and u != apart:
            while (
                shared < begin[u + 1] - begin[u]
                and shared < begin[u] - begin[u - 1]
                and data[begin[u] + shared] == data[begin[u - 1] + shared]
            ):
                shared += 1
        nodes += begin[u + 1] - begin[u] - shared
    byte, depth = np.zeros(nodes, np.uint8), np.zeros(nodes, np.int32)
    past, first = np.zeros(nodes, np.int32), np.zeros(nodes + 1, np.int32)
    ends = np.zeros(nodes, np.bool_)
    path = np.zeros(longest + 1, np.int64)
    length, count = 0, 1
    for u in range(texts):
        shared = 0
        size = begin[u + 1] - begin[u]
        while u != apart and shared < size and shared < length and data[begin[u] + shared] == byte[path[shared + 1]]:
            shared += 1
        for d in range(length, shared, -1):
            past[path[d]] = count
        for d in range(shared, size):
            byte[count], depth[count], first[count] = data[begin[u] + d], d + 1, u
            path[d + 1] = count
            count += 1
        length = size
        ends[path[size]] = True
    for d in range(length, -1, -1):
        past[path[d]] = count
    first[nodes] = texts
    return byte, depth, past, first, ends


@compiled
def subtrees(byte, depth, past, ends, code):
    """What the texts behind each node consist of: for `tokens`, which need not walk a subtree that an automaton takes
    character by character.

    Args:
        code: (nodes, 2) uint64, random numbers of the texts that end at each node, 0 where none does.

    Returns:
        by node: the ASCII characters behind it (nodes, 2) uint64; the first bytes of others (uint64, bit b & 63
        for byte b); whether it is plain: every text behind it that ends goes on with whole characters; how many
        characters follow at most; how many bytes of a character are missing; and the greatest depth of the node and
        those behind it. And for each node and each number of characters that follow, as CSR: the sum of the codes of
        the texts that end there.
    """
    nodes = len(byte)
    ascii = np.zeros((nodes, 2), np.uint64)
    wide, plain = np.zeros(nodes, np.uint64), np.ones(nodes, np.bool_)
    height, lowest = np.zeros(nodes, np.int32), depth.copy()
    parent = np.zeros(nodes, np.int32)
    path = np.zeros(depth.max() + 1, np.int32)
    for i in range(1, nodes):
        path[depth[i]] = i
        parent[i] = path[depth[i] - 1] if depth[i] > 1 else 0
    # 1. How many bytes of a character are missing behind each node, where the walk began with a whole one.
    missing = np.zeros(nodes, np.int8)
    kind = np.zeros(nodes, np.uint8)  # of a character that is begun: the bounds of its second byte
    for i in range(1, nodes):
        m, b = missing[parent[i]], byte[i]
        if m < 0:
            missing[i] = -1
        elif m == 0:
            if b < 0x80:
                missing[i] = 0
            elif 0xC2 <= b <= 0xDF:
                missing[i] = 1
            elif 0xE0 <= b <= 0xEF:
                missing[i], kind[i] = 2, b
            elif 0xF0 <= b <= 0xF4:
                missing[i], kind[i] = 3, b
            else:
                missing[i] = -1
        else:
            low, high, k = 0x80, 0xBF, kind[parent[i]]
            if k == 0xE0:
                low = 0xA0
            elif k == 0xED:
                high = 0x9F
            elif k == 0xF0:
                low = 0x90
            elif k == 0xF4:
                high = 0x8F
            missing[i] = m - 1 if low <= b <= high else -1
    # 2. From the leaves to the root.
    for i in range(nodes - 1, 0, -1):
        p = parent[i]
        if missing[i] < 0 or (ends[i] and missing[i] > 0):
            plain[i] = False
        if not plain[i]:
            plain[p] = False
        if missing[i] == 0 and byte[i] < 0x80:
            ascii[p, byte[i] >> 6] |= np.uint64(1) << np.uint64(byte[i] & 63)
        if byte[i] >= 0xC0:
            wide[p] |= np.uint64(1) << np.uint64(byte[i] & 63)
        ascii[p, 0] |= ascii[i, 0]
        ascii[p, 1] |= ascii[i, 1]
        wide[p] |= wide[i]
        lowest[p] = max(lowest[p], lowest[i])
        height[p] = max(height[p], height[i] + (1 if missing[i] == 0 else 0))
    # 3. Sums of codes by the number of characters; only below whole characters.
    begin = np.zeros(nodes + 1, np.int64)
    for i in range(nodes):
        begin[i + 1] = begin[i] + (height[i] if missing[i] == 0 and plain[i] else 0)
    sums = np.zeros((begin[nodes], 2), np.uint64)
    for i in range(nodes - 1, 0, -1):
        if missing[i] != 0:
            continue
        above = parent[i]  # the nearest node above at which a character ends
        while missing[above] != 0:
            above = parent[above]
        if begin[above + 1] == begin[above]:
            continue
        if ends[i]:
            sums[begin[above], 0] += code[i, 0]
            sums[begin[above], 1] += code[i, 1]
        for k in range(begin[i + 1] - begin[i]):
            sums[begin[above] + k + 1, 0] += sums[begin[i] + k, 0]
            sums[begin[above] + k + 1, 1] += sums[begin[i] + k, 1]
    return ascii, wide, plain & (missing == 0), height, missing, lowest, begin, sums
