"""The random cycle that a pointer chase follows, in NumPy: the reference of cycle.cuh and of the Numba twin.

Sattolo's shuffle gives one random cycle, but each of its steps needs the one before: on a device it would run in one
thread. Here p is a keyed bijection of [0, n) and slot p(i) points at slot p(i + 1 mod n), so that any thread can write
any slot. That is one cycle of all n slots, whatever n and the key: successor = p . (+1 mod n) . p^-1, which visits
p(0), p(1), ..., p(n - 1), all of them different, and then p(0) again.

p is a Feistel network of four rounds on the smallest [0, 4^h) that holds n (a bijection for any round function: each
round can be undone), restricted to [0, n) by cycle walking: apply it again until the value is below n (Black and
Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 4
LINE_BYTES = 128


def half_bits(n: int) -> int:
    """h of the network on [0, 4^h): the smallest for which that holds n slots. Raises ValueError for n < 1."""
    if n < 1:
        raise ValueError(f"a cycle has at least one slot, not {n}")
    return max(1, ((n - 1).bit_length() + 1) // 2)


def mixed(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The round function: multiply and xor-shift, in 64 bits."""
    word = (word ^ (word >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(29))) * np.uint64(0xFF51AFD7ED558CCD)
    return word ^ (word >> np.uint64(32))


def permuted(index: NDArray[np.uint64], n: int, seed: int) -> NDArray[np.uint64]:
    """p(index) for an array of indices below n; `seed` below 2^64 is the key."""
    half = np.uint64(half_bits(n))
    mask = np.uint64((1 << int(half)) - 1)
    key = np.array([seed], dtype=np.uint64)  # arrays wrap silently, scalars warn
    result = index.astype(np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for number in range(ROUNDS):
            left, right = right, left ^ (mixed(right + key + np.uint64(number)) & mask)
        result[outside] = left << half | right
        outside = result >= n
    return result


def placed(slot: NDArray[np.uint64], stride_bytes: int) -> NDArray[np.uint64]:
    """Where a slot begins, in bytes: in slots wider than a line, at one of its lines."""
    lines = np.uint64(stride_bytes // LINE_BYTES)
    return slot * np.uint64(stride_bytes) + mixed(slot) % lines * np.uint64(LINE_BYTES)


def order(n: int, seed: int) -> NDArray[np.uint64]:
    """The slots in the order in which the chase visits them, from p(0)."""
    return permuted(np.arange(n, dtype=np.uint64), n, seed)


def successors(n: int, seed: int) -> NDArray[np.uint64]:
    """For each slot, the slot that it points at."""
    visited = order(n, seed)
    result = np.empty(n, dtype=np.uint64)
    result[visited] = np.roll(visited, -1)
    return result
