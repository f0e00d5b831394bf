// What a fresh allocation and fresh shared memory hold of a marker that an earlier process of this program left there.
//
// Nothing that is read leaves the device but two counts: words equal to the marker, and words that are not zero.
// compile.py defines KERNEL, the symbol, and audit/residue.py PLANT and SHARED, each 0 or 1.
typedef unsigned long long word;

constexpr int shared_words = 6000;  // 48,000 bytes: what every architecture gives a block without asking

// chunk, words: global memory, not used where SHARED. found: [0] marker words, [1] words that are not zero, [2] words
// looked at.
extern "C" __global__ void KERNEL(volatile word *chunk, word words, word marker, word *found) {
#if SHARED
    __shared__ word place[shared_words];
    volatile word *looked_at = place;
    const word count = shared_words, start = threadIdx.x, stride = blockDim.x;
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
