"""The Numba twin of cycle.cuh and of latency_cycle: the same cycle through a second compiler.

Inlined by Numba itself, because a nested device function is compiled for the present device, and without one the
types could not be tested. Nothing here but what Numba's CUDA simulator knows, so that the generator is tested without
a GPU. kernels/cycle.py says why it is one cycle.
"""

from __future__ import annotations

from numba import cuda, uint64


@cuda.jit(device=True, inline="always")
def mixed(word):  # type: ignore[no-untyped-def]
    """See cycle.cuh."""
    word = (word ^ (word >> uint64(32))) * uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> uint64(29))) * uint64(0xFF51AFD7ED558CCD)
    return word ^ (word >> uint64(32))


@cuda.jit(device=True, inline="always")
def permuted(index, n, half_bits, seed):  # type: ignore[no-untyped-def]
    """See cycle.cuh."""
    mask = (uint64(1) << half_bits) - uint64(1)
    outside = True
    while outside:
        left = index >> half_bits
        right = index & mask
        for number in range(4):
            swapped = left ^ (mixed(right + seed + uint64(number)) & mask)
            left = right
            right = swapped
        index = (left << half_bits) | right
        outside = index >= n
    return index


@cuda.jit(device=True, inline="always")
def placed(slot, stride_bytes):  # type: ignore[no-untyped-def]
    """See cycle.cuh."""
    return slot * stride_bytes + mixed(slot) % (stride_bytes // uint64(128)) * uint64(128)


def latency_cycle(words, base, n, half_bits, stride_bytes, seed, cursor, blocks):  # type: ignore[no-untyped-def]
    """See latency.cu; `words` is the memory at address `base`, as 64-bit words."""
    first = uint64(cuda.grid(1))
    step = uint64(cuda.gridsize(1))
    i = first
    while i < n:
        here = placed(permuted(i, n, half_bits, seed), stride_bytes)
        following = placed(permuted((i + uint64(1)) % n, n, half_bits, seed), stride_bytes)
        words[here // uint64(8)] = base + following
        i += step
    if first < blocks:
        cursor[first] = base + placed(permuted(first * n // blocks, n, half_bits, seed), stride_bytes)


WORDS = uint64[::1]
SIGNATURE = (WORDS, uint64, uint64, uint64, uint64, uint64, WORDS, uint64)
