// The capacity test's three passes over memory that the program allocated itself, and single-word pokes.
//
// Every 64-bit word holds a keyed hash of its own address and a nonce drawn for this run: a device that wraps addresses,
// or makes values up from addresses, does not know the key. compile.py defines KERNEL, the symbol, and audit/memory.py
// which of fill, verify or invert it is (FILL, VERIFY, INVERT: one of them 1).
typedef unsigned long long word;

// SipHash's round on four words (Aumasson and Bernstein, 2012): one for the address, three to finish, no block for the
// length, which is always the same. No value follows from another without the key. audit/memory.py has it in NumPy.
__device__ __forceinline__ word rotate(word x, int by) { return x << by | x >> (64 - by); }

__device__ __forceinline__ word keyed(word address, word key0, word key1) {
    word v0 = key0 ^ 0x736f6d6570736575ull, v1 = key1 ^ 0x646f72616e646f6dull;
    word v2 = key0 ^ 0x6c7967656e657261ull, v3 = key1 ^ 0x7465646279746573ull ^ address;
#pragma unroll
    for (int round = 0; round < 4; ++round) {
        v0 += v1, v1 = rotate(v1, 13) ^ v0, v0 = rotate(v0, 32);
        v2 += v3, v3 = rotate(v3, 16) ^ v2;
        v0 += v3, v3 = rotate(v3, 21) ^ v0;
        v2 += v1, v1 = rotate(v1, 17) ^ v2, v2 = rotate(v2, 32);
        if (round == 0) v0 ^= address, v2 ^= 0xff;
    }
    return v0 ^ v1 ^ v2 ^ v3;
}

// first: the number of the chunk's first word in the whole footprint; flip: 0, or all ones for the complement.
// found: [0] how many words were wrong, [1] the smallest wrong word's number, [2] the OR of what was wrong in them,
// [3 + n] how many of them SM n read. Blocks find other SMs in each launch, so that a word is not always read by one.
extern "C" __global__ void KERNEL(volatile word *chunk, word words, word first, word key0, word key1, word flip,
                                  word *found) {
    const word stride = (word)gridDim.x * blockDim.x;
    for (word i = (word)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += stride) {
#if FILL
        chunk[i] = keyed(first + i, key0, key1) ^ flip;
#else
        const word at = words - 1 - i;  // the other way round than the fill went
        const word expected = keyed(first + at, key0, key1) ^ flip, seen = chunk[at];
        if (seen != expected) {
            atomicAdd(found, 1ull);
            atomicMin(found + 1, first + at);
            atomicOr(found + 2, seen ^ expected);
            unsigned sm;
            asm("mov.u32 %0, %%smid;" : "=r"(sm));
            atomicAdd(found + 3 + min(sm, SMS - 1u), 1ull);
        }
#if INVERT
        chunk[at] = ~expected;  // one step of moving inversions: read, compare, write the opposite
#endif
#endif
    }
}
