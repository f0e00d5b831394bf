// memory.read, memory.write, memory.copy, memory.triad, memory.mix3: device memory far beyond L2.
//
// One iteration is one chunk: 512 threads x 8 vectors x 16 bytes = 64 KiB of each array. Blocks take chunks from
// an atomic counter: SMs differ in their distance to memory, and with a static grid stride the far ones finish
// last (measured on an H100: read 94 % of nominal with the counter, 91 % without). Work per block and iteration:
//   read  65,536 B (8 LDG.128)      write  65,536 B (8 STG.128)
//   copy 131,072 B (8 LDG + 8 STG)  triad 196,608 B (16 LDG + 8 STG; no write-allocate is counted)
//   mix3 262,144 B (24 LDG + 8 STG)
#include "stamp.cuh"

constexpr int threads = 512, vectors = 8;
constexpr unsigned chunk_vectors = threads * vectors;

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

extern "C" __global__ void __launch_bounds__(threads, 2)
memory_read(ARGUMENTS, const uint4 *source, unsigned *sum) {
    unsigned total = 0;  // the sum of all 32-bit words modulo 2^32 proves that each was read, exactly once per pass
    CHUNK_LOOP({
        uint4 value[vectors];
        EACH_VECTOR value[v] = source[start + v * threads];
        EACH_VECTOR total += value[v].x + value[v].y + value[v].z + value[v].w;
    });
    atomicAdd(sum, total);
}

// The same past L1 (.cg), for arrays that L2 holds.
extern "C" __global__ void __launch_bounds__(threads, 2)
memory_read_l2(ARGUMENTS, const uint4 *source, unsigned *sum) {
    unsigned total = 0;
    CHUNK_LOOP({
        uint4 value[vectors];
        EACH_VECTOR value[v] = __ldcg(source + start + v * threads);
        EACH_VECTOR total += value[v].x + value[v].y + value[v].z + value[v].w;
    });
    atomicAdd(sum, total);
}

extern "C" __global__ void __launch_bounds__(threads, 2)
memory_write(ARGUMENTS, uint4 *target, unsigned seed) {
    CHUNK_LOOP({
        const unsigned word = random_word(start, seed);  // one hash per thread and chunk: arithmetic must not limit
        EACH_VECTOR {
            const unsigned mixed = word ^ v * 0x00111111u;
            target[start + v * threads] = make_uint4(mixed, mixed ^ 0x1B8735u, mixed ^ 0x52DCE7u, mixed ^ 0x7F4A9Bu);
        }
    });
}

extern "C" __global__ void __launch_bounds__(threads, 2)
memory_copy(ARGUMENTS, const uint4 *source, uint4 *target) {
    CHUNK_LOOP({
        uint4 value[vectors];
        EACH_VECTOR value[v] = source[start + v * threads];
        EACH_VECTOR target[start + v * threads] = value[v];
    });
}

extern "C" __global__ void __launch_bounds__(threads, 2)
memory_triad(ARGUMENTS, const float4 *b, const float4 *c, float4 *a, float scalar) {
    CHUNK_LOOP({
        float4 left[vectors];
        float4 right[vectors];
        EACH_VECTOR left[v] = b[start + v * threads];
        EACH_VECTOR right[v] = c[start + v * threads];
        EACH_VECTOR a[start + v * threads] =
            make_float4(fmaf(scalar, right[v].x, left[v].x), fmaf(scalar, right[v].y, left[v].y),
                        fmaf(scalar, right[v].z, left[v].z), fmaf(scalar, right[v].w, left[v].w));
    });
}

// Three arrays read to one written: with a block to an SM and up to 128 registers all 24 loads are under way at once.
extern "C" __global__ void __launch_bounds__(threads, 1)
memory_mix3(ARGUMENTS, const uint4 *b, const uint4 *c, const uint4 *d, uint4 *a) {
    CHUNK_LOOP({
        uint4 one[vectors];
        uint4 two[vectors];
        uint4 three[vectors];
        EACH_VECTOR one[v] = b[start + v * threads];
        EACH_VECTOR two[v] = c[start + v * threads];
        EACH_VECTOR three[v] = d[start + v * threads];
        EACH_VECTOR a[start + v * threads] =
            make_uint4(one[v].x + two[v].x + three[v].x, one[v].y + two[v].y + three[v].y,
                       one[v].z + two[v].z + three[v].z, one[v].w + two[v].w + three[v].w);
    });
}
