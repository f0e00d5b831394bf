// The loop of every kernel that passes over arrays in chunks. The including file says what a chunk is, in constants:
// `threads` to a block, `vectors` to a thread, and `chunk_vectors`, how far apart in the array two chunks begin.
#pragma once
#include "stamp.cuh"

// Hands out chunk numbers 0 .. total - 1. A block asks for its next chunk before it works on the present one and
// looks at the answer after it, so the counter's latency is hidden. Exactly total + gridDim.x requests are made
// per launch (each block is refused once), and atomicInc wraps after that many: the counter is zero again at the
// end, no memset between launches.
struct Chunks {
    unsigned *counter, total;
    unsigned *next;  // two slots in shared memory: one being read while the other is written
    unsigned phase, taken, pending;

    __device__ unsigned request() { return atomicInc(counter, total + gridDim.x - 1); }
    __device__ unsigned first() {
        phase = taken = 0;
        if (threadIdx.x == 0) next[0] = request();
        __syncthreads();
        return next[0];
    }
    __device__ void prefetch() {
        if (threadIdx.x == 0) pending = request();
        ++taken;
    }
    __device__ unsigned advance() {
        phase ^= 1;
        if (threadIdx.x == 0) next[phase] = pending;
        __syncthreads();
        return next[phase];
    }
};

// Any word is a float in [1, 2) with 23 random mantissa bits, so arrays of it feed every kernel here.
__device__ __forceinline__ unsigned random_word(unsigned long long word, unsigned seed) {
    unsigned h = (unsigned)word * 0x9E3779B1u ^ (unsigned)(word >> 32) ^ seed;  // multiplicative hash, odd constant
    h = (h ^ h >> 15) * 0x85EBCA6Bu;                                           // one round of MurmurHash3's mixer
    return 0x3F800000u | (h ^ h >> 13) & 0x007FFFFFu;
}

#define CHUNK_LOOP(BODY)                                                              \
    __shared__ unsigned next[2];                                                      \
    Chunks chunks{counter, total_chunks, next};                                       \
    Stamp stamp;                                                                      \
    stamp_start(stamp);                                                               \
    unsigned chunk = chunks.first();                                                  \
    _Pragma("unroll 1") while (chunk < total_chunks) {                                \
        chunks.prefetch();                                                            \
        const size_t start = (size_t)(chunk % array_chunks) * chunk_vectors + threadIdx.x; \
        BODY;                                                                         \
        chunk = chunks.advance();                                                     \
    }                                                                                 \
    stamp_stop(stamp, chunks.taken, stamps)

#define EACH_VECTOR _Pragma("unroll") for (int v = 0; v < vectors; ++v)

// total_chunks may exceed array_chunks: the arrays are then passed over again from their beginning.
#define ARGUMENTS Stamp *stamps, unsigned *counter, unsigned array_chunks, unsigned total_chunks
