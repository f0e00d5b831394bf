// What a fresh allocation, fresh shared memory and fresh local memory hold of a marker that an earlier process of this
// program left there.
//
// Nothing that is read leaves the device but counts: words equal to the marker, words that are not zero, words looked
// at. compile.py defines KERNEL, the symbol, and audit/residue.py PLANT, SHARED and LOCAL, each 0 or 1.
typedef unsigned long long word;

constexpr int shared_words = 6000;  // 48,000 bytes: what every architecture gives a block without asking
constexpr int local_words = 512;    // 4 KiB a thread

// chunk, words: global memory, not used where SHARED or LOCAL. found: [0] marker words, [1] words that are not zero,
// [2] words looked at.
extern "C" __global__ void KERNEL(volatile word *chunk, word words, word marker, word *found) {
#if SHARED
    __shared__ word place[shared_words];
    volatile word *looked_at = place;
    const word count = shared_words, start = threadIdx.x, stride = blockDim.x;
#elif LOCAL
    // Never written where it is sought. Volatile, and no pointer to it: each access stays one of local memory (LDL and
    // STL in the machine code, which tests/test_audit_memory.py counts).
    volatile word looked_at[local_words];
    const word count = local_words, start = 0, stride = 1;
#else
    volatile word *looked_at = chunk;
    const word count = words, start = (word)blockIdx.x * blockDim.x + threadIdx.x, stride = (word)gridDim.x * blockDim.x;
#endif
#if PLANT
    for (word i = start; i < count; i += stride) looked_at[i] = marker;
#else
    word markers = 0, others = 0, seen = 0;
    for (word i = start; i < count; i += stride) {
        const word value = looked_at[i];
        markers += value == marker;
        others += value != 0;
        ++seen;
    }
    atomicAdd(found, markers);
    atomicAdd(found + 1, others);
    atomicAdd(found + 2, seen);
#endif
}
