// How memory and L2 take to narrow, misaligned, partial and random accesses, beside the 16 bytes a thread of memory.cu.
// One kernel per compilation, chosen with -DKERNEL=<name> (access.py has the macros and declares the work).
#include "chunks.cuh"
#include "cycle.cuh"
#include "stamp.cuh"

constexpr int threads = 512;

#ifdef WIDTH
// -- reads of WIDTH bytes a thread, past L1 or not, shifted by so many words of that width ------------------------
//
// Every width has the same chunk (64 KiB) and 128 bytes a thread on the way, as memory.read has, so that only the
// number of instructions differs. A shift of one word moves each warp's run of bytes across the edges of lines and
// sectors: 128 bytes from 4 on touch 5 sectors instead of 4, 512 bytes from 16 on touch 17 instead of 16. The last
// thread takes the chunk's first word, so that each chunk is still read exactly once, and nothing beyond it.
constexpr int vectors = 128 / WIDTH;
constexpr unsigned chunk_vectors = threads * vectors;

#if WIDTH == 4
using Word = unsigned;
__device__ __forceinline__ unsigned sum_of(Word w) { return w; }
#elif WIDTH == 8
using Word = uint2;
__device__ __forceinline__ unsigned sum_of(Word w) { return w.x + w.y; }
#elif WIDTH == 16
using Word = uint4;
__device__ __forceinline__ unsigned sum_of(Word w) { return w.x + w.y + w.z + w.w; }
#else
struct alignas(32) Word {
    uint4 low, high;
};
__device__ __forceinline__ unsigned sum_of(Word w) {
    return w.low.x + w.low.y + w.low.z + w.low.w + w.high.x + w.high.y + w.high.z + w.high.w;
}
#endif

__device__ __forceinline__ Word load(const Word *from) {
#if WIDTH == 32  // no type of C++ is that wide
    Word w;
#if PAST_L1
#define LOAD "ld.global.cg.v8.u32"
#else
#define LOAD "ld.global.v8.u32"
#endif
    asm volatile(LOAD " {%0, %1, %2, %3, %4, %5, %6, %7}, [%8];"
                 : "=r"(w.low.x), "=r"(w.low.y), "=r"(w.low.z), "=r"(w.low.w), "=r"(w.high.x), "=r"(w.high.y),
                   "=r"(w.high.z), "=r"(w.high.w)
                 : "l"(from));
    return w;
#elif PAST_L1
    return __ldcg(from);
#else
    return *from;
#endif
}

extern "C" __global__ void __launch_bounds__(threads, 2) KERNEL(ARGUMENTS, const Word *source, unsigned *sum) {
    unsigned total = 0;
    CHUNK_LOOP({
        Word value[vectors];
        EACH_VECTOR {
            const Word *from = source + start + (v * threads + SHIFT);
            if (SHIFT && v == vectors - 1 && threadIdx.x == threads - 1) from -= chunk_vectors;
            value[v] = load(from);
        }
        EACH_VECTOR total += sum_of(value[v]);
    });
    atomicAdd(sum, total);
}

#else
// -- random reads and updates over the whole memory, and stores of half a sector ----------------------------------
//
// Places are drawn independently of each other: number k of the launch goes to a place that is a hash of k + seed
// (mixed, a bijection of 64-bit words: cycle.cuh). Its upper half chooses a chunk of the array by multiplication, its
// lower half a place in the chunk, so no array is too large for 32 bits. Some places are drawn twice and some not at
// all, as in any random stream; how many are drawn is exact.
constexpr int vectors = 8;
constexpr unsigned chunk_vectors = threads * vectors;  // of memory_write_partial: one sector to each
constexpr unsigned random_chunk_bytes = 256 * 1024;

template <unsigned place_bytes>
__device__ __forceinline__ size_t place_of(unsigned long long hash, unsigned array_chunks) {
    constexpr unsigned places = random_chunk_bytes / place_bytes;
    return (size_t)__umulhi((unsigned)(hash >> 32), array_chunks) * places + ((unsigned)hash & (places - 1));
}

// Two neighbouring lanes take the two halves of a sector: 2,048 sectors of 32 bytes a chunk, 65,536 B. One load of a
// warp fetches 16 sectors, and the loop has about 30 instructions for each (counted on sm_90: 243 for eight). Memory can
// give an SM a sector in two cycles at best (H100: 3.35 TB/s over 132 SMs at 1.75 GHz), so a load in 32, and in 32
// cycles an SM issues 128 instructions. Past L1 (.cg): nothing is asked for again, and a line of L1 would be held for each sector.
extern "C" __global__ void __launch_bounds__(threads, 2)
memory_random(ARGUMENTS, const uint4 *source, unsigned *sum, unsigned long long seed) {
    constexpr int reads = threads / 2;
    unsigned total = 0;
    CHUNK_LOOP({
        const unsigned long long number = (unsigned long long)chunk * (reads * vectors) + threadIdx.x / 2 + seed;
        uint4 value[vectors];
        EACH_VECTOR {
            const size_t sector = place_of<32>(mixed(number + v * reads), array_chunks);
            value[v] = __ldcg(source + (sector * 2 + threadIdx.x % 2));
        }
        EACH_VECTOR total += value[v].x + value[v].y + value[v].z + value[v].w;
    });
    atomicAdd(sum, total);
}

// One update a thread and chunk: a 64-bit word ^= the hash that chose it. No update is lost (it is atomic), and the
// order is of no account, so the memory afterwards is known exactly.
extern "C" __global__ void __launch_bounds__(threads, 2)
memory_random_update(ARGUMENTS, unsigned long long *table, unsigned long long seed) {
    CHUNK_LOOP({
        const unsigned long long hash = mixed((unsigned long long)chunk * threads + threadIdx.x + seed);
        atomicXor(table + place_of<8>(hash, array_chunks), hash);
    });
}

// The first 16 bytes of every sector of 32; the rest must stay as it was. Where ECC protects whole sectors or
// more, a part of one may cost a read. Only what is stored is counted: 65,536 B a chunk of 128 KiB.
extern "C" __global__ void __launch_bounds__(threads, 2)
memory_write_partial(ARGUMENTS, uint4 *target, unsigned seed) {
    CHUNK_LOOP({
        const unsigned word = random_word(start, seed);
        EACH_VECTOR {
            const unsigned w = word ^ v * 0x00111111u;
            target[2 * (start + v * threads)] = make_uint4(w, w ^ 0x1B8735u, w ^ 0x52DCE7u, w ^ 0x7F4A9Bu);
        }
    });
}
#endif
