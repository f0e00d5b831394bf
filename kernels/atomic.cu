// atomic.*: additions and compare-and-swap in shared and in global memory, by how many threads meet at an address.
// One operation and space per compilation: -DSHARED=0|1 -DWORD=<type> -DSWAP=0|1 -DKERNEL=<name> (atomic.py).
//
// Where the threads meet is data, not code: the same machine code runs all three patterns. Known to the compiler, one
// address for a whole warp would make it add up the warp's values first (REDUX, or the lanes' count times the value)
// and send one addition. What the hardware does on the way, it does: the additions that threads ask for are counted.
//   one     every thread at the same word, of the block (shared) or of the whole GPU (global)
//   warp    the 32 threads of a warp at one word, no other warp there
//   spread  every thread at a word of its own, a warp's side by side
// The additions need no answer, so global ones are RED, which nobody waits for. Machine code has no addition of floats
// in shared memory: there it is a loop of a load, an addition and a swap (ATOMS.CAST.SPIN) until nobody came between;
// each runs to its success, and the additions are counted, not the attempts.
//
// 64-bit compare-and-swap: in pairs. The first finds another value than it asks for (0) and so learns what is there,
// the second finds it and swaps it for itself. So half of all swap, under any contention, and each answer is known.
#include "chunks.cuh"
#include "cycle.cuh"
#include "stamp.cuh"

using Word = WORD;

#define EACH(i, count) _Pragma("unroll") for (int i = 0; i < count; ++i)

#if SWAP
// Pairs at `count` places; the sum of what was found.
template <int count>
__device__ __forceinline__ Word swapped(Word *(&place)[count]) {
    Word total = 0, found[count];
    EACH(i, count) found[i] = atomicCAS(place[i], (Word)0, (Word)0);
    EACH(i, count) total += found[i] + atomicCAS(place[i], found[i], found[i]);
    return total;
}
#endif

#if SHARED
// input: for each thread the word where it works, then its value (an addend, or what lies in its own word). 16
// operations an iteration. output: each thread's own word, or the sum of what it found.
constexpr int threads = 1024, operations = 16;

extern "C" __global__ void __launch_bounds__(threads, 1)
KERNEL(Stamp *stamps, const Word *input, Word *output, int iterations) {
    __shared__ Word table[threads];
    Word *const place = table + (unsigned)input[threadIdx.x];
    const Word value = input[threads + threadIdx.x];
    table[threadIdx.x] = SWAP ? value : (Word)0;
    Stamp stamp;
    stamp_start(stamp);  // a barrier, too: the table is complete
#if SWAP
    constexpr int pairs = operations / 2;
    Word total = 0, *places[4] = {place, place, place, place};
#pragma unroll 1
    for (int iteration = 0; iteration < iterations; ++iteration) {
        EACH(four, pairs / 4) total += swapped(places);
    }
#else
#pragma unroll 1
    for (int iteration = 0; iteration < iterations; ++iteration) {
        EACH(i, operations) atomicAdd(place, value);
    }
    Word total;
#endif
    stamp_stop(stamp, iterations, stamps);
#if !SWAP
    total = table[threadIdx.x];
#endif
    output[blockIdx.x * threads + threadIdx.x] = total;
}

#else
// The table is passed over in chunks of 16 KiB. `mask` cuts a word's number: ~0 leaves each thread its own word, ~31
// the first of its warp's 32, 0 the table's first. A chunk is 4,096 operations: eight a thread (four pairs of swaps at
// words of 64 bits). L2 holds the table, which has more chunks than blocks work at once, so that none meet in one.
constexpr int threads = 512, vectors = SWAP ? 4 : 8;
constexpr unsigned chunk_vectors = threads * vectors;

#if SWAP
extern "C" __global__ void __launch_bounds__(threads, 2) KERNEL(ARGUMENTS, Word *table, Word *sum, unsigned mask) {
    Word total = 0;
    CHUNK_LOOP({
        Word *place[vectors];
        EACH_VECTOR place[v] = table + ((unsigned)(start + v * threads) & mask);
        total += swapped(place);
    });
    atomicAdd(sum, total);
}
#else
// Addends: one hash a thread and chunk, then one or two instructions each. Floats are 2, -2, 4 or -4: with so few bits
// the sums of a check are exact in any order.
__device__ __forceinline__ void addend(unsigned h, int v, unsigned &value) { value = h ^ v * 0x9E3779B1u; }
__device__ __forceinline__ void addend(unsigned h, int v, float &value) {
    value = __uint_as_float(((h << v) & 0x80800000u) | 0x40000000u);
}

extern "C" __global__ void __launch_bounds__(threads, 2)
KERNEL(ARGUMENTS, Word *table, unsigned long long seed_and_mask) {
    const unsigned seed = seed_and_mask >> 32;
    const unsigned mask = seed_and_mask;
    CHUNK_LOOP({
        const unsigned h = mixed((unsigned long long)chunk << 32 | (seed ^ threadIdx.x));
        EACH_VECTOR {
            Word value;
            addend(h, v, value);
            atomicAdd(table + ((unsigned)(start + v * threads) & mask), value);
        }
    });
}
#endif
#endif
