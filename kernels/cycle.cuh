// A random cycle through n slots, each step of it computed by itself: p is a keyed bijection of [0, n), and slot
// p(i) points at slot p(i + 1 mod n). kernels/cycle.py says why that is one cycle and has the same arithmetic.
// Free of CUDA but for the two qualifiers, so that a test compiles it for the host.
#pragma once

constexpr int feistel_rounds = 4;

__device__ __forceinline__ unsigned long long mixed(unsigned long long word) {
    word = (word ^ word >> 32) * 0x9E3779B97F4A7C15ull;  // odd constants: the golden ratio's and MurmurHash3's
    word = (word ^ word >> 29) * 0xFF51AFD7ED558CCDull;
    return word ^ word >> 32;
}

// p(index). A Feistel network permutes [0, 4^half_bits); walking on until the value is below n makes it one of [0, n).
__device__ __forceinline__ unsigned long long
permuted(unsigned long long index, unsigned long long n, int half_bits, unsigned long long seed) {
    const unsigned long long mask = (1ull << half_bits) - 1;
    do {
        unsigned long long left = index >> half_bits, right = index & mask;
        for (int round = 0; round < feistel_rounds; ++round) {
            const unsigned long long next = left ^ (mixed(right + seed + round) & mask);
            left = right;
            right = next;
        }
        index = left << half_bits | right;
    } while (index >= n);
    return index;
}

// Where a slot lies. Slots wider than a line begin at a line of their own choice, so that they do not all fall into
// the same set of a cache.
__device__ __forceinline__ unsigned long long placed(unsigned long long slot, unsigned long long stride_bytes) {
    return slot * stride_bytes + mixed(slot) % (stride_bytes / 128) * 128;
}
